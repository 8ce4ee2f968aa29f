"""What a step minimises: one type of object for the closed, the exact and the variational losses.

Both networks look at the same noised image x_t: the frozen one at the anchor prompt gives the mean of P, the
trained one at the target prompt that of Q. An `Objective` turns such a `Comparison` into one number, an
estimate of D_f(P || Q), in one of three ways, with one signature; the training step does not know which it
runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from fdiv_jax.diffusion import NoiseSchedule
from fdiv_jax.divergences import Divergence, divergence
from fdiv_jax.unlearning.config import CriticConfig, LossFamily, Scale, UnlearningConfig
from fdiv_jax.unlearning.critic import CriticGame

__all__ = [
    "Comparison",
    "Formula",
    "Objective",
    "Opponent",
    "make_objective",
    "objective_of",
    "squared_distance",
]

Mean = Callable[[Any], Any]
"""Averages a tree over the devices that share the batch; the identity on one device."""


class Comparison(NamedTuple):
    """What the two networks say of the same noised images.

    Attributes:
        reference: n h w c, the frozen model's raw output at the anchor prompts.
        prediction: n h w c, the trained model's at the target prompts.
        mask: n h w, where the loss counts.
        timesteps: (n,), integers.
        noised: n h w c, x_t; for a critic that sees x_0.
    """

    reference: jax.Array
    prediction: jax.Array
    mask: jax.Array
    timesteps: jax.Array
    noised: Any = None


def squared_distance(comparison: Comparison, scale: Scale, schedule: NoiseSchedule) -> jax.Array:
    """m, the squared distance of the two kernels' means over their variance.

        mean        sum over channels, mean over the mask's pixels, of (difference)^2     (variance 1)
        sum         sum over channels and the mask's pixels                               (variance 1)
        schedule    w_t times `sum`, with w_t from the schedule: the reverse kernels' own m

    Returns:
        (n,), float32 or wider.

    Raises:
        ValueError: another scale.

    Source: Novello et al., 2025 (`mean` is what the authors' code does); Ho et al., DDPM, 2020 (the kernels).
    """
    difference = comparison.prediction - comparison.reference
    difference = difference.astype(jnp.promote_types(difference.dtype, jnp.float32))
    mask = comparison.mask.astype(difference.dtype)
    total = jnp.sum(mask * jnp.sum(difference**2, axis=-1), axis=(1, 2))
    if scale == "sum":
        return total
    if scale == "mean":
        return total / jnp.maximum(jnp.sum(mask, axis=(1, 2)), 1.0)
    if scale == "schedule":
        return total * schedule.kernel_weight(comparison.timesteps, of="output").astype(total.dtype)
    raise ValueError(f"scale must be mean, sum or schedule, got {scale!r}")


class Opponent(Protocol):
    """What stands against the model: nobody for a formula, a critic in the variational game."""

    @property
    def learns(self) -> bool:
        """Whether it has anything to learn from a batch."""
        ...

    @property
    def warmup(self) -> int:
        """Steps in which the opponent alone learns."""
        ...

    def initial(self, key: jax.Array) -> Any:
        """Its state, a pytree, from a random key."""
        ...

    def respond(self, state: Any, comparison: Comparison, mean: Mean) -> tuple[Any, dict[str, jax.Array]]:
        """Its state after learning from a batch, and figures to record."""
        ...

    def value(self, state: Any, comparison: Comparison) -> jax.Array:
        """The model's loss, a scalar, an estimate of D_f."""
        ...


@dataclass(frozen=True)
class Formula:
    """A loss that is a function of m alone, F_f(m), by its closed form or by quadrature; there is no
    opponent."""

    divergence: Divergence
    family: Literal["closed", "exact"]
    scale: Scale
    schedule: NoiseSchedule

    learns = False

    @property
    def warmup(self) -> int:
        """None."""
        return 0

    def initial(self, key: jax.Array) -> tuple[()]:
        """Nothing."""
        return ()

    def respond(self, state: Any, comparison: Comparison, mean: Mean) -> tuple[Any, dict[str, jax.Array]]:
        """Nothing changes."""
        return state, {}

    def value(self, state: Any, comparison: Comparison) -> jax.Array:
        """The mean of F_f(m)."""
        m = squared_distance(comparison, self.scale, self.schedule)
        d = self.divergence
        return jnp.mean(d.closed(m) if self.family == "closed" else d.gaussian_divergence(m))


@dataclass(frozen=True)
class Objective:
    """An estimate of D_f(P || Q) to be minimised by the model.

        closed          mean of F_f(m) by its formula
        exact           mean of F_f(m) by quadrature, its gradient by the weight identity
        variational     E_P[T] - E_Q[f*(T)], T the critic's; for the model that is -E_Q[f*(T)] and a constant

    Attributes:
        divergence: f.
        family: closed, exact or variational.
        scale: what m is, see `squared_distance`.
        schedule: of the noise.
        factor: what the loss is multiplied by: 1, or 1 / f''(1) at equal curvature.
        opponent: see `Opponent`.
    """

    divergence: Divergence
    family: LossFamily
    scale: Scale
    schedule: NoiseSchedule
    factor: float
    opponent: Opponent

    @property
    def warmup(self) -> int:
        """Steps before the first one of the model."""
        return self.opponent.warmup

    def initial(self, key: jax.Array) -> Any:
        """The opponent's state."""
        return self.opponent.initial(key)

    def respond(
        self, state: Any, comparison: Comparison, mean: Mean = lambda tree: tree
    ) -> tuple[Any, dict[str, jax.Array]]:
        """The opponent's state after learning from a batch, and figures to record."""
        return self.opponent.respond(state, comparison, mean)

    def loss(self, state: Any, comparison: Comparison) -> jax.Array:
        """The model's loss, a scalar: `factor` times the estimate of D_f."""
        return self.factor * self.opponent.value(state, comparison)

    def distance(self, comparison: Comparison) -> jax.Array:
        """m of every sample, (n,)."""
        return squared_distance(comparison, self.scale, self.schedule)

    def weight(self, m: jax.Array) -> jax.Array:
        """`factor` w_f(m): the closed and the exact loss of a sample have the gradient (1/2) weight grad
        m."""
        return self.factor * self.divergence.gaussian_weight(m)


def make_objective(
    spec: str | Divergence,
    family: LossFamily,
    *,
    schedule: NoiseSchedule,
    latent_shape: tuple[int, int, int],
    scale: Scale = "mean",
    normalise_curvature: bool = False,
    critic: CriticConfig | None = None,
) -> Objective:
    """The objective of a divergence and a family of losses.

    Args:
        spec: a name of the catalogue, a generator in t, or a divergence.
        family: closed, exact or variational.
        schedule: of the noise.
        latent_shape: (h, w, c) of the latents, for the critic.
        scale: what m is, see `squared_distance`.
        normalise_curvature: divide the loss by f''(1).
        critic: settings of the critic, for the variational family.

    Raises:
        ValueError: closed, and the divergence has no closed form; normalise_curvature, and f''(1) is
            infinite; latents that are too small for the critic; an unknown family.
    """
    d = divergence(spec) if isinstance(spec, str) else spec
    if normalise_curvature and not d.curvature.is_finite:
        raise ValueError(
            f"normalise_curvature: the curvature f''(1) of {d.name} is infinite"
        )

    opponent: Opponent
    if family in ("closed", "exact"):
        if family == "closed" and d.closed_form is None:
            raise ValueError(
                f"loss 'closed': {d.name} has no closed form in m; expected 'exact' or 'variational'"
            )
        opponent = Formula(d, family, scale, schedule)
    elif family == "variational":
        opponent = CriticGame(d, latent_shape, critic or CriticConfig(), schedule)
    else:
        raise ValueError(f"loss must be closed, exact or variational, got {family!r}")
    factor = 1.0 / float(d.curvature) if normalise_curvature else 1.0
    return Objective(d, family, scale, schedule, factor, opponent)


def objective_of(
    config: UnlearningConfig, schedule: NoiseSchedule, latent_shape: tuple[int, int, int]
) -> Objective:
    """The objective that a configuration asks for; see `make_objective`."""
    return make_objective(
        config.divergence,
        config.loss,
        schedule=schedule,
        latent_shape=latent_shape,
        scale=config.scale,
        normalise_curvature=config.normalise_curvature,
        critic=config.critic,
    )
