"""How fast the min-max game converges, and which curvature would be best."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from fdiv_jax.theory._inputs import FloatOrFloats, Floats, linearisation, non_negative, positive
from fdiv_jax.theory.modes import mode_rate

if TYPE_CHECKING:
    from fdiv_jax.divergences import Divergence

__all__ = ["critical_curvature", "damping_ratio", "game_rate"]


def _modes(damping: ArrayLike, coupling: ArrayLike) -> tuple[Floats, Floats]:
    q, k = non_negative("damping", damping), non_negative("coupling", coupling)
    try:
        q, k = np.broadcast_arrays(q, k)
    except ValueError:
        raise ValueError(f"expected damping and coupling of one shape, got {q.shape} and {k.shape}") from None
    return q, k


def game_rate(
    d: Divergence | str,
    *,
    damping: ArrayLike,
    coupling: ArrayLike,
    model_step: float = 1.0,
    critic_step: float = 1.0,
    activation: bool = False,
) -> float:
    """Exponential rate at which the linearised game converges: -max Re(lambda) over its modes.

    Each pair (q, k) of a Gram eigenvalue and the coupling's singular value on it has the roots of
    lambda^2 + b d q lambda + a b c k^2 = 0. Under-damped, b d q < 2 k sqrt(a b c): the rate is b d q / 2.
    Over-damped: the slow root, about a c k^2 / (d q). Modes with k = 0 are gauge modes and are left out.

    Args:
      d: the divergence, or its name or expression.
      damping: q >= 0, a number or an array of modes.
      coupling: k >= 0, a number or an array of modes of the same shape up to broadcasting.
      model_step: a > 0.
      critic_step: b > 0.
      activation: T = g(v) instead of T = v.

    Returns:
      The rate, 1/time, a float > 0. It is 0.0 exactly where a mode is not damped: q = 0, or f with a kink
      at 1 (d = 0), where model and critic circle forever.

    Raises:
      ValueError: negative, infinite or nan arguments; all couplings zero; f''(1) = 0.
      TypeError: not numbers.

    Source: Mescheder, Nowozin and Geiger 2017, section 3, for any f.
    """
    q, k = _modes(damping, coupling)
    lin = linearisation(d, activation)
    a, b = positive("model_step", model_step), positive("critic_step", critic_step)
    seen = k > 0
    if not seen.any():
        raise ValueError(
            "expected a coupling > 0, got zero: the critic does not see the model, so nothing converges"
        )
    beta = b * lin.relaxation * q[seen]
    omega = np.sqrt(a) * np.sqrt(b) * lin.slope * k[seen]
    return float(np.min(mode_rate(beta, omega)))


def damping_ratio(
    d: Divergence | str,
    *,
    damping: ArrayLike,
    coupling: ArrayLike,
    model_step: float = 1.0,
    critic_step: float = 1.0,
    activation: bool = False,
) -> FloatOrFloats:
    """zeta = b d q / (2 k sqrt(a b c)): below 1 a mode circles, at 1 it is critically damped, above 1 creeps.

    For T = v this is critical_curvature / f''(1). Arguments as for `game_rate`, but with every coupling > 0.

    Returns:
      A float, or an array of the modes' shape.
    """
    q, k = _modes(damping, coupling)
    if not (k > 0).all():
        raise ValueError(f"expected coupling > 0 for every mode, got {k.min()}")
    lin = linearisation(d, activation)
    a, b = positive("model_step", model_step), positive("critic_step", critic_step)
    zeta = lin.relaxation / lin.slope * np.sqrt(b) / np.sqrt(a) * q / (2 * k)
    return float(zeta) if zeta.ndim == 0 else zeta


def critical_curvature(
    *,
    damping: ArrayLike,
    coupling: ArrayLike,
    model_step: float = 1.0,
    critic_step: float = 1.0,
    activation_slope: float = 1.0,
) -> FloatOrFloats:
    """f''(1) at which the mode is critically damped: the fastest curvature for it.

        f''(1)* = g'(v0) q sqrt(b) / (2 k sqrt(a))

    which solves b d q = 2 k sqrt(a b c) with d = g'^2/f''(1) and c = g'^2: both change with the activation
    and one factor g' remains. A smaller f''(1) is over-damped, a larger one under-damped; both are slower.

    Args:
      damping: q > 0, a number or an array of modes.
      coupling: k > 0, likewise.
      model_step: a > 0.
      critic_step: b > 0.
      activation_slope: g'(v0) of the output activation, held fixed; 1 for T = v. (Scaling a divergence
        *together with* its activation, f -> c f and g -> c g, changes f''(1) and g' by the same factor and so
        never its damping.)

    Returns:
      A float, or an array of the modes' shape.

    Raises:
      ValueError: arguments not finite or not > 0.
      TypeError: not numbers.
    """
    q, k = _modes(damping, coupling)
    if not ((q > 0).all() and (k > 0).all()):
        raise ValueError(f"expected damping > 0 and coupling > 0, got minima {q.min()} and {k.min()}")
    a, b = positive("model_step", model_step), positive("critic_step", critic_step)
    value = positive("activation_slope", activation_slope) * np.sqrt(b) / np.sqrt(a) * q / (2 * k)
    return float(value) if value.ndim == 0 else value
