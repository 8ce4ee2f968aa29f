"""Unlearning from beginning to end."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from fdiv_jax.distributed import DataParallel, SingleDevice
from fdiv_jax.divergences import divergence
from fdiv_jax.pipeline import TextToImagePipeline
from fdiv_jax.unlearning._progress import Display
from fdiv_jax.unlearning.cache import ArrayCache, default_cache
from fdiv_jax.unlearning.concepts import resolve_pairs, resolve_retained
from fdiv_jax.unlearning.config import OptimiserConfig, UnlearningConfig
from fdiv_jax.unlearning.data import AnchorData, model_digest, prepare_data
from fdiv_jax.unlearning.objectives import Objective, objective_of
from fdiv_jax.unlearning.parameters import Network, select, split
from fdiv_jax.unlearning.result import DivergedError, History, UnlearningResult, check_output
from fdiv_jax.unlearning.step import (
    Frozen,
    StepFunction,
    check_timesteps,
    initial_state,
    make_optimiser,
    make_step,
)

__all__ = ["unlearn"]


def unlearn(
    pipe: TextToImagePipeline,
    config: UnlearningConfig,
    output: str | os.PathLike[str] | None = None,
    *,
    progress: bool = True,
    cache: str | os.PathLike[str] | Literal[False] | None = None,
) -> UnlearningResult:
    """Unlearn a concept.

    The same pipeline, configuration and machine give the same result, bit for bit on one device.

    Args:
        pipe: the model; it is not changed.
        config: what to unlearn and how.
        output: the run directory to write when all went well; None: none.
        progress: show a progress bar.
        cache: directory that keeps the anchor images; None: FDIV_JAX_CACHE or the user's cache directory;
            False: keep nothing.

    Returns:
        The unlearned pipeline, the history, and what was resolved from the configuration.

    Raises:
        ValueError: what does not fit the model: an unknown target or anchor, a pattern that matches nothing,
            timesteps outside the schedule, a batch that the devices do not divide.
        FileExistsError: the output directory holds something already. All of these before any work is done.
        DivergedError: a loss, a gradient or a parameter is not finite; names the step, the loss and the
            batch.

    Source: Novello et al., A unified framework for diffusion model unlearning with f-divergence, 2025.
    """
    if not isinstance(config, UnlearningConfig):
        raise TypeError(f"config must be an UnlearningConfig, got {type(config).__name__}")
    target = None if output is None else check_output(output)
    pairs = resolve_pairs(pipe.concepts, config.target, config.anchor, config.prompts)
    retained = resolve_retained(pipe.concepts, config.target, config.retained)
    network = Network(pipe.unet)
    parameters = network.parameters(pipe.unet)
    selection = select(parameters, config.trainable)
    objective = objective_of(config, pipe.schedule, pipe.latent_shape)
    timesteps = check_timesteps(config.timestep_range, pipe.schedule)
    devices = jax.local_devices() if config.devices == "all" else jax.local_devices()[:1]
    if config.batch_size % len(devices):
        raise ValueError(
            f"batch_size {config.batch_size} for {len(devices)} devices; expected a multiple of their number"
        )
    optimiser = make_optimiser(config.optimiser, config.learning_rate)
    parallel = tuple(devices) if config.devices == "all" else None
    runner = _runner(network, objective, config.optimiser, timesteps, parallel)
    model = model_digest(pipe)
    images = ArrayCache(None if cache is False else (default_cache() if cache is None else Path(cache)))
    opponent_key, training_key = jax.random.split(jax.random.key(config.seed))

    with Display(progress, config.batch_size) as display:
        data = prepare_data(
            pipe,
            pairs,
            config.images,
            images,
            retained=retained if config.retained_share else (),
            retained_share=config.retained_share,
            model=model,
            progress=display.images,
        )
        trained, rest = split(parameters, selection)
        original = {name: parameters[name] for name in selection.names}
        state = runner.place(initial_state(trained, objective, optimiser, opponent_key))
        frozen = runner.place(Frozen(original, rest))
        total = objective.warmup + config.steps
        record = _Record(data, config, objective.warmup)
        started = time.monotonic()
        waiting: tuple[int, Any] | None = None
        for index in range(total):
            batch = data.batch(config.seed, index, config.batch_size)
            state, metrics = runner(state, frozen, batch, training_key)
            if waiting is not None:  # the step before: read while this one runs
                display.step(waiting[0] + 1, total, record.add(waiting[0], runner.metrics(waiting[1])))
            waiting = (index, metrics)
        if waiting is not None:
            display.step(waiting[0] + 1, total, record.add(waiting[0], runner.metrics(waiting[1])))
        learned = jax.block_until_ready(runner.fetch(state.trained))
        seconds = time.monotonic() - started
    record.check_parameters(learned)

    d = divergence(config.divergence)
    result = UnlearningResult(
        pipeline=pipe.replace(unet=network.module({**rest, **learned})),
        history=record.history(),
        config=config,
        pairs=pairs,
        selection=selection,
        divergence={"name": d.name, "generator": str(d.generator), "curvature": str(d.curvature)},
        model={"name": pipe.name, "sha256": model},
        devices=tuple(str(device) for device in devices),
        seconds=seconds,
    )
    if target is not None:
        result.save(target)
    return result


@functools.lru_cache(maxsize=32)
def _runner(
    network: Network,
    objective: Objective,
    optimiser: OptimiserConfig,
    timesteps: tuple[int, int],
    devices: tuple[Any, ...] | None,
) -> SingleDevice | DataParallel:
    """The compiled step; runs that differ in prompts, data, seed or learning rate alone share it."""

    def step_for(axis: str | None) -> StepFunction:
        update = make_optimiser(optimiser, 0.0)  # the learning rate comes with the state
        return make_step(network, objective, update, timesteps=timesteps, axis=axis)

    return SingleDevice(step_for) if devices is None else DataParallel(step_for, devices)


class _Record:
    """The history as it grows; it stops the run at the first number that is not finite."""

    def __init__(self, data: AnchorData, config: UnlearningConfig, warmup: int):
        self._data, self._config, self._warmup = data, config, warmup
        self._rows: list[dict[str, Any]] = []

    def add(self, index: int, metrics: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Record one step's metrics; returns the row.

        Raises:
            DivergedError: the loss or the gradient is not finite.
        """
        scalars = {name: float(value) for name, value in metrics.items() if np.ndim(value) == 0}
        row = {
            "step": index + 1,
            "warmup": index < self._warmup,
            "loss": scalars.pop("loss"),
            "m": float(np.mean(metrics["m"])),
            "m_max": float(np.max(metrics["m"])),
            "weight": float(np.mean(metrics["weight"])),
            **scalars,
        }
        self._rows.append(row)
        if not all(np.isfinite(row[name]) for name in ("loss", "m", "gradient_norm")):
            raise DivergedError(self._complaint(index, row, metrics), index + 1, self.history())
        return row

    def _complaint(self, index: int, row: Mapping[str, Any], metrics: Mapping[str, np.ndarray]) -> str:
        pairs, images = self._data.choose(self._config.seed, index, self._config.batch_size)
        finite = np.isfinite(metrics["m"])
        worst = int(np.argmin(finite) if not finite.all() else np.argmax(metrics["m"]))
        prompt = self._data.pairs[pairs[worst]].target
        return (
            f"step {index + 1}: loss {row['loss']:.6g}, gradient norm {row['gradient_norm']:.6g}, m up to "
            f"{row['m_max']:.6g}; batch: pairs {pairs.tolist()}, images {images.tolist()}, timesteps "
            f"{np.asarray(metrics['timesteps']).tolist()}, worst sample {worst} ({prompt!r}). "
            "Stopped, nothing written; a smaller learning_rate, optimiser.clip_norm, scale 'mean' or a "
            "divergence of bounded weight may help"
        )

    def check_parameters(self, parameters: Mapping[str, jax.Array]) -> None:
        """Raises DivergedError when the last step left a parameter that is not finite."""
        for name, value in parameters.items():
            if not np.all(np.isfinite(jax.device_get(value))):
                step = len(self._rows)
                raise DivergedError(
                    f"step {step}: parameter {name} is not finite after loss {self._rows[-1]['loss']:.6g}. "
                    "Stopped, nothing written; a smaller learning_rate may help",
                    step,
                    self.history(),
                )

    def history(self) -> History:
        """The rows as arrays by name."""
        return {name: np.array([row[name] for row in self._rows]) for name in self._rows[0]}
