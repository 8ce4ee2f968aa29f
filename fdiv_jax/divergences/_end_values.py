"""Limits of f, f' and s t - f(t) at the ends of (0, oo) and beside an inner point: exact where the leading
terms are known, numerical elsewhere."""

from __future__ import annotations

import sympy

from fdiv_jax.divergences._asymptotics import UnknownGrowthError, germ_at, limit_of
from fdiv_jax.divergences._evaluate import mp_context, mp_function
from fdiv_jax.divergences._parse import T

_TOO_LARGE = 1e6


def limit_at_end(expr: sympy.Expr, end: sympy.Expr) -> sympy.Expr:
    """Limit of a monotone expression as t -> 0+ or t -> oo: an exact number where one is found, +-oo, or
    a Float.

    The leading term decides where it is known. Elsewhere values at t = e^(+-2^k) in enough digits do.

    Raises:
      NotImplementedError: neither is to be had.
    """
    if not expr.has(T):
        return expr
    try:
        return limit_of(germ_at(expr, end))
    except UnknownGrowthError:
        return _numeric_limit(expr, end)


def limit_beside(expr: sympy.Expr, point: sympy.Expr, side: str) -> sympy.Expr:
    """Limit as t -> point+ or t -> point-, for 0 < point < oo: an exact number, oo, -oo, or nan where none is
    found."""
    beside = expr.subs(T, point + T if side == "+" else point - T)
    try:
        return limit_of(germ_at(beside, sympy.S.Zero))
    except UnknownGrowthError:
        return sympy.nan


def _numeric_limit(expr: sympy.Expr, end: sympy.Expr) -> sympy.Expr:
    sign = 1 if end == sympy.oo else -1
    context = mp_context()
    function = mp_function(expr, T, context)
    values = []
    for k in range(2, 12):
        # Twice the digits of t itself, so that t - sqrt(t**2 + t) and the like keep 60 digits.
        context.dps = 60 + 2**k
        value = context.re(function(context.exp(sign * 2**k)))
        if context.isinf(value):
            return sympy.oo if value > 0 else -sympy.oo
        if context.isnan(value):  # what is inside overflows
            break
        values.append(value)
        size = max(map(abs, values[:3]))
        if k > 4 and abs(value) > _TOO_LARGE * size and abs(value) > 1.5 * abs(values[-2]):
            return sympy.oo if value > 0 else -sympy.oo
    if len(values) < 5:
        if len(values) > 1 and abs(values[-1]) > _TOO_LARGE * abs(values[-2]):
            return sympy.oo if values[-1] > 0 else -sympy.oo
        raise NotImplementedError(f"the limit of {str(expr)[:100]} as t -> {end}")
    last, before = values[-1] - values[-2], values[-2] - values[-3]
    if abs(last) <= 1e-12 * size or abs(last) < 0.75 * abs(before):
        return sympy.Float(str(context.nstr(values[-1], 40)), 30)
    return sympy.oo if last > 0 else -sympy.oo
