"""One mode of the game: the roots of lambda^2 + beta lambda + omega^2 = 0.

beta = b d q is the damping of the critic, omega = k sqrt(a b c) the frequency at which model and critic would
circle without it. The functions take numpy or JAX arrays (and run under jit, grad and vmap on the latter).
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jax.typing import ArrayLike

__all__ = ["mode_eigenvalues", "mode_rate"]

Array = Any
"""An array of JAX where an argument is one, else of NumPy."""


def _namespace(*values: object) -> ModuleType:
    """JAX's where an argument is an array of JAX, whose module is then there already."""
    kind = getattr(sys.modules.get("jax"), "Array", ())
    if not any(isinstance(v, kind) for v in values):
        return np
    import jax.numpy as jnp

    return jnp


def _root_of_discriminant(xp: ModuleType, beta: Array, omega: Array) -> Array:
    """sqrt(|beta^2 - 4 omega^2|), as products of order one: a square would over- or underflow."""
    scale = xp.maximum(beta, 2 * omega)
    scale = xp.where(scale > 0, scale, 1.0)
    return scale * xp.sqrt(xp.abs((beta - 2 * omega) / scale * ((beta + 2 * omega) / scale)))


def mode_eigenvalues(beta: ArrayLike, omega: ArrayLike) -> Array:
    """Both roots of lambda^2 + beta lambda + omega^2 = 0, the slow one first.

    lambda = (-beta +- sqrt(beta^2 - 4 omega^2)) / 2, the slow real root as omega^2 / fast (no cancellation).

    Args:
      beta: damping, >= 0, any shape, 1/time.
      omega: undamped frequency, >= 0, same shape up to broadcasting, 1/time.

    Returns:
      Complex array of shape (..., 2). A complex pair has the positive imaginary part first.
    """
    xp = _namespace(beta, omega)
    b, w = xp.broadcast_arrays(xp.asarray(beta, float), xp.asarray(omega, float))
    over = b > 2 * w
    half = _root_of_discriminant(xp, b, w) / 2
    fast = b / 2 + xp.where(over, half, 0.0)
    slow = xp.where(over, w * (w / xp.where(fast > 0, fast, 1.0)), fast)
    imaginary = xp.where(over, 0.0, half)
    return xp.stack([-slow + 1j * imaginary, -fast - 1j * imaginary], axis=-1)


def mode_rate(beta: ArrayLike, omega: ArrayLike) -> Array:
    """-max Re(lambda) of one mode: beta/2 below critical damping (beta < 2 omega), the slow root above it.

    Args:
      beta, omega: as for `mode_eigenvalues`.

    Returns:
      Real array of the broadcast shape, 1/time.
    """
    xp = _namespace(beta, omega)
    b, w = xp.asarray(beta, float), xp.asarray(omega, float)
    over = b > 2 * w
    # Elsewhere a pair of numbers at which the root has a finite derivative.
    beta_over, omega_over = xp.where(over, b, 1.0), xp.where(over, w, 0.0)
    root = _root_of_discriminant(xp, beta_over, omega_over)
    return xp.where(over, 2 * omega_over * (omega_over / (beta_over + root)), b / 2)
