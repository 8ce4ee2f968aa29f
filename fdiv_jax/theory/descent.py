"""Descending the divergence itself: rate and stable step, at the minimum and on the whole way to it."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fdiv_jax.theory._inputs import Floats, as_divergence, finite_curvature_of, positive, real_array
from fdiv_jax.theory._weights import FARTHEST, LOWEST, WeightTable, weight_table
from fdiv_jax.theory.clock import descent_time

if TYPE_CHECKING:
    from fdiv_jax.divergences import Divergence

__all__ = [
    "DescentReach",
    "descent_rate",
    "descent_reach",
    "descent_smoothness",
    "descent_step_limit",
    "descent_steps",
]


def _hessian_spectrum(d: Divergence | str, eigenvalues: ArrayLike) -> Floats:
    return finite_curvature_of(d) * _positive_spectrum(eigenvalues)


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

    >>> descent_rate("squared_hellinger", [1.0, 3.0], 0.1)   # f''(1) = 1/2
    0.05
    """
    moved = positive("step", step) * _hessian_spectrum(d, eigenvalues)
    return min(float(moved.min()), 2.0 - float(moved.max()))


def descent_step_limit(d: Divergence | str, eigenvalues: ArrayLike, m0: float | None = None) -> float:
    """Largest step of gradient descent on D_f that is stable: h < 2 / (k_max L).

    At the equilibrium L = f''(1). With m0, L is `descent_smoothness`, the largest curvature on the whole way
    from m0: below this step no error ever grows.

    Arguments and errors as for `descent_rate`; with m0, f''(1) may be 0, and a kink has the limit 0.

    >>> descent_step_limit("pearson_chi2", [1.0]), round(descent_step_limit("pearson_chi2", [1.0], 2.0), 4)
    (1.0, 0.0271)
    """
    if m0 is None:
        return 2.0 / float(_hessian_spectrum(d, eigenvalues).max())
    return 2.0 / (float(_positive_spectrum(eigenvalues).max()) * descent_smoothness(d, m0))


def descent_smoothness(d: Divergence | str, m0: float) -> float:
    """L_f(m0) = sup of w_f(m) + 2 m w_f'(m) over 0 < m <= m0: the largest curvature on the way from m0.

    As a function of the error e, m = e^2, the divergence has the slope e w_f(e^2) and the curvature
    w_f + 2 m w_f'; the Hessian along a mode is at most k L_f.

    **No f beats kl in one noise-free mode at equal smoothness.** The slope is the integral of the curvature
    from 0 to e, so e w_f(e^2) <= L_f e, so w_f(m) <= L_f(m0) for every m <= m0. Hence
    T_f(m0 -> m1) L_f(m0) >= log(m0/m1) / (2 k), which is what kl has (w = L = 1); and with steps of
    h <= 1/(k L_f) every step of f, e -> e (1 - h k w_f), leaves more of e than the step of kl with the same
    h k L does.

    Args:
      d: the divergence, or its name or expression.
      m0: squared distance at the start, > 0.

    Returns:
      L_f, a float > 0; infinite with a kink at 1, and where it exceeds float64.

    Raises:
      ValueError: m0 not finite or not > 0.
      TypeError: not a number.

    >>> import math
    >>> descent_smoothness("kl", 9.0), round(descent_smoothness("squared_hellinger", 9.0), 9)
    (1.0, 0.5)
    >>> math.isclose(descent_smoothness("pearson_chi2", 2.0), 2 * math.exp(2) * 5)
    True
    """
    d = as_divergence(d)
    end = float(np.log(positive("m0", m0)))
    if float(d.curvature) == np.inf:
        return np.inf
    table = weight_table(d, float(np.exp(end)))
    x = _scan(table, end)
    values = table.curvature(x)
    place = int(np.argmax(values))
    best = _highest(table.curvature, x[max(place - 1, 0)], x[min(place + 1, x.size - 1)])
    return max(best, float(values[place]), float(d.curvature))


