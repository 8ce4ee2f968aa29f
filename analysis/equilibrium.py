"""The min-max game of a real UNet around its exact equilibrium: measured blocks, and orbits played nearby.

At the self-anchored point (target prompt = anchor prompt, trained weights = frozen weights) P = Q whatever
the network, the prompt and the data. The model's players are all parameters of the trainable group. The
critic is linear in fixed features: v = omega . chi(prediction) + omega_0. The features are those of the
training critic before its last layer, whitened on the samples and turned so that the coupling K is diagonal:
Gram is then the identity, and each singular value of K is one mode of the theory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.flatten_util import ravel_pytree

from fdiv_jax.arrays import Parameters, PyTree
from fdiv_jax.divergences import Divergence
from fdiv_jax.nn import Critic
from fdiv_jax.unlearning import (
    Batch,
    Comparison,
    CriticState,
    Frozen,
    OptimiserConfig,
    Plan,
    TrainState,
    VariationalLoss,
    make_optimiser,
    make_reference,
    make_step,
)
from fdiv_jax.unlearning.losses import switch_losses
from fdiv_jax.unlearning.step import predict

__all__ = ["Equilibrium", "LinearCritic", "critic_features", "find_equilibrium", "play", "speeds"]


@dataclass(frozen=True)
class Equilibrium:
    """The game at the self-anchored point of one network on one set of samples.

    Attributes:
        plan: the training step, whose loss does not matter here.
        frozen: the model.
        batch: the samples, whose anchor prompts are their target prompts.
        key: of their noise and timesteps.
        trained: the parameters at the equilibrium.
        features: n h w c -> n k, before whitening.
        centre, whiten: k and k r: chi = (features - centre) @ whiten.
        gram: (r, r), mean of chi chi^T over the samples, measured.
        couplings: (r,), singular values of K, falling.
        directions: (r, parameters), the parameters' direction that each mode moves along, unit vectors.
    """

    plan: Plan
    frozen: Frozen
    batch: Batch
    key: jax.Array
    trained: Parameters
    features: Callable[[jax.Array], jax.Array]
    centre: jax.Array
    whiten: jax.Array
    gram: np.ndarray
    couplings: np.ndarray
    directions: np.ndarray


def critic_features(channels: int, key: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """The training critic as it starts, up to its last layer, averaged over patches: n h w c -> n 512."""
    critic = Critic(channels + 1, rngs=nnx.Rngs(params=key))

    def features(prediction: jax.Array) -> jax.Array:
        x = jnp.concatenate([prediction, jnp.ones((*prediction.shape[:3], 1), prediction.dtype)], axis=-1)
        for layer in (*critic.layers, critic.head):
            x = jax.nn.leaky_relu(layer(x), 0.2)
        return x.mean(axis=(1, 2))

    return features


def find_equilibrium(
    plan: Plan,
    frozen: Frozen,
    batch: Batch,
    key: jax.Array,
    features: Callable[[jax.Array], jax.Array],
    modes: int,
) -> Equilibrium:
    """Measure Gram and K at the equilibrium: r principal features, r vector-Jacobian products.

    The batch's anchor prompts are replaced by its target prompts, which makes the point self-anchored.

    Raises:
        ValueError: more modes than the samples' features have directions.
    """
    batch = replace(batch, anchor_text=batch.target_text)
    trained = plan.trainable.initial(frozen, key)
    seen = jax.jit(lambda trained, frozen, batch: features(predict(plan, trained, frozen, batch, key)))
    found = np.asarray(seen(trained, frozen, batch), np.float64)
    centre = found.mean(0)
    _, values, rows = np.linalg.svd((found - centre) / np.sqrt(len(found)), full_matrices=False)
    if modes > np.sum(values > 1e-5 * values[0]):
        raise ValueError(f"{modes} modes, expected at most {np.sum(values > 1e-5 * values[0])}")
    whiten = rows[:modes].T / values[:modes]
    flat, unravel = ravel_pytree(trained)

    @jax.jit
    def coupling(
        vector: jax.Array, frozen: Frozen, batch: Batch, centre: jax.Array, whiten: jax.Array
    ) -> jax.Array:
        def means(vector: jax.Array) -> jax.Array:
            output = predict(plan, unravel(vector), frozen, batch, key)
            return jnp.mean((features(output) - centre) @ whiten, axis=0)

        _, pull = jax.vjp(means, vector)
        return jax.lax.map(lambda row: pull(row)[0], jnp.eye(modes))

    k = np.asarray(coupling(flat, frozen, batch, jnp.asarray(centre), jnp.asarray(whiten)), np.float64)
    squares, turn = np.linalg.eigh(k @ k.T)
    order = np.argsort(-squares)
    couplings, turn = np.sqrt(np.maximum(squares[order], 0.0)), turn[:, order]
    whiten = whiten @ turn
    chi = (found - centre) @ whiten
    return Equilibrium(
        plan,
        frozen,
        batch,
        key,
        trained,
        features,
        jnp.asarray(centre, jnp.float32),
        jnp.asarray(whiten, jnp.float32),
        chi.T @ chi / len(chi),
        couplings,
        (turn.T @ k) / couplings[:, None],
    )


def speeds(coupling: float, ratio: float, angle: float) -> tuple[float, float]:
    """(a, b) with (q/k) sqrt(b/a) = `ratio` and k sqrt(a b) = `angle` per step, for damping q = 1."""
    return angle / (ratio * coupling**2), angle * ratio


@dataclass(frozen=True, eq=False)
class LinearCritic:
    """v = omega . chi(prediction) + omega_0, which ascends by plain gradient steps.

    The state of its optimiser holds their size, so that games of many sizes are one compiled program.

    Attributes:
        features: n h w c -> n k.
        centre, whiten: k and k r: chi = (features - centre) @ whiten.
    """

    features: Callable[[jax.Array], jax.Array]
    centre: jax.Array
    whiten: jax.Array

    warmup = 0
    steps = 1

    @property
    def optimiser(self) -> optax.GradientTransformation:
        """Gradient descent, of a rate that is part of its state."""
        return make_optimiser(OptimiserConfig("sgd"), 0.0)

    def initial(self, key: jax.Array) -> CriticState:
        """The critic that is 0 everywhere and stays so; see `at`."""
        return self.at(0.0, 0.0)

    def at(self, value: float, step: float) -> CriticState:
        """The critic that is `value` everywhere, and its step's size."""
        omega = jnp.zeros(self.whiten.shape[1] + 1).at[-1].set(value)
        return CriticState(omega, (), make_optimiser(OptimiserConfig("sgd"), step).init(omega))

    def scores(
        self, weights: jax.Array, spectral: PyTree, comparison: Comparison
    ) -> tuple[jax.Array, jax.Array]:
        """v at the samples of P and of Q, (n,) each."""
        v_p, v_q = (
            (self.features(output) - self.centre) @ self.whiten @ weights[:-1] + weights[-1]
            for output in (comparison.reference, comparison.prediction)
        )
        return v_p, v_q

    def refresh(self, weights: jax.Array, spectral: PyTree) -> PyTree:
        """The state as it is: there are no singular vectors to refresh."""
        return spectral


