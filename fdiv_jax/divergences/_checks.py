"""Is f a generator? f(1) = 0, real and finite on (0, oo), convex, not linear: checked, never assumed.

What is checked:

* between e^-30 and e^30 that f is real and finite on some thousand points, and that f'' >= 0: by interval
  arithmetic, which proves it for most formulas, or refutes it at a point that 300 digits confirm
  (`_convexity`). Where rounding hides the sign of f'' from the intervals, a dip narrower than 1e-12 t may
  escape;
* at every kink that f is continuous and f' rises;
* beyond e^+-30, out to e^+-512, f'' at some twenty points in as many digits as they need. What f does
  between those points is not looked at: no float64 computation gets there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import sympy

from fdiv_jax.divergences._asymptotics import Germ, UnknownGrowthError, germ_at
from fdiv_jax.divergences._convexity import concave_place, confirmed, confirming, jumps_up
from fdiv_jax.divergences._end_values import limit_beside
from fdiv_jax.divergences._evaluate import mp_context, mp_far_value, mp_function, numpy_function
from fdiv_jax.divergences._exact import at_point, is_zero, real_value, tidy_number, unreal_part
from fdiv_jax.divergences._parse import T
from fdiv_jax.divergences._pieces import Piece

_LOGS = np.linspace(-30.0, 30.0, 4001)
_FAR = (*range(30, 64, 2), 80, 100, 128, 192, 256, 384, 512)


class GeneratorError(ValueError):
    """The expression is readable and yet no generator of an f-divergence; the message says why."""


class InfiniteDivergenceError(ValueError):
    """The divergence between two Gaussians is infinite, for every or for large squared distances m."""


def _shown(value: float) -> str:
    return f"{value:.4g}"


def check_generator(expr: sympy.Expr, pieces: Sequence[Piece]) -> None:
    """Refuse what is no generator, with the reason; the expression has passed the whitelist.

    Raises:
      GeneratorError: f(1) != 0 (with the shift that mends it), not real, not finite, not convex (with the
      place),
        linear.
    """
    if not expr.has(T):
        raise GeneratorError(
            f"the generator {expr} does not depend on t: its divergence would vanish identically"
        )
    for piece in pieces:
        odd = unreal_part(piece.expression)
        if odd is not None:
            raise GeneratorError(f"the generator is not real on the whole of t > 0: it contains {odd}")
    grids = [_grid(piece) for piece in pieces]
    for piece, grid in zip(pieces, grids, strict=True):
        _check_real(piece, grid)
    _check_value_at_one(expr, pieces)
    for piece, grid in zip(pieces, grids, strict=True):
        _check_convex_piece(piece, grid)
    _check_far(pieces[0], -1)
    _check_far(pieces[-1], 1)
    for left, right in pairwise(pieces):
        _check_cut(left, right)
    if _is_linear(pieces, grids):
        raise GeneratorError(
            f"the generator {expr} is linear, a (t - 1): its divergence vanishes identically"
        )


def _is_linear(pieces: Sequence[Piece], grids: Sequence[np.ndarray]) -> bool:
    """Whether f'' vanishes, in 100 digits beside f and f', wherever it was evaluated."""
    if len(pieces) > 1:
        return False
    values = numpy_function(pieces[0].second, T)(grids[0])
    if np.any(np.abs(values[np.isfinite(values)]) > 1e-3):
        return False
    context = mp_context(100)
    parts = [pieces[0].expression, pieces[0].first, pieces[0].second]
    f, f1, f2 = (mp_function(part, T, context) for part in parts)
    for t in (context.exp(k) for k in (-9, -3, -1, -0.2, 0.3, 1.1, 4, 10)):
        if not abs(f2(t)) * t * t <= 1e-60 * (abs(f(t)) + abs(f1(t)) * t):
            return False
    return True


def _grid(piece: Piece) -> np.ndarray:
    low = -30.0 if piece.lower == 0 else float(sympy.log(piece.lower))
    high = 30.0 if piece.upper == sympy.oo else float(sympy.log(piece.upper))
    if low >= high:
        return np.exp(np.array([low]))
    inner = _LOGS[(low < _LOGS) & (high > _LOGS)]
    edge = (high - low) * 1e-9
    local = np.linspace(low + edge, high - edge, 201)
    return np.exp(np.unique(np.concatenate([inner, local])))


