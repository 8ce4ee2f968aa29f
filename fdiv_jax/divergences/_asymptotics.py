"""How a formula behaves as t -> 0+ or t -> oo: its leading terms, with exact coefficients.

With x = t or 1/t, x -> 0+, and L = log(1/x) -> oo, a germ is

    e^D (c1 x^a1 L^b1 + c2 x^a2 L^b2 + ...),     D diverging or 0,

with the terms from the largest to the smallest, as far as they are known. Sums keep the largest
exponential, products, powers, exp and log follow the rules of such series; every operation handles a fixed
number of terms, so the work is bounded by the size of the formula.

Source: Hardy, Orders of Infinity, 1910; Gruntz, On Computing Limits in a Symbolic Manipulation System, 1996.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce

import sympy

from fdiv_jax.divergences._exact import Number
from fdiv_jax.divergences._names import Formula
from fdiv_jax.divergences._parse import T

Key = tuple[float, float]  # (a, -b), in falling order of x^a L^b
Term = tuple[Formula, Formula]
"""(a, b) of x^a L^b."""
Terms = dict[Term, Number]
"""The coefficient of each term."""
_MAX_TERMS = 12
_ORDER = 6
_ONE = sympy.S.One
_ORIGIN = (sympy.S.Zero, sympy.S.Zero)


class UnknownGrowthError(Exception):
    """The germ is beyond these series, or their terms cancel as far as they are known."""


@dataclass(frozen=True)
class Germ:
    """terms: {(a, b): c}; rest: the key of the first term that is not known, None where the sum is exact;
    exponent: the terms of D; clipped: whether an exponentially smaller part was left out."""

    terms: Terms
    rest: Key | None = None
    exponent: Terms = field(default_factory=dict)
    clipped: bool = False

    def lead(self) -> tuple[Term, Number]:
        if not self.terms:
            raise UnknownGrowthError
        return next(iter(self.terms.items()))

    @property
    def rising(self) -> int:
        """The sign of D."""
        return next(iter(self.exponent.values())).sign


def _key(term: Term) -> Key:
    return float(term[0]), -float(term[1])


def _made(
    terms: Terms, rest: Key | None = None, exponent: Terms | None = None, clipped: bool = False
) -> Germ:
    """Sorted, without zeros, and cut after some terms."""
    kept: Terms = {}
    for term in sorted(terms, key=_key):
        if rest is not None and _key(term) >= rest:
            break
        if len(kept) == _MAX_TERMS:
            rest = _key(term)
            break
        if not terms[term].is_zero:
            kept[term] = terms[term]
    return Germ(kept, rest, exponent or {}, clipped)


def _number(exact: Formula) -> Number:
    number = Number.of(exact)
    if number is None:
        raise UnknownGrowthError
    return number


def _constant(c: Formula | Number) -> Germ:
    return _made({_ORIGIN: c if isinstance(c, Number) else _number(c)})


def _least(*rests: Key | None) -> Key | None:
    return min((r for r in rests if r is not None), default=None)


def _total(a: Terms, b: Terms) -> Terms:
    total = dict(a)
    for term, c in b.items():
        total[term] = total[term] + c if term in total else c
    return total


def _plus(a: Germ, b: Germ) -> Germ:
    if not a.terms and a.clipped and a.rest is None:
        return Germ(b.terms, b.rest, b.exponent, True)
    if not b.terms and b.clipped and b.rest is None:
        return Germ(a.terms, a.rest, a.exponent, True)
    difference = _made(_total(a.exponent, {k: -c for k, c in b.exponent.items()}))
    if difference.terms:
        rising = difference.lead()[1].sign > 0
        larger = a if rising else b
        if not larger.terms:
            raise UnknownGrowthError
        return Germ(larger.terms, larger.rest, larger.exponent, True)
    return _made(_total(a.terms, b.terms), _least(a.rest, b.rest), a.exponent, a.clipped or b.clipped)


def _times(a: Germ, b: Germ) -> Germ:
    exponent = _made(_total(a.exponent, b.exponent)).terms
    for small, other in ((a, b), (b, a)):
        if not small.terms and small.clipped and other.exponent:
            raise UnknownGrowthError
    terms: Terms = {}
    for (a1, b1), c1 in a.terms.items():
        for (a2, b2), c2 in b.terms.items():
            term = (a1 + a2, b1 + b2)
            terms[term] = terms[term] + c1 * c2 if term in terms else c1 * c2
    rests = []
    for one, two in ((a, b), (b, a)):
        if one.rest is not None:
            front = _key(two.lead()[0]) if two.terms else two.rest or (0.0, 0.0)
            rests.append((one.rest[0] + front[0], one.rest[1] + front[1]))
    return _made(terms, _least(*rests), exponent, a.clipped or b.clipped)


def _parts(germ: Germ) -> tuple[Terms, Number, Germ]:
    """(diverging terms, constant, vanishing rest) of a germ without exponential."""
    if germ.exponent:
        if germ.rising < 0:
            return {}, _number(0), Germ({}, None, {}, True)
        raise UnknownGrowthError
    if germ.rest is not None and germ.rest <= (0.0, 0.0):
        raise UnknownGrowthError
    large = {k: c for k, c in germ.terms.items() if _key(k) < (0.0, 0.0)}
    constant = next((c for k, c in germ.terms.items() if _key(k) == (0.0, 0.0)), _number(0))
    small = {k: c for k, c in germ.terms.items() if _key(k) > (0.0, 0.0)}
    return large, constant, Germ(small, germ.rest, {}, germ.clipped)


def _series(coefficients: list[Formula], u: Germ) -> Germ:
    """The sum of coefficients[k] u^k for a vanishing u, by Horner's rule."""
    if not u.terms and u.rest is None:
        return Germ(_constant(coefficients[0]).terms, None, {}, u.clipped)
    total = _constant(coefficients[-1])
    for c in reversed(coefficients[:-1]):
        total = _plus(_times(total, u), _constant(c))
    size = _key(u.lead()[0]) if u.terms else u.rest
    assert size is not None
    beyond = (size[0] * len(coefficients), size[1] * len(coefficients))
    return _made(total.terms, _least(total.rest, beyond), {}, u.clipped)


