"""A generator as smooth pieces between its kinks.

Abs, Max, Min and sign change their formula where an argument changes its sign. The half line is cut at
those points (exact numbers where sympy finds them), and between two cuts each of them is replaced by the
formula in force.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import combinations, pairwise

import numpy as np
import sympy

from fdiv_jax.divergences._assumptions import ours
from fdiv_jax.divergences._evaluate import mp_context, mp_far_value, mp_real_function, numpy_function
from fdiv_jax.divergences._exact import expanded, expanded_terms, real_value, tidy_number
from fdiv_jax.divergences._inverse import inverses
from fdiv_jax.divergences._names import Formula
from fdiv_jax.divergences._parse import ExpressionError, T, switch
from fdiv_jax.divergences._rewrite import degree, roots_of

_SWITCHES = (sympy.Abs, sympy.Max, sympy.Min, sympy.sign, sympy.Heaviside)
_MAX_DEGREE = 64
# Cuts are looked for between e^-25 and e^25.
_MAX_CUTS = 40
_MAX_COMPARISONS = 100
_GRID = np.exp(np.linspace(-25.0, 25.0, 5001))
_BEYOND = (26, 28, 30, 35, 40, 50, 64, 80, 100, 128)


@dataclass(frozen=True)
class Piece:
    """A smooth formula on (lower, upper), 0 <= lower < upper <= oo."""

    lower: sympy.Expr
    upper: sympy.Expr
    expression: sympy.Expr

    @cached_property
    def first(self) -> sympy.Expr:
        return sympy.diff(self.expression, T)

    @cached_property
    def second(self) -> sympy.Expr:
        return sympy.diff(self.expression, T, 2)

    def derivative(self, order: int) -> sympy.Expr:
        if order < 3:
            return (self.expression, self.first, self.second)[order]
        return sympy.diff(self.second, T, order - 2)

    @property
    def inner(self) -> float:
        """A point between the ends."""
        low, high = float(self.lower), float(self.upper)
        return low + 1.0 if math.isinf(high) else (low + high) / 2


def _real_powers(expr: Formula) -> Formula:
    """(x^2n)^r is |x|^(2nr) for real x; sympy leaves it, and the kink in it, unseen. So does it that of
    (x^2 - 2 x + 1)^r, before it is factored."""

    def sum_root(node: Formula) -> bool:
        return (
            isinstance(node, sympy.Pow)
            and isinstance(node.base, sympy.Add)
            and node.exp.is_Rational
            and not node.exp.is_Integer
        )

    def factored(node: Formula) -> Formula:
        # t^(1/root), of which the base may be a polynomial or a quotient of two
        x, root = ours(sympy.Symbol("x", positive=True)), roots_of(node.base, T)
        base = node.base.subs(T, x**root) if root else node.base
        if base.has(T) or degree(base, {x}) > _MAX_DEGREE or expanded_terms(base) > 100:
            return node
        square = sympy.S.One
        rest = sympy.S.One
        for part, sign in zip(sympy.fraction(sympy.together(base)), (1, -1), strict=True):
            poly = sympy.Poly(part, x) if part.has(x) else None
            if poly is None or not all(c.is_Rational for c in poly.coeffs()):
                rest *= part**sign
                continue
            unit, factors = poly.sqf_list()
            rest *= unit**sign
            for factor, power in factors:
                if power % 2 == 0:
                    square *= switch(sympy.Abs, factor.as_expr().subs(x, T ** sympy.Rational(1, root))) ** (
                        sign * power * node.exp
                    )
                else:
                    rest *= factor.as_expr() ** (sign * power)
        return node if square == 1 else square * rest.subs(x, T ** sympy.Rational(1, root)) ** node.exp

    def even_root(node: Formula) -> bool:
        return (
            isinstance(node, sympy.Pow)
            and isinstance(node.base, sympy.Pow)
            and node.base.exp.is_Integer
            and bool(node.base.exp.is_even)
            and node.exp.is_Rational
            and not node.exp.is_Integer
        )

    expr = _replaced(expr, sum_root, factored)
    return _replaced(
        expr, even_root, lambda node: switch(sympy.Abs, node.base.base) ** (node.base.exp * node.exp)
    )


def _replaced(expr: Formula, which: Callable[[Formula], bool], by: Callable[[Formula], Formula]) -> Formula:
    """Parts of a formula replaced, innermost first; Abs, Max, Min and sign are not evaluated."""
    if not expr.args:
        return expr
    arguments = [_replaced(a, which, by) for a in expr.args]
    if all(a is b for a, b in zip(arguments, expr.args, strict=True)):
        node = expr
    elif isinstance(expr, _SWITCHES[:-1]):
        node = switch(expr.func, *arguments)
    else:
        node = expr.func(*arguments)
    return by(node) if which(node) else node


def _switch_arguments(expr: sympy.Expr) -> list[sympy.Expr]:
    arguments: list[Formula] = []
    for node in sympy.preorder_traversal(expr):
        inner: Formula = node.args
        if isinstance(node, (sympy.Abs, sympy.sign, sympy.Heaviside)):
            arguments.append(inner[0])
        elif isinstance(node, (sympy.Max, sympy.Min)):
            arguments.extend(a - b for a, b in combinations(inner, 2))
    return list(dict.fromkeys(a for a in arguments if a.has(T)))


def _solutions(argument: sympy.Expr) -> list[sympy.Expr]:
    """The zeros of the argument in closed form, as far as they are found."""
    if argument.has(*_SWITCHES):
        return []
    return [tidy_number(x) for x in inverses(argument, sympy.S.Zero) if (real_value(x) or 0) > 0]


def _exact_root(
    argument: sympy.Expr, low: float, high: float, solutions: Callable[[], list[sympy.Expr]]
) -> sympy.Expr:
    """The zero of the argument in [low, high], exact if it is a simple number or among the solutions, else
    to 50 digits."""
    context = mp_context(60)
    function = mp_real_function(argument, T, context)
    a, b = context.mpf(low), context.mpf(high)
    fa = function(a)
    if fa == 0:
        b = a
    for _ in range(190 if a != b else 0):
        middle = (a + b) / 2
        fm = function(middle)
        if fm == 0:
            a = b = middle
            break
        a, b, fa = (middle, b, fm) if (fm > 0) == (fa > 0) else (a, middle, fa)
    root = (a + b) / 2
    nearest: Formula = sympy.Rational(float(root))
    fraction = nearest.limit_denominator(1000)
    if (
        fraction > 0
        and abs(context.mpf(int(fraction.p)) / int(fraction.q) - root) < context.mpf(10) ** -30 * root
    ):
        return fraction
    for solution in solutions():
        if abs((real_value(solution) or 0) - root) <= 1e-25 * root:
            return solution
    return sympy.Float(str(root), 50)


def _dips(values: np.ndarray) -> list[int]:
    """Where an argument comes near to zero between neighbours of one sign: it may cross twice in there."""
    size, sign = np.abs(values), np.sign(values)
    same = (sign[2:] == sign[:-2]) & (sign[1:-1] != -sign[:-2]) & (sign[2:] != 0)
    near = size[1:-1] < 0.9 * np.minimum(size[2:], size[:-2])
    return [int(i) + 1 for i in np.flatnonzero(same & near)[: 2 * _MAX_CUTS]]


def _two_roots(
    argument: sympy.Expr, place: int, solutions: Callable[[], list[sympy.Expr]]
) -> list[sympy.Expr]:
    """The zeros on both sides of the argument's lowest point about _GRID[place], if it crosses there."""
    low, high = float(_GRID[place - 1]), float(_GRID[place + 1])
    context = mp_context(60)
    function = mp_real_function(argument, T, context)
    outside = 1 if function(context.mpf(low)) > 0 else -1
    a, b, golden = context.mpf(low), context.mpf(high), (context.sqrt(5) - 1) / 2
    points = [b - golden * (b - a), a + golden * (b - a)]
    heights = [outside * function(x) for x in points]
    for _ in range(120):
        if min(heights) < -(context.mpf(10) ** -40):
            bottom = float(points[int(heights[1] < heights[0])])
            return [_exact_root(argument, *ends, solutions) for ends in ((low, bottom), (bottom, high))]
        if heights[0] < heights[1]:
            b, points[1], heights[1] = points[1], points[0], heights[0]
            points[0] = b - golden * (b - a)
            heights[0] = outside * function(points[0])
        else:
            a, points[0], heights[0] = points[0], points[1], heights[1]
            points[1] = a + golden * (b - a)
            heights[1] = outside * function(points[1])
    return []


