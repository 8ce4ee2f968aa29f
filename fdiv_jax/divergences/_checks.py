"""Is f a generator? f(1) = 0, real and finite on (0, oo), convex, not linear: checked, never assumed.

Convexity is checked on a dense grid in log t, on every smooth piece and across every kink; a point that
fails in float64 is confirmed in 300 digits before f is refused, so rounding never refuses a convex
function.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import sympy

from fdiv_jax.divergences._limited import time_limited
from fdiv_jax.divergences._lower import mp_context, mp_far_value, mp_function, numpy_function
from fdiv_jax.divergences._parse import T
from fdiv_jax.divergences._pieces import Piece

_LOGS = np.linspace(-30.0, 30.0, 4001)
_FAR = (*range(30, 64, 2), 80, 100, 128, 192, 256, 384, 512)


class GeneratorError(ValueError):
    """The expression is readable and yet no generator of an f-divergence; the message says why."""


class InfiniteDivergenceError(ValueError):
    """The divergence between two Gaussians is infinite: f grows faster than every power of t."""


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
    if (len(pieces) == 1 and sympy.expand(pieces[0].second) == 0) or _is_linear(pieces, grids):
        raise GeneratorError(
            f"the generator {expr} is linear, a (t - 1): its divergence vanishes identically"
        )


def _is_linear(pieces: Sequence[Piece], grids: Sequence[np.ndarray]) -> bool:
    if len(pieces) > 1:
        return False
    values = numpy_function(pieces[0].second, T)(grids[0])
    if np.any(np.abs(values[np.isfinite(values)]) > 0):
        return False
    return sympy.simplify(pieces[0].second) == 0


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
    try:
        value = complex(numpy_function(piece.expression, T)(np.asarray(t, dtype=complex))[()])
    except TypeError:
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
    try:
        rough = mp_function(piece.expression, T, context)(context.one)
    except ZeroDivisionError:
        rough = context.nan
    value = piece.expression.subs(T, 1) if context.isfinite(rough) and abs(rough) < 1e100 else sympy.nan
    if value.is_finite is False or value is sympy.nan:
        raise GeneratorError("the generator is not finite at t = 1, where it must be 0")
    number = sympy.N(value, 30)
    if not number.is_real:
        raise GeneratorError(f"the generator is not real at t = 1: f(1) = {value}")
    if abs(number) < 1e-25:
        return
    simple = time_limited(lambda: sympy.simplify(value), 0.1)
    value = value if simple is None else simple
    if len(str(value)) > 80:
        raise GeneratorError(f"f(1) must be 0, got f(1) = {float(number):.6g}: subtract f(1) from f")
    sign, size = ("-", value) if number > 0 else ("+", -value)
    shift = f"({size})" if isinstance(size, sympy.Add) else str(size)
    raise GeneratorError(
        f"f(1) must be 0, got f(1) = {value}: use f(t) {sign} {shift}, that is {sympy.sstr(expr - value)}"
    )


def _confirmed(expression: sympy.Expr, t: float) -> float:
    """Value in 300 digits, as a float: at t = e^30 a few orders of 1/t may cancel."""
    context = mp_context(300)
    return float(context.re(mp_function(expression, T, context)(context.mpf(t))))


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


def _check_nonnegative(
    second: sympy.Expr, grid: np.ndarray, curvature: np.ndarray, finite: np.ndarray
) -> None:
    negative = np.flatnonzero(finite & (curvature < 0))
    # The point nearest to t = 1 is the one to report; it may be rounding, so others are tried as well.
    nearest = negative[np.argsort(np.abs(np.log(grid[negative])))]
    lowest = negative[np.argsort(curvature[negative])]
    for i in (*nearest[:20], *lowest[:20], *nearest[:: max(1, nearest.size // 40)]):
        if _confirmed(second, float(grid[i])) < 0:
            _refuse_concave(second, grid, curvature, int(i))
    dips = np.flatnonzero(
        finite[1:-1]
        & (curvature[1:-1] < 0.5 * np.minimum(curvature[:-2], curvature[2:]))
        & (curvature[1:-1] > 0)
    )
    evaluate = numpy_function(second, T)
    for i in dips[:20] + 1:
        fine = np.exp(np.linspace(np.log(grid[i - 1]), np.log(grid[i + 1]), 201))
        values = evaluate(fine) * fine**2
        j = int(np.nanargmin(values))
        if values[j] < 0 and _confirmed(second, float(fine[j])) < 0:
            _refuse_concave(second, fine, values, j)


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
        f"f''({_shown(grid[i])}) = {_shown(_confirmed(second, float(grid[i])))}"
    )


def _check_chords(
    piece: Piece, grid: np.ndarray, value: np.ndarray, first: np.ndarray, finite: np.ndarray
) -> None:
    """A convex function's increments lie between its slopes: finds poles and jumps that f'' does not show."""
    step = np.diff(grid)
    increment = np.diff(value)
    size = np.abs(value[1:]) + np.abs(value[:-1]) + (np.abs(first[1:]) + np.abs(first[:-1])) * step
    bad = (increment > first[1:] * step + 1e-9 * size) | (increment < first[:-1] * step - 1e-9 * size)
    for i in np.flatnonzero(bad & finite[1:] & finite[:-1])[:20]:
        a, b = float(grid[i]), float(grid[i + 1])
        f_a, f_b = _confirmed(piece.expression, a), _confirmed(piece.expression, b)
        slope_a, slope_b = _confirmed(piece.first, a), _confirmed(piece.first, b)
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
            try:
                at = context.re(slope(middle))
            except ZeroDivisionError:  # the very point
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
    a, b = (sympy.N(p.expression.subs(T, cut), 30) for p in (left, right))
    if not (a.is_finite and b.is_finite) or abs(a - b) > 1e-12 * (1 + abs(a)):
        raise GeneratorError(
            f"the generator is not convex and continuous: it jumps at t = {cut} from {a:.4g} to {b:.4g}"
        )
    a, b = one_sided_slopes(left, right)
    if b < a - 1e-12 * (1 + abs(a)):
        raise GeneratorError(
            f"the generator is not convex: at t = {cut} its slope falls from {_shown(a)} to {_shown(b)}"
        )