def _relative(germ: Germ) -> tuple[Term, Number, Germ]:
    """(lead, coefficient, u) with germ = e^D coefficient lead (1 + u)."""
    (a, b), c = germ.lead()
    inverse = Germ({(-a, -b): c**-_ONE})
    unit = _times(Germ(germ.terms, germ.rest, {}, germ.clipped), inverse)
    rest = {k: v for k, v in unit.terms.items() if _key(k) != (0.0, 0.0)}
    return (a, b), c, Germ(rest, unit.rest, {}, germ.clipped)


def _power(germ: Germ, p: Formula) -> Germ:
    (a, b), c, u = _relative(germ)
    if not p.is_Integer and c.sign < 0:
        raise UnknownGrowthError
    coefficients = [sympy.binomial(p, k) if p.is_Integer and p > 0 else sympy.ff(p, k) / sympy.factorial(k)
                    for k in range(_ORDER + 1)]  # fmt: skip
    unit = _series(coefficients, u)
    front = Germ({(a * p, b * p): c**p}, None, {k: v * _number(p) for k, v in germ.exponent.items()})
    return _times(front, unit)


def _exp(germ: Germ) -> Germ:
    if germ.exponent:
        if germ.lead()[1].sign < 0 or germ.rising < 0:
            if germ.rising < 0:
                return Germ(_constant(_ONE).terms, None, {}, True)
            return Germ({}, None, {}, True)
        raise UnknownGrowthError
    large, constant, small = _parts(germ)
    power = large.pop((sympy.S.Zero, _ONE), None)  # e^(k L) = x^-k
    if power is not None and power.exact is None:
        raise UnknownGrowthError
    lead = (sympy.S.Zero if power is None else -power.exact, sympy.S.Zero)
    unit = _series([1 / sympy.factorial(k) for k in range(_ORDER + 1)], small)
    return _times(Germ({lead: constant.exp()}, None, large), unit)


def _log(germ: Germ) -> Germ:
    (a, b), c, u = _relative(germ)
    if c.sign < 0 or b != 0:
        raise UnknownGrowthError
    zero = sympy.S.Zero
    front = _total(germ.exponent, {_ORIGIN: c.log(), (zero, _ONE): _number(-a)})
    unit = _series([zero, *((-1) ** (k + 1) * _ONE / k for k in range(1, _ORDER + 1))], u)
    return _plus(_made(front), unit)


