"""Two networks at the same noised images, and how far apart they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import jax.numpy as jnp

from fdiv_jax.arrays import Distances, Latents, Masks, Predictions, Timesteps
from fdiv_jax.diffusion import NoiseSchedule
from fdiv_jax.unlearning import _validate as check

__all__ = ["Comparison", "Scale", "SquaredDistance"]

Scale = Literal["mean", "sum", "schedule"]


class Comparison(NamedTuple):
    """The outputs of two networks at the same noised images.

    Attributes:
        reference: n h w c, the frozen model's raw output at the anchor prompts.
        prediction: n h w c, the trained model's at the target prompts.
        mask: n h w, where the loss counts.
        timesteps: (n,), integers.
        noised: n h w c, x_t; for a critic that sees x_0.
    """

    reference: Predictions
    prediction: Predictions
    mask: Masks
    timesteps: Timesteps
    noised: Latents | None = None


@dataclass(frozen=True)
class SquaredDistance:
    """m of a comparison: the squared distance of the two reverse kernels' means over their variance.

        mean        sum over channels, mean over the mask's pixels, of (difference)^2, over sigma^2
        sum         sum over channels and the mask's pixels, over sigma^2
        schedule    w_t times `sum`, with w_t from the schedule: the reverse kernels' own m, over sigma^2

    The authors' code has `mean` and sigma = 1, so that its squared Hellinger loss is -exp(-m / 8). The
    formula in their README, -exp(-||difference||^2), has no 8: it is the same loss at sigma = 8^(-1/2), where
    m is eight times as large. For Pearson's chi2, exp(m), the two agree.

    Attributes:
        schedule: of the noise, for `schedule`.
        scale: see above.
        sigma: standard deviation of both Gaussians, in the unit of the scale; beyond 1 it softens every
            divergence, and for small m it divides the loss by sigma^2.

    Raises:
        ValueError: an unknown scale, or a sigma that is not positive.
        TypeError: a sigma that is not a number.

    Source: Novello et al., 2025 (`mean` is what the authors' code does); Ho et al., DDPM, 2020 (the kernels).
    """

    schedule: NoiseSchedule
    scale: Scale = "mean"
    sigma: float = 1.0

    def __post_init__(self) -> None:
        check.one_of("scale", self.scale, get_args(Scale))
        check.set_field(self, "sigma", check.real("sigma", self.sigma, above=0))

    def __call__(self, comparison: Comparison) -> Distances:
        """m of every sample, (n,), float32 or wider."""
        difference = comparison.prediction - comparison.reference
        difference = difference.astype(jnp.promote_types(difference.dtype, jnp.float32))
        mask = comparison.mask.astype(difference.dtype)
        m = jnp.sum(mask * jnp.sum(difference**2, axis=-1), axis=(1, 2))
        if self.scale == "mean":
            m = m / jnp.maximum(jnp.sum(mask, axis=(1, 2)), 1.0)  # an empty mask counts nothing, m = 0
        elif self.scale == "schedule":
            m = m * self.schedule.kernel_weight(comparison.timesteps, of="output").astype(m.dtype)
        return m if self.sigma == 1.0 else m / self.sigma**2

    def residual(self, comparison: Comparison) -> Predictions:
        """The difference in the unit of m, n h w c: its squares add up to m for every sample."""
        difference = comparison.prediction - comparison.reference
        one = comparison._replace(reference=jnp.zeros_like(difference), prediction=jnp.ones_like(difference))
        mask = comparison.mask.astype(jnp.promote_types(difference.dtype, jnp.float32))
        count = difference.shape[-1] * jnp.sum(mask, axis=(1, 2))
        unit = self(one) / jnp.maximum(count, 1.0)  # what one squared difference adds to m
        return difference * jnp.sqrt(unit[:, None, None, None] * mask[..., None])
