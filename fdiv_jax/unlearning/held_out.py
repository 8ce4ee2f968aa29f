"""The distance to the anchor on images that no step sees, along a run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fdiv_jax.arrays import Parameters, Scalar
from fdiv_jax.diffusion import NoiseSchedule
from fdiv_jax.pipeline import TextToImagePipeline
from fdiv_jax.unlearning.batch import Batch
from fdiv_jax.unlearning.comparison import Comparison, SquaredDistance
from fdiv_jax.unlearning.parameters import Network
from fdiv_jax.unlearning.prepare import Prepared
from fdiv_jax.unlearning.result import UnlearningResult
from fdiv_jax.unlearning.timesteps import draw_noise, timesteps_of

__all__ = ["HeldOutDistance"]


class HeldOutDistance:
    """An observer of a run that records the mean m of a held-out batch.

    Every look has the same noise, and timesteps that are spread evenly over the schedule, so that the curve
    is that of the model and not of the draws.

    Attributes:
        steps: the numbers of steps after which the model was looked at.
        m: the mean m of the batch, one number for each look.
    """

    def __init__(self, prepared: Prepared, batch: Batch, every: int = 10):
        """Measure the model before its first step, then every `every` steps, and after its last one.

        Args:
            prepared: the run.
            batch: images and prompts; those of another `AnchorData` than the run's, see `Prepared.data`.
            every: steps of the model between two looks.

        Raises:
            NotImplementedError: token embeddings learn; the batch has the features of the frozen encoders.
            ValueError: `every` is less than 1.
        """
        if prepared.frozen.encoders:
            raise NotImplementedError(
                "the held-out distance where token embeddings learn; supported: what learns in the UNet"
            )
        if every < 1:
            raise ValueError(f"every {every}, expected at least 1")
        self.steps: list[int] = []
        self.m: list[float] = []
        plan = prepared.plan
        self._measure = _measure(plan.network, plan.schedule, plan.loss.distance)
        self._frozen, self._batch = prepared.frozen.unet, batch
        self._every, self._last = every, prepared.config.steps

    def row(self, row: Mapping[str, Any]) -> None:
        """Ignore the step's figures."""

    def due(self, done: int) -> bool:
        """Every `every` steps, the first look before any, and after the last."""
        return done % self._every == 0 or done == self._last

    def model(self, done: int, pipeline: Callable[[], TextToImagePipeline]) -> None:
        """Record the model's distance."""
        parameters = Network.parameters(pipeline().unet)
        self.steps.append(done)
        self.m.append(float(self._measure(parameters, self._frozen, self._batch)))

    def end(self, result: UnlearningResult) -> None:
        """Ignore the result: the model was measured after the last step."""


@functools.lru_cache(maxsize=8)
def _measure(
    network: Network, schedule: NoiseSchedule, distance: SquaredDistance
) -> Callable[[Parameters, Parameters, Batch], Scalar]:
    """Compiled once for all runs of one network: (parameters, frozen ones, batch) -> the mean m."""

    @jax.jit
    def measure(parameters: Parameters, frozen: Parameters, batch: Batch) -> Scalar:
        count, end = len(batch.position), schedule.num_train_timesteps
        t = ((batch.position + 0.5) * end / count).astype(jnp.int32)
        _, noise = draw_noise(
            jax.random.key(1), batch.position, batch.latents.shape[1:], timesteps_of(schedule)
        )
        x_t = schedule.add_noise(batch.latents, noise, t)
        reference = network(frozen, x_t, t, batch.anchor_text)
        prediction = network(parameters, x_t, t, batch.target_text)
        return distance(Comparison(reference, prediction, batch.mask, t, x_t)).mean()

    return measure
