"""Adam near the equilibrium: a game in other coordinates, and what becomes of the order of divergences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fdiv_jax.theory._inputs import Floats, blocks, positive, real_array
from fdiv_jax.theory.discrete import discrete_rate

__all__ = ["preconditioned", "rate_by_curvature"]


def preconditioned(
    gram: ArrayLike, coupling: ArrayLike, *, model: ArrayLike, critic: ArrayLike
) -> tuple[Floats, Floats]:
    """Gram and K of the game in which every coordinate's step is divided by its own scale: (Gram', K').

    Dividing the rows of J by D = diag(D_theta, D_omega) is, in the coordinates D^(1/2) z,

        Gram' = D_omega^-1/2 Gram D_omega^-1/2,    K' = D_omega^-1/2 K D_theta^-1/2,

    a game of the same form: D^-1 J and the Jacobian of (Gram', K') have the same eigenvalues. So every
    statement about plain steps holds for Adam where its second moments stand still, D = sqrt(v) + epsilon,
    with b1 as `averaged` momentum.

    Args:
      gram: (n_omega, n_omega), as for `game_jacobian`.
      coupling: (n_omega, n_theta), as for `game_jacobian`.
      model: D_theta > 0, (n_theta,) or a number.
      critic: D_omega > 0, (n_omega,) or a number.

    Raises:
      ValueError: wrong shapes, scales not > 0.
      TypeError: not numbers.

    >>> preconditioned(4.0, 1.0, model=0.25, critic=4.0)
    (array([[1.]]), array([[1.]]))
    """
    g, k = blocks(gram, coupling)
    roots = []
    for name, value, size in (("model", model, k.shape[1]), ("critic", critic, k.shape[0])):
        scale = real_array(name, value)
        if scale.shape not in ((), (size,)) or (scale <= 0).any():
            raise ValueError(f"expected {name} > 0 of shape ({size},), got shape {scale.shape}")
        roots.append(np.broadcast_to(np.sqrt(scale), (size,)))
    theta, omega = roots
    return g / np.outer(omega, omega), k / np.outer(omega, theta)


class _Generator(NamedTuple):
    """The attributes of a divergence that the linearised game reads."""

    name: str
    curvature: float
    activation_slope: float


def rate_by_curvature(
    curvatures: Sequence[float],
    gram: ArrayLike,
    coupling: ArrayLike,
    step: float,
    *,
    activation_slope: float = 1.0,
    adam: bool = False,
    **method: Any,
) -> Floats:
    """Rate per iteration of the game for each curvature f''(1), everything else being equal.

    Under-damped, a smaller f''(1) is faster; over-damped, a larger one. Does the order survive Adam? With
    T = v it does: at the equilibrium neither player's gradient depends on f at first order, and so neither do
    the second moments; f''(1) stays in the critic's damping alone. With T = g(v) both gradients carry the
    factor g'(v0), and Adam divides it out: d = g'/f''(1) and c = 1 replace g'^2/f''(1) and g'^2. (In direct
    minimisation the gradient is f''(1) times the squared error's, and Adam does remove the order.)

    Args:
      curvatures: the values of f''(1), each > 0.
      gram, coupling: as for `game_jacobian`; under Adam those of `preconditioned` with the scales of T = v.
      step: h > 0.
      activation_slope: g'(v0), 1 for T = v.
      adam: whether both players' steps are divided by the size of their gradients.
      method: further arguments of `discrete_rate`: scheme, critic_steps, model_step, critic_step,
        critic_penalty, momentum, averaged.

    Returns:
      Rates, the shape of `curvatures`, 1/iteration; negative where the iteration moves away.

    >>> rate_by_curvature([0.5, 1.0, 2.0], 0.1, 1.0, 0.02, adam=True, momentum=0.5, averaged=True).round(4)
    array([ 0.0014,  0.0004, -0.0001])
    """
    slope = positive("activation_slope", activation_slope)
    if adam:
        gram, coupling = preconditioned(gram, coupling, model=slope, critic=slope)
    return np.array(
        [
            discrete_rate(
                _Generator(f"curvature {c}", positive("curvature", c), slope),  # pyright: ignore
                gram,
                coupling,
                step,
                activation=True,
                **method,
            )
            for c in curvatures
        ]
    )
