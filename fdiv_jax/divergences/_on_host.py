"""Moments of f'' between Gaussians in NumPy: for a few numbers, tracing and compiling takes far longer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import ArrayLike, NDArray

from fdiv_jax.divergences._quadrature_table import Side

if TYPE_CHECKING:
    from fdiv_jax.divergences._divergence import Divergence

Floats = NDArray[np.float64]
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_REACH = 1e30
_DEPTH = 50.0
_PANELS = np.linspace(0.0, 1.0, 25)


def gaussian_log_moment(d: Divergence, m: ArrayLike, power: int = 1, ratio_power: float = 0.0) -> Floats:
    """log E_Q[(r^2 f''(r))^power r^ratio_power] with log r ~ N(-m/2, m), in float64.

    With the defaults it is log w_f(m), the same as `Divergence.gaussian_log_weight`. The second moment of the
    gradient of a variational objective has power 2.

    Args:
      d: the divergence.
      m: squared distances m > 0, any shape.
      power: 1 or 2.
      ratio_power: any real number.

    Returns:
      An array of the shape of m; nan with power 2 where f has kinks, whose squares have no mean, and where
      f'' has a pole.

    Raises:
      ValueError: m not > 0 or not finite.
      NotImplementedError: f'' oscillates too fast for a quadrature.

    >>> from fdiv_jax.divergences import divergence
    >>> gaussian_log_moment(divergence("squared_hellinger"), 8.0).round(6) == round(-1 - math.log(2), 6)
    np.True_
    """
    points = np.asarray(m, np.float64)
    if not (np.isfinite(points).all() and (points > 0).all()):
        raise ValueError(f"expected finite m > 0, got {points.min() if points.size else points}")
    moments = d._gaussian
    plain = power == 1 and ratio_power == 0
    if plain and moments.terms is not None:
        exponents = [np.log(2 * a) + c * points for a, c in moments.terms]
        return np.asarray(np.logaddexp.reduce(exponents, axis=0))
    if not moments.is_tabulable(1):
        if not plain:
            return np.full(points.shape, np.nan)
        with jax.enable_x64(True):
            return np.asarray(d.gaussian_log_weight(points))
    kinks = [jump for jump in moments.profile(0).jumps if jump.slope > 0] if len(moments.pieces) > 1 else []
    profile = moments.profile(1)
    sides = [(profile.left, -1), (profile.right, 1)]
    if power > 1 and (kinks or any(power * side.zero_order <= -1 for side, _ in sides)):
        return np.full(points.shape, np.nan)
    logs = np.array(
        [[_log_side_sum(side, sign, x, power, ratio_power) for side, sign in sides] for x in points.ravel()]
    ).reshape(*points.shape, 2)
    total = np.logaddexp.reduce(logs, axis=-1)
    for jump in kinks:
        z2 = (jump.log_t + points / 2) ** 2 / points
        size = math.log(jump.slope) + (1 + ratio_power) * jump.log_t
        total = np.logaddexp(total, size - z2 / 2 - np.log(2 * np.pi * points) / 2)
    return np.asarray(total)


def _log_table(side: Side, x: Floats) -> Floats:
    """log G(x), by the series on the panel of x."""
    place = np.clip(np.searchsorted(side.breaks, x, side="right") - 1, 0, side.breaks.size - 2)
    low, high = side.breaks[place], side.breaks[place + 1]
    far = side.logarithmic[place]
    with np.errstate(divide="ignore", invalid="ignore"):
        along = np.where(far, np.log(x / low) / np.log(high / low), (x - low) / (high - low))
        value = chebyshev.chebval(
            np.clip(2 * along - 1, -1.0, 1.0), side.coefficients.T[:, place], tensor=False
        )
        value = np.where(x > side.breaks[-1], side.tail, value)
        return value if side.steep else np.log(np.maximum(value, 0.0))


def _log_side_sum(side: Side, sign: int, m: float, power: int, ratio_power: float) -> float:
    """The part of t < 1 (sign -1) or t > 1; with l = sign x

    r^2 f'' = e^{l/2 + c x} (1 - e^-x)^a G(x), so the exponent is -(x - b m)^2/(2m) + (b^2 - 1/4) m/2 +
    power log((1 - e^-x)^a G), b = power c + sign ((power - 1)/2 + ratio_power).
    """
    slope = power * side.tilt + sign * ((power - 1) / 2 + ratio_power)
    centre, root = max(slope, 0.0) * m, math.sqrt(m)

    def exponent(x: Floats) -> Floats:
        with np.errstate(divide="ignore"):
            zero = side.zero_order * np.log(-np.expm1(-x)) if side.zero_order else 0.0
        fall = -((x - centre) ** 2) / (2 * m) + (slope if slope < 0 else 0.0) * x
        return fall + power * (zero + _log_table(side, x))

    if side.steep:
        low, high = _window(exponent, root)
    else:
        low, high = max(centre - 11 * root, 0.0), centre + 11 * root
        high = min(high, 60 / -slope) if slope < 0 else high
    inner = side.breaks[(side.breaks > low) & (side.breaks < high)]
    edges = np.unique(np.concatenate([low + (high - low) * _PANELS, inner]))
    if side.zero_order != int(side.zero_order) and low == 0:
        edges = np.unique(np.concatenate([edges, edges[1] * 4.0 ** -np.arange(60.0)]))
    half = np.diff(edges)[:, None] / 2
    points = edges[:-1, None] + half * (1 + _NODES)
    values = exponent(points)
    peak = float(values.max())
    if peak == -np.inf:
        return -np.inf
    sum_ = float(np.sum(np.exp(values - peak) * half * _WEIGHTS))
    offset = (slope**2 - 0.25) * m / 2 if slope > 0 else -m / 8
    return offset + peak + math.log(sum_) - math.log(2 * math.pi * m) / 2


def _window(exponent: Callable[[Floats], Floats], root: float) -> tuple[float, float]:
    """Where the exponent is within 50 of its largest value, by narrowing it around what is kept of a grid."""
    x = np.concatenate([root * np.linspace(0.0, 12.0, 49), np.geomspace(min(root, 1.0) * 1e-3, _REACH, 400)])
    x = np.unique(x)
    low = high = 0.0
    for _ in range(12):
        values = exponent(np.maximum(x, 1e-3 * root))
        kept = np.flatnonzero(values >= values.max() - _DEPTH)
        low, high = float(x[max(kept[0] - 1, 0)]), float(x[min(kept[-1] + 1, x.size - 1)])
        x = np.linspace(low, high, 65)
    return low, high
