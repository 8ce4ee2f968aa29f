"""Moments of f'' between Gaussians in NumPy: for a few numbers, tracing and compiling takes far longer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

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
_CHUNK = 64
"""Values of m at a time: each takes some thousand numbers."""


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
    tables = d._tables
    plain = power == 1 and ratio_power == 0
    if plain and tables.terms is not None:
        exponents = [np.log(2 * a) + c * points for a, c in tables.terms]
        return np.asarray(np.logaddexp.reduce(exponents, axis=0))
    if tables.powers is not None:
        return _log_moment_of_powers(tables.powers, points, power, ratio_power)
    if not tables.is_tabulable(1):
        if not plain:
            return np.full(points.shape, np.nan)
        import jax

        with jax.enable_x64(True):
            return np.asarray(d.gaussian_log_weight(points))
    kinks = [jump for jump in tables.profile(0).jumps if jump.slope > 0] if len(tables.pieces) > 1 else []
    profile = tables.profile(1)
    sides = [(profile.left, -1), (profile.right, 1)]
    if power > 1 and (kinks or any(power * side.zero_order <= -1 for side, _ in sides)):
        return np.full(points.shape, np.nan)
    flat = points.ravel()
    parts = [
        [_log_side_sums(side, sign, flat[i : i + _CHUNK], power, ratio_power) for side, sign in sides]
        for i in range(0, flat.size, _CHUNK)
    ]
    logs = np.concatenate(parts, axis=1) if parts else np.zeros((2, 0))
    total = np.logaddexp.reduce(logs, axis=0).reshape(points.shape)
    for jump in kinks:
        z2 = (jump.log_t + points / 2) ** 2 / points
        size = math.log(jump.slope) + (1 + ratio_power) * jump.log_t
        total = np.logaddexp(total, size - z2 / 2 - np.log(2 * np.pi * points) / 2)
    return np.asarray(total)


def _log_moment_of_powers(
    powers: Sequence[tuple[float, float]], m: Floats, power: int, ratio_power: float
) -> Floats:
    """The moment of (sum of b r^p)^power r^ratio_power, by E_Q[r^k] = e^(k (k - 1) m/2)."""
    parts = []
    for chosen in itertools.product(powers, repeat=power):
        k = ratio_power + sum(p for _, p in chosen)
        parts.append(sum(math.log(b) for b, _ in chosen) + k * (k - 1) / 2 * m)
    return np.asarray(np.logaddexp.reduce(parts, axis=0))


def _log_table(side: Side, x: Floats, near: Floats) -> Floats:
    """log G(x), by the series on the panel of `near`: x itself, or a point in the same panel."""
    place = np.clip(np.searchsorted(side.breaks, near, side="right") - 1, 0, side.breaks.size - 2)
    low, high = side.breaks[place], side.breaks[place + 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        along = (x - low) / (high - low)
        far = np.broadcast_to(side.logarithmic[place], x.shape)
        if far.any():
            along = np.where(far, np.log(x / low) / np.log(high / low), along)
        value = chebyshev.chebval(
            np.clip(2 * along - 1, -1.0, 1.0), side.coefficients.T[:, place], tensor=False
        )
        value = np.where(x > side.breaks[-1], side.tail, value)
        return value if side.steep else np.log(np.maximum(value, 0.0))


def _log_side_sums(side: Side, sign: int, m: Floats, power: int, ratio_power: float) -> Floats:
    """The part of t < 1 (sign -1) or t > 1 for each m; with l = sign x

    r^2 f'' = e^{l/2 + c x} (1 - e^-x)^a G(x), so the exponent is -(x - b m)^2/(2m) + (b^2 - 1/4) m/2 +
    power log((1 - e^-x)^a G), b = power c + sign ((power - 1)/2 + ratio_power).
    """
    slope = power * side.tilt + sign * ((power - 1) / 2 + ratio_power)

    def exponent(x: Floats, near: Floats | None = None) -> Floats:
        own = m.reshape(-1, *[1] * (x.ndim - 1))
        with np.errstate(divide="ignore"):
            zero = side.zero_order * np.log(-np.expm1(-x)) if side.zero_order else 0.0
        fall = -((x - max(slope, 0.0) * own) ** 2) / (2 * own) + (slope if slope < 0 else 0.0) * x
        return fall + power * (zero + _log_table(side, x, x if near is None else near))

    root = np.sqrt(m)[:, None]
    if side.steep:
        low, high = _window(exponent, root)
    else:
        centre = max(slope, 0.0) * m[:, None]
        low, high = np.maximum(centre - 11 * root, 0.0), centre + 11 * root
        high = np.minimum(high, 60 / -slope) if slope < 0 else high
    breaks = side.breaks[(side.breaks > low.min()) & (side.breaks < high.max())]
    cuts = [low + (high - low) * _PANELS, np.broadcast_to(breaks, (m.size, breaks.size))]
    if side.zero_order != int(side.zero_order):  # ever smaller panels towards x = 0
        first = np.minimum(high * _PANELS[1], breaks.min(initial=np.inf))
        cuts.append(first * 4.0 ** -np.arange(60.0))
    edges = np.sort(np.clip(np.concatenate(cuts, axis=1), low, high), axis=1)[..., None]
    half = np.diff(edges, axis=1) / 2
    middle = edges[:, :-1] + half
    values = np.where(half > 0, exponent(middle + half * _NODES, middle), -np.inf)
    peak = values.max(axis=(1, 2))
    with np.errstate(divide="ignore"):
        scale = np.where(peak > -np.inf, peak, 0.0)
        sums = np.sum(np.exp(values - scale[:, None, None]) * half * _WEIGHTS, axis=(1, 2))
        offset = (slope**2 - 0.25) * m / 2 if slope > 0 else -m / 8
        return offset + scale + np.log(sums) - np.log(2 * math.pi * m) / 2


def _window(exponent: Callable[[Floats], Floats], root: Floats) -> tuple[Floats, Floats]:
    """Where the exponent is within 50 of its largest value, by narrowing it around what is kept of a grid."""
    near = np.geomspace(np.minimum(root[:, 0], 1.0) * 1e-3, _REACH, 400, axis=1)
    x = np.sort(np.concatenate([root * np.linspace(0.0, 12.0, 49), near], axis=1), axis=1)
    low = high = root
    for _ in range(12):
        values = exponent(np.maximum(x, 1e-3 * root))
        kept = values >= values.max(axis=1, keepdims=True) - _DEPTH
        first = np.argmax(kept, axis=1)[:, None]
        last = x.shape[1] - 1 - np.argmax(kept[:, ::-1], axis=1)[:, None]
        low = np.take_along_axis(x, np.maximum(first - 1, 0), axis=1)
        high = np.take_along_axis(x, np.minimum(last + 1, x.shape[1] - 1), axis=1)
        x = low + (high - low) * np.linspace(0.0, 1.0, 65)
    return low, high