def one_sided_slopes(left: Piece, right: Piece) -> tuple[float, float]:
    """f'(cut-) and f'(cut+) as floats."""
    cut = right.lower
    slopes = []
    for piece, side in ((left, "-"), (right, "+")):
        slope = sympy.N(piece.first.subs(T, cut), 30)
        if not slope.is_finite:
            slope = sympy.N(sympy.limit(piece.first, T, cut, side), 30)
        slopes.append(float(slope))
    return slopes[0], slopes[1]


def check_finite_divergence(expr: sympy.Expr, pieces: Sequence[Piece]) -> None:
    """Refuse a generator that grows faster than every power of t at oo or of 1/t at 0.

    Between Gaussians log r is Gaussian: every power of r has a finite mean, and a factor exp(c r) has none.

    Raises:
      InfiniteDivergenceError: with the end at which f grows too fast.
    """
    for piece, sign, where in ((pieces[-1], 1, "as t -> oo"), (pieces[0], -1, "as t -> 0")):
        second = piece.second
        if second == 0:
            continue
        with np.errstate(all="ignore"):
            start = piece.lower if sign > 0 else piece.upper
            shift = float(sympy.log(start)) if start not in (0, sympy.oo) else 0.0
            base = shift if sign * shift > 0 else 0.0
            early = numpy_function(second, T)(np.exp(np.array([base + sign * 2.0])))
        if np.isinf(early[0]) or _grows(second, sign, base):
            raise InfiniteDivergenceError(
                f"the f-divergence of {expr} between Gaussians is infinite: "
                f"f grows faster than every power of t {where}"
            )


def _grows(second: sympy.Expr, sign: int, base: float) -> bool:
    context = mp_context(40)
    function = mp_function(second, T, context)
    points, logs, slopes = [base + sign * 1.0], [], []
    for k in range(10):
        t = context.exp(points[-1])
        value = context.re(function(t)) * t * t
        if value <= 0:
            return False
        logs.append(float(context.log(value)))
        if len(logs) > 1:
            slopes.append((logs[-1] - logs[-2]) / abs(points[-1] - points[-2]))
            # exp(-10^4 t), bounded, is steep only on its way to t = 0.
            steeper = slopes[-1] > max(slopes[:-1], default=math.inf)
            if slopes[-1] > 1000 and (steeper or math.isinf(slopes[-1])):
                return True
            if slopes[-1] < -1000:
                return False
        points.append(base + sign * 2.0 ** (k + 1))
    return slopes[-1] > 5 and slopes[-1] > 1.5 * slopes[-2] and slopes[-2] > 1.5 * slopes[-3]
