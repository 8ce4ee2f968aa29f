"""The critic of the variational game: what it looks at, what it says, and how it learns.

    state, figures = ascend(game, state, comparison)

A critic gives a number v for every prediction, or for every patch of one; the game turns the numbers into the
payoff V, which the critic ascends and the model descends. The critic does not know the divergence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Float

from fdiv_jax.arrays import Figures, Predictions, PyTree, RandomKey, Scalar
from fdiv_jax.diffusion import NoiseSchedule
from fdiv_jax.nn import Critic
from fdiv_jax.unlearning.comparison import Comparison
from fdiv_jax.unlearning.config_parts import CriticConfig

__all__ = ["ConvolutionalCritic", "CriticState", "Game", "Player", "ascend"]

CriticValues = Float[jax.Array, "batch *patches"]
"""v of every prediction, or of every patch of every prediction."""
TwoValues = tuple[CriticValues, CriticValues]
"""v at the reference and at the prediction."""
Mean = Callable[[PyTree], PyTree]
"""Averages a tree over the devices that share the batch; the identity on one device."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CriticState:
    """The critic between two steps.

    Attributes:
        weights: what is trained.
        spectral: the singular vectors of the spectral normalisation.
        optimiser: its moments.
    """

    weights: PyTree
    spectral: PyTree
    optimiser: optax.OptState


@runtime_checkable
class Player(Protocol):
    """The model's opponent."""

    @property
    def warmup(self) -> int:
        """Steps in which the critic alone learns, before the first one of the model."""
        ...

    @property
    def steps(self) -> int:
        """Steps of the critic for each of the model."""
        ...

    @property
    def optimiser(self) -> optax.GradientTransformation:
        """The optimiser of the critic's weights."""
        ...

    def initial(self, key: RandomKey) -> CriticState:
        """The critic's state before the first step, from a random key."""
        ...

    def scores(self, weights: PyTree, spectral: PyTree, comparison: Comparison) -> TwoValues:
        """v at the samples of P and of Q, before the activation: two arrays of one shape."""
        ...

    def refresh(self, weights: PyTree, spectral: PyTree) -> PyTree:
        """`spectral` after a step of the weights."""
        ...


@runtime_checkable
class Game(Protocol):
    """A critic and what it plays for."""

    @property
    def critic(self) -> Player:
        """What gives v."""
        ...

    def payoff(self, v_p: CriticValues, v_q: CriticValues) -> Scalar:
        """V, a scalar, from the critic's numbers at the samples of P and of Q."""
        ...


def ascend(
    game: Game,
    state: CriticState,
    comparison: Comparison,
    mean: Mean = lambda tree: tree,
) -> tuple[CriticState, Figures]:
    """The critic after its steps of ascent of V on one batch, and figures to record.

    Args:
        game: the critic and what it plays for.
        state: of the critic; it is not changed.
        comparison: the batch.
        mean: averages over the devices that share the batch.

    Returns:
        The new state, and `critic_value`: V before the first of the steps.
    """
    critic = game.critic
    weights, spectral, moments = state.weights, state.spectral, state.optimiser
    figures: Figures = {}
    for _ in range(critic.steps):
        value, gradient = jax.value_and_grad(
            lambda weights, spectral=spectral: game.payoff(*critic.scores(weights, spectral, comparison))
        )(weights)
        value, gradient = mean((value, gradient))
        figures.setdefault("critic_value", value)
        ascent = jax.tree.map(jnp.negative, gradient)  # optimisers descend
        changes, moments = critic.optimiser.update(ascent, moments, weights)
        weights = optax.apply_updates(weights, changes)
        spectral = critic.refresh(weights, spectral)
    return CriticState(weights, spectral, moments), figures


@dataclass(frozen=True)
class ConvolutionalCritic:
    """A small convolutional network on predictions, or on the x_0 they stand for at x_t, beside the mask.

    Attributes:
        latent_shape: (h, w, c).
        config: of the critic.
        schedule: of the noise, for a critic that sees x_0.

    Raises:
        ValueError: latents that are too small for the critic's halvings.

    Source: Novello et al., 2025 (`prediction`); Wu et al., Unlearning concepts in diffusion model via concept
    domain correction and concept preserving gradient, 2024 (`x0`).
    """

    latent_shape: tuple[int, int, int]
    config: CriticConfig
    schedule: NoiseSchedule | None = None

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

    @property
    def steps(self) -> int:
        """Steps of the critic for each of the model."""
        return self.config.steps

    @cached_property
    def optimiser(self) -> optax.GradientTransformation:
        """AdamW on the critic's weights."""
        return optax.adamw(self.config.learning_rate, weight_decay=self.config.weight_decay)

    def _build(self, key: RandomKey) -> Critic:
        return Critic(
            self.latent_shape[-1] + 1,
            rngs=nnx.Rngs(params=key),
            hidden_channels=self.config.hidden_channels,
            head_channels=self.config.head_channels,
            param_dtype=jnp.result_type(float),
            spectral_norm=self.config.spectral_norm,
        )

    @cached_property
    def _graph(self) -> nnx.GraphDef[Critic]:
        return nnx.split(nnx.eval_shape(lambda: self._build(jax.random.key(0))), nnx.Param, ...)[0]

    def _critic(self, weights: PyTree, spectral: PyTree) -> Critic:
        """A module with variables of its own: changes to it do not show in the states."""
        return nnx.merge(self._graph, *jax.tree.map(lambda leaf: leaf, (weights, spectral)))

    def initial(self, key: RandomKey) -> CriticState:
        """A critic with random weights."""
        _, weights, spectral = nnx.split(self._build(key), nnx.Param, ...)
        return CriticState(weights, spectral, self.optimiser.init(weights))

    def scores(self, weights: PyTree, spectral: PyTree, comparison: Comparison) -> TwoValues:
        """v at the samples of P and of Q, n h' w' each."""
        critic = self._critic(weights, spectral)
        both = jnp.concatenate(
            self._seen(comparison)
        )  # one call for both, so that they share the spectral norm
        both = both.astype(jax.tree.leaves(weights)[0].dtype)
        v = critic(both, jnp.concatenate([comparison.mask, comparison.mask]))
        v_p, v_q = jnp.split(v, 2)
        return v_p, v_q

    def refresh(self, weights: PyTree, spectral: PyTree) -> PyTree:
        """The singular vectors after one more power iteration."""
        critic = self._critic(weights, spectral)
        critic.refresh()
        return nnx.state(critic, nnx.Not(nnx.Param))

    def _seen(self, comparison: Comparison) -> tuple[Predictions, Predictions]:
        outputs = (comparison.reference, comparison.prediction)
        if self.config.sees == "prediction":
            return outputs
        assert self.schedule is not None
        noised = comparison.noised
        if noised is None:
            raise ValueError("a comparison without x_t for a critic that sees x_0; expected `noised`")
        reference, prediction = (
            self.schedule.predict_x0(noised, output, comparison.timesteps) for output in outputs
        )
        return reference, prediction
