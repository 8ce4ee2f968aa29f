"""Enclosures of a formula on many intervals at once: float64, rounded outwards.

Whatever t is in [low, high], the value lies in the enclosure. Where a formula has no real finite value on the
whole interval (a pole, a logarithm of a negative number), the enclosure is (-oo, oo).

Source: Moore, Interval Analysis, 1966.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import sympy

from fdiv_jax.divergences._evaluate import Arithmetic, build
from fdiv_jax.divergences._names import Formula

_EPS = np.finfo(np.float64).eps
_TINY, _MAX = 5e-324, np.finfo(np.float64).max
_LOOSE = 16 * _EPS  # the functions of NumPy and math are right to a few units in the last place


def _down(x: np.ndarray, slack: float = 2 * _EPS) -> np.ndarray:
    lower = x * (1 - np.copysign(slack, x))
    return np.subtract(lower, _TINY, out=np.asarray(lower), where=x < 0)


def _up(x: np.ndarray, slack: float = 2 * _EPS) -> np.ndarray:
    return -_down(-x, slack)


def _product(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a b before it is rounded down and up; 0 times infinity is 0, and what underflows is not 0."""
    product = np.asarray(a * b)
    product[np.isnan(product)] = 0.0
    zero = product == 0
    if not zero.any():
        return product, product
    lost = zero & (a != 0) & (b != 0)
    beyond = np.copysign(_TINY, np.sign(a) * np.sign(b))
    return np.where(lost, np.minimum(beyond, 0), product), np.where(lost, np.maximum(beyond, 0), product)


class Interval:
    """[low, high], two arrays; nan in either means that nothing is known."""

    __slots__ = ("high", "low")

    def __init__(self, low: np.ndarray, high: np.ndarray):
        lost = np.isnan(low) | np.isnan(high)
        if np.any(lost):
            low, high = np.where(lost, -np.inf, low), np.where(lost, np.inf, high)
        # What overflows is only known to be large.
        self.low, self.high = np.minimum(low, _MAX), np.maximum(high, -_MAX)

    @property
    def is_number(self) -> bool:
        """Whether it is one number, the same for all."""
        return self.low.ndim == 0 and bool(self.low == self.high)

    def __add__(self, other: Interval) -> Interval:
        return Interval(_down(self.low + other.low), _up(self.high + other.high))

    def __neg__(self) -> Interval:
        return Interval(-self.high, -self.low)

    @property
    def is_nonnegative(self) -> bool:
        """Whether all of them are."""
        return bool((self.low >= 0).all())

    def __mul__(self, other: Interval) -> Interval:
        if self.is_nonnegative and other.is_nonnegative:  # most parts of most formulas: two products of four
            (low, _), (_, high) = _product(self.low, other.low), _product(self.high, other.high)
            return Interval(_down(low), _up(high))
        a, b = ([x.low] if x.is_number else [x.low, x.high] for x in (self, other))
        pairs = [(x, y) for x in a for y in b]
        lows, highs = zip(*(_product(a, b) for a, b in pairs), strict=True)
        return Interval(_down(np.minimum.reduce(lows)), _up(np.maximum.reduce(highs)))

    def __truediv__(self, other: Interval) -> Interval:
        return self * other.reciprocal()

    def reciprocal(self) -> Interval:
        inside = (self.low > 0) | (self.high < 0)
        low, high = np.where(inside, 1 / self.high, -np.inf), np.where(inside, 1 / self.low, np.inf)
        # 1/inf is 0 from the side of the interval.
        low = np.where((low == 0) & (self.high < 0), -_TINY, _down(low))
        return Interval(low, np.where((high == 0) & (self.low > 0), _TINY, _up(high)))

    def increasing(self, function: Callable, low: float = -math.inf, high: float = math.inf) -> Interval:
        """The image under an increasing function with values in [low, high]; what underflows is no zero."""
        bottom, top = _down(function(self.low), _LOOSE) - _TINY, _up(function(self.high), _LOOSE) + _TINY
        return Interval(np.maximum(bottom, low), np.minimum(top, high))

    def size(self) -> Interval:
        """|x|"""
        least = np.where((self.low <= 0) & (self.high >= 0), 0.0, np.minimum(abs(self.low), abs(self.high)))
        return Interval(least, np.maximum(abs(self.low), abs(self.high)))