def _taylor(function: Callable[..., Formula], at: Number, u: Germ) -> Germ:
    if at.exact is None:
        raise UnknownGrowthError
    y = sympy.Symbol("y")
    coefficients, derivative = [], function(y)
    for k in range(_ORDER):
        coefficients.append(derivative.subs(y, at.exact) / sympy.factorial(k))
        derivative = sympy.diff(derivative, y)
    return _series(coefficients, u)


def _negated(germ: Germ) -> Germ:
    return _times(_constant(sympy.S.NegativeOne), germ)


def _function(function: Callable[..., Formula], germ: Germ) -> Germ:
    """sin, cos, atan, asinh, sinh, cosh, tanh, erf and erfc."""
    if germ.terms and (_key(germ.lead()[0]) < (0.0, 0.0) or germ.exponent):
        if germ.exponent and germ.rising < 0:
            return _taylor(function, _number(0), Germ({}, None, {}, True))
        rising = germ.lead()[1].sign
        if function in (sympy.sinh, sympy.cosh):
            half = _times(_constant(sympy.Rational(1, 2)), _exp(germ if rising > 0 else _negated(germ)))
            return _negated(half) if function is sympy.sinh and rising < 0 else half
        if function in (sympy.tanh, sympy.erf, sympy.erfc):
            limit = 1 - rising if function is sympy.erfc else rising
            return Germ(_constant(sympy.Integer(limit)).terms, None, {}, True)
        if function is sympy.atan:
            turned = _function(function, _power(germ, sympy.S.NegativeOne))
            return _plus(_constant(rising * sympy.pi / 2), _negated(turned))
        if function is sympy.asinh:
            size = germ if rising > 0 else _negated(germ)
            root = _power(_plus(_times(size, size), _constant(_ONE)), sympy.Rational(1, 2))
            grown = _log(_plus(size, root))
            return grown if rising > 0 else _negated(grown)
        raise UnknownGrowthError
    _, constant, small = _parts(germ)
    return _taylor(function, constant, small)


_TAYLOR = (
    sympy.sin, sympy.cos, sympy.atan, sympy.asinh, sympy.sinh, sympy.cosh, sympy.tanh, sympy.erf, sympy.erfc,
)  # fmt: skip


def germ_at(expr: Formula, end: sympy.Expr) -> Germ:
    """The germ of a smooth formula as t -> end, 0 or oo.

    Raises:
      UnknownGrowthError: none is known.

    >>> germ_at(sympy.sqrt(T**2 + 1) - T, sympy.oo).lead()[0]
    (1, 0)
    """
    if not expr.free_symbols:
        return _constant(expr)
    if expr == T:
        return Germ({(_ONE if end == 0 else -_ONE, sympy.S.Zero): _number(1)})
    if isinstance(expr, (sympy.Add, sympy.Mul)):
        return reduce(_plus if isinstance(expr, sympy.Add) else _times, [germ_at(a, end) for a in expr.args])
    if isinstance(expr, sympy.exp):
        return _exp(germ_at(expr.args[0], end))
    if isinstance(expr, sympy.Pow):
        base, exponent = expr.args
        if not exponent.free_symbols:
            return _power(germ_at(base, end), exponent)
        return _exp(_times(germ_at(exponent, end), _log(germ_at(base, end))))
    if isinstance(expr, sympy.log):
        return _log(germ_at(expr.args[0], end))
    if isinstance(expr, _TAYLOR):
        return _function(expr.func, germ_at(expr.args[0], end))
    if isinstance(expr, sympy.UnevaluatedExpr):
        return germ_at(expr.args[0], end)
    raise UnknownGrowthError


def limit_of(germ: Germ) -> sympy.Expr:
    """The limit of a germ: an exact number, oo or -oo."""
    if not germ.terms:
        if germ.rest is None or germ.rest > (0.0, 0.0):
            return sympy.S.Zero
        raise UnknownGrowthError
    term, c = germ.lead()
    if germ.exponent:
        if germ.rising < 0:
            return sympy.S.Zero
        return sympy.oo * c.sign
    if _key(term) == (0.0, 0.0):
        return c.formula
    return sympy.S.Zero if _key(term) > (0.0, 0.0) else sympy.oo * c.sign
