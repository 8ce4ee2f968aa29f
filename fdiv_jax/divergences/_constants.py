"""Constants in digits, with repairs of SymPy's numbers; they hold for all of SymPy in the process.

Evaluation, wherever SymPy asks for it: as it compares, prints or sorts.

* The argument of a logarithm is rounded before it is taken, so that log(1 + 1e-30) is 0 in 15 digits (in 40
  it is right): here the logarithm is that of one plus the difference to one.
* A power with a negative exponent of what rounds to 0 ends in a ZeroDivisionError: it is tried in more digits
  before it is taken for infinite, as SymPy takes that of 0.
* An exponent of more than 4096 binary digits is worked out to the last of them: such a power is no number.
* Logarithms, powers and exponentials evaluate their arguments several times, so that nested ones take a time
  that is exponential in their depth: their values are remembered.

Every power of a rational number is written out, as it is in exp(1e30 log(1/3)), whatever the memory: one of
more than ten million binary digits is an error.
"""

from __future__ import annotations

import functools
from typing import Any

import sympy
from mpmath.libmp import fnan, fone, fzero, mpf_add, mpf_log, mpf_pos, mpf_sub
from sympy.core import evalf

from fdiv_jax.divergences._names import Formula

__all__ = ["evaluated"]

_MOST_BITS = 4096
"""Of a power that is tried again: numbers above 1e-1200 do not round to 0. And of an exponent."""
_MOST_WRITTEN = 10_000_000
"""Binary digits of a power that is written out."""
_NEAR_ONE = -10
"""The binary exponent of a difference to one that has to be known by itself."""
_ROUGH = 15
"""Binary digits of a first look at a number."""
_log: Any = evalf.evalf_table[sympy.log]
_pow: Any = evalf.evalf_table[sympy.Pow]
_exp: Any = evalf.evalf_table[sympy.exp]


def evaluated(constant: Formula, digits: int = 30) -> Formula:
    """`sympy.N` of a constant; nan where the number is beyond SymPy's."""
    try:
        return sympy.N(constant, digits)
    except (ZeroDivisionError, OverflowError):
        return sympy.nan


def _accurate_log(expr: Any, bits: int, options: Any) -> Any:
    """As SymPy's, but right next to 1; where the difference to 1 is not known to a digit, as SymPy's."""
    if len(expr.args) > 1 or not _next_to_one(evalf.evalf(expr.args[0], _ROUGH, options)):
        return _log(expr, bits, options)
    difference = evalf.evalf(expr.args[0] - 1, bits, options)
    if not _known(difference) or difference[1]:
        return _log(expr, bits, options)
    small, accuracy = difference[0], min(bits, difference[2])
    if -evalf.fastlog(small) > bits:  # log(1 + x) = x - x^2/2 + ...
        return mpf_pos(small, bits, "n"), None, accuracy, None
    one_and_small = mpf_add(small, fone, bits - 2 * evalf.fastlog(small))
    return mpf_log(one_and_small, bits, "n"), None, accuracy, None


def _finite_pow(expr: Any, bits: int, options: Any) -> Any:
    """As SymPy's, but never a division by what only rounds to 0, and nan where the exponent is huge."""
    if _huge(expr.exp, options):
        return fnan, None, bits, None
    for tried in (bits, 4 * bits, 16 * bits):
        if tried > max(bits, _MOST_BITS):
            break
        try:
            found = _pow(expr, tried, options)
        except ZeroDivisionError:
            continue
        base = None if tried == bits else evalf.evalf(expr.base, tried, options)
        return found if base is None or _known(base) else sympy.S.ComplexInfinity
    return sympy.S.ComplexInfinity


def _finite_exp(expr: Any, bits: int, options: Any) -> Any:
    """As SymPy's, but nan where the exponent is huge."""
    return (fnan, None, bits, None) if _huge(expr.exp, options) else _exp(expr, bits, options)


def _huge(exponent: Any, options: Any) -> bool:
    """Whether an exponent has so many binary digits before the point, all of which SymPy would work out."""
    if exponent.is_Rational:
        return False
    found = evalf.evalf(exponent, _ROUGH, options)
    if found is sympy.S.ComplexInfinity:
        return False
    return any(part and part != fnan and evalf.fastlog(part) > _MOST_BITS for part in found[:2])


def _next_to_one(value: Any) -> bool:
    """Whether what SymPy has evaluated is a real number next to 1."""
    if value is sympy.S.ComplexInfinity or not value[0] or value[1]:
        return False
    difference = mpf_sub(value[0], fone)
    return difference == fzero or evalf.fastlog(difference) < _NEAR_ONE


def _known(value: Any) -> bool:
    """Whether the real part of what SymPy has evaluated is a number that is right to a digit."""
    return value is not sympy.S.ComplexInfinity and bool(value[0]) and value[2] is not None and value[2] >= 1


def _bounded_power(plain: Any) -> Any:
    """SymPy's power of a rational number, but a ValueError where that is very long."""

    def power(number: Any, exponent: Any) -> Any:
        if exponent.is_Rational and number not in (-1, 0, 1):
            size = max(int(number.p).bit_length(), int(number.q).bit_length())
            if size * abs(exponent) > _MOST_WRITTEN:
                raise ValueError(f"the expression has a number of more than {_MOST_WRITTEN} binary digits")
        return plain(number, exponent)

    return power


def _remembered(evaluate: Any) -> Any:
    """A way to evaluate that remembers its latest values."""

    @functools.lru_cache(maxsize=2_000)
    def kept(expr: Any, bits: int, options: tuple[tuple[str, Any], ...]) -> Any:
        return evaluate(expr, bits, dict(options))

    def value(expr: Any, bits: int, options: Any) -> Any:
        if options.get("subs"):
            return evaluate(expr, bits, options)
        return kept(expr, bits, tuple(sorted(options.items())))

    return value


for _kind in (sympy.Rational, sympy.Integer):
    _kind._eval_power = _bounded_power(_kind._eval_power)
evalf.evalf_table[sympy.log] = _remembered(_accurate_log)
evalf.evalf_table[sympy.Pow] = _remembered(_finite_pow)
evalf.evalf_table[sympy.exp] = _remembered(_finite_exp)