def _check_real(piece: Piece, grid: np.ndarray) -> None:
    values = numpy_function(piece.expression, T)(grid)
    bad = np.flatnonzero(np.isnan(values))
    if bad.size == 0:
        return
    # The bad point nearest to t = 1: is f complex there, or did two infinities meet?
    t = float(grid[bad[np.argmin(np.abs(np.log(grid[bad])))]])
    context = mp_context(20)
    value = complex(mp_function(piece.expression, T, context)(context.mpf(t)))
    if np.isfinite(value) and value.imag != 0:
        raise GeneratorError(
            f"the generator is not real on the whole of t > 0: at t = {_shown(t)} it is {value:.4g}"
        )
    if 1e-2 < t < 1e2:
        raise GeneratorError(f"the generator is not defined at t = {_shown(t)}")


def _check_value_at_one(expr: sympy.Expr, pieces: Sequence[Piece]) -> None:
    piece = next(p for p in pieces if p.upper >= 1)
    context = mp_context(30)
    rough = mp_function(piece.expression, T, context)(context.one)
    small = context.isfinite(rough) and abs(rough) < 1e100
    value = at_point(piece.expression, sympy.S.One, T) if small else sympy.nan
    number = None if value is sympy.nan else real_value(value)
    if number is None:
        raise GeneratorError("the generator is not finite at t = 1, where it must be 0")
    if is_zero(value) or abs(number) < 1e-25:
        return
    value = tidy_number(value)
    if len(str(value)) > 80:
        raise GeneratorError(f"f(1) must be 0, got f(1) = {float(number):.6g}: subtract f(1) from f")
    sign, size = ("-", value) if number > 0 else ("+", -value)
    shift = f"({size})" if isinstance(size, sympy.Add) else str(size)
    raise GeneratorError(
        f"f(1) must be 0, got f(1) = {value}: use f(t) {sign} {shift}, that is {sympy.sstr(expr - value)}"
    )


def _check_convex_piece(piece: Piece, grid: np.ndarray) -> None:
    second = piece.second
    if second == 0:
        return
    with np.errstate(all="ignore"):
        curvature = numpy_function(second, T)(grid) * grid**2
        first = numpy_function(piece.first, T)(grid)
        value = numpy_function(piece.expression, T)(grid)
        finite = np.isfinite(curvature) & np.isfinite(first) & np.isfinite(value)
        _check_nonnegative(second, grid, curvature, finite)
        _check_chords(piece, grid, value, first, finite)
        _check_kinks(piece, grid, first, curvature / grid**2, finite)
        _check_between(piece, grid)


