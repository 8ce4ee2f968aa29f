"""Samplers as plans: every coefficient of every step, in float64, before the first network call."""

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from fdiv_jax.diffusion.schedule import NoiseSchedule

__all__ = ["Sampler", "SamplingPlan", "predictions"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SamplingPlan:
    """The coefficients of a linear (multistep) sampler; each array has shape (steps,).

    x is variance preserving for every sampler, x_t = alpha_t x_0 + sqrt(1 - alpha_t^2) eps: what the network
    reads. It begins as `initial` times the noise. Step i reads the network's raw output o at (x, t_i) and
    goes on to

        x_0  = clip(x0_of_x x + x0_of_output o)
        eps  = eps_of_x x + eps_of_output o
        x   <- keep x + data x_0 + previous_data x_0' + direction eps + noise z

    with x_0' that of the step before and z ~ N(0, I).
    """

    timesteps: np.ndarray
    """Decreasing, from T - 1 to 0; int64, or float64 where a sampler goes between two timesteps."""
    x0_of_x: np.ndarray
    x0_of_output: np.ndarray
    eps_of_x: np.ndarray
    eps_of_output: np.ndarray
    clip: np.ndarray
    """Half the width of the range x_0 is clipped to; infinite for no clipping."""
    keep: np.ndarray
    data: np.ndarray
    previous_data: np.ndarray
    direction: np.ndarray
    noise: np.ndarray
    initial: float = field(default=1.0, metadata={"static": True})

    @property
    def stochastic(self) -> bool:
        """Whether any step draws noise."""
        return bool(np.any(self.noise != 0))


@runtime_checkable
class Sampler(Protocol):
    """A sampler: a function that plans a number of steps through a schedule."""

    def __call__(self, schedule: NoiseSchedule, steps: int, eta: float | None = None) -> SamplingPlan:
        """The plan of `steps` steps.

        `eta` in [0, 1] is the share of fresh noise, None the sampler's default: 1 for ancestral ones, else 0.
        """
        ...


def predictions(schedule: NoiseSchedule, alpha: np.ndarray, sigma: np.ndarray) -> dict[str, Any]:
    """How x_0 and eps follow from x = alpha x_0 + sigma eps and the output: four fields of a plan."""
    zero, one = np.zeros_like(alpha), np.ones_like(alpha)
    kind = schedule.prediction_type
    if kind == "epsilon":
        rows = (1 / alpha, -sigma / alpha, zero, one)
    elif kind == "sample":
        rows = (zero, one, 1 / sigma, -alpha / sigma)
    else:
        rows = (alpha, -sigma, sigma, alpha)
    return dict(zip(("x0_of_x", "x0_of_output", "eps_of_x", "eps_of_output"), rows, strict=True))
