"""Exact numbers and formulas, rewritten in bounded work.

The size of what comes out is counted before anything is rewritten, and what would be too large stays as it
is. No clock is asked and nothing is remembered, so that one input has one result: on every machine, and
whatever was asked before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from fractions import Fraction

import mpmath
import sympy

from fdiv_jax.divergences._constants import evaluated
from fdiv_jax.divergences._names import Formula, Value

MAX_TERMS = 200
_MAX_BITS = 100_000
_MAX_OPERATIONS = 250
_DIGITS = 110
_SIMPLE = 1e-4, 1e12
_ZERO = mpmath.mpf(10) ** -60


def real_value(constant: sympy.Expr, digits: int = 30) -> Value:
    """A constant as a number, or None where it is not real and finite."""
    value: Formula = evaluated(constant, digits)
    if not isinstance(value, (sympy.Float, sympy.Rational)) or not value.is_finite:
        return None
    with mpmath.workdps(digits):
        return mpmath.mpf(value._mpf_) if isinstance(value, sympy.Float) else mpmath.mpf(value.p) / value.q


def unreal_part(expr: sympy.Expr) -> sympy.Expr | None:
    """The first part of a formula that is no finite real number: a constant, or a power of 0 with an exponent
    that is not known to be positive."""
    pending: list[Formula] = [expr]
    while pending:
        node = pending.pop()
        if node.free_symbols:
            if isinstance(node, sympy.Pow) and not node.base.free_symbols and is_zero(node.base):
                return node
            pending.extend(reversed(node.args))
        elif not isinstance(node, sympy.Rational) and real_value(node) is None:
            return node
    return None


def is_zero(constant: sympy.Expr) -> bool:
    """Whether a constant vanishes, in 60 digits of the largest of its terms."""
    if isinstance(constant, sympy.Rational):
        return constant == 0
    rest: Formula = constant.as_coeff_Mul()[1]
    value = real_value(rest, _DIGITS)
    if value is None:
        return False
    sizes = [abs(real_value(term) or 0) for term in sympy.Add.make_args(rest)]
    return abs(value) <= _ZERO * max(sizes)


def tidy_number(constant: sympy.Expr) -> sympy.Expr:
    """The constant as a simple fraction where it is one, else the shortest of a few ways to write it."""
    if isinstance(constant, (sympy.Rational, sympy.Float)) or not constant.is_number:
        return constant
    value = real_value(constant, _DIGITS)
    if value is None:
        return constant
    if is_zero(constant):
        return sympy.S.Zero
    # 1e5 exp(1e4) is no whole number, whatever its first digits; exp(-exp(60)) has too many
    within = _SIMPLE[0] < abs(value) < _SIMPLE[1]
    simple = Fraction(str(sympy.Float(value, 30))).limit_denominator(1000) if within else None
    if simple and abs(value * simple.denominator / simple.numerator - 1) < _ZERO:
        return sympy.Rational(simple.numerator, simple.denominator)
    return shortest([constant, expanded(constant)])


def log_number(c: Formula) -> sympy.Expr:
    """log of a positive number, that of a product as a sum."""
    if isinstance(c, sympy.Mul) and all((real_value(a) or -1) > 0 for a in c.args):
        return sympy.Add(*map(log_number, c.args))
    if isinstance(c, sympy.Pow):
        return c.exp * log_number(c.base)
    return sympy.log(c)


def shortest(forms: Iterable[sympy.Expr]) -> sympy.Expr:
    """The form with the fewest operations, then the fewest characters, then the first of the alphabet."""
    return min(forms, key=lambda form: (sympy.count_ops(form), len(str(form)), str(form)))


def expanded_terms(expr: Formula) -> int:
    """An upper bound of the number of terms after `sympy.expand`, counted without expanding."""
    if isinstance(expr, sympy.Add):
        return sum(expanded_terms(a) for a in expr.args)
    if isinstance(expr, sympy.Mul):
        return math.prod(expanded_terms(a) for a in expr.args)
    if isinstance(expr, sympy.Pow):
        terms = expanded_terms(expr.base)
        exponents = sympy.Add.make_args(expanded(expr.exp) if expr.exp.args else expr.exp)
        # (a + b)^(x + 19/2) has (a + b)^9
        whole = sum(abs(int(each)) for each in exponents if each.is_Rational)
        if bits(expr.base) * whole > _MAX_BITS:
            return MAX_TERMS + 1
        if whole and terms > 1:
            return math.comb(min(whole, 500) + min(terms, 500) - 1, min(terms, 500) - 1)
        return max(terms, len(exponents))
    if not expr.args:
        return 1
    return max(expanded_terms(a) for a in expr.args)


def expanded(expr: sympy.Expr) -> sympy.Expr:
    """`sympy.expand` of what stays small, everything else as it is."""
    if expanded_terms(expr) > MAX_TERMS or sympy.count_ops(expr) > _MAX_OPERATIONS:
        return expr
    return sympy.expand(expr, log=False)


def at_point(expr: Formula, point: Formula, symbol: Formula) -> Formula:
    """The formula at a number in place of the symbol, worked out from the inside.

    Raises:
      ValueError: a power on the way has more than 100,000 binary digits, as 2**2**t at t = 64,
        which `subs` would write out.
    """
    if expr == symbol:
        return point
    if not expr.has(symbol):
        return expr
    parts = [at_point(part, point, symbol) for part in expr.args]
    if isinstance(expr, sympy.Pow) and all(part.is_Rational for part in parts):
        base, exponent = parts
        if bits(base) * abs(exponent) > _MAX_BITS and base not in (-1, 0, 1):
            raise ValueError(
                f"the expression has a number of more than {_MAX_BITS} binary digits at t = {point}"
            )
    return expr.func(*parts)


def bits(number: Formula) -> int:
    """The size of a rational number in binary digits."""
    return max(int(number.p).bit_length(), int(number.q).bit_length()) if number.is_Rational else 0


_CONTEXT = mpmath.MPContext()  # pyright: ignore[reportAttributeAccessIssue]
_CONTEXT.dps = _DIGITS
_MAX_SIZE = 60


class Number:
    """A real constant in 110 digits, the size of what it was summed from, and its exact form while that is
    short."""

    __slots__ = ("exact", "scale", "size", "value")
    exact: Formula

    def __init__(self, value: Value, exact: Formula | None = None, size: int = 1, scale: Value | None = None):
        self.value, self.size = value, size
        self.exact = exact if size <= _MAX_SIZE else None
        self.scale = abs(value) if scale is None else scale

    @staticmethod
    def of(exact: Formula) -> Number | None:
        """A constant formula; None where it is not real and finite."""
        exact = sympy.sympify(exact)
        value = real_value(exact, _DIGITS)
        return None if value is None else Number(_CONTEXT.mpf(value), exact, 1 + int(sympy.count_ops(exact)))

    def _combined(
        self, other: Number, value: Value, exact: Callable[[], Formula], scale: Value | None = None
    ) -> Number:
        size = self.size + other.size
        known = self.exact is not None and other.exact is not None and size <= _MAX_SIZE
        result = exact() if known else None
        if isinstance(result, sympy.Rational):
            size = 1
        return Number(value, result, size if known else _MAX_SIZE + 1, scale)

    def __add__(self, other: Number) -> Number:
        scale = max(self.scale, other.scale)
        return self._combined(
            other, self.value + other.value, lambda: sympy.Add(self.exact, other.exact), scale
        )

    def __mul__(self, other: Number) -> Number:
        return self._combined(other, self.value * other.value, lambda: sympy.Mul(self.exact, other.exact))

    def __neg__(self) -> Number:
        exact = None if self.exact is None else -self.exact
        return Number(-self.value, exact, self.size, self.scale)

    def __pow__(self, p: Formula) -> Number:
        exact = None if self.exact is None else self.exact**p
        power = int(p) if p.is_Integer else _CONTEXT.mpf(real_value(p, _DIGITS))
        return Number(self.value**power, exact, self.size + 1)

    def log(self) -> Number:
        exact = None if self.exact is None else log_number(self.exact)
        return Number(_CONTEXT.log(self.value), exact, self.size + 1)

    def exp(self) -> Number:
        exact = None if self.exact is None else sympy.exp(self.exact)
        return Number(_CONTEXT.exp(self.value), exact, self.size + 1)

    @property
    def sign(self) -> int:
        return 1 if self.value > 0 else -1

    @property
    def is_zero(self) -> bool:
        if isinstance(self.exact, sympy.Rational):
            return self.exact == 0
        return bool(abs(self.value) <= _ZERO * self.scale)

    @property
    def formula(self) -> sympy.Expr:
        """The exact form, or 30 digits."""
        if self.exact is None:
            return sympy.Float(_CONTEXT.nstr(self.value, 40), 30)
        return tidy_number(self.exact)