def _check_beyond(argument: sympy.Expr, signs: np.ndarray) -> None:
    """Refuses an argument that changes its sign where no cuts are looked for."""
    context = mp_context()
    function = mp_real_function(argument, T, context)
    for side, known in ((-1, signs[0]), (1, signs[-1])):
        for reach in _BEYOND:
            if mp_far_value(function, context, side * reach, reach) * known < 0:
                raise ExpressionError(
                    f"the generator has a kink where {argument} changes its sign, at a t "
                    f"{'below' if side < 0 else 'above'} {float(context.exp(25 * side)):.1g}; kinks are read "
                    "between e^-25 and e^25"
                )


def _roots(argument: sympy.Expr) -> list[sympy.Expr]:
    raw = numpy_function(argument, T)(_GRID)
    # Signs: products of the values themselves may over- or underflow.
    values = np.sign(np.where(np.isfinite(raw), raw, np.nan))
    solutions = cache(lambda: _solutions(argument))
    if np.sum(values[1:] * values[:-1] < 0) > _MAX_CUTS:
        raise ExpressionError(
            f"the generator has more than {_MAX_CUTS} kinks: {argument} keeps changing sign"
        )
    _check_beyond(argument, values)
    roots = []
    for place in _dips(raw):
        roots += _two_roots(argument, place, solutions)
    for i in range(len(_GRID) - 1):
        left, right = values[i], values[i + 1]
        if left == 0:
            if i == 0 or values[i - 1] * right < 0:
                roots.append(_exact_root(argument, _GRID[i] * (1 - 1e-4), _GRID[i] * (1 + 1e-4), solutions))
        elif left * right < 0:
            roots.append(_exact_root(argument, _GRID[i], _GRID[i + 1], solutions))
    return roots


