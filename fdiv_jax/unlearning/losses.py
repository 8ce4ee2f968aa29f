"""What a step minimises: an estimate of D_f(P || Q), from a comparison of two networks.

    comparison -> distance -> m -> F_f(m) -> loss                    GaussianLoss
    comparison -> critic -> v -> E_P[g(v)] - E_Q[f*(g(v))] -> loss   VariationalLoss

Both networks look at the same noised image x_t: the frozen one at the anchor prompt gives the mean of P, the
trained one at the target prompt that of Q. The training step takes either loss; it asks whether there is a
critic that learns beside the model, and nothing else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self, get_args, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Float

from fdiv_jax.arrays import Choice, Distances, Scalar
from fdiv_jax.diffusion import NoiseSchedule
from fdiv_jax.divergences import (
    Divergence,
    DivergenceFunctions,
    DivergenceSwitch,
    divergence,
    variational_value,
)
from fdiv_jax.unlearning import _validate as check
from fdiv_jax.unlearning.comparison import Comparison, Scale, SquaredDistance
from fdiv_jax.unlearning.config_parts import CriticConfig, GeneratorLoss
from fdiv_jax.unlearning.critic import ConvolutionalCritic, CriticState, CriticValues, Game, Player

__all__ = [
    "AtVariance",
    "GaussianLoss",
    "Loss",
    "LossFamily",
    "VariationalLoss",
    "make_loss",
    "switch_losses",
]

Weights = Float[jax.Array, " batch"]
"""How much each sample counts."""
LossFamily = Literal["closed", "exact", "variational"]


@runtime_checkable
class Loss(Protocol):
    """What the model minimises."""

    @property
    def game(self) -> Game | None:
        """The game that the model plays against a critic; None: the loss is a formula."""
        ...

    def at(self, choice: Choice | None) -> Loss:
        """The loss of one divergence, where it is given for several; `choice` is its index, or None."""
        ...

    def value(self, comparison: Comparison, critic: CriticState | None = None) -> Scalar:
        """The loss over a batch, a scalar; `critic` is the critic's state, where there is one."""
        ...

    def distance(self, comparison: Comparison) -> Distances:
        """m of every sample, (n,)."""
        ...

    def weight(self, m: Distances) -> Weights:
        """`factor` w_f(m): the gradient of a sample's loss by the formula is (1/2) weight grad m."""
        ...


@dataclass(frozen=True)
class _OfDivergence:
    """What both losses share.

    Attributes:
        divergence: f; or a switch between several, with which the loss must be taken at one of them.
        distance: what m is.
        factor: what the loss is multiplied by: 1, or 1 / f''(1) at equal curvature; a tuple with one for each
            member of a switch.
    """

    divergence: Divergence | DivergenceSwitch | DivergenceFunctions
    distance: SquaredDistance
    factor: Any = 1.0

    def at(self, choice: Choice | None) -> Self:
        """The loss of the member `choice` of a switch; the loss itself, where there is one divergence."""
        if not isinstance(self.divergence, DivergenceSwitch):
            return self
        if choice is None:
            raise ValueError(
                f"a loss for {len(self.divergence.members)} divergences without a choice; expected the index "
                "of one"
            )
        factor = jnp.asarray(self.factor)[choice]
        return dataclasses.replace(self, divergence=self.divergence.at(choice), factor=factor)

    @property
    def _f(self) -> DivergenceFunctions:
        if isinstance(self.divergence, DivergenceSwitch):
            raise ValueError("a loss for several divergences; expected `at` first")
        return self.divergence

    def weight(self, m: Distances) -> Weights:
        """`factor` w_f(m): the gradient of a sample's loss by the formula is (1/2) weight grad m."""
        return self.factor * self._f.gaussian_weight(m)


@dataclass(frozen=True)
class GaussianLoss(_OfDivergence):
    """factor E[F_f(m)]: the exact divergence of two Gaussians at squared distance m, a function of m alone.

    The divergence decides whether F_f is a formula or a quadrature, see
    `Divergence.gaussian_divergence`.
    """

    @property
    def game(self) -> None:
        """There is no game: nothing learns beside the model."""
        return None

    def value(self, comparison: Comparison, critic: CriticState | None = None) -> Scalar:
        """The mean of F_f(m), a scalar."""
        return self.of(self.distance(comparison))

    def of(self, m: Distances) -> Scalar:
        """The mean of F_f(m), a scalar, where m is known."""
        return self.factor * jnp.mean(self._f.gaussian_divergence(m))


