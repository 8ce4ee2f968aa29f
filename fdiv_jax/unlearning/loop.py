"""Unlearning from beginning to end."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp

from fdiv_jax.distributed import DataParallel, SingleDevice
from fdiv_jax.divergences import divergence
from fdiv_jax.pipeline import TextToImagePipeline
from fdiv_jax.unlearning._progress import Display
from fdiv_jax.unlearning.cache import ArrayCache, default_cache
from fdiv_jax.unlearning.concepts import PromptPair, resolve_all, resolve_retained, target_words
from fdiv_jax.unlearning.config import UnlearningConfig
from fdiv_jax.unlearning.data import (
    AnchorData,
    Batches,
    OwnImages,
    check_told_apart,
    model_digest,
    prepare_data,
    read_own_images,
)
from fdiv_jax.unlearning.edit import edit_cross_attention
from fdiv_jax.unlearning.library import known_concepts
from fdiv_jax.unlearning.objectives import objective_of
from fdiv_jax.unlearning.parameters import Network, Selection
from fdiv_jax.unlearning.preemption import Preempted, TerminationGuard
from fdiv_jax.unlearning.record import Record
from fdiv_jax.unlearning.result import DivergedError, UnlearningResult, description
from fdiv_jax.unlearning.run_directory import RunDirectory
from fdiv_jax.unlearning.step import Plan, TrainState, initial_state, make_reference, make_step, with_rate_of
from fdiv_jax.unlearning.timesteps import timesteps_of
from fdiv_jax.unlearning.trainable import Frozen, trainable_of

__all__ = ["Observer", "Prepared", "Run", "prepare", "train", "unlearn"]

Cache = str | os.PathLike[str] | Literal[False] | None


class Observer(Protocol):
    """Somebody who watches a run: sample sheets, events for TensorBoard, a report."""

    def row(self, row: Mapping[str, Any]) -> None:
        """A step's figures, as metrics.jsonl holds them."""
        ...

    def due(self, done: int) -> bool:
        """Whether to be shown the model after `done` steps of its own; it costs the overlap of two steps."""
        ...

    def model(self, done: int, pipeline: Callable[[], TextToImagePipeline]) -> None:
        """The model after `done` steps of its own, made when asked for."""
        ...

    def end(self, result: UnlearningResult) -> None:
        """The result, before it is written."""
        ...


def unlearn(
    pipe: TextToImagePipeline,
    config: UnlearningConfig,
    output: str | os.PathLike[str] | None = None,
    *,
    progress: bool = True,
    cache: Cache = None,
    resume: bool = False,
    checkpoint_every: int = 100,
    observers: Callable[[Path], Sequence[Observer]] | None = None,
    allow_changes: bool = False,
    takeover: bool = False,
) -> UnlearningResult:
    """Unlearn one concept or several.

    The same pipeline, configuration and machine give the same result, bit for bit on one device, whether the
    run was stopped and resumed or not.

    Args:
        pipe: the model; it is not changed.
        config: what to unlearn and how.
        output: the run directory: config.json, metrics.jsonl as the run goes on, checkpoints/ while it lasts,
            and pipeline/ when all went well; None: none.
        progress: show a progress bar.
        cache: where anchor images are kept; None: FDIV_JAX_CACHE or the user's cache; False: nowhere.
        resume: go on from the last good checkpoint in `output`, or begin where there is none.
        checkpoint_every: steps between two checkpoints; 0: only on SIGTERM, or when the run diverges.
        observers: given the run directory, those who watch; they take part when there is a directory.
        allow_changes: resume a run that was begun with another configuration.
        takeover: use the directory although another run seems to be using it.

    Returns:
        The unlearned pipeline, the history, and what was resolved from the configuration.

    Raises:
        ValueError: what does not fit the model: an unknown target or anchor, a pattern that matches nothing,
            timesteps outside the schedule, a batch that the devices do not divide; or a directory whose run
            has another configuration.
        FileExistsError: the output directory holds something already. All of these before any work is done.
        DivergedError: a loss, a gradient or a parameter was not finite for `optimiser.patience` steps in a
            row; names the step, the loss and the batch.
        Preempted: SIGTERM came; the state is saved.

    Source: Novello et al., A unified framework for diffusion model unlearning with f-divergence, 2025.
    """
    if not isinstance(config, UnlearningConfig):
        raise TypeError(f"config must be an UnlearningConfig, got {type(config).__name__}")
    prepared = prepare(pipe, config)
    with contextlib.ExitStack() as stack:
        directory = None
        if output is not None:
            directory = stack.enter_context(
                RunDirectory.open(
                    output,
                    prepared.description(),
                    resume=resume,
                    allow_changes=allow_changes,
                    takeover=takeover,
                )
            )
            if directory.finished:
                raise FileExistsError(f"output {output}: its run is finished; pipeline/ holds the result")
        watching = observers(directory.path) if observers is not None and directory is not None else ()
        return train([prepared], [directory], [watching], progress, cache, checkpoint_every)[0]