def play(
    point: Equilibrium,
    divergences: Sequence[Divergence],
    games: Sequence[tuple[int, float, float]],
    *,
    steps: int,
    shift: float = 0.02,
) -> Callable[[int], np.ndarray]:
    """Steps of training (the critic first), on one batch, from a small push along the first mode.

    Args:
        point: the equilibrium.
        divergences: one of which each game is played with, T = g(v).
        games: (index into divergences, a, b) of each game.
        steps: of each game.
        shift: how far the push moves the mode's feature, in its standard deviations over the samples.

    Returns:
        A function of a game's number: (steps + 1, 2), the first mode's coordinates (theta, omega) after every
        step. All games run the same compiled code.
    """
    flat, unravel = ravel_pytree(point.trained)
    direction = jnp.asarray(point.directions[0], flat.dtype)
    start = flat + shift / point.couplings[0] * direction
    critic = LinearCritic(point.features, point.centre, point.whiten)
    distance: Any = point.plan.loss.distance
    loss, choices = switch_losses([VariationalLoss(d, distance, critic=critic) for d in divergences])
    descent = OptimiserConfig("sgd")
    plan = replace(point.plan, loss=loss, optimiser=descent)
    reference = jax.jit(make_reference(plan))(point.frozen, point.batch, point.key)
    step = make_step(plan)

    @jax.jit
    def run(state: TrainState, frozen: Frozen, batch: Batch, reference: jax.Array) -> jax.Array:
        def place(state: TrainState) -> jax.Array:
            assert state.critic is not None
            return jnp.stack([direction @ (ravel_pytree(state.trained)[0] - flat), state.critic.weights[0]])

        def advance(state: TrainState, _: None) -> tuple[TrainState, jax.Array]:
            state = step(state, frozen, batch, reference, point.key)[0]
            return state, place(state)

        return jnp.concatenate([place(state)[None], jax.lax.scan(advance, state, None, length=steps)[1]])

    def game(number: int) -> np.ndarray:
        index, a, b = games[number]
        trained = unravel(start)
        state = TrainState(
            step=jnp.zeros((), jnp.int32),
            trained=trained,
            optimiser=make_optimiser(descent, a).init(trained),
            critic=critic.at(divergences[index].equilibrium[1], b),
        )
        frozen = replace(point.frozen, choice=jnp.asarray(choices[index], jnp.int32))
        return np.asarray(run(state, frozen, point.batch, reference), np.float64)

    return game