@dataclass(frozen=True)
class AtVariance:
    """A loss by formula at a sigma^2 that is known when the step runs: one compiled step serves every sigma.

    Attributes:
        loss: of one divergence, at sigma 1.
        variance: sigma^2, a scalar.
    """

    loss: Any
    variance: jax.Array
    game: None = None

    def at(self, choice: Choice | None) -> AtVariance:
        """Itself."""
        return self

    def value(self, comparison: Comparison, critic: CriticState | None = None) -> Scalar:
        """The mean of F_f(m), a scalar."""
        return self.loss.of(self.distance(comparison))

    def distance(self, comparison: Comparison) -> Distances:
        """m of every sample, (n,)."""
        return self.loss.distance(comparison) / self.variance

    def weight(self, m: Distances) -> Weights:
        """As `Loss.weight`."""
        return self.loss.weight(m)


@dataclass(frozen=True)
class VariationalLoss(_OfDivergence):
    """factor V, V = E_P[T] - E_Q[f*(T)], T = g(v): a lower bound of D_f, which the critic raises.

    P are the frozen model's predictions at the anchor prompts, Q the trained model's at the target prompts.
    The model's loss is -E_Q[f*(T)] up to a constant, or the non-saturating -E_Q[T]: same fixed point, as
    f*' > 0, but a gradient that does not fade where f*' does.

    Attributes:
        divergence, distance, factor: as for `GaussianLoss`; m is recorded, not minimised.
        critic: what gives v.
        generator: the model's loss: conjugate or non-saturating.

    Source: Nowozin et al., f-GAN, 2016; Novello et al., 2025.
    """

    critic: Player = dataclasses.field(kw_only=True)
    generator: GeneratorLoss = "conjugate"

    @property
    def game(self) -> VariationalLoss:
        """The loss itself: its critic and its payoff."""
        return self

    def payoff(self, v_p: CriticValues, v_q: CriticValues) -> Scalar:
        """V from the critic's numbers, a scalar: what the critic ascends."""
        return variational_value(self._f, v_p, v_q)

    def value(self, comparison: Comparison, critic: CriticState | None = None) -> Scalar:
        """V, whose gradient for the model is that of -E_Q[f*(T)]; or the non-saturating -E_Q[T].

        Raises:
            ValueError: no state of the critic.
        """
        if critic is None:
            raise ValueError("the variational loss without the state of its critic")
        v_p, v_q = self.critic.scores(critic.weights, critic.spectral, comparison)
        if self.generator == "non-saturating":
            return self.factor * -jnp.mean(self._f.activation(v_q))
        return self.factor * self.payoff(v_p, v_q)


def make_loss(
    spec: str | Divergence,
    family: LossFamily,
    *,
    schedule: NoiseSchedule,
    latent_shape: tuple[int, int, int],
    scale: Scale = "mean",
    sigma: float = 1.0,
    normalise_curvature: bool = False,
    critic: CriticConfig | None = None,
) -> GaussianLoss | VariationalLoss:
    """The loss of a divergence.

    `closed` and `exact` are one loss; `closed` says that a divergence without a closed form is not wanted.

    Args:
        spec: a name of the catalogue, a generator in t, or a divergence.
        family: closed, exact or variational.
        schedule: of the noise.
        latent_shape: (h, w, c) of the latents, for the critic.
        scale, sigma: what m is, see `SquaredDistance`.
        normalise_curvature: divide the loss by f''(1).
        critic: settings of the critic, for the variational family.

    Raises:
        ValueError: closed, and the divergence has no closed form; normalise_curvature, and f''(1) is
            infinite; latents that are too small for the critic; an unknown family.
    """
    d = divergence(spec) if isinstance(spec, str) else spec
    check.one_of("loss", family, get_args(LossFamily))
    check.loss_exists(d, family, normalise_curvature)
    distance = SquaredDistance(schedule, scale, sigma)
    factor = 1.0 / float(d.curvature) if normalise_curvature else 1.0
    if family != "variational":
        return GaussianLoss(d, distance, factor)
    settings = critic or CriticConfig()
    player: Any = ConvolutionalCritic(latent_shape, settings, schedule)
    return VariationalLoss(d, distance, factor, critic=player, generator=settings.generator)


def switch_losses(losses: Sequence[Any]) -> tuple[Any, tuple[int, ...]]:
    """One loss for several that differ in divergence and factor alone, and the choice that gives each back.

    Raises:
        ValueError: losses that differ in more.
    """
    first = losses[0]
    alike = [dataclasses.replace(each, divergence=first.divergence, factor=first.factor) for each in losses]
    if any(each != first for each in alike):
        raise ValueError(
            "losses that differ in more than the divergence; expected one family, scale and critic"
        )
    distinct = list(dict.fromkeys((each.divergence, each.factor) for each in losses))
    if len(distinct) == 1:
        return first, (0,) * len(losses)
    members = tuple(d for d, _ in distinct)
    switched = dataclasses.replace(
        first, divergence=DivergenceSwitch(members), factor=tuple(factor for _, factor in distinct)
    )
    return switched, tuple(distinct.index((each.divergence, each.factor)) for each in losses)