@dataclass(frozen=True)
class Prepared:
    """A run of which everything is resolved and nothing is done.

    Attributes:
        pipe: the frozen model.
        config: what was asked for.
        pairs: of prompts, and `negative`, eta of the guidance away from each target.
        retained: prompts at which the model is to stay as it is.
        plan: the step.
        frozen: what no step changes.
        selection: what learns.
        devices: that take part.
        model: hash of the frozen model.
        own: the user's images, or None.
    """

    pipe: TextToImagePipeline
    config: UnlearningConfig
    pairs: tuple[PromptPair, ...]
    negative: tuple[float, ...]
    retained: tuple[str, ...]
    plan: Plan
    frozen: Frozen
    selection: Selection
    devices: tuple[Any, ...]
    model: str
    own: OwnImages | None = None

    def description(self) -> dict[str, Any]:
        """What `config.json` of the run directory holds: enough to repeat the run."""
        return description(
            self.config,
            self.pairs,
            self.retained,
            self.selection,
            {"name": self.pipe.name, "sha256": self.model},
            tuple(str(device) for device in self.devices),
            "" if self.own is None else self.own.digest,
        )

    def data(self, cache: Cache, progress: Callable[[int, int], None] | None = None) -> AnchorData:
        """The training data, drawn or read."""
        config = self.config
        kept = ArrayCache(None if cache is False else (default_cache() if cache is None else Path(cache)))
        preserved = config.preservation.at if config.preservation.weight else None
        share = config.retained_share if config.reference == "frozen" else 0.0
        return prepare_data(
            self.pipe,
            self.pairs,
            config.images,
            kept,
            retained=self.retained if share or preserved == "retained" else (),
            retained_share=share,
            negative=self.negative,
            tokens=bool(self.frozen.encoders),
            prior=preserved,
            own=self.own,
            model=self.model,
            progress=progress,
        )


def prepare(pipe: TextToImagePipeline, config: UnlearningConfig, *, model: str | None = None) -> Prepared:
    """Resolve a configuration for a model; `model` is its `model_digest`, when it is known.

    Raises:
        ValueError: what does not fit the model, see `unlearn`.
    """
    concepts = known_concepts(pipe.concepts, config.defined)
    pairs = resolve_all(concepts, config.erasures)
    check_told_apart(pipe, pairs)
    guided = {
        pair
        for each in config.erasures
        if each.anchor == "negative"
        for pair in resolve_all(concepts, [each])
    }
    retained = resolve_retained(concepts, [each.target for each in config.erasures], config.retained)
    if config.preservation.weight and config.preservation.at == "retained" and not retained:
        raise ValueError("preservation.at 'retained': there are no retained prompts")
    words = target_words(concepts, config.erasures)
    trainable, frozen, selection = trainable_of(
        pipe, config.trainable, words, rank=config.lora.rank, alpha=config.lora.alpha
    )
    devices = tuple(jax.local_devices() if config.devices == "all" else jax.local_devices()[:1])
    share = len(devices) * config.accumulation
    if config.batch_size % share:
        raise ValueError(
            f"batch_size {config.batch_size} for {len(devices)} devices and an accumulation of "
            f"{config.accumulation}; expected a multiple of {share}"
        )
    plan = Plan(
        network=Network(pipe.unet),
        trainable=trainable,
        objective=objective_of(config, pipe.schedule, pipe.latent_shape),
        timesteps=timesteps_of(pipe.schedule, config.timestep_range, config.timesteps),
        optimiser=config.optimiser,
        steps=0 if config.optimiser.schedule == "constant" else config.steps,
        reference=config.reference,
        accumulation=config.accumulation,
        preservation=config.preservation,
    )
    return Prepared(
        pipe,
        config,
        pairs,
        tuple(config.negative_guidance if pair in guided else 0.0 for pair in pairs),
        retained,
        plan,
        frozen,
        selection,
        devices,
        model or model_digest(pipe),
        None if config.images.folder is None else read_own_images(pipe, config.images, pairs),
    )


