"""Other ways to write a formula: as one fraction, term by term, factored, without a difference of roots.

A formula is made rational first: t^(1/q), e^(ct), and every other part that is no sum, product or whole power
become symbols. So do irrational numbers: common divisors over Q(sqrt(2)) in several symbols take minutes.
Degrees and numbers of terms are counted before polynomials are handled, so the work is bounded, and the
result depends on the formula alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import sympy

from fdiv_jax.divergences._assumptions import ours
from fdiv_jax.divergences._exact import expanded, expanded_terms, shortest
from fdiv_jax.divergences._names import Formula
from fdiv_jax.divergences._parse import T, switch

_MAX_DEGREE = 24
_MAX_SYMBOLS = 4
_MAX_CONSTANTS = 3
_MAX_TERMS = 80
_MAX_OPERATIONS = 200
_MAX_ROOT = 64


def kernels(expr: Formula, symbol: sympy.Symbol) -> list[Formula]:
    """The largest parts that depend on the symbol and are no sums, products or whole powers."""
    if not expr.has(symbol):
        return []
    if isinstance(expr, (sympy.Add, sympy.Mul)) or (isinstance(expr, sympy.Pow) and expr.exp.is_Integer):
        parts = expr.args if not isinstance(expr, sympy.Pow) else expr.args[:1]
        return list(dict.fromkeys(kernel for part in parts for kernel in kernels(part, symbol)))
    return [expr]


def irrational_numbers(expr: Formula) -> list[Formula]:
    """The largest irrational numbers in the formula that are no sums, products or whole powers."""
    if expr.is_Rational or (not expr.args and not expr.is_number):
        return []
    if isinstance(expr, (sympy.Add, sympy.Mul)) or (isinstance(expr, sympy.Pow) and expr.exp.is_Integer):
        return list(dict.fromkeys(number for part in expr.args for number in irrational_numbers(part)))
    return [expr] if expr.is_number else []


def is_power_of(node: Formula, symbol: sympy.Symbol) -> bool:
    """Whether the node is the symbol to some power other than 1."""
    return isinstance(node, sympy.Pow) and node.base == symbol


def degree(expr: Formula, symbols: set) -> int:
    """An upper bound of the degrees of numerator and denominator; large where a symbol is not in a whole
    power."""
    if not expr.free_symbols & symbols:
        return 0
    if expr in symbols:
        return 1
    if isinstance(expr, (sympy.Add, sympy.Mul)):
        return sum(degree(a, symbols) for a in expr.args)
    if isinstance(expr, sympy.Pow) and expr.exp.is_Integer:
        return degree(expr.base, symbols) * abs(int(expr.exp))
    return 10**6


def roots_of(expr: Formula, symbol: sympy.Symbol) -> int:
    """q such that all powers of the symbol itself are whole powers of its q-th root, or 0."""
    powers: list[Formula] = [k.args[1] for k in kernels(expr, symbol) if is_power_of(k, symbol)]
    if not all(p.is_Rational for p in powers):
        return 0
    root = math.lcm(1, *(int(p.q) for p in powers))
    return root if root <= _MAX_ROOT else 0


def exponentials(parts: list[Formula], symbol: sympy.Symbol) -> tuple[dict, Formula] | None:
    """({e^(c + r x): e^d k^n}, exponent) with k = e^exponent, for rates r of rational ratio."""
    split = [part.args[0].as_independent(symbol, as_Add=True) for part in parts]
    rates = [(constant, rest / symbol) for constant, rest in split]
    if not rates or any(rate.has(symbol) for _, rate in rates):
        return None
    first = rates[0][1]
    ratios = [rate / first for _, rate in rates]
    if not all(ratio.is_Rational for ratio in ratios):
        return None
    scale = math.lcm(*(int(ratio.q) for ratio in ratios))
    unit = math.gcd(*(int(ratio * scale) for ratio in ratios))
    rate = first * unit / scale
    if rate.could_extract_minus_sign():
        rate = -rate
    powers = [sympy.expand(r / rate) for _, r in rates]
    shift = next((sympy.expand(c / p) for (c, _), p in zip(rates, powers, strict=True) if abs(p) == 1), 0)
    table = {
        part: sympy.exp(sympy.expand(c - p * shift)) * kernel_symbol(0) ** p
        for part, (c, _), p in zip(parts, rates, powers, strict=True)
    }
    return table, rate * symbol + shift


def in_exponentials(expr: Formula) -> Formula:
    """sinh, cosh and tanh by e^x, where there are several of them."""
    found = sorted(expr.atoms(sympy.sinh, sympy.cosh, sympy.tanh), key=str)
    if len(found) < 2:
        return expr
    table = {}
    for node in found:
        up, down = sympy.exp(node.args[0]), sympy.exp(-node.args[0])
        top, bottom = up - down, up + down
        table[node] = {sympy.sinh: top / 2, sympy.cosh: bottom / 2}.get(node.func, top / bottom)
    return expr.xreplace(table)


def kernel_symbol(i: int) -> sympy.Symbol:
    return ours(sympy.Symbol(f"k{i}", positive=True))


@dataclass(frozen=True)
class _Rational:
    """A rational formula in symbols, what they stand for, which of them stand for numbers, and the radicand P
    of the one that is sqrt(P)."""

    expr: Formula
    meaning: dict[Formula, Formula]
    numbers: frozenset[Formula]
    root: Formula = None
    radicand: Formula = None

    def back(self, expr: Formula) -> Formula:
        for symbol, meaning in reversed(list(self.meaning.items())):
            expr = expr.subs(symbol, meaning)
        return expr


def _rational(expr: Formula, symbol: sympy.Symbol) -> _Rational | None:
    expr = in_exponentials(expr)
    if expanded_terms(expr) > _MAX_TERMS or sympy.count_ops(expr) > _MAX_OPERATIONS:
        return None
    q = roots_of(expr, symbol)
    if q == 0:
        return None
    own: list[Formula] = [k for k in kernels(expr, symbol) if not (k == symbol or is_power_of(k, symbol))]
    x = ours(sympy.Symbol("x", positive=True))
    meaning: dict[Formula, Formula] = {x: symbol ** sympy.Rational(1, q)}
    table: dict[Formula, Formula] = {}
    grown = exponentials([k for k in own if isinstance(k, sympy.exp)], symbol)
    if grown is not None:
        table.update(grown[0])
        meaning[kernel_symbol(0)] = sympy.exp(grown[1])
    rooted: list[Formula] = [k for k in own if isinstance(k, sympy.Pow) and (2 * k.args[1]).is_Integer]
    root = radicand = None
    if rooted and all(k.base == rooted[0].base for k in rooted):
        root, radicand = kernel_symbol(1), rooted[0].base
        table.update({k: root ** (2 * k.exp) for k in rooted})
        meaning[root] = sympy.sqrt(radicand)
    rest = [k for k in own if k not in table]
    for i, kernel in enumerate(rest):
        table[kernel] = kernel_symbol(2 + i)
        meaning[kernel_symbol(2 + i)] = kernel
    if len(meaning) > _MAX_SYMBOLS:
        return None
    inside = expr.xreplace(table)
    if any(k not in (symbol, *meaning) and not (isinstance(k, sympy.Pow) and k.base == symbol)
           for k in kernels(inside, symbol)):  # fmt: skip
        return None
    inside = inside.subs(symbol, x**q)
    if radicand is not None:
        radicand = radicand.subs(symbol, x**q)
        if degree(radicand, {x}) > _MAX_DEGREE or radicand.has(symbol):
            root = radicand = None
    inside, radicand, numbers = _without_numbers(inside, radicand)
    if len(numbers) > _MAX_CONSTANTS:
        return None
    meaning |= numbers
    if degree(inside, set(meaning)) > _MAX_DEGREE:
        return None
    return _Rational(inside, meaning, frozenset(numbers), root, radicand)


def _without_numbers(expr: Formula, radicand: Formula) -> tuple[Formula, Formula, dict[Formula, Formula]]:
    """Both with symbols for their irrational numbers, and what the symbols stand for."""
    parts = [expr] if radicand is None else [expr, radicand]
    found = dict.fromkeys(number for part in parts for number in irrational_numbers(part))
    table = {number: sympy.Symbol(f"c{i}") for i, number in enumerate(found)}
    expr, radicand = (part if part is None else part.xreplace(table) for part in (expr, radicand))
    return expr, radicand, {symbol: number for number, symbol in table.items()}


def _fraction(given: _Rational) -> tuple[Formula, Formula] | None:
    """Numerator and denominator without common factors, sqrt(P) in no higher power than the first."""
    try:
        top, bottom = sympy.fraction(sympy.cancel(given.expr, *given.meaning))
        if given.root is None:
            return top, bottom
        (a, b), (c, d) = (_halves(part, given) for part in (top, bottom))
        if d != 0:  # (a + b r)/(c + d r), by c - d r
            norm = sympy.expand(c**2 - d**2 * given.radicand)
            a, b = a * c - b * d * given.radicand, b * c - a * d
            c = norm
        r = given.root
        return sympy.fraction(sympy.cancel(sympy.expand(a + b * r) / c, *given.meaning))
    except sympy.PolynomialError:
        return None


def _halves(expr: Formula, given: _Rational) -> tuple[Formula, Formula]:
    """(a, b) of a + b sqrt(P)"""
    poly = sympy.Poly(expr, given.root)
    even = [c * given.radicand ** (n // 2) for (n,), c in poly.terms() if n % 2 == 0]
    odd = [c * given.radicand ** (n // 2) for (n,), c in poly.terms() if n % 2]
    return sympy.expand(sympy.Add(*even)), sympy.expand(sympy.Add(*odd))


def _by_terms(top: Formula, bottom: Formula, given: _Rational) -> Formula:
    """One reduced fraction in x for each product of the other symbols."""
    x, *others = [symbol for symbol in given.meaning if symbol not in given.numbers]
    if not others or bottom.free_symbols - {x} - given.numbers:
        return top / bottom
    parts = [
        sympy.cancel(c / bottom) * sympy.prod([s**n for s, n in zip(others, powers, strict=True)])
        for powers, c in sympy.Poly(top, *others).terms()
    ]
    return sympy.Add(*parts)


def _factored(top: Formula, bottom: Formula) -> Formula:
    parts = [sympy.factor(p) if _is_plain(p) else p for p in (top, bottom)]
    return parts[0] / parts[1]


def _is_plain(expr: Formula) -> bool:
    """A polynomial of one symbol with rational coefficients."""
    if len(expr.free_symbols) != 1:
        return False
    return all(isinstance(n, sympy.Rational) for n in sympy.Poly(expr).coeffs())


def forms(expr: Formula, symbol: sympy.Symbol) -> list[Formula]:
    """The formula itself and other ways to write it, the same list for the same formula."""
    found = [expr, expanded(expr)]
    given = _rational(expr, symbol)
    fraction = None if given is None else _fraction(given)
    if given is not None and fraction is not None:
        top, bottom = fraction
        found += [given.back(_factored(top, bottom)), given.back(_by_terms(top, bottom, given))]
        if given.root is not None and top.has(given.root):
            a, b = _halves(top, given)
            norm = sympy.expand(a**2 - b**2 * given.radicand)
            try:
                top, bottom = sympy.fraction(sympy.cancel(norm / bottom, *given.meaning))
            except sympy.PolynomialError:
                return list(dict.fromkeys(found))
            # (a + b r) = (a^2 - b^2 P)/(a - b r), which does not cancel where a and b r differ in sign.
            found.append(given.back(_factored(top, bottom) / (a - b * given.root)))
    return list(dict.fromkeys(found))


def tidy(expr: Formula, symbol: sympy.Symbol) -> Formula:
    """The shortest of `forms`.

    >>> t = sympy.Symbol("t", positive=True)
    >>> tidy(2*(t - 1)/(t + 1) - (t - 1)**2/(t + 1)**2, t)
    (t - 1)*(t + 3)/(t + 1)**2
    """
    return shortest(forms(expr, symbol))


def with_reciprocal(expr: Formula) -> Formula:
    """The formula with 1/t for t; powers of t are taken out of logarithms, roots, Abs, Max, Min."""
    if expr == T:
        return 1 / T
    if not expr.has(T):
        return expr
    arguments = [with_reciprocal(a) for a in expr.args]
    if isinstance(expr, sympy.log):
        top, power = _over_power(arguments)
        return sympy.log(*top) - power * sympy.log(T)
    if isinstance(expr, sympy.Pow) and expr.base.is_Add and not expr.exp.has(T):
        (top,), power = _over_power(arguments[:1])
        return top**expr.exp * T ** (-power * expr.exp)
    if isinstance(expr, (sympy.Abs, sympy.Max, sympy.Min)):
        top, power = _over_power(arguments)
        return switch(expr.func, *top) * T**-power
    if isinstance(expr, sympy.sign):
        return switch(sympy.sign, _over_power(arguments)[0][0])
    return expr.func(*arguments)


def _over_power(parts: list[Formula]) -> tuple[list[Formula], Formula]:
    """(tops, p) with part = top t^-p, where the parts are sums of powers of t; p = 0 elsewhere."""
    powers = []
    for term in (term for part in parts for term in sympy.Add.make_args(part)):
        base, exponent = term.as_independent(T, as_Add=False)[1].as_base_exp()
        if base not in (T, sympy.S.One) or not exponent.is_Rational:
            return parts, sympy.S.Zero
        powers.append(-exponent if base == T else sympy.S.Zero)
    largest = max(powers)
    return [sympy.expand(part * T**largest) for part in parts], largest
