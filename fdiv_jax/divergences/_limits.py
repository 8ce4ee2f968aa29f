"""Limits of f, f' and s t - f(t) at the ends of (0, oo): exact where sympy is quick, always checked
numerically."""

from __future__ import annotations

import math

import sympy

from fdiv_jax.divergences._closed_form import terms_of
from fdiv_jax.divergences._limited import time_limited
from fdiv_jax.divergences._lower import mp_context, mp_function
from fdiv_jax.divergences._parse import T

_TOO_LARGE = 1e6


def limit_at_end(expr: sympy.Expr, end: sympy.Expr, symbolic_seconds: float = 1.0) -> sympy.Expr:
    """Limit of a monotone expression as t -> 0+ or t -> oo: an exact number where one is found, +-oo, or
    a Float.

    A sum of terms c t^p log(t)^k is read off. Elsewhere values at t = e^(+-2^k) in enough digits decide
    whether the limit is finite; sympy's limit is taken when it agrees with them.
    """
    if not expr.has(T):
        return expr
    of_powers = _limit_of_powers(expr, end)
    if of_powers is not None:
        return of_powers
    numeric, size = _numeric_limit(expr, end)
    if numeric in (sympy.oo, -sympy.oo):
        return numeric
    direct = _by_substitution(expr, end)
    for candidate in (direct, None):
        exact = candidate
        if exact is None:
            exact = time_limited(lambda: sympy.limit(expr, T, end, "+"), symbolic_seconds)
        if exact is not None and exact.is_number and exact.is_finite:
            value = sympy.N(exact, 30)
            if value.is_real and abs(float(value) - float(numeric)) <= 1e-7 * size:
                return exact
    return numeric


def _limit_of_powers(expr: sympy.Expr, end: sympy.Expr) -> sympy.Expr | None:
    """The leading term decides; t^0.0001 is far from its limit at every t that a number can hold."""
    terms = terms_of(expr)
    if terms is None:
        return None
    sign = 1 if end == sympy.oo else -1
    lead = max(terms, key=lambda term: (sign * float(term.power), term.log_power), default=None)
    if lead is None or sign * float(lead.power) < 0:
        return sympy.S.Zero
    if lead.power == 0 and lead.log_power == 0:
        return lead.coefficient
    rising = float(lead.coefficient) * sign**lead.log_power > 0
    return sympy.oo if rising else -sympy.oo


def _by_substitution(expr: sympy.Expr, end: sympy.Expr) -> sympy.Expr | None:
    if end != 0:
        return None
    try:
        value = expr.subs(T, 0)
    except (ZeroDivisionError, ValueError, TypeError):
        return None
    return None if value.has(sympy.nan, sympy.zoo, sympy.oo) else value


def _numeric_limit(expr: sympy.Expr, end: sympy.Expr) -> tuple[sympy.Expr, float]:
    """The limit, and the size of the finite values on the way to it."""
    sign = 1 if end == sympy.oo else -1
    context = mp_context()
    function = mp_function(expr, T, context)
    values = []
    for k in range(2, 12):
        # Twice the digits of t itself, so that t - sqrt(t**2 + t) and the like keep 60 digits.
        context.dps = 60 + 2**k
        value = context.re(function(context.exp(sign * 2**k)))
        values.append(value)
        size = max(map(abs, values[:3]))
        if k > 4 and abs(value) > _TOO_LARGE * size and abs(value) > 1.5 * abs(values[-2]):
            return (sympy.oo if value > 0 else -sympy.oo), math.inf
    last, before = values[-1] - values[-2], values[-2] - values[-3]
    if abs(last) <= 1e-12 * size or abs(last) < 0.75 * abs(before):
        return sympy.Float(str(context.nstr(values[-1], 40)), 30), float(size)
    return (sympy.oo if last > 0 else -sympy.oo), math.inf
