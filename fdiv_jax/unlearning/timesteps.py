"""Which timesteps a step trains on, and the noise that goes with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from fdiv_jax.arrays import RandomKey, Samples, Timestep, Timesteps
from fdiv_jax.diffusion import NoiseSchedule
from fdiv_jax.unlearning import _validate as check
from fdiv_jax.unlearning.batch import Positions

__all__ = ["TimestepLaw", "TimestepRange", "draw_noise", "timesteps_of"]

TimestepLaw = Literal["uniform", "importance"]


@dataclass(frozen=True)
class TimestepRange:
    """A law of timesteps from `first` to `last`, both included.

        uniform       all equally likely
        importance    p(t) proportional to sigmoid(0.05 (t - 200)) - sigmoid(0.05 (t - 400)), T = 1000

    Attributes:
        first, last: the range.
        law: see above.
        total: timesteps of the schedule; other numbers than 1000 stretch the window.

    Raises:
        ValueError: a range that is empty or outside the schedule, or an unknown law.

    Source: Novello et al., A unified framework for diffusion model unlearning with f-divergence, 2025.
    """

    first: int
    last: int
    law: TimestepLaw = "uniform"
    total: int = 1000

    def __post_init__(self) -> None:
        first, last = check.span("timestep_range", (self.first, self.last))
        if last >= self.total:
            raise ValueError(
                f"timestep_range {(first, last)} must lie within the schedule's (0, {self.total - 1})"
            )
        check.one_of("timesteps", self.law, get_args(TimestepLaw))

    def probabilities(self) -> np.ndarray:
        """p(t) for t from first to last, float64; adds up to 1."""
        t = np.arange(self.first, self.last + 1) * (1000.0 / self.total)
        weights = np.ones_like(t)
        if self.law == "importance":
            low, high = (1.0 / (1.0 + np.exp(-0.05 * (t - centre))) for centre in (200.0, 400.0))
            weights = low - high
        return weights / weights.sum()

    def draw(self, key: RandomKey) -> Timestep:
        """One timestep, (), int32."""
        if self.law == "uniform":
            return jax.random.randint(key, (), self.first, self.last + 1, jnp.int32)
        edges = jnp.asarray(np.cumsum(self.probabilities())[:-1], jnp.float32)
        place = jnp.searchsorted(edges, jax.random.uniform(key), side="right")
        return (self.first + place).astype(jnp.int32)


def timesteps_of(
    schedule: NoiseSchedule, span: tuple[int, int] | None = None, law: TimestepLaw = "uniform"
) -> TimestepRange:
    """The law on a schedule, by default over all of it; see `TimestepRange` for what it raises."""
    total = schedule.num_train_timesteps
    first, last = (0, total - 1) if span is None else span
    return TimestepRange(first, last, law, total)


def draw_noise(
    key: RandomKey, position: Positions, shape: tuple[int, ...], timesteps: TimestepRange
) -> tuple[Timesteps, Samples]:
    """Timesteps, (n,), and noise N(0, I), (n, *shape).

    The draws of a sample depend on the key and on its position alone.
    """

    def one(place: jax.Array) -> tuple[Timestep, jax.Array]:
        time_key, noise_key = jax.random.split(jax.random.fold_in(key, place))
        return timesteps.draw(time_key), jax.random.normal(noise_key, shape)

    return jax.vmap(one)(position)