def _positive_spectrum(eigenvalues: ArrayLike) -> Floats:
    values = real_array("eigenvalues", eigenvalues)
    if (values <= 0).any():
        raise ValueError(
            f"expected eigenvalues > 0, got {values.min()}; leave out directions that do not move the mean"
        )
    return values


def _scan(table: WeightTable, end: float) -> Floats:
    """Points of log m up to `end`, 32 on each panel of the table."""
    edges = np.append(table.breaks[table.breaks < end], end)
    inner = [np.linspace(a, b, 33) for a, b in pairwise(edges)]
    return np.unique(np.concatenate([[min(LOWEST, end)], *inner]))


def _highest(function, low: float, high: float) -> float:
    """Largest value between two points, with one maximum in between (golden section)."""
    golden = (np.sqrt(5) - 1) / 2
    for _ in range(80):
        a, b = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, b) if function(np.array(a)) > function(np.array(b)) else (a, high)
    return float(function(np.array((low + high) / 2)))


def descent_steps(d: Divergence | str, m0: float, m1: float, condition: float = 1.0) -> float:
    """How many steps descent from m0 to m1 takes at the step 1/(k_max L_f): T_f L_f, in the slowest mode.

    kl needs condition * log(m0/m1)/2, and every other f at least as many (`descent_smoothness`).

    Args:
      d: the divergence, or its name or expression.
      m0: squared distance at the start, > 0.
      m1: squared distance at the end, 0 < m1 <= m0.
      condition: k_max / k >= 1, k being the eigenvalue of the mode that has to come down.

    Returns:
      A float >= 0; infinite with a kink at 1, where no step is stable.

    >>> [round(descent_steps(name, 7.0, 0.07)) for name in ("kl", "squared_hellinger", "pearson_chi2")]
    [2, 3, 17689]
    """
    ratio = positive("condition", condition)
    if ratio < 1:
        raise ValueError(f"expected condition >= 1, got {ratio}")
    return ratio * descent_time(d, m0, positive("m1", m1)) * descent_smoothness(d, m0)


class DescentReach(NamedTuple):
    """Squared distances up to which f pulls harder the farther a sample is.

    Attributes:
      force: where e w_f(e^2) is largest: beyond it the gradient itself shrinks (D is concave in e).
      speed: where m w_f(m) is largest: beyond it m falls more slowly the larger it is: the plateau.
    """

    force: float
    speed: float


def descent_reach(d: Divergence | str) -> DescentReach:
    """How far f reaches: the m at which the pull on a sample is largest, and the m at which m falls fastest.

    squared_hellinger, w = e^{-m/8}/2, has 4 and 8; beyond 8 lies a plateau that takes a time exponential in
    m. kl, and every f that grows faster, has no such end.

    Returns:
      Both as floats; infinite where there is no such m up to 1e8.

    >>> reach = descent_reach("squared_hellinger")
    >>> round(reach.force, 6), round(reach.speed, 6)
    (4.0, 8.0)
    >>> descent_reach("kl")
    DescentReach(force=inf, speed=inf)
    """
    table = weight_table(as_divergence(d), 1e8)
    x = _scan(table, FARTHEST)
    return DescentReach(*(_peak(table, x, power) for power in (0.5, 1.0)))


def _peak(table: WeightTable, x: Floats, power: float) -> float:
    """m at which m^power w(m) is largest."""
    place = int(np.argmax(table.log_weight(x) + power * x))
    if place == x.size - 1:
        return np.inf
    low, high = x[max(place - 1, 0)], x[place + 1]
    for _ in range(60):  # its logarithmic slope falls through 0
        middle = (low + high) / 2
        rising = float(table.slope(np.array(middle))) + power > 0
        low, high = (middle, high) if rising else (low, middle)
    return float(np.exp((low + high) / 2))