def _resolve(expr: sympy.Expr, sample: Formula) -> sympy.Expr:
    """Replace every switch by the formula in force at the sample point, innermost first."""

    def value(x: sympy.Expr) -> float:
        context = mp_context(30)
        return float(mp_real_function(x, T, context)(context.mpf(int(sample.p)) / int(sample.q)))

    def walk(node: Formula) -> Formula:
        if not node.has(*_SWITCHES):
            return node
        arguments = [walk(a) for a in node.args]
        if isinstance(node, sympy.Abs):
            return arguments[0] if value(arguments[0]) >= 0 else -arguments[0]
        if isinstance(node, sympy.sign):
            return sympy.Integer(1 if value(arguments[0]) >= 0 else -1)
        if isinstance(node, sympy.Heaviside):
            return sympy.Integer(1 if value(arguments[0]) >= 0 else 0)
        if isinstance(node, sympy.Max):
            return max(arguments, key=value)
        if isinstance(node, sympy.Min):
            return min(arguments, key=value)
        return node.func(*arguments)

    return walk(expr)


def _sample(lower: Formula, upper: Formula, arguments: list[sympy.Expr]) -> Formula:
    """A point of (lower, upper) at which no argument of a switch touches zero, as t log t - (t - 1) does
    at 1."""
    low = float(lower)
    high = float(upper) if upper != sympy.oo else 2 * low + 2
    points = [low + share * (high - low) for share in (0.5, 0.375, 0.6875, 0.28125)]
    context = mp_context(30)
    for point in points:
        values = [abs(mp_real_function(a, T, context)(context.mpf(point))) for a in arguments]
        if all(value > 1e-20 for value in values):
            break
    return sympy.Rational(point)


def split(expr: sympy.Expr) -> tuple[Piece, ...]:
    """Smooth pieces of the expression on (0, oo), from left to right; one piece where there is no kink.

    >>> [(p.lower, p.upper, p.expression) for p in split(sympy.Abs(T - 1) / 2)]
    [(0, 1, 1/2 - t/2), (1, oo, t/2 - 1/2)]
    """
    expr = _real_powers(expr)
    cuts: list[sympy.Expr] = []
    arguments = _switch_arguments(expr)
    if len(arguments) > _MAX_COMPARISONS:
        raise ExpressionError(
            f"the generator compares {len(arguments)} pairs of formulas in Abs, Max, Min and sign, at most "
            f"{_MAX_COMPARISONS} are read"
        )
    for argument in arguments:
        for root in _roots(argument):
            if all(abs(float(root) - float(c)) > 1e-12 * float(root) for c in cuts):
                cuts.append(root)
    if not cuts and not expr.has(*_SWITCHES):
        return (Piece(sympy.S.Zero, sympy.oo, expr),)
    cuts.sort(key=float)
    ends: list[Formula] = [sympy.S.Zero, *cuts, sympy.oo]
    pieces: list[Piece] = []
    lower: Formula
    upper: Formula
    for lower, upper in pairwise(ends):
        formula = _resolve(expr, _sample(lower, upper, arguments))
        if pieces and expanded(pieces[-1].expression - formula) == 0:
            pieces[-1] = Piece(pieces[-1].lower, upper, pieces[-1].expression)
        else:
            pieces.append(Piece(sympy.sympify(lower), sympy.sympify(upper), formula))
    return tuple(pieces)