def _check_nonnegative(
    second: sympy.Expr, grid: np.ndarray, curvature: np.ndarray, finite: np.ndarray
) -> None:
    negative = np.flatnonzero(finite & (curvature < 0))
    if not negative.size:
        return
    exact = confirming(second)
    # The point nearest to t = 1 is the one to report; it may be rounding, so others are tried as well.
    nearest = negative[np.argsort(np.abs(np.log(grid[negative])))]
    lowest = negative[np.argsort(curvature[negative])]
    for i in (*nearest[:20], *lowest[:20], *nearest[:: max(1, nearest.size // 40)]):
        if exact(float(grid[i])) < 0:
            _refuse_concave(second, grid, curvature, int(i))


def _check_between(piece: Piece, grid: np.ndarray) -> None:
    """Dips and poles that are narrower than the grid."""
    place, undecided = concave_place(piece, np.log(grid))
    if place is not None:
        raise GeneratorError(
            f"the generator is not convex: f''({_narrow(place)}) = {_shown(confirmed(piece.second, place))}"
        )
    for t in undecided:
        if jumps_up(piece, t):
            raise GeneratorError(
                f"the generator is not convex and continuous: it has a pole or a jump near t = {_narrow(t)}"
            )


def _narrow(t: float) -> str:
    return f"{t:.8g}"


def _check_far(piece: Piece, sign: int) -> None:
    """Convexity beyond the grid, towards t = 0 or oo."""
    context = mp_context()
    function = mp_function(piece.second, T, context)
    cut = piece.upper if sign < 0 else piece.lower
    start = 0.0 if cut in (0, sympy.oo) else max(sign * float(sympy.log(cut)), 0.0)
    for reach in _FAR:
        value = mp_far_value(function, context, sign * (start + reach), reach)
        if value < 0:
            t = context.nstr(context.exp(sign * (start + reach)), 4)
            raise GeneratorError(
                f"the generator is not convex: f''({t}) = {context.nstr(value, 4)}, far from t = 1"
            )


def _refuse_concave(second: sympy.Expr, grid: np.ndarray, curvature: np.ndarray, i: int) -> None:
    low = high = i
    while low > 0 and curvature[low - 1] < 0:
        low -= 1
    while high < len(grid) - 1 and curvature[high + 1] < 0:
        high += 1
    left = "0" if low == 0 and grid[0] < 1e-12 else _shown(grid[low])
    right = "oo" if high == len(grid) - 1 and grid[-1] > 1e12 else _shown(grid[high])
    raise GeneratorError(
        f"the generator is not convex: f'' < 0 for t in about ({left}, {right}), "
        f"f''({_shown(grid[i])}) = {_shown(confirmed(second, float(grid[i])))}"
    )


def _check_chords(
    piece: Piece, grid: np.ndarray, value: np.ndarray, first: np.ndarray, finite: np.ndarray
) -> None:
    """A convex function's increments lie between its slopes: finds poles and jumps that f'' does not show."""
    step = np.diff(grid)
    increment = np.diff(value)
    size = np.abs(value[1:]) + np.abs(value[:-1]) + (np.abs(first[1:]) + np.abs(first[:-1])) * step
    bad = (increment > first[1:] * step + 1e-9 * size) | (increment < first[:-1] * step - 1e-9 * size)
    places = np.flatnonzero(bad & finite[1:] & finite[:-1])[:20]
    if not places.size:
        return
    f, slope = confirming(piece.expression), confirming(piece.first)
    for i in places:
        a, b = float(grid[i]), float(grid[i + 1])
        f_a, f_b, slope_a, slope_b = f(a), f(b), slope(a), slope(b)
        margin = 1e-12 * (abs(f_a) + abs(f_b))
        if f_b - f_a > slope_b * (b - a) + margin or f_b - f_a < slope_a * (b - a) - margin:
            raise GeneratorError(
                f"the generator is not convex and continuous: it has a pole or a jump near t = {_shown(a)}"
            )


def _check_kinks(
    piece: Piece, grid: np.ndarray, first: np.ndarray, second: np.ndarray, finite: np.ndarray
) -> None:
    """f' rises by the integral of f'', or it has a jump that no Abs, Max or Min has told of."""
    known = np.flatnonzero(finite)  # without the kink itself, where f' may be 0/0
    grid, first, second = grid[known], first[known], second[known]
    rise = np.diff(first)
    bound = np.diff(grid) * np.maximum(second[1:], second[:-1])
    odd = rise > 4 * bound + 1e-9 * (np.abs(first[1:]) + np.abs(first[:-1]))
    context = mp_context(60)
    slope = mp_function(piece.first, T, context)
    for i in np.flatnonzero(odd)[:20]:
        a, b = context.mpf(float(grid[i])), context.mpf(float(grid[i + 1]))
        low, high = (context.re(slope(x)) for x in (a, b))
        whole = high - low
        for _ in range(100):  # to the half in which f' rises more
            middle = (a + b) / 2
            at = context.re(slope(middle))
            if context.isnan(at):  # the very point
                break
            if at - low > high - at:
                b, high = middle, at
            else:
                a, low = middle, at
        if high - low > whole / 2:
            raise GeneratorError(
                f"the generator has a kink at t = {context.nstr(a, 6)} that is hidden in a root: "
                "write it by Abs"
            )


def _check_cut(left: Piece, right: Piece) -> None:
    cut = right.lower
    a, b = (real_value(at_point(p.expression, cut, T)) for p in (left, right))
    if a is None or b is None:
        raise GeneratorError(f"the generator is not finite at t = {cut}")
    if abs(a - b) > 1e-12 * (1 + abs(a)):
        raise GeneratorError(
            f"the generator is not convex and continuous: it jumps at t = {cut} "
            f"from {_shown(float(a))} to {_shown(float(b))}"
        )
    a, b = one_sided_slopes(left, right)
    if b < a - 1e-12 * (1 + abs(a)):
        raise GeneratorError(
            f"the generator is not convex: at t = {cut} its slope falls from {a:.10g} to {b:.10g}"
        )


def one_sided_slopes(left: Piece, right: Piece) -> tuple[float, float]:
    """f'(cut-) and f'(cut+) as floats."""
    cut = right.lower
    slopes = []
    for piece, side in ((left, "-"), (right, "+")):
        slope = real_value(at_point(piece.first, cut, T))
        slopes.append(float(limit_beside(piece.first, cut, side) if slope is None else slope))
    return slopes[0], slopes[1]


def check_finite_divergence(expr: sympy.Expr, pieces: Sequence[Piece]) -> None:
    """Refuse a generator whose divergence between Gaussians is infinite.

    Between Gaussians l = log r is Gaussian: powers of r have finite means, exp(c l^2) has one up to some m,
    and exp(c r) has none.

    Raises:
      InfiniteDivergenceError: with the end at which f grows too fast.
    """
    for piece, end, where in ((pieces[-1], sympy.oo, "as t -> oo"), (pieces[0], sympy.S.Zero, "as t -> 0")):
        if piece.second == 0:
            continue
        try:
            bound = _largest_distance(germ_at(piece.second, end))
        except UnknownGrowthError:
            start = piece.lower if end == sympy.oo else piece.upper
            bound = 0 if _grows(piece.second, 1 if end == sympy.oo else -1, start) else sympy.oo
        if bound == sympy.oo:
            continue
        reason = f"f grows faster than every power of t {where}"
        if bound == 0:
            raise InfiniteDivergenceError(
                f"the f-divergence of {expr} between Gaussians is infinite: {reason}"
            )
        raise InfiniteDivergenceError(
            f"the f-divergence of {expr} between Gaussians is infinite for squared distances m >= {bound}: "
            f"{reason}, like exp(c log(t)^2)"
        )


def _largest_distance(germ: Germ) -> sympy.Expr:
    """The m from which on E_Q[f''(r) r^2] is infinite: oo where f'' r^2 = exp(o(l^2)) with l = log r, 0 where
    it grows faster than every exp(c l^2), and 1/(2 c) for exp(c l^2), since r has the density
    exp(-l^2/(2 m) + ...)."""
    if not germ.exponent:
        return sympy.oo
    (power, log_power), c = next(iter(germ.exponent.items()))
    if c.sign < 0 or (power == 0 and log_power < 2):
        return sympy.oo
    return tidy_number(1 / (2 * c.formula)) if power == 0 and log_power == 2 else sympy.S.Zero


def _grows(second: sympy.Expr, sign: int, start: sympy.Expr) -> bool:
    """Whether log(t^2 f'') rises at least like log(t)^2, from values at doubling distances."""
    context = mp_context(40)
    function = mp_function(second, T, context)
    shift = float(sympy.log(start)) if start not in (0, sympy.oo) else 0.0
    base = shift if sign * shift > 0 else 0.0
    logs: list[float] = []
    slopes: list[float] = []
    for k in range(10):
        reach = 2**k
        value = mp_far_value(function, context, base + sign * reach, int(abs(base)) + reach)
        if not context.isfinite(value):  # an exponential of an exponential is beyond all numbers here
            return bool(logs) and logs[-1] > 1000 and (len(slopes) < 2 or slopes[-1] > 1.9 * slopes[-2])
        if value <= 0:
            break
        logs.append(float(context.log(value) + 2 * (base + sign * reach)))
        if len(logs) > 1:
            slopes.append((logs[-1] - logs[-2]) / (reach / 2))
            # exp(-10^4 t), bounded, is steep only on its way to t = 0.
            if slopes[-1] > 1000 and slopes[-1] > max(slopes[:-1], default=math.inf):
                return True
            if slopes[-1] < -1000:
                return False
    return len(slopes) > 3 and slopes[-1] > 5 and all(b > 1.9 * a for a, b in pairwise(slopes[-3:]))
