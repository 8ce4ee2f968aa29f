"""What the quadrature integrates, tabulated once per generator in high precision.

Let A_0 = f - f'(1)(t - 1), which is >= 0, and A_k = t^2 A_{k-1}''. Between the Gaussians

    E_Q[A_k(r)] = 2^k d^k F_f / dm^k,        so A_0 gives the value and A_1 = t^2 f'' the weight

(Price's theorem with h(l) = f(e^l) and h'' - h' = e^{2l} f''(e^l)). On either side of l = log t = 0 a
profile factors out the growth and the zero, A_k = t^p (1 - e^-|l|)^a G(|l|): p is the exponent at the end
of the side, a the order of the zero at t = 1 (2 for the A_0 of a smooth f, 1 at a kink). G varies slowly;
it is evaluated by mpmath from the exact formula, so nothing cancels, and kept as Chebyshev series on
panels that are refined until they resolve it. Far out the panels are uniform in log |l|, up to |l| =
1e31. A side that grows faster than every power of t, like exp(|l|^1.5), has the series of log G with p = 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

import numpy as np
import sympy

from fdiv_jax.divergences import _chebyshev
from fdiv_jax.divergences._constants import evaluated
from fdiv_jax.divergences._evaluate import mp_context, mp_function
from fdiv_jax.divergences._exact import at_point
from fdiv_jax.divergences._names import Context, Value
from fdiv_jax.divergences._parse import T
from fdiv_jax.divergences._pieces import Piece

_TOLERANCE = 1e-14
_MAX_PANELS = 160
_MAX_DEPTH = 50
_LINEAR_REACH = 8.0
_LARGEST = 1e300
_NEEDED = 30.0
_REACH = 1e31
_STEP = 8.0
_DIGITS = (0, 60, 450)
_STEP_DIGITS = 15
_FAR = 2000.0
_LOG_ZERO = -1e3


@dataclass(frozen=True)
class Jump:
    """A break of A_k at l = log t: the jump of its value and of its first derivative in t."""

    log_t: float
    value: float
    slope: float


@dataclass(frozen=True)
class Side:
    """One side of t = 1 in the outward variable x = |log t|.

    tilt: c with A_k e^{-l/2} = e^{c x} (1 - e^-x)^a G(x), zero_order: a. breaks: panel ends, from 0.
    coefficients: (panels, degrees). logarithmic: whether a panel is uniform in log x. tail: G beyond the
    last break. steep: G grows faster than every e^{c x}; then c = 0, and the series and the tail are those of
    log G.
    """

    tilt: float
    zero_order: float
    breaks: np.ndarray
    coefficients: np.ndarray
    logarithmic: np.ndarray
    tail: float
    steep: bool = False


@dataclass(frozen=True)
class Profile:
    """The table of one order: its two sides (left t < 1, right t > 1) and its jumps."""

    left: Side
    right: Side
    jumps: tuple[Jump, ...]


def build_profile(pieces: Sequence[Piece], order: int, equilibrium_slope: sympy.Expr) -> Profile:
    """Table of A_order. Takes some tenths of a second of high-precision evaluation."""
    formulas = _formulas(pieces, order, equilibrium_slope)
    low = formulas if order < 2 else _formulas(pieces, 1, equilibrium_slope)
    left, right = _sides(tuple(low), max(order - 1, 0))
    return Profile(left, right, _jumps(formulas) if len(formulas) > 1 else ())


@lru_cache(maxsize=64)
def _sides(formulas: tuple[Piece, ...], differences: int) -> tuple[Side, Side]:
    """Both sides; f + a (t - 1) has the A_1 of f, and so has what is typed of what the catalogue has."""
    left, right = (_build_side(_SideFunction(formulas, sign, differences)) for sign in (-1, 1))
    return left, right


def is_tabulable(pieces: Sequence[Piece], order: int, equilibrium_slope: sympy.Expr) -> bool:
    """Whether A_order can be integrated from a table: bounded, but for an integrable power at t = 1.

    |t - 1|^(3/2) fails from order 2 on, |t - 2|^(3/2) from order 1 on; so does from order 2 on a side whose
    logarithm is tabulated, since A_2 has no sign.
    """
    if order > 1:
        low = _formulas(pieces, 1, equilibrium_slope)
        if any(_outward_exponent(_SideFunction(low, sign, 0)) is None for sign in (-1, 1)):
            return False
    if len(pieces) == 1:
        return True
    formulas = _formulas(pieces, order, equilibrium_slope)
    for piece in formulas:
        for end in (piece.lower, piece.upper):
            inner = end not in (0, 1, sympy.oo)
            if inner and not evaluated(at_point(piece.expression, end, T)).is_finite:
                return False
    return all(_zero_order(_SideFunction(formulas, sign, 0)) > -1 for sign in (-1, 1))


def _formulas(pieces: Sequence[Piece], order: int, equilibrium_slope: sympy.Expr) -> list[Piece]:
    """A_order on each piece."""
    formulas = []
    for piece in pieces:
        formula = piece.expression - equilibrium_slope * (T - 1) if order == 0 else piece.expression
        for _ in range(order):
            formula = T**2 * sympy.diff(formula, T, 2)
        formulas.append(Piece(piece.lower, piece.upper, formula))
    return formulas


def _jumps(formulas: Sequence[Piece]) -> tuple[Jump, ...]:
    jumps = []
    for a, b in pairwise(formulas):
        difference = b.expression - a.expression
        exact = [evaluated(at_point(e, b.lower, T)) for e in (difference, difference.diff(T))]
        value, slope = map(float, exact) if all(e.is_finite for e in exact) else (0.0, 0.0)
        jumps.append(Jump(float(sympy.log(b.lower)), value, slope))
    return tuple(jumps)


class _SideFunction:
    """A_k as a function of x = |log t| on one side, in high precision.

    From A_1 on by differences: with l = log t, A_{k+1} = A_k'' - A_k' in l, of which a step of 1e-15
    leaves an error of 1e-30. A formula for it would be long, and cancel more.
    """

    def __init__(self, formulas: Sequence[Piece], sign: int, differences: int):
        self.sign = sign
        self.differences = differences
        self.context = mp_context(50)
        self.extra_digits = 0
        self.parts: list[tuple[float, Callable[[Value], Value], bool]] = []
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

    def __call__(self, x: Value, extra_digits: int = 0) -> Value:
        context = self.context
        # t - sqrt(t**2 + 1) and the like lose as many digits as t has.
        context.dps = int(50 + (float(x) if x < _FAR else 0)) + self.extra_digits + extra_digits
        context.dps += 2 * _STEP_DIGITS * self.differences
        for end, function, zero in self.parts:
            if x < end:
                return context.zero if zero else self._differentiated(function, context.mpf(x))
        raise AssertionError("unreachable: the last part has no end")

    def _differentiated(self, function: Callable[[Value], Value], x: Value) -> Value:
        context, k = self.context, self.differences
        step = min(x, 1) * context.mpf(10) ** -_STEP_DIGITS
        values = [context.re(function(context.exp(self.sign * x + i * step))) for i in range(-k, k + 1)]
        rounding = abs(values[k]) * context.mpf(10) ** (5 - context.dps) / step ** (2 * k)
        for _ in range(k):
            values = [
                (c - 2 * b + a) / step**2 - (c - a) / (2 * step)
                for a, b, c in zip(values, values[1:], values[2:], strict=False)
            ]
        return values[0] if k == 0 or abs(values[0]) > rounding else context.zero

    def settle(self, x: Value) -> bool:
        """Take as many digits as leave the value at x alone, to be used nearby; False where none do.

        1 - tanh(t)**2 = 4 e^(-2 t) + ... loses 2 t / log(10) digits.
        """
        return any(_agree(self(x), self(x, 40)) for self.extra_digits in _DIGITS)

    def or_zero(self, x: Value) -> Value:
        """The value, or 0 where the largest number of digits leaves none: it is smaller than any float64."""
        value = self(x)
        return value if x > _FAR or _agree(value, self(x, 40)) else self.context.zero

    @property
    def vanishes_outside(self) -> bool:
        return self.parts[-1][2]


def _outward_exponent(function: _SideFunction) -> Value:
    """lim d log|A_k| / dx, from values at doubling x; -1 where A_k falls faster than every power, None where
    it grows faster."""
    context = function.context
    start = max([*function.cuts, 0.0])
    logs, slopes = [], []
    for k in range(3, 11):
        x = start + 2.0**k
        value = abs(function(x) if function.settle(x) else function.or_zero(x))
        if value == 0:
            return context.mpf(-1)
        logs.append(context.log(value))
        if len(logs) > 1:
            slopes.append((logs[-1] - logs[-2]) / 2 ** (k - 1))
            if slopes[-1] < -1000:
                return context.mpf(-1)
    before, last = slopes[-2] - slopes[-3], slopes[-1] - slopes[-2]
    # The slope k / x of a factor x^k changes half as much when x doubles; that of exp(x^p) 2^(p - 1) times.
    if last > 0.85 * before > 1e-6:
        return None
    if abs(slopes[-1] - slopes[-2]) < 1e-13 * (1 + abs(slopes[-1])):
        simple, nearness = Fraction(float(slopes[-1])).limit_denominator(1000), 1e-12
        slope = slopes[-1]
    else:
        # A factor x^k adds k log(2)/x to the slope: remove it, and take the nearby simple fraction.
        slope = 2 * slopes[-1] - slopes[-2]
        simple, nearness = Fraction(float(slope)).limit_denominator(24), 1e-3
    exact = context.mpf(simple.numerator) / simple.denominator
    return exact if abs(exact - slope) < nearness else slope


def _zero_order(function: _SideFunction) -> float:
    """lim d log|A_k| / d log x at x -> 0 (2 where A_k vanishes identically)."""
    if any(cut < 1e-6 for cut in function.cuts):
        return 0.0
    context, function.extra_digits = function.context, 0
    values = [abs(function(context.mpf(10) ** -k, 200)) for k in (20, 24, 28)]
    return leading_power(values, context)


def leading_power(values: Sequence[Value], context: Context) -> float:
    """lim d log|A| / d log x at x -> 0 from the values at x = 1e-20, 1e-24, 1e-28 (2 where they vanish)."""
    if 0 in values:
        return 2.0
    logs = [context.log(value) / context.log(10) for value in values]
    before, slope = (float((a - b) / 4) for a, b in pairwise(logs))
    if abs(slope - before) > 1e-9:  # a logarithm beside the power
        return round(24 * slope) / 24
    simple = float(Fraction(slope).limit_denominator(1000))
    return simple if abs(simple - slope) < 1e-10 else slope


def _build_side(function: _SideFunction) -> Side:
    context, sign = function.context, function.sign
    # With l = sign x the factor e^{-l/2} adds -sign/2; a side that ends in zeros needs no tilt.
    half = -0.5 * sign
    exponent = context.mpf(-half) if function.vanishes_outside else _outward_exponent(function)
    steep = exponent is None
    if steep:
        exponent = context.mpf(-half)
    zero_order = _zero_order(function)

    def profile(x: float, evaluate: Callable[[Value], Value] = function) -> Value:
        value = evaluate(x) * context.exp(-exponent * context.mpf(x))
        return value / (-context.expm1(-context.mpf(x))) ** zero_order if zero_order else value

    def values_at(points: np.ndarray) -> np.ndarray:
        settled = function.settle(float(points[0]))  # the outermost
        evaluate = function if settled else function.or_zero
        values = [profile(float(x), evaluate) for x in points]
        if steep:
            return np.array([float(context.log(v)) if v > 0 else _LOG_ZERO for v in values])
        return np.array([float(v) for v in values])

    # Where the mass stays near x = 0, what is tiny compared with the rest need not be resolved.
    panels = _Panels(values_at, negligible=1e-18 if exponent + half < 0 else 0.0, least=1.0 if steep else 0.0)
    linear = [0.0, 0.5, 1.0, 2.0, 4.0, _LINEAR_REACH]
    ends = sorted({*linear, *(c for c in function.cuts if c < _LINEAR_REACH)})
    for a, b in pairwise(ends):
        panels.refine(a, b, logarithmic=False)
    outer_cuts = [c for c in function.cuts if c >= _LINEAR_REACH]
    a = _LINEAR_REACH
    tail = None
    while a < _REACH:
        b = min([a * _STEP, *(c for c in outer_cuts if c > a * (1 + 1e-12))])
        inside = any(c >= b * (1 - 1e-12) for c in outer_cuts)
        if not inside and a * 1.5 > _FAR and not function.settle(a * 1.5):
            tail = float(values_at(np.array([a]))[0])
            break
        values = panels.refine(a, b, logarithmic=True)
        size = np.max(np.abs(values))
        if not inside and np.all(np.abs(values - values[0]) <= 1e-15 * size):
            tail = float(np.mean(values))
            break
        if not inside and size < 1e-280 and not steep:
            tail = 0.0
            break
        a = b
    if tail is None:
        tail = float(values_at(np.array([a]))[0])
    return Side(
        tilt=float(exponent + half),
        zero_order=zero_order,
        breaks=np.array([0.0, *panels.ends]),
        coefficients=np.array(panels.coefficients),
        logarithmic=np.array(panels.logarithmic),
        tail=tail,
        steep=steep,
    )


def _agree(a: Value, b: Value) -> bool:
    """Whether more digits leave a value as it is."""
    return abs(a - b) <= 1e-17 * abs(b)


class _Panels:
    """Chebyshev panels, added from left to right and bisected until resolved."""

    def __init__(self, values_at: Callable[[np.ndarray], np.ndarray], negligible: float, least: float):
        self.values_at = values_at
        self.negligible = negligible
        self.least = least  # below it an absolute error counts, not a relative one
        self.largest = 0.0
        self.ends: list[float] = []
        self.coefficients: list[np.ndarray] = []
        self.logarithmic: list[bool] = []

    def refine(self, a: float, b: float, *, logarithmic: bool, depth: int = 0) -> np.ndarray:
        low, high = (np.log(a), np.log(b)) if logarithmic else (a, b)
        points = (low + high) / 2 + (high - low) / 2 * _chebyshev.NODES
        values = self.values_at(np.exp(points) if logarithmic else points)
        if a < _NEEDED and np.max(np.abs(values)) > _LARGEST:
            raise NotImplementedError(f"f'' is too large for float64 near |log t| = {a:.3g}")
        values = np.clip(values, -_LARGEST, _LARGEST)
        coefficients = _chebyshev.TRANSFORM @ values
        size = max(np.max(np.abs(values)), self.least)
        self.largest = max(self.largest, float(size))
        # Beside a cusp away from x = 0 the rounding of x itself moves the values.
        rounding = 0.0 if logarithmic else 4e-16 * b / (b - a)
        tolerance = max(_TOLERANCE, rounding) * max(size, self.negligible * self.largest)
        rest = np.max(np.abs(coefficients[-2:]))
        if rest <= tolerance or depth >= _MAX_DEPTH or len(self.ends) >= _MAX_PANELS or size < 1e-280:
            if rest > max(tolerance, 1e-7 * size) and a < _NEEDED:
                raise NotImplementedError(
                    f"f'' rises, falls or oscillates too fast near |log t| = {a:.3g} to be integrated "
                    "against a Gaussian"
                )
            self.ends.append(b)
            self.coefficients.append(coefficients)
            self.logarithmic.append(logarithmic)
            return values
        middle = float(np.exp((low + high) / 2)) if logarithmic else (a + b) / 2
        left = self.refine(a, middle, logarithmic=logarithmic, depth=depth + 1)
        right = self.refine(middle, b, logarithmic=logarithmic, depth=depth + 1)
        return np.concatenate([left, right])
