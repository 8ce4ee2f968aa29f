"""F_f(m) in closed form, where the generator is a sum of powers of t times powers of log t.

Between the Gaussians log r ~ N(-m/2, m) under Q, so E_Q[r^p] = exp(p (p - 1) m / 2), and a power of log r
is a derivative in p. Between kinks the means are truncated, and the normal distribution function appears.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sympy

from fdiv_jax.divergences._constants import evaluated
from fdiv_jax.divergences._exact import MAX_TERMS, expanded_terms, is_zero, tidy_number
from fdiv_jax.divergences._parse import T
from fdiv_jax.divergences._pieces import Piece

M = sympy.Symbol("m", nonnegative=True)
_P = sympy.Symbol("p", real=True)
_MAX_TERMS = 60


@dataclass(frozen=True)
class Term:
    """coefficient * t^power * log(t)^log_power"""

    coefficient: sympy.Expr
    power: sympy.Expr
    log_power: int


def terms_of(expr: sympy.Expr) -> tuple[Term, ...] | None:
    """The expression as a sum of terms c t^p log(t)^k, or None where it is something else."""
    if sympy.count_ops(expr) > 150 or expanded_terms(expr) > MAX_TERMS:
        return None
    expanded = sympy.expand(sympy.expand_log(sympy.expand(expr), force=True))
    terms: dict[tuple[sympy.Expr, int], sympy.Expr] = {}
    for argument in sympy.Add.make_args(expanded):
        if argument == 0:
            continue
        coefficient, rest = argument.as_independent(T, as_Add=False)
        power, log_power = sympy.S.Zero, 0
        for factor in sympy.Mul.make_args(rest):
            base, exponent = factor.as_base_exp()
            if factor == 1:
                continue
            if base == T and not exponent.has(T):
                power += exponent
            elif base == sympy.log(T) and exponent.is_Integer and exponent > 0:
                log_power += int(exponent)
            else:
                return None
        key = (power, log_power)
        terms[key] = terms.get(key, sympy.S.Zero) + coefficient
        if len(terms) > _MAX_TERMS:
            return None
    return tuple(Term(c, p, k) for (p, k), c in terms.items() if not is_zero(c))


def closed_form(pieces: Sequence[Piece]) -> sympy.Expr | None:
    """F_f(m) as a sympy expression in m >= 0, or None where no closed form is known.

    >>> from fdiv_jax.divergences._pieces import split
    >>> closed_form(split(T * sympy.log(T)))
    m/2
    >>> closed_form(split(sympy.Abs(T - 1) / 2))
    erf(sqrt(2)*sqrt(m)/4)
    """
    total = sympy.S.Zero
    for piece in pieces:
        terms = terms_of(piece.expression)
        if terms is None:
            return None
        for term in terms:
            mean = _truncated_mean(piece.lower, piece.upper)
            moment = sympy.diff(mean, _P, term.log_power) if term.log_power else mean
            total += term.coefficient * moment.subs(_P, term.power)
    return _tidy(total)


def _truncated_mean(lower: sympy.Expr, upper: sympy.Expr) -> sympy.Expr:
    """E_Q[r^p; lower < r < upper]"""
    whole = sympy.exp(_P * (_P - 1) * M / 2)

    def below(bound: sympy.Expr) -> sympy.Expr:
        if bound == 0:
            return sympy.S.Zero
        if bound == sympy.oo:
            return sympy.S.One
        return (1 + sympy.erf((sympy.log(bound) - (_P - sympy.Rational(1, 2)) * M) / sympy.sqrt(2 * M))) / 2

    return whole * (below(upper) - below(lower))


def _tidy(expr: sympy.Expr) -> sympy.Expr:
    """Constants last and a common factor outside, as one would write it; believed only after it agrees
    numerically."""
    expanded = sympy.expand(expr)
    forms = [expanded]
    if exponents := _exponents(expanded):
        forms.insert(0, sympy.collect(expanded, [sympy.exp(a) for a in exponents]))
    points = (sympy.Rational(7, 10), sympy.Rational(23, 10))
    truth = [evaluated(expr.subs(M, point)) for point in points]
    for form in forms:
        values = [evaluated(form.subs(M, point)) for point in points]
        if all(abs(a - b) <= 1e-12 * (1 + abs(b)) for a, b in zip(values, truth, strict=True)):
            return form
    return expr


def _exponents(expr: sympy.Expr) -> list:
    return sorted((n.args[0] for n in expr.atoms(sympy.exp)), key=str)


def stable_sum(pieces: Sequence[Piece]) -> tuple[tuple[sympy.Expr, sympy.Expr], ...] | None:
    """F_f(m) as a sum of a (e^(c m) - 1)/c, with a m for c = 0 and every a > 0, or None.

    Pairs (a, c). Written so, no two terms ever cancel, and value and weight keep full relative accuracy
    for every m.
    """
    if len(pieces) != 1:
        return None
    terms = terms_of(pieces[0].expression)
    if terms is None:
        return None
    rates: dict[sympy.Expr, sympy.Expr] = {}
    for term in terms:
        p, a = term.power, term.coefficient
        c = tidy_number(p * (p - 1) / 2)
        if term.log_power == 0:
            if c != 0:
                rates[c] = rates.get(c, sympy.S.Zero) + a * c
        elif term.log_power == 1 and c == 0:
            # E_Q[t log t] = m/2 and E_Q[log t] = -m/2
            rates[c] = rates.get(c, sympy.S.Zero) + a * (p - sympy.Rational(1, 2))
        else:
            return None
    pairs = [(tidy_number(a), c) for c, a in rates.items()]
    pairs = [(a, c) for a, c in pairs if a != 0]
    if not pairs or any(float(a) <= 0 for a, _ in pairs):
        return None
    return tuple(pairs)
