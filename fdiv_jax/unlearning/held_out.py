"""The distance to the anchor on images that no step sees, along a run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection

import jax
import jax.numpy as jnp
import numpy as np

from fdiv_jax.arrays import Distances, Parameters, Timesteps
from fdiv_jax.compiling import jit
from fdiv_jax.diffusion import NoiseSchedule
from fdiv_jax.pipeline import TextToImagePipeline
from fdiv_jax.unlearning.batch import Batch
from fdiv_jax.unlearning.comparison import Comparison, SquaredDistance
from fdiv_jax.unlearning.observer import Watch
from fdiv_jax.unlearning.parameters import Network
from fdiv_jax.unlearning.prepare import Prepared
from fdiv_jax.unlearning.timesteps import draw_noise, timesteps_of

__all__ = ["HeldOutDistance"]


class HeldOutDistance(Watch):
    """An observer of a run that records m on a held-out batch.

    Every look has the same noise, and timesteps that are spread evenly over the schedule, so that the curve
    is that of the model and not of the draws.

    Attributes:
        timesteps: (n,), of the samples.
        steps: the numbers of steps after which the model was looked at.
        samples: m of every sample, (n,), for each look.
    """

    def __init__(self, prepared: Prepared, batch: Batch, every: int | Collection[int] = 10):
        """Measure the model before its first step, then every `every` steps, and after its last one.

        Args:
            prepared: the run.
            batch: images and prompts; those of another `AnchorData` than the run's, see `Prepared.data`.
            every: steps of the model between two looks, or the numbers of steps after which to look.

        Raises:
            NotImplementedError: token embeddings learn; the batch has the features of the frozen encoders.
            ValueError: `every` is less than 1.
        """
        if prepared.frozen.encoders:
            raise NotImplementedError(
                "the held-out distance where token embeddings learn; supported: what learns in the UNet"
            )
        super().__init__(every, prepared.config.steps)
        self.steps: list[int] = []
        self.samples: list[np.ndarray] = []
        plan = prepared.plan
        self._measure = _measure(plan.network, plan.schedule, plan.loss.distance)
        self._frozen, self._batch = prepared.frozen.unet, batch
        self.timesteps = np.asarray(_timesteps(plan.schedule, batch))

    @property
    def m(self) -> list[float]:
        """The mean m of the batch, one number for each look."""
        return [float(row.mean()) for row in self.samples]

    def distances(self, parameters: Parameters) -> np.ndarray:
        """m of every sample for a UNet with these parameters, (n,)."""
        return np.asarray(self._measure(parameters, self._frozen, self._batch), np.float64)

    def model(self, done: int, pipeline: Callable[[], TextToImagePipeline]) -> None:
        """Record the model's distances."""
        self.steps.append(done)
        self.samples.append(self.distances(Network.parameters(pipeline().unet)))


def _timesteps(schedule: NoiseSchedule, batch: Batch) -> Timesteps:
    """In the middle of equal parts of the schedule."""
    count = len(batch.position)
    return ((batch.position + 0.5) * schedule.num_train_timesteps / count).astype(jnp.int32)


@functools.lru_cache(maxsize=8)
def _measure(
    network: Network, schedule: NoiseSchedule, distance: SquaredDistance
) -> Callable[[Parameters, Parameters, Batch], Distances]:
    """Compiled once for all runs of one network: (parameters, frozen ones, batch) -> m of every sample."""

    @jit
    def measure(parameters: Parameters, frozen: Parameters, batch: Batch) -> Distances:
        t = _timesteps(schedule, batch)
        _, noise = draw_noise(
            jax.random.key(1), batch.position, batch.latents.shape[1:], timesteps_of(schedule)
        )
        x_t = schedule.add_noise(batch.latents, noise, t)
        reference = network(frozen, x_t, t, batch.anchor_text)
        prediction = network(parameters, x_t, t, batch.target_text)
        return distance(Comparison(reference, prediction, batch.mask, t, x_t))

    return measure
