"""The variational game: a critic T = g(v) on predictions, or on the x_0 they stand for, and its ascent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from fdiv_jax.diffusion import NoiseSchedule
from fdiv_jax.divergences import Divergence, variational_value
from fdiv_jax.nn import Critic
from fdiv_jax.unlearning.config_parts import CriticConfig

if TYPE_CHECKING:
    from fdiv_jax.unlearning.objectives import Comparison

__all__ = ["CriticGame", "CriticState"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CriticState:
    """The critic between two steps.

    Attributes:
        weights: what is trained.
        spectral: the singular vectors of the spectral normalisation.
        optimiser: its moments.
    """

    weights: Any
    spectral: Any
    optimiser: Any


@dataclass(frozen=True)
class CriticGame:
    """V = E_P[T] - E_Q[f*(T)], T = g(critic(prediction, mask)); the critic ascends, the model descends.

    P are the frozen model's predictions at the anchor prompts, Q the trained model's at the target prompts;
    with config.sees "x0" the critic sees the x_0 that they stand for at x_t. The model's loss is
    -E_Q[f*(T)] up to a constant, or the non-saturating -E_Q[T]: same fixed point, as f*' > 0, but a gradient
    that does not fade where f*' does.

    Attributes:
        divergence: f, which gives f* and g.
        latent_shape: (h, w, c).
        config: of the critic.
        schedule: of the noise, for "x0".

    Raises ValueError for latents that the critic's halvings would leave nothing of.

    Source: Nowozin et al., f-GAN, 2016; Novello et al., 2025.
    """

    divergence: Divergence
    latent_shape: tuple[int, int, int]
    config: CriticConfig
    schedule: NoiseSchedule | None = None

    learns = True

    def __post_init__(self) -> None:
        if self.config.sees == "x0" and self.schedule is None:
            raise ValueError("critic.sees 'x0' needs the noise schedule")
        h, w, _ = self.latent_shape
        least = 2 ** len(self.config.hidden_channels)
        if min(h, w) < least:
            raise ValueError(
                f"latents of {h} x {w} for a critic that halves them {len(self.config.hidden_channels)} "
                f"times; expected at least {least} x {least}, or fewer critic.hidden_channels"
            )

    @property
    def warmup(self) -> int:
        """Steps in which the critic alone learns."""
        return self.config.warmup

    @cached_property
    def optimiser(self) -> optax.GradientTransformation:
        """The critic's AdamW."""
        return optax.adamw(self.config.learning_rate, weight_decay=self.config.weight_decay)

    def _build(self, key: jax.Array) -> Critic:
        return Critic(
            self.latent_shape[-1] + 1,
            rngs=nnx.Rngs(params=key),
            hidden_channels=self.config.hidden_channels,
            head_channels=self.config.head_channels,
            param_dtype=jnp.result_type(float),
            spectral_norm=self.config.spectral_norm,
        )

    @cached_property
    def _graph(self) -> Any:
        return nnx.split(nnx.eval_shape(lambda: self._build(jax.random.key(0))), nnx.Param, ...)[0]

    def _critic(self, weights: Any, spectral: Any) -> Critic:
        """The module, with variables of its own: what is done to it does not show in the states."""
        return nnx.merge(self._graph, *jax.tree.map(lambda leaf: leaf, (weights, spectral)))

    def initial(self, key: jax.Array) -> CriticState:
        """A critic with random weights."""
        _, weights, spectral = nnx.split(self._build(key), nnx.Param, ...)
        return CriticState(weights, spectral, self.optimiser.init(weights))

    def scores(self, weights: Any, spectral: Any, comparison: Comparison) -> tuple[jax.Array, jax.Array]:
        """The critic's values before the activation at the samples of P and of Q, n h' w' each."""
        critic = self._critic(weights, spectral)
        both = jnp.concatenate(self._seen(comparison))
        both = both.astype(jax.tree.leaves(weights)[0].dtype)
        v = critic(both, jnp.concatenate([comparison.mask, comparison.mask]))
        v_p, v_q = jnp.split(v, 2)
        return v_p, v_q

    def _seen(self, comparison: Comparison) -> tuple[jax.Array, jax.Array]:
        outputs = (comparison.reference, comparison.prediction)
        if self.config.sees == "prediction":
            return outputs
        assert self.schedule is not None
        reference, prediction = (
            self.schedule.predict_x0(comparison.noised, output, comparison.timesteps) for output in outputs
        )
        return reference, prediction

    def game_value(self, weights: Any, spectral: Any, comparison: Comparison) -> jax.Array:
        """V, a scalar: a lower bound of the divergence of the two sets of predictions."""
        return variational_value(self.divergence, *self.scores(weights, spectral, comparison))

    def respond(
        self, state: CriticState, comparison: Comparison, mean: Callable[[Any], Any]
    ) -> tuple[CriticState, dict[str, jax.Array]]:
        """Ascend V for `config.steps` steps; `critic_value` is V before the first."""
        comparison = jax.lax.stop_gradient(comparison)
        weights, spectral, moments = state.weights, state.spectral, state.optimiser
        figures: dict[str, jax.Array] = {}
        for _ in range(self.config.steps):
            value, gradient = jax.value_and_grad(self.game_value)(weights, spectral, comparison)
            value, gradient = mean((value, gradient))
            figures.setdefault("critic_value", value)
            ascent = jax.tree.map(jnp.negative, gradient)
            changes, moments = self.optimiser.update(ascent, moments, weights)
            weights = optax.apply_updates(weights, changes)
            critic = self._critic(weights, spectral)
            critic.refresh()
            spectral = nnx.state(critic, nnx.Not(nnx.Param))
        return CriticState(weights, spectral, moments), figures

    def value(self, state: CriticState, comparison: Comparison) -> jax.Array:
        """V, whose gradient for the model is that of -E_Q[f*(T)]; or the non-saturating -E_Q[T]."""
        if self.config.generator == "non-saturating":
            _, v_q = self.scores(state.weights, state.spectral, comparison)
            return -jnp.mean(self.divergence.activation(v_q))
        return self.game_value(state.weights, state.spectral, comparison)
