"""One run as it goes on: its state, its history and its directory."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fdiv_jax.distributed import Parallel, Runner, runner_of
from fdiv_jax.divergences import divergence
from fdiv_jax.files import JsonObject
from fdiv_jax.pipeline import TextToImagePipeline
from fdiv_jax.unlearning.batch import Batch
from fdiv_jax.unlearning.data import AnchorData
from fdiv_jax.unlearning.observer import Observer
from fdiv_jax.unlearning.prepare import Prepared
from fdiv_jax.unlearning.record import Record
from fdiv_jax.unlearning.result import DivergedError, UnlearningResult
from fdiv_jax.unlearning.run_directory import RunDirectory
from fdiv_jax.unlearning.saliency import saliency_mask
from fdiv_jax.unlearning.shared_directory import FollowedDirectory
from fdiv_jax.unlearning.state import Plan, TrainState, initial_state, with_rate_of
from fdiv_jax.unlearning.step import Metrics, References, make_reference, make_step

__all__ = ["Run", "compiled"]


class Run:
    """One run as it goes on: its state, its history and its directory."""

    def __init__(
        self,
        prepared: Prepared,
        data: AnchorData,
        directory: RunDirectory | FollowedDirectory | None,
        observers: Sequence[Observer],
    ):
        """Starts at the last good checkpoint of the directory, if there is one."""
        config, plan = prepared.config, prepared.plan
        self.prepared, self.directory, self.observers = prepared, directory, observers
        devices = prepared.devices if config.sharing else None
        self.runner, self.reference, self._step = compiled(plan, devices, config.sharing)
        self.frozen = self.runner.replicate(prepared.frozen)
        critic_key, self.key = jax.random.split(jax.random.key(config.seed))
        state = initial_state(plan, prepared.frozen, config.learning_rate, critic_key)
        self.record = Record(data, config, plan.warmup)
        self.done, self.began, self.position = 0, 0, None
        restored = directory and directory.restore(jax.device_get(state), at_most=self.total)
        if directory and restored:
            state = with_rate_of(restored.state, state)
            self.done = self.began = restored.step
            self.position = restored.extra["batches"]
            self.key = jax.random.wrap_key_data(jnp.asarray(restored.extra["key"], jnp.uint32))
            self.record.restore(directory.rows)
        elif plan.saliency.share is not None:
            state = dataclasses.replace(state, mask=saliency_mask(prepared, data, state.trained))
        self.state: TrainState = self.runner.replicate(state)
        self._waiting: tuple[int, Metrics] | None = None

    @property
    def total(self) -> int:
        """Steps in all, those of the critic alone included."""
        return self.prepared.plan.warmup + self.prepared.config.steps

    def step_key(self) -> jax.Array:
        """The random key of the next step."""
        return jax.random.fold_in(self.key, self.done)

    def step(self, batch: Batch, reference: References, position: JsonObject) -> None:
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

    def _check(self, waiting: tuple[int, Metrics] | None) -> None:
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

    def _read(self, waiting: tuple[int, Metrics]) -> Mapping[str, np.ndarray]:
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
        own = self.done - self.prepared.plan.warmup
        due = [observer for observer in self.observers if own >= 0 and observer.due(own)]
        if due:
            self.settle()
        for observer in due:
            observer.model(own, self.pipeline)

    def result(self, seconds: float, images_per_second: float = 0.0) -> UnlearningResult:
        """What the run gives."""
        prepared, d = self.prepared, divergence(self.prepared.config.divergence)
        return UnlearningResult(
            pipeline=self.pipeline(),
            history=self.record.history(),
            **prepared.facts(),
            learned=jax.device_get(self.runner.fetch(self.state).learned),
            trainable=prepared.plan.trainable,
            divergence={"name": d.name, "generator": str(d.generator), "curvature": str(d.curvature)},
            seconds=seconds,
            images_per_second=images_per_second,
            resumed_at=self.began,
        )


@functools.lru_cache(maxsize=64)
def compiled(
    plan: Plan, devices: tuple[Any, ...] | None, parallel: Parallel | None
) -> tuple[Runner, Callable[..., Any], Callable[..., Any]]:
    """The runner, the reference and the step; runs that differ in prompts, data, seed or learning rate alone
    share them. No argument has a default: the cache would keep a call without it apart."""
    runner = runner_of(devices, parallel)
    placed = dataclasses.replace(plan, network=runner.network(plan.network))
    reference = runner.compile(lambda axis: make_reference(placed))
    return runner, reference, runner.compile(lambda axis: make_step(placed, axis=axis), step=True)
