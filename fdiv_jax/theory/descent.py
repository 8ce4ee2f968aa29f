"""Descending the divergence itself: local rate and stable step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from fdiv_jax.theory._inputs import Floats, finite_curvature_of, positive, real_array

if TYPE_CHECKING:
    from fdiv_jax.divergences import Divergence

__all__ = ["descent_rate", "descent_step_limit"]


def _hessian_spectrum(d: Divergence | str, eigenvalues: ArrayLike) -> Floats:
    values = real_array("eigenvalues", eigenvalues)
    if (values <= 0).any():
        raise ValueError(
            f"expected eigenvalues > 0, got {values.min()}; leave out directions that do not move the mean"
        )
    return finite_curvature_of(d) * values


def descent_rate(d: Divergence | str, eigenvalues: ArrayLike, step: float) -> float:
    """Linear rate of gradient descent on D_f per step: 1 - max_i |1 - h f''(1) k_i|.

    Near the equilibrium D_f = f''(1) m / 2, so with the eigenvalues k_i of E[A^T A]/s^2 (A: Jacobian of the
    mean) one step multiplies the error along eigenvector i by 1 - h f''(1) k_i. The rate is h f''(1) k_min
    up to h = 2/(f''(1)(k_min + k_max)); beyond that the largest eigenvalue holds it back, and from
    `descent_step_limit` on it is negative: the error grows.

    Args:
      d: the divergence, or its name or expression.
      eigenvalues: k_i > 0, any shape.
      step: h > 0.

    Returns:
      The rate, a float <= 1: the error shrinks by the factor 1 - rate each step.

    Raises:
      ValueError: eigenvalues or step not finite or not > 0; a kink of f at 1 (no linear rate); f''(1) = 0.
    """
    moved = positive("step", step) * _hessian_spectrum(d, eigenvalues)
    return min(float(moved.min()), 2.0 - float(moved.max()))


def descent_step_limit(d: Divergence | str, eigenvalues: ArrayLike) -> float:
    """Largest stable step of gradient descent on D_f: h < 2 / (f''(1) k_max).

    Arguments and errors as for `descent_rate`.
    """
    return 2.0 / float(_hessian_spectrum(d, eigenvalues).max())
