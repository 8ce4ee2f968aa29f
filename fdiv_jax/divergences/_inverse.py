"""Equations g(t) = y solved for t > 0, by a fixed list of methods and in bounded work.

    t once in g                      undone from the outside in
    rational in one kernel           a polynomial in it of degree 2, in t^(1/q), log t, e^(c t), ...
    a + b sqrt(P)                    squared
    sum of c_i log(R_i)              exponentiated, for c_i of one rational ratio
    a log t + b t^p                  Lambert's W

Solutions are candidates: some belong to other branches, and the caller keeps the one that fits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import sympy

from fdiv_jax.divergences._exact import bits, expanded_terms
from fdiv_jax.divergences._names import Formula
from fdiv_jax.divergences._parse import T
from fdiv_jax.divergences._rewrite import (
    degree,
    exponentials,
    forms,
    in_exponentials,
    kernel_symbol,
    kernels,
    roots_of,
)

_MAX_DEGREE = 12
_MAX_ROOT = 64
_MAX_BITS = 1000
_MAX_OPERATIONS = 120
_MAX_DEPTH = 12
_K = sympy.Symbol("k", positive=True)


def inverses(expr: Formula, y: Formula) -> Iterator[Formula]:
    """Candidates t with expr(t) = y, from every way to write the formula; y is a formula without t."""
    tried = []
    for form in forms(expr, T):
        for way in (form, in_exponentials(form)):
            if way not in tried:
                tried.append(way)
                yield from solutions(way, y)


def solutions(expr: Formula, y: Formula, depth: int = 0) -> Iterator[Formula]:
    """Candidates t with expr(t) = y; y is a formula without t.

    >>> list(solutions(sympy.exp(T) + 1, sympy.Symbol("y")))
    [log(y - 1)]
    """
    if expr == T:
        yield y
        return
    if depth > _MAX_DEPTH or not expr.has(T) or max(map(sympy.count_ops, (expr, y))) > _MAX_OPERATIONS:
        return
    if isinstance(expr, (sympy.Add, sympy.Mul)):
        constant, rest = expr.as_independent(T, as_Add=isinstance(expr, sympy.Add))
        if constant != (0 if isinstance(expr, sympy.Add) else 1):
            yield from solutions(
                rest, y - constant if isinstance(expr, sympy.Add) else y / constant, depth + 1
            )
            return
    else:
        for inner, value in _undone(expr, y):
            yield from solutions(inner, value, depth + 1)
        return
    for method in (_through_kernel, _squared, _exponentiated, _lambert):
        yield from method(expr, y, depth)


def _undone(node: Formula, y: Formula) -> list[tuple[Formula, Formula]]:
    """(inner, value) with node(inner) = y."""
    inner, exponent = node.args[0], node.args[-1]
    if isinstance(node, sympy.Pow):
        base = inner
        if not base.free_symbols:
            return [(exponent, sympy.log(y) / sympy.log(base))]
        if exponent.free_symbols:
            return []
        if exponent.is_Rational and exponent.q > _MAX_ROOT:
            return []  # t^(1/10000) = s would make numbers of 40,000 digits
        if exponent.is_Rational and any(
            bits(c) * abs(exponent.p) > _MAX_BITS for c in y.atoms(sympy.Rational)
        ):
            return []  # c^(1/23) would be written as the root of c^22, which overflows within sympy
        root = y ** (1 / exponent)
        even = exponent.is_Rational and exponent.p % 2 == 0
        return [(base, root), (base, -root)] if even else [(base, root)]
    if isinstance(node, sympy.exp):
        return [(inner, sympy.log(y))]
    if isinstance(node, sympy.log):
        return [(inner, sympy.exp(y))]
    if isinstance(node, sympy.atan):
        return [(inner, sympy.sin(y) / sympy.cos(y))]
    if isinstance(node, sympy.tanh):
        return [(inner, sympy.log((1 + y) / (1 - y)) / 2)]
    if isinstance(node, sympy.asinh):
        return [(inner, sympy.sinh(y))]
    if isinstance(node, sympy.sinh):
        return [(inner, sympy.asinh(y))]
    if isinstance(node, sympy.cosh):
        root = sympy.log(y + sympy.sqrt(y**2 - 1))
        return [(inner, root), (inner, -root)]
    return []


def _with_one_kernel(expr: Formula) -> tuple[Formula, Formula] | None:
    """(formula in k, kernel) where the formula depends on t through one kernel k only."""
    parts = kernels(expr, T)
    if all(k == T or (isinstance(k, sympy.Pow) and k.base == T) for k in parts):
        root = roots_of(expr, T)
        return (expr.subs(T, _K**root), T ** sympy.Rational(1, root)) if root else None
    if all(isinstance(k, sympy.exp) for k in parts):
        found = exponentials(parts, T)
        return (
            None
            if found is None
            else (expr.xreplace(found[0]).subs(kernel_symbol(0), _K), sympy.exp(found[1]))
        )
    if len(parts) == 1:
        return expr.xreplace({parts[0]: _K}), parts[0]
    return None


def polynomial(expr: Formula, symbol: Formula = _K) -> sympy.Poly | None:
    """The numerator of a rational formula in the symbol as a polynomial, if it is small."""
    if degree(expr, {symbol}) > _MAX_DEGREE or expanded_terms(expr) > 100:
        return None
    numerator, _ = sympy.fraction(sympy.together(expr))
    try:
        return sympy.Poly(sympy.expand(numerator), symbol)
    except sympy.PolynomialError:
        return None


def roots(poly: sympy.Poly | None) -> Iterator[Formula]:
    """Roots of a polynomial of one or two powers beside the constant, a z^(2n) + b z^n + c."""
    if poly is None or poly.degree() < 1:
        return
    terms = {monomial[0]: c for monomial, c in poly.terms()}
    low = min(terms)
    terms = {n - low: c for n, c in terms.items()}
    step = math.gcd(*terms)
    a, b, c = (terms.get(n, sympy.S.Zero) for n in (2 * step, step, 0))
    if step == 0 or set(terms) - {0, step, 2 * step}:
        return
    if a == 0:
        powers = [-c / b]
    else:
        root = _square_root(sympy.expand(b**2 - 4 * a * c))
        powers = [(root - b) / (2 * a), (-root - b) / (2 * a)]
    for power in powers:
        yield power ** sympy.Rational(1, step)


def _square_root(expr: Formula) -> Formula:
    """sqrt of a polynomial, its square factors outside (up to a sign)."""
    free = expr.free_symbols
    if len(free) != 1 or degree(expr, free) > _MAX_DEGREE:
        return sympy.sqrt(expr)
    poly = sympy.Poly(expr, *free)
    if not all(c.is_Rational for c in poly.coeffs()):
        return sympy.sqrt(expr)
    unit, factors = poly.sqf_list()
    content, inside, outside = abs(unit), sympy.sign(unit), sympy.S.One
    for factor, power in factors:
        outside *= factor.as_expr() ** (power // 2)
        inside *= factor.as_expr() ** (power % 2)
    return sympy.sqrt(content) * outside * sympy.sqrt(sympy.expand(inside))


def _through_kernel(expr: Formula, y: Formula, depth: int) -> Iterator[Formula]:
    found = _with_one_kernel(expr)
    if found is None or found[0].has(T):
        return
    for value in roots(polynomial(found[0] - y)):
        yield from solutions(found[1], value, depth + 1)


def _squared(expr: Formula, y: Formula, depth: int) -> Iterator[Formula]:
    """a + b sqrt(P) = y: (y - a)^2 = b^2 P."""
    rooted: list[Formula] = [k for k in kernels(expr, T) if isinstance(k, sympy.Pow) and k.base.is_Add]
    radicands = {k.base for k in rooted}
    if len(radicands) != 1 or not all(k.exp.is_Rational and k.exp.q == 2 for k in rooted):
        return
    (radicand,) = radicands
    r = sympy.Symbol("r", positive=True)
    inside = expr.xreplace({k: r ** (2 * k.exp) for k in rooted})
    if expanded_terms(inside) > 40 or degree(inside, {r, T}) > _MAX_DEGREE or degree(radicand, {T}) > 4:
        return
    numerator = sympy.Poly(sympy.expand(sympy.fraction(sympy.together(inside - y))[0]), r)
    even = sum((c * radicand ** (n // 2) for (n,), c in numerator.terms() if n % 2 == 0), sympy.S.Zero)
    odd = sum((c * radicand ** (n // 2) for (n,), c in numerator.terms() if n % 2), sympy.S.Zero)
    squared = (even**2 - odd**2 * radicand).subs(T, _K)
    yield from roots(polynomial(squared))


def _exponentiated(expr: Formula, y: Formula, depth: int) -> Iterator[Formula]:
    terms: list[Formula] = [term.as_independent(T, as_Add=False) for term in sympy.Add.make_args(expr)]
    if not all(isinstance(log, sympy.log) for _, log in terms):
        return
    unit = terms[0][0]
    ratios: list[Formula] = [c / unit for c, _ in terms]
    if not all(ratio.is_Rational for ratio in ratios):
        return
    scale = math.lcm(*(int(ratio.q) for ratio in ratios))
    whole = [int(ratio * scale) for ratio in ratios]
    if sum(map(abs, whole)) > _MAX_DEGREE:
        return
    product: Formula = sympy.prod([log.args[0] ** n for (_, log), n in zip(terms, whole, strict=True)])
    yield from _through_kernel(product, sympy.exp(y * scale / unit), depth)


def _lambert(expr: Formula, y: Formula, depth: int) -> Iterator[Formula]:
    """a log t + b t^p = y: with u = t^p, (a/p) log u + b u = y and u = (a/(b p)) W(b p/a e^(p y/a))."""
    a = b = p = None
    for term in sympy.Add.make_args(expr):
        c, rest = term.as_independent(T, as_Add=False)
        if rest == sympy.log(T) and a is None:
            a = c
        elif rest.as_base_exp()[0] == T and b is None:
            b, p = c, rest.as_base_exp()[1]
        else:
            return
    if a is None or b is None or p is None or p.has(T):
        return
    scale = b * p / a
    for branch in (0, -1):
        w = sympy.LambertW(scale * sympy.exp(p * y / a), *([branch] if branch else []))
        yield (w / scale) ** (1 / p)