class Run:
    """One run as it goes on: its state, its history and its directory."""

    def __init__(
        self,
        prepared: Prepared,
        data: AnchorData,
        directory: RunDirectory | None,
        observers: Sequence[Observer],
    ):
        """Starts at the last good checkpoint of the directory, if there is one."""
        config, plan = prepared.config, prepared.plan
        self.prepared, self.directory, self.observers = prepared, directory, observers
        devices = prepared.devices if config.devices == "all" else None
        self.runner, self.reference, self._step = _compiled(plan, devices)
        self.frozen = self.runner.place(prepared.frozen)
        opponent_key, self.key = jax.random.split(jax.random.key(config.seed))
        state = initial_state(plan, prepared.frozen, config.learning_rate, opponent_key)
        self.record = Record(data, config, plan.objective.warmup)
        self.done, self.began, self.position = 0, 0, None
        restored = directory and directory.restore(jax.device_get(state), at_most=self.total)
        if directory and restored:
            state = with_rate_of(restored.state, state)
            self.done = self.began = restored.step
            self.position = restored.extra["batches"]
            self.key = jax.random.wrap_key_data(jnp.asarray(restored.extra["key"], jnp.uint32))
            self.record.restore(directory.rows)
        self.state: TrainState = self.runner.place(state)
        self._waiting: tuple[int, Any] | None = None

    @property
    def total(self) -> int:
        """Steps in all, those of the opponent alone included."""
        return self.prepared.plan.objective.warmup + self.prepared.config.steps

    def step_key(self) -> jax.Array:
        """The random key of the next step."""
        return jax.random.fold_in(self.key, self.done)

    def step(self, batch: Any, reference: Any, position: dict[str, Any]) -> None:
        """One step, on the runner's share of the batch; `position` is where the batches go on.

        Raises:
            DivergedError: see `Record.check`, of the step before; the state is saved first.
        """
        self.state, metrics = self._step(self.state, self.frozen, batch, reference, self.step_key())
        before, self._waiting = self._waiting, (self.done, metrics)
        self.done, self.position = self.done + 1, position
        self._check(before)  # read while this one runs

    def settle(self) -> None:
        """Record the last step, if it is not recorded yet.

        Raises:
            DivergedError: see `Record.check`; the state is saved first.
        """
        before, self._waiting = self._waiting, None
        self._check(before)

    def _check(self, waiting: tuple[int, Any] | None) -> None:
        if waiting is None:
            return
        metrics = self._read(waiting)
        try:
            self.record.check(metrics)
        except DivergedError:
            if self._waiting is not None:
                self._read(self._waiting)
                self._waiting = None
            self._write()
            raise

    def _read(self, waiting: tuple[int, Any]) -> Mapping[str, Any]:
        index, metrics = waiting[0], self.runner.metrics(waiting[1])
        row = self.record.add(index, metrics)
        if self.directory is not None:
            self.directory.log(row)
        for observer in self.observers:
            observer.row(row)
        return metrics

    def save(self) -> None:
        """A checkpoint of everything, where there is a directory; raises as `settle` does."""
        if self.directory is not None and self.directory.saved != self.done:
            self.settle()
            self._write()

    def _write(self) -> None:
        if self.directory is None or self.directory.saved == self.done:
            return
        extra = {"key": jax.random.key_data(self.key).tolist(), "batches": self.position}
        self.directory.save(self.done, jax.device_get(self.runner.fetch(self.state)), extra)

    def pipeline(self) -> TextToImagePipeline:
        """The model as it is now."""
        learned = jax.tree.map(jnp.asarray, jax.device_get(self.runner.fetch(self.state).learned))
        return self.prepared.plan.trainable.pipeline(self.prepared.pipe, learned, self.prepared.frozen)

    def show(self) -> None:
        """Let the observers see the model; raises as `settle` does."""
        own = self.done - self.prepared.plan.objective.warmup
        due = [observer for observer in self.observers if own >= 0 and observer.due(own)]
        if due:
            self.settle()
        for observer in due:
            observer.model(own, self.pipeline)

    def result(self, seconds: float) -> UnlearningResult:
        """What the run gives."""
        prepared, d = self.prepared, divergence(self.prepared.config.divergence)
        return UnlearningResult(
            pipeline=self.pipeline(),
            history=self.record.history(),
            config=prepared.config,
            pairs=prepared.pairs,
            retained=prepared.retained,
            selection=prepared.selection,
            learned=jax.device_get(self.runner.fetch(self.state).learned),
            trainable=prepared.plan.trainable,
            divergence={"name": d.name, "generator": str(d.generator), "curvature": str(d.curvature)},
            model={"name": prepared.pipe.name, "sha256": prepared.model},
            devices=tuple(str(device) for device in prepared.devices),
            images="" if prepared.own is None else prepared.own.digest,
            seconds=seconds,
            resumed_at=self.began,
        )