def _where(known: np.ndarray, x: Interval) -> Interval:
    return Interval(np.where(known, x.low, np.nan), x.high)


def _log(x: Interval) -> Interval:
    return _where(x.low > 0, x.increasing(np.log))


def _positive_power(x: Interval, p: float) -> Interval:
    return _where(x.low >= 0, x.increasing(lambda v: np.power(v, p), 0.0))


def _wave(x: Interval, shift: float) -> Interval:
    """sin(x + shift) for shift 0 or pi/2"""
    low, high = x.low + shift, x.high + shift
    ends = [np.sin(low), np.sin(high)]
    slack = 4 * _EPS * (np.abs(low) + np.abs(high) + 1)
    turn = 2 * math.pi

    def contains(place: float) -> np.ndarray:
        return np.floor((high + slack - place) / turn) > np.floor((low - slack - place) / turn)

    top = np.where(contains(math.pi / 2), 1.0, np.minimum(np.maximum(*ends) + slack, 1.0))
    bottom = np.where(contains(-math.pi / 2), -1.0, np.maximum(np.minimum(*ends) - slack, -1.0))
    known = np.isfinite(low) & np.isfinite(high) & (np.abs(high) < 1e6) & (np.abs(low) < 1e6)
    return Interval(np.where(known, bottom, -1.0), np.where(known, top, 1.0))


def _maximum(*values: Interval) -> Interval:
    return Interval(np.maximum.reduce([v.low for v in values]), np.maximum.reduce([v.high for v in values]))


_erf = np.vectorize(math.erf, otypes=[float])
_erfc = np.vectorize(math.erfc, otypes=[float])


class _Enclosing(Arithmetic):
    functions: ClassVar[dict[str, Callable]] = {
        "log": _log, "exp": lambda x: x.increasing(np.exp, 0.0), "Abs": Interval.size,
        "sin": lambda x: _wave(x, 0.0), "cos": lambda x: _wave(x, math.pi / 2),
        "atan": lambda x: x.increasing(np.arctan), "asinh": lambda x: x.increasing(np.arcsinh),
        "sinh": lambda x: x.increasing(np.sinh), "cosh": lambda x: x.size().increasing(np.cosh, 1.0),
        "tanh": lambda x: x.increasing(np.tanh, -1.0, 1.0), "erf": lambda x: x.increasing(_erf, -1.0, 1.0),
        "erfc": lambda x: (-x).increasing(lambda v: _erfc(-v), 0.0, 2.0),
        "Max": _maximum, "Min": lambda *a: -_maximum(*(-x for x in a)),
    }  # fmt: skip

    def constant(self, value: sympy.Expr) -> Interval:
        number = np.asarray(float(value))
        if isinstance(value, sympy.Integer) and abs(number) < 2**53:
            return Interval(number, number)
        return Interval(_down(number) - _TINY, _up(number) + _TINY)

    def power(self, base: Interval, exponent: Formula) -> Interval:
        p = float(exponent)
        if p < 0:
            return self.power(base, -exponent).reciprocal()
        if not exponent.is_Integer:
            return _positive_power(base, p)
        if int(exponent) % 2 == 0:
            return _positive_power(base.size(), p)
        odd = base.increasing(lambda v: np.sign(v) * np.power(np.abs(v), p))
        return Interval(odd.low, odd.high)

    def general_power(self, base: Interval, exponent: Interval) -> Interval:
        return (exponent * _log(base)).increasing(np.exp, 0.0)


def enclosure(expr: sympy.Expr, symbol: sympy.Symbol) -> Callable[[np.ndarray, np.ndarray], Interval]:
    """The formula as a function of the ends of many intervals of positive numbers."""
    function = build(expr, symbol, _Enclosing(), once=True)

    def evaluate(low: np.ndarray, high: np.ndarray) -> Interval:
        with np.errstate(all="ignore"):
            value = function(Interval(low, high))
            return Interval(np.broadcast_to(value.low, low.shape), np.broadcast_to(value.high, low.shape))

    return evaluate
