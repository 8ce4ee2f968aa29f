"""Unlearning from beginning to end."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from fdiv_jax.distributed.hosts import is_leader
from fdiv_jax.distributed.mesh import local_rows
from fdiv_jax.interrupts import check_interrupted
from fdiv_jax.pipeline import TextToImagePipeline
from fdiv_jax.unlearning._progress import Display
from fdiv_jax.unlearning.config import UnlearningConfig
from fdiv_jax.unlearning.data import Batches
from fdiv_jax.unlearning.edit import edit_cross_attention
from fdiv_jax.unlearning.memory import check_memory
from fdiv_jax.unlearning.observer import Observer
from fdiv_jax.unlearning.preemption import Preempted, TerminationGuard
from fdiv_jax.unlearning.prepare import Cache, Prepared, prepare
from fdiv_jax.unlearning.result import DivergedError, UnlearningResult
from fdiv_jax.unlearning.run import Run
from fdiv_jax.unlearning.run_directory import RunDirectory
from fdiv_jax.unlearning.shared_directory import FollowedDirectory, open_shared

__all__ = ["train", "unlearn"]


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
    stop: Callable[[], bool] | None = None,
) -> UnlearningResult:
    """Unlearn one concept or several.

    The same pipeline, configuration and machine give the same result, bit for bit on one device, whether the
    run was stopped and resumed or not.

    Args:
        pipe: the model; it is not changed.
        config: what to unlearn and how.
        output: the run directory: config.json, metrics.jsonl as the run goes on, checkpoints/ while it lasts,
            and pipeline/ when all went well; None: no directory.
        progress: show a progress bar.
        cache: where anchor images are kept; None: FDIV_JAX_CACHE or the user's cache; False: nowhere.
        resume: go on from the last good checkpoint in `output`, or begin where there is none.
        checkpoint_every: steps between two checkpoints; 0: only on SIGTERM, or when the run diverges.
        observers: a function that gives the observers for a run directory; unused without one.
        allow_changes: resume a run that was begun with another configuration.
        takeover: use the directory although another run seems to be using it.
        stop: asked after every step, and between anchor images, whether to end as SIGTERM ends a run; for a
            run of one process, in a thread or a program with a button.

    Returns:
        The unlearned pipeline, the history, and what was resolved from the configuration.

    Raises:
        ValueError: what does not fit the model: an unknown target or anchor, a pattern that matches nothing,
            timesteps outside the schedule, a batch that the devices do not divide; or a directory whose run
            has another configuration.
        FileExistsError: the output directory holds something already. All of these before any work is done.
        MemoryError: more memory would be needed than is free; before any work too.
        DivergedError: a loss, a gradient or a parameter was not finite for `optimiser.patience` steps in a
            row; names the step, the loss and the batch.
        Preempted: SIGTERM came, or `stop` said so; the state is saved.

    Source: Novello et al., A unified framework for diffusion model unlearning with f-divergence, 2025.
    """
    if not isinstance(config, UnlearningConfig):
        raise TypeError(f"config must be an UnlearningConfig, got {type(config).__name__}")
    prepared = prepare(pipe, config)
    check_memory([prepared])
    with contextlib.ExitStack() as stack:
        directory = None
        if output is not None:
            directory = stack.enter_context(
                open_shared(
                    output,
                    prepared.description(),
                    resume=resume,
                    allow_changes=allow_changes,
                    takeover=takeover,
                )
            )
            if directory.finished:
                raise FileExistsError(f"output {output}: its run is finished; pipeline/ holds the result")
        watch = observers if is_leader() else None
        its_observers = watch(directory.path) if watch is not None and directory is not None else ()
        watched = [its_observers]
        return train([prepared], [directory], watched, progress, cache, checkpoint_every, stop=stop)[0]


def train(
    cells: Sequence[Prepared],
    directories: Sequence[RunDirectory | FollowedDirectory | None],
    observers: Sequence[Sequence[Observer]],
    progress: bool = True,
    cache: Cache = None,
    checkpoint_every: int = 0,
    diverged: dict[int, DivergedError] | None = None,
    stop: Callable[[], bool] | None = None,
) -> list[UnlearningResult]:
    """Make runs side by side that see the same batches: the frozen model's outputs are computed once for all.

    The runs must agree in everything that the batches and the reference depend on: model, pairs, images,
    seed, batch size, timesteps, reference. One that has a checkpoint must be alone. A run that diverges ends
    them all; or, where `diverged` is given, its error is put there by the run's number, and the others go on.
    """
    first = cells[0]
    shown = progress and is_leader()
    with Display(shown, first.config.batch_size) as display, TerminationGuard(stop) as guard:
        if first.config.method == "edit":
            each = zip(cells, directories, observers, strict=True)
            return [_edited(cell, directory, its_observers) for cell, directory, its_observers in each]

        def drawn(done: int, images: int) -> None:
            display.images(done, images)
            if guard.requested and done < images:
                raise Preempted(f"asked to end after {done} of {images} anchor images; nothing is kept")

        data = first.data(cache, drawn)
        runs = [
            Run(cell, data, directory, its_observers)
            for cell, directory, its_observers in zip(cells, directories, observers, strict=True)
        ]
        started, total = time.monotonic(), max(run.total for run in runs)
        size = first.config.batch_size
        batches = Batches(data, first.config.seed, size, total, local_rows(size))
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
            check_interrupted()
            lead = active[0]
            batch = lead.runner.shard(next(batches))
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
            if guard.asked(index + 1) and index + 1 < total:
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
            result = run.result(time.monotonic() - started, display.speed)
            for observer in run.observers:
                observer.end(result)
            if directory is not None:
                directory.finish(result.write)
            results.append(result)
    return results


def _edited(
    prepared: Prepared,
    directory: RunDirectory | FollowedDirectory | None,
    observers: Sequence[Observer],
) -> UnlearningResult:
    """The closed-form edit, which takes no steps."""
    started = time.monotonic()
    learned = edit_cross_attention(
        prepared.pipe,
        prepared.selection,
        prepared.pairs,
        prepared.retained,
        prepared.config.edit,
        seed=prepared.config.seed,
    )
    pipeline = prepared.plan.trainable.pipeline(prepared.pipe, learned, prepared.frozen)
    result = UnlearningResult(
        pipeline=pipeline,
        history={},
        **prepared.facts(),
        learned=learned,
        trainable=prepared.plan.trainable,
        seconds=time.monotonic() - started,
    )
    for observer in observers:
        observer.end(result)
    if directory is not None:
        directory.finish(result.write)
    return result