def train(
    cells: Sequence[Prepared],
    directories: Sequence[RunDirectory | None],
    observers: Sequence[Sequence[Observer]],
    progress: bool = True,
    cache: Cache = None,
    checkpoint_every: int = 0,
    diverged: dict[int, DivergedError] | None = None,
) -> list[UnlearningResult]:
    """Make runs side by side that see the same batches: what the frozen model says of them is computed once.

    The runs must agree in everything that the batches and the reference hang on: model, pairs, images, seed,
    batch size, timesteps, reference. One that has a checkpoint must be alone. A run that diverges ends them
    all; or, where `diverged` is given, it is entered there by its number, and the results are the others'.
    """
    first = cells[0]
    with Display(progress, first.config.batch_size) as display, TerminationGuard() as guard:
        if first.config.method == "edit":
            each = zip(cells, directories, observers, strict=True)
            return [_edited(cell, directory, watching) for cell, directory, watching in each]

        def drawn(done: int, images: int) -> None:
            display.images(done, images)
            if guard.requested and done < images:
                raise Preempted(f"asked to end after {done} of {images} anchor images; nothing is kept")

        data = first.data(cache, drawn)
        runs = [
            Run(cell, data, directory, watching)
            for cell, directory, watching in zip(cells, directories, observers, strict=True)
        ]
        started, total = time.monotonic(), max(run.total for run in runs)
        batches = Batches(data, first.config.seed, first.config.batch_size, total)
        lost: list[Run] = []
        if runs[0].position is not None:
            batches.restore(runs[0].position)
        else:
            for run in runs:
                run.show()
        for index in range(runs[0].done, total):
            active = [run for run in runs if index < run.total and run not in lost]
            if not active:
                break
            lead = active[0]
            batch = lead.runner.share_out(next(batches))
            reference = lead.reference(lead.frozen, batch, lead.step_key())
            for run in active:
                try:
                    run.step(batch, reference, batches.position())
                    if run.done == run.total:
                        run.settle()
                    elif checkpoint_every and run.done % checkpoint_every == 0:
                        run.save()
                    run.show()
                except DivergedError as error:
                    if diverged is None:
                        raise
                    diverged[runs.index(run)] = error
                    lost.append(run)
            if active[-1].record.rows:
                display.step(index + 1, total, active[-1].record.rows[-1])
            if guard.requested and index + 1 < total:
                for run in runs:
                    run.save()
                saved = "the state is saved" if any(directories) else "nothing is kept"
                raise Preempted(f"asked to end after step {index + 1} of {total}; {saved}")
        results = []
        for run, directory in zip(runs, directories, strict=True):
            if run in lost:
                continue
            display.step(run.done, run.total, run.record.rows[-1])
            jax.block_until_ready(run.state)
            result = run.result(time.monotonic() - started)
            for observer in run.observers:
                observer.end(result)
            if directory is not None:
                directory.finish(result.write)
            results.append(result)
    return results


def _edited(
    prepared: Prepared, directory: RunDirectory | None, observers: Sequence[Observer]
) -> UnlearningResult:
    """The closed-form edit, which takes no steps."""
    started, config = time.monotonic(), prepared.config
    learned = edit_cross_attention(
        prepared.pipe, prepared.selection, prepared.pairs, prepared.retained, config.edit
    )
    pipeline = prepared.plan.trainable.pipeline(prepared.pipe, learned, prepared.frozen)
    result = UnlearningResult(
        pipeline=pipeline,
        history={},
        config=config,
        pairs=prepared.pairs,
        retained=prepared.retained,
        selection=prepared.selection,
        learned=learned,
        trainable=prepared.plan.trainable,
        model={"name": prepared.pipe.name, "sha256": prepared.model},
        devices=tuple(str(device) for device in prepared.devices),
        seconds=time.monotonic() - started,
    )
    for observer in observers:
        observer.end(result)
    if directory is not None:
        directory.finish(result.write)
    return result


@functools.lru_cache(maxsize=64)
def _compiled(
    plan: Plan, devices: tuple[Any, ...] | None
) -> tuple[SingleDevice | DataParallel, Callable[..., Any], Callable[..., Any]]:
    """The runner, the reference and the step; runs that differ in prompts, data, seed or learning rate alone
    share them."""
    runner = SingleDevice() if devices is None else DataParallel(devices)
    reference = runner.compile(lambda axis: make_reference(plan))
    return runner, reference, runner.compile(lambda axis: make_step(plan, axis=axis), donate=True)
