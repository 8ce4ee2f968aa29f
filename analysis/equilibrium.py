"""The min-max game of a real UNet around its exact equilibrium: measured blocks, and orbits played nearby.

At the self-anchored point (target prompt = anchor prompt, trained weights = frozen weights) P = Q whatever
the network, the prompt and the data. The model's players are all parameters of the trainable group. The
critic is linear in fixed features: v = omega . chi(prediction) + omega_0. The features are those of the
training critic before its last layer, whitened on the samples and turned so that the coupling K is diagonal:
Gram is then the identity, and each singular value of K is one mode of the theory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.flatten_util import ravel_pytree

from fdiv_jax.divergences import Divergence, variational_value
from fdiv_jax.nn import Critic

from .chosen import Chosen

__all__ = ["Equilibrium", "critic_features", "find_equilibrium", "play", "speeds"]

Predict = Callable[[Any, Any], jax.Array]


@dataclass(frozen=True)
class Equilibrium:
    """The game at the self-anchored point of one network on one set of samples.

    Attributes:
        predict: (trained parameters, inputs) -> n h w c, the network at the samples.
        inputs: all else that it needs, a tree of arrays.
        trained: the parameters at the equilibrium.
        features: n h w c -> n k, before whitening.
        centre, whiten: k and k r: chi = (features - centre) @ whiten.
        gram: (r, r), mean of chi chi^T over the samples, measured.
        couplings: (r,), singular values of K, falling.
        directions: (r, parameters), the parameters' direction that each mode moves along, unit vectors.
    """

    predict: Predict
    inputs: Any
    trained: Any
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
    predict: Predict,
    inputs: Any,
    trained: Any,
    features: Callable[[jax.Array], jax.Array],
    modes: int,
) -> Equilibrium:
    """Measure Gram and K at the equilibrium: r principal features, r vector-Jacobian products.

    Raises:
        ValueError: more modes than the samples' features have directions.
    """
    found = np.asarray(jax.jit(lambda p, inputs: features(predict(p, inputs)))(trained, inputs), np.float64)
    centre = found.mean(0)
    _, values, rows = np.linalg.svd((found - centre) / np.sqrt(len(found)), full_matrices=False)
    if modes > np.sum(values > 1e-5 * values[0]):
        raise ValueError(f"{modes} modes, expected at most {np.sum(values > 1e-5 * values[0])}")
    whiten = rows[:modes].T / values[:modes]
    flat, unravel = ravel_pytree(trained)

    @jax.jit
    def coupling(vector: jax.Array, inputs: Any, centre: jax.Array, whiten: jax.Array) -> jax.Array:
        def means(vector: jax.Array) -> jax.Array:
            return jnp.mean((features(predict(unravel(vector), inputs)) - centre) @ whiten, axis=0)

        _, pull = jax.vjp(means, vector)
        return jax.lax.map(lambda row: pull(row)[0], jnp.eye(modes))

    k = np.asarray(coupling(flat, inputs, jnp.asarray(centre), jnp.asarray(whiten)), np.float64)
    squares, turn = np.linalg.eigh(k @ k.T)
    order = np.argsort(-squares)
    couplings, turn = np.sqrt(np.maximum(squares[order], 0.0)), turn[:, order]
    whiten = whiten @ turn
    chi = (found - centre) @ whiten
    return Equilibrium(
        predict,
        inputs,
        trained,
        features,
        jnp.asarray(centre, jnp.float32),
        jnp.asarray(whiten, jnp.float32),
        chi.T @ chi / len(chi),
        couplings,
        (turn.T @ k) / couplings[:, None],
    )


def speeds(coupling: float, ratio: float, angle: float) -> tuple[float, float]:
    """(a, b) with (q/k) sqrt(b/a) = `ratio` and k sqrt(a b) = `angle` a step, for damping q = 1."""
    return angle / (ratio * coupling**2), angle * ratio


def play(
    point: Equilibrium,
    divergences: Sequence[Divergence],
    games: Sequence[tuple[int, float, float]],
    *,
    steps: int,
    shift: float = 0.02,
) -> Callable[[int], np.ndarray]:
    """Alternating steps (critic first, as in training) from a small push along the first mode.

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

    def chi(vector: jax.Array, inputs: Any) -> jax.Array:
        found = (point.features(point.predict(unravel(vector), inputs)) - point.centre) @ point.whiten
        return jnp.concatenate([found, jnp.ones((len(found), 1), found.dtype)], axis=1)

    @jax.jit
    def run(inputs: Any, index: jax.Array, origin: jax.Array, a: Any, b: Any) -> Any:
        chosen = cast(Any, Chosen(divergences, index))
        of_p = chi(flat, inputs)

        def value(of_q: jax.Array, omega: jax.Array) -> jax.Array:
            return variational_value(chosen, of_p @ omega, of_q @ omega)

        def step(state: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array], Any]:
            vector, omega = state
            of_q, pull = jax.vjp(lambda vector: chi(vector, inputs), vector)
            omega = omega + b * jax.grad(value, argnums=1)(of_q, omega)
            vector = vector - a * pull(jax.grad(value)(of_q, omega))[0]
            return (vector, omega), jnp.stack([direction @ (vector - flat), omega[0]])

        _, path = jax.lax.scan(step, (start, origin), None, length=steps)
        first = jnp.stack([direction @ (start - flat), jnp.zeros((), flat.dtype)])
        return jnp.concatenate([first[None], path])

    def game(number: int) -> np.ndarray:
        index, a, b = games[number]
        origin = jnp.zeros(len(point.couplings) + 1).at[-1].set(divergences[index].equilibrium[1])
        return np.asarray(run(point.inputs, jnp.asarray(index), origin, a, b), np.float64)

    return game
