"""The convex conjugate f*(s) = sup over t > 0 of s t - f(t), segment by segment of the s axis.

The slopes of f cut the s axis. Below f'(0+) the supremum sits at t -> 0 and f* = -f(0+). Where s is a
slope of a smooth piece, t*(s) solves f'(t) = s. Where s lies inside the jump of f' at a kink, t* stays at
the kink and f* is linear. Above f'(oo) the supremum is infinite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import sympy

from fdiv_jax.divergences._end_values import limit_at_end, limit_beside
from fdiv_jax.divergences._evaluate import mp_context, mp_function, numpy_function
from fdiv_jax.divergences._exact import at_point, real_value, shortest, tidy_number
from fdiv_jax.divergences._inverse import inverses
from fdiv_jax.divergences._names import Formula, Value
from fdiv_jax.divergences._parse import T
from fdiv_jax.divergences._pieces import Piece
from fdiv_jax.divergences._rewrite import forms, tidy

S = sympy.Symbol("s", real=True)


@dataclass(frozen=True)
class Segment:
    """A part [lower, upper] of the s axis on which f* has one formula.

    kind: "flat" (t* = 0), "smooth" (t* solves f' = s on `piece`) or "kink" (t* = point).
    """

    kind: str
    lower: sympy.Expr
    upper: sympy.Expr
    point: sympy.Expr = sympy.S.Zero
    value_at_point: sympy.Expr = sympy.S.Zero
    piece: Piece | None = None


def slope_at(piece: Piece, point: sympy.Expr, side: str) -> sympy.Expr:
    """One-sided derivative of the piece at one of its ends."""
    if point in (0, sympy.oo):
        return limit_at_end(piece.first, point)
    slope = at_point(piece.first, point, T)
    if real_value(slope) is None:
        return limit_beside(piece.first, point, side)
    return tidy_number(slope)


def segments_of(pieces: Sequence[Piece]) -> tuple[Segment, ...]:
    """The segments from left to right; they cover (-oo, f'(oo))."""
    first = pieces[0]
    lowest = slope_at(first, sympy.S.Zero, "+")
    segments: list[Segment] = []
    if lowest != -sympy.oo:
        at_zero = limit_at_end(first.expression, sympy.S.Zero)
        segments.append(Segment("flat", -sympy.oo, lowest, sympy.S.Zero, at_zero))
    slope = lowest
    for i, piece in enumerate(pieces):
        end = slope_at(piece, piece.upper, "-") if piece.second != 0 else slope
        if piece.second != 0:
            segments.append(Segment("smooth", slope, end, piece=piece))
        slope = end
        if i + 1 < len(pieces):
            jumped = slope_at(pieces[i + 1], piece.upper, "+")
            if float(jumped) > float(slope):
                value = tidy_number(at_point(piece.expression, piece.upper, T))
                segments.append(Segment("kink", slope, jumped, piece.upper, value))
            slope = jumped
    return tuple(segments)


def value_at_upper_end(pieces: Sequence[Piece], upper: sympy.Expr) -> sympy.Expr:
    """f* at s = f'(oo): the limit of s t - f(t), finite or oo."""
    if upper == sympy.oo:
        return sympy.oo
    if pieces[-1].second == 0:
        # Also where the slope is known to some digits only.
        return -at_point(pieces[-1].expression, sympy.S.Zero, T)
    return limit_at_end(upper * T - pieces[-1].expression, sympy.oo)


# --- symbolic inverse of f' ----------------------------------------


def symbolic_inverse(piece: Piece) -> sympy.Expr | None:
    """t*(s) with f'(t*) = s in closed form, or None; a solution is believed only after it agrees
    numerically."""
    samples = _slope_samples(piece)
    if len(samples) < 3:
        return None
    for candidate in inverses(piece.first, S):
        if candidate.has(sympy.I, sympy.zoo, sympy.nan, sympy.oo):
            continue
        if _agrees(candidate, samples):
            return shortened(candidate, piece)
    return None


def shortened(formula: sympy.Expr, piece: Piece) -> sympy.Expr:
    """The shortest way to write a formula in s that has the same values on the slopes of the piece."""
    context = mp_context(60)
    slopes = [s for s, _ in _slope_samples(piece)]
    values = [mp_function(formula, S, context)(s) for s in slopes]

    def equal(form: sympy.Expr) -> bool:
        found = map(mp_function(form, S, context), slopes)
        return all(abs(a - b) <= 1e-25 * abs(b) for a, b in zip(found, values, strict=True))

    if not slopes:
        return formula
    middle = slopes[len(slopes) // 2]
    sign = 1 if middle > 0 else -1
    plain = formula.xreplace({sympy.Abs(S): sign * S})
    starts = dict.fromkeys([formula, plain, _with_split_logs(plain, middle)])
    ways = [form for start in starts for form in forms(start, S)]
    return shortest([formula, *(form for form in ways if equal(form))])


def _with_split_logs(formula: Formula, sample: Value) -> Formula:
    """log(a/b) as log(a) - log(b), the signs those at a sample."""

    def split(node: Formula) -> Formula:
        if not node.has(S) or not node.args:
            return node
        arguments = [split(a) for a in node.args]
        if not isinstance(node, sympy.log):
            return node.func(*arguments)
        top, bottom = sympy.fraction(tidy(arguments[0], S))
        if mp_function(bottom, S, mp_context(30))(sample) < 0:
            top, bottom = -top, -bottom
        logs = [sympy.log(factor) for factor in sympy.Mul.make_args(sympy.factor_terms(top))]
        return sympy.Add(*logs) - sympy.log(bottom)

    return split(formula)


def _slope_samples(piece: Piece) -> list[tuple[float, float]]:
    """Pairs (s, t) with s = f'(t) along the piece."""
    low = -12.0 if piece.lower == 0 else float(sympy.log(piece.lower))
    high = 12.0 if piece.upper == sympy.oo else float(sympy.log(piece.upper))
    context = mp_context(40)
    function, second = (mp_function(part, T, context) for part in (piece.first, piece.second))
    pairs = []
    for share in (0.03, 0.2, 0.35, 0.45, 0.52, 0.6, 0.75, 0.97):
        t = context.exp(low + share * (high - low))
        s = context.re(function(t))
        # Where an exponential tail is below the last digit, s tells nothing of t.
        if abs(second(t)) * t > 1e-15 * abs(s):
            pairs.append((s, t))
    return pairs


def _agrees(candidate: sympy.Expr, samples: Sequence[tuple]) -> bool:
    context = mp_context(60)
    try:
        function = mp_function(candidate, S, context)
        return all(abs(function(context.mpf(s)) / t - 1) < 1e-9 for s, t in samples)
    except (ValueError, ZeroDivisionError, NotImplementedError, TypeError, OverflowError):
        return False


@lru_cache(maxsize=2048)
def stable_form(expr: sympy.Expr) -> sympy.Expr:
    """The form of an expression, among several equal ones, that loses the fewest digits in float64.

    sqrt(t**2 + 1) - t and 1/(sqrt(t**2 + 1) + t) are equal and only one of them survives t = 1e9.
    """
    ways = forms(expr, T)
    best = expr
    if len(ways) > 1:
        context = mp_context(200)
        points = [-25.0, -16.0, -9.0, -4.0, -1.5, -0.5, -0.05, 0.05, 0.5, 1.5, 4.0, 9.0, 16.0, 25.0]
        truth_of = mp_function(expr, T, context)
        t = np.exp(np.array(points))
        try:
            truth = [context.re(truth_of(context.mpf(float(x)))) for x in t]
            best = min(ways, key=lambda form: (_loss(form, t, truth), sympy.count_ops(form)))
        except (ValueError, ZeroDivisionError, OverflowError, TypeError):
            best = expr
    return best


def _loss(form: sympy.Expr, t: np.ndarray, truth: Sequence) -> float:
    """Largest relative error in units of 1e-12, rounded so that equals compare equal."""
    try:
        values = numpy_function(form, T)(t)
    except NotImplementedError:
        return float("inf")
    worst = 0.0
    for value, exact in zip(values, truth, strict=True):
        if not np.isfinite(value):
            return float("inf")
        if exact != 0:
            worst = max(worst, abs(float(value / exact - 1)))
    return round(worst / 1e-12, 0)
