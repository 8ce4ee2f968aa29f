"""What the quadrature integrates, tabulated once per generator in high precision.

Let A_0 = f - f'(1)(t - 1), which is >= 0, and A_k = t^2 A_{k-1}''. Between the Gaussians

    E_Q[A_k(r)] = 2^k d^k F_f / dm^k,        so A_0 gives the value and A_1 = t^2 f'' the weight

(Price's theorem with h(l) = f(e^l) and h'' - h' = e^{2l} f''(e^l)). On either side of l = log t = 0 a profile factors
out the growth, A_k = t^p (1 - e^-|l|)^a G(|l|): p is the exponent at the end of the side, a = 2 (1 for a kink at t = 1)
belongs to A_0 and takes its zero at t = 1 away. G varies slowly; it is evaluated by mpmath from the exact formula, so
nothing cancels, and kept as Chebyshev series on panels that are refined until they resolve it. Far out the panels are
uniform in log |l|, up to |l| = 1e31.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import sympy

from fdiv_jax.divergences._lower import mp_context, mp_function
from fdiv_jax.divergences._parse import T
from fdiv_jax.divergences._pieces import Piece

DEGREE = 16
_TOLERANCE = 1e-14
_MAX_PANELS = 400
_MAX_DEPTH = 50
_LINEAR_REACH = 8.0
_REACH = 1e31
_STEP = 8.0

_ANGLES = (np.arange(DEGREE) + 0.5) * np.pi / DEGREE
_NODES = np.cos(_ANGLES)
_TRANSFORM = np.cos(np.outer(np.arange(DEGREE), _ANGLES)) * 2 / DEGREE
_TRANSFORM[0] /= 2


@dataclass(frozen=True)
class Jump:
    """A break of A_k at l = log t: the jump of its value and of its first derivative in t."""

    log_t: float
    value: float
    slope: float


@dataclass(frozen=True)
class Side:
    """One side of t = 1 in the outward variable x = |log t|.

    tilt: c with A_k e^{-l/2} = e^{c x} (1 - e^-x)^a G(x). breaks: panel ends, from 0. coefficients: (panels, DEGREE).
    logarithmic: whether a panel is uniform in log x. tail: G beyond the last break.
    """

    tilt: float
    breaks: np.ndarray
    coefficients: np.ndarray
    logarithmic: np.ndarray
    tail: float


@dataclass(frozen=True)
class Profile:
    """The table of one order: its two sides (left t < 1, right t > 1), its zero at t = 1 and its jumps."""

    left: Side
    right: Side
    zero_order: int
    jumps: tuple[Jump, ...]


def build_profile(
    pieces: Sequence[Piece], order: int, equilibrium_slope: sympy.Expr, kink_at_one: bool
) -> Profile:
    """Table of A_order. Takes some tenths of a second of high-precision evaluation."""
    formulas = []
    for piece in pieces:
        formula = piece.expression - equilibrium_slope * (T - 1) if order == 0 else piece.expression
        for _ in range(order):
            formula = T**2 * sympy.diff(formula, T, 2)
        formulas.append(Piece(piece.lower, piece.upper, formula))
    zero_order = 0 if order else 1 if kink_at_one else 2
    left = _build_side(formulas, -1, zero_order)
    right = _build_side(formulas, 1, zero_order)
    return Profile(left, right, zero_order, _jumps(formulas))


def _jumps(formulas: Sequence[Piece]) -> tuple[Jump, ...]:
    jumps = []
    for a, b in zip(formulas[:-1], formulas[1:], strict=True):
        difference = b.expression - a.expression
        value, slope = (float(sympy.N(e.subs(T, b.lower), 30)) for e in (difference, difference.diff(T)))
        if not (np.isfinite(value) and np.isfinite(slope)):
            value = slope = 0.0
        jumps.append(Jump(float(sympy.log(b.lower)), value, slope))
    return tuple(jumps)


class _SideFunction:
    """A_k as a function of x = |log t| on one side, in high precision."""

    def __init__(self, formulas: Sequence[Piece], sign: int):
        self.sign = sign
        self.context = mp_context(50)
        self.parts: list[tuple[float, Callable[[Any], Any], bool]] = []
        ordered = formulas if sign > 0 else formulas[::-1]
        self.cuts: list[float] = []
        for formula in ordered:
            outer = formula.upper if sign > 0 else formula.lower
            end = float("inf") if outer in (0, sympy.oo) else sign * float(sympy.log(outer))
            if end <= 0:
                continue
            function = mp_function(formula.expression, T, self.context)
            self.parts.append((end, function, formula.expression == 0))
            if np.isfinite(end):
                self.cuts.append(end)

    def __call__(self, x: Any, extra_digits: int = 0) -> Any:
        context = self.context
        # t - sqrt(t**2 + 1) and the like lose as many digits as t has.
        context.dps = int(50 + (float(x) if x < 2000 else 0)) + extra_digits
        for end, function, zero in self.parts:
            if x < end:
                return context.zero if zero else context.re(function(context.exp(self.sign * context.mpf(x))))
        raise AssertionError("unreachable: the last part has no end")

    @property
    def vanishes_outside(self) -> bool:
        return self.parts[-1][2]


def _outward_exponent(function: _SideFunction) -> float:
    """lim d log|A_k| / dx, from values at doubling x; -1 where A_k falls faster than every power."""
    context = function.context
    start = max([*function.cuts, 0.0])
    logs, slopes = [], []
    for k in range(3, 11):
        value = abs(function(start + 2.0**k))
        if value == 0:
            return -1.0
        logs.append(context.log(value))
        if len(logs) > 1:
            slopes.append((logs[-1] - logs[-2]) / 2 ** (k - 1))
            if slopes[-1] < -1000:
                return -1.0
    if abs(slopes[-1] - slopes[-2]) < 1e-13 * (1 + abs(slopes[-1])):
        return float(slopes[-1])
    # A factor x^k adds k log(2)/x to the slope: remove it, and take the nearby simple fraction.
    extrapolated = float(2 * slopes[-1] - slopes[-2])
    simple = Fraction(extrapolated).limit_denominator(24)
    return float(simple) if abs(float(simple) - extrapolated) < 1e-3 else extrapolated


def _build_side(formulas: Sequence[Piece], sign: int, zero_order: int) -> Side:
    function = _SideFunction(formulas, sign)
    context = function.context
    # With l = sign x the factor e^{-l/2} adds -sign/2; a side that ends in zeros needs no tilt.
    half = -0.5 * sign
    exponent = -half if function.vanishes_outside else _outward_exponent(function)

    def profile(x: float, extra_digits: int = 0) -> Any:
        value = function(x, extra_digits) * context.exp(-context.mpf(exponent) * context.mpf(x))
        return value / (-context.expm1(-context.mpf(x))) ** zero_order if zero_order else value

    panels = _Panels(profile)
    linear = [0.0, 0.5, 1.0, 2.0, 4.0, _LINEAR_REACH]
    ends = sorted({*linear, *(c for c in function.cuts if c < _LINEAR_REACH)})
    for a, b in zip(ends[:-1], ends[1:], strict=True):
        panels.refine(a, b, logarithmic=False)
    outer_cuts = [c for c in function.cuts if c >= _LINEAR_REACH]
    a = _LINEAR_REACH
    tail = None
    while a < _REACH:
        b = min([a * _STEP, *(c for c in outer_cuts if c > a * (1 + 1e-12))])
        inside = any(c >= b * (1 - 1e-12) for c in outer_cuts)
        if not inside and not _reliable(profile, a * 1.5):
            tail = float(profile(a))
            break
        values = panels.refine(a, b, logarithmic=True)
        size = np.max(np.abs(values))
        if not inside and np.all(np.abs(values - values[0]) <= 1e-15 * size):
            tail = float(np.mean(values))
            break
        if not inside and size < 1e-280:
            tail = 0.0
            break
        a = b
    if tail is None:
        tail = float(profile(a))
    return Side(
        tilt=float(exponent) + half,
        breaks=np.array([0.0, *panels.ends]),
        coefficients=np.array(panels.coefficients),
        logarithmic=np.array(panels.logarithmic),
        tail=tail,
    )


def _reliable(profile: Callable[..., Any], x: float) -> bool:
    """Whether more digits leave the value as it is."""
    a, b = profile(x), profile(x, 40)
    return abs(a - b) <= 1e-17 * abs(b)


class _Panels:
    """Chebyshev panels, added from left to right and bisected until resolved."""

    def __init__(self, profile: Callable[[float], Any]):
        self.profile = profile
        self.ends: list[float] = []
        self.coefficients: list[np.ndarray] = []
        self.logarithmic: list[bool] = []

    def refine(self, a: float, b: float, *, logarithmic: bool, depth: int = 0) -> np.ndarray:
        low, high = (np.log(a), np.log(b)) if logarithmic else (a, b)
        points = (low + high) / 2 + (high - low) / 2 * _NODES
        values = np.array([float(self.profile(float(np.exp(x) if logarithmic else x))) for x in points])
        values = np.clip(values, -1e300, 1e300)
        coefficients = _TRANSFORM @ values
        size = np.max(np.abs(values))
        resolved = np.max(np.abs(coefficients[-2:])) <= _TOLERANCE * size
        if resolved or depth >= _MAX_DEPTH or len(self.ends) >= _MAX_PANELS or size < 1e-280:
            self.ends.append(b)
            self.coefficients.append(coefficients)
            self.logarithmic.append(logarithmic)
            return values
        middle = float(np.exp((low + high) / 2)) if logarithmic else (a + b) / 2
        left = self.refine(a, middle, logarithmic=logarithmic, depth=depth + 1)
        right = self.refine(middle, b, logarithmic=logarithmic, depth=depth + 1)
        return np.concatenate([left, right])
