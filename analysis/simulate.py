"""Playing a game: gradient flow, discrete descent-ascent, and the rate that a trajectory shows.

Rates are read off the trajectory (theta, w) alone, never with the predicted eigenvectors:

    one pole     x_{k+1} = mu x_k                          what is left of an over-damped mode
    two poles    x_{k+2} = p x_{k+1} + q x_k               (Prony) oscillation or two real roots
    double root  x_{k+2} = 2 mu x_{k+1} - mu^2 x_k         the Jordan form (A + B k) mu^k, at critical damping
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from .toy_games import Game, Number

__all__ = ["descend", "double_root", "flow", "one_pole", "plane_rate", "poles", "two_poles"]

Array = jax.Array
StateT = TypeVar("StateT")
Field = Callable[[Array], Array]


def flow(field: Field, start: Array, dt: Number, steps: int, stride: int = 1) -> Array:
    """Gradient flow by the classical Runge-Kutta method.

    Args:
      field: z -> dz/dt. start: (n,). dt: time of one step. steps: how many. stride: keep every stride-th
        state.

    Returns:
      (steps // stride + 1, n), from the start on.
    """

    # The four stages as a loop: the field is compiled once, not four times.
    nodes, weights = jnp.array([0.0, 0.5, 0.5, 1.0]), jnp.array([1.0, 2.0, 2.0, 1.0]) / 6

    def step(z: Array, _: None) -> tuple[Array, None]:
        def stage(carry: tuple[Array, Array], at: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
            slope, total = carry
            slope = field(z + dt * at[0] * slope)
            return (slope, total + at[1] * slope), None

        (_slope, total), _none = jax.lax.scan(stage, (jnp.zeros_like(z), jnp.zeros_like(z)), (nodes, weights))
        return z + dt * total, None

    return _record(step, start, steps, stride)


def _record(
    step: Callable[[StateT, None], tuple[StateT, None]], start: StateT, steps: int, stride: int
) -> StateT:
    """The states of `step` iterated, every stride-th, the start first."""

    def stretch(carry: StateT, _: None) -> tuple[StateT, StateT]:
        carry, _ = jax.lax.scan(step, carry, None, length=stride)
        return carry, carry

    _, states = jax.lax.scan(stretch, start, None, length=steps // stride)
    return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), start, states)


def descend(
    game: Game,
    start: Array,
    h: Number,
    steps: int,
    scheme: str = "simultaneous",
    critic_steps: int = 1,
    stride: int = 1,
) -> Array:
    """Descent-ascent in steps h: simultaneous, alternating (critic first), extragradient or optimistic.

    Returns:
      (steps // stride + 1, n), every stride-th state from the start on.
    """
    field, size = game.field, game.theta.shape[0]
    is_model = jnp.arange(start.shape[0]) < size

    def alternate(z: Array, _: None) -> tuple[Array, None]:
        def turn(z: Array, model: Array) -> tuple[Array, None]:
            return z + h * jnp.where(is_model == model, field(z), 0.0), None

        z, _ = jax.lax.scan(turn, z, jnp.arange(critic_steps + 1) == critic_steps)
        return z, None

    def optimistic(state: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        z, before = state
        now = field(z)
        return (z + 2 * h * now - h * before, now), None

    if scheme == "optimistic":
        # field(z_before) with z_before = start, as in the update matrix on (z, z_before)
        return _record(optimistic, (start, field(start)), steps, stride)[0]
    plain = {
        "simultaneous": lambda z, _: (z + h * field(z), None),
        "extragradient": lambda z, _: (z + h * field(z + h * field(z)), None),
        "alternating": alternate,
    }
    return _record(plain[scheme], start, steps, stride)


def _scaled(x: np.ndarray, count: int) -> list[np.ndarray]:
    """`count` successive samples from every place on, flattened, scaled so that every time counts alike.

    x: (n, components). Returns `count` arrays ((n - count + 1) * components,).
    """
    x = np.asarray(x, float)
    if len(x) < count + 1 or not np.isfinite(x).all():
        finite = bool(np.isfinite(x).all())
        raise ValueError(f"expected at least {count + 1} samples, all finite; got {len(x)}, finite: {finite}")
    windows = [x[i : len(x) - count + 1 + i] for i in range(count)]
    size = np.sqrt(sum((window**2).sum(1, keepdims=True) for window in windows))
    if (size == 0).any():
        raise ValueError("the trajectory has arrived at zero exactly: nothing is left to fit")
    return [(window / size).ravel() for window in windows]


def one_pole(x: np.ndarray, tau: float) -> float:
    """Rate of (n, components) samples tau apart, by least squares on log of their distance to 0."""
    size = np.log(np.linalg.norm(np.asarray(x, float), axis=1))
    return -float(np.polyfit(tau * np.arange(len(size)), size, 1)[0])


def poles(x: np.ndarray, tau: float, count: int) -> float:
    """Rate of the slowest of `count` modes (or of an oscillation's envelope): -log max|mu| / tau.

    Prony: the samples obey x_{k+n} = c_1 x_{k+n-1} + ... + c_n x_k; the poles mu are that polynomial's roots.
    """
    windows = _scaled(x, count + 1)
    taps = np.linalg.lstsq(np.stack(windows[-2::-1], 1), windows[-1], rcond=None)[0]
    return -float(np.log(np.abs(np.roots([1.0, *-taps])).max()) / tau)


def two_poles(x: np.ndarray, tau: float) -> float:
    """`poles` with two: one coupled mode of the game."""
    return poles(x, tau, 2)


def plane_rate(x: np.ndarray) -> float:
    """Rate per sample of (n, 2) samples of one oscillation: of the matrix M that minimises
    sum_k |x_{k+1} - M x_k|^2.

    It needs both coordinates of the oscillation; a slow turn shows in one step, and not, as in `two_poles`,
    in the second difference, so that what disturbs the orbit weighs ten times less.
    """
    matrix = np.linalg.lstsq(x[:-1], x[1:], rcond=None)[0]
    return -float(np.log(np.abs(np.linalg.eigvals(matrix)).max()))


def double_root(x: np.ndarray, tau: float) -> float:
    """Rate of (A + B k) mu^k: the mu that minimises |x_{k+2} - 2 mu x_{k+1} + mu^2 x_k|^2."""
    first, second, third = _scaled(x, 3)
    # |c - 2 m b + m^2 a|^2 = cc - 4 m bc + m^2 (2 ac + 4 bb) - 4 m^3 ab + m^4 aa
    aa, ab, ac = first @ first, first @ second, first @ third
    bb, bc = second @ second, second @ third
    quartic = np.array([aa, -4 * ab, 2 * ac + 4 * bb, -4 * bc, third @ third])
    roots = np.roots(np.polyder(quartic))
    real = roots[np.abs(roots.imag) < 1e-6].real
    real = real[real > 0]
    return -float(np.log(real[np.argmin(np.polyval(quartic, real))]) / tau)
