"""Quantiles of Student's t and bounds of a binomial rate, from the incomplete beta function alone.

In plain Python: the library does not import scipy, which its tests compare with
(`tests/test_public_api.py`), and `jax.scipy.special.betainc` has single precision here, too little for rates
of 1 in a million and for roots of a difference from 1 - alpha.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from statistics import NormalDist

__all__ = ["incomplete_beta", "normal_quantile", "rate_bounds", "student_quantile"]

_TINY = 1e-300
_NEARLY_NORMAL = 1e4
"""Degrees of freedom from which the first term beside the normal quantile gives 8 digits."""


def incomplete_beta(x: float, a: float, b: float) -> float:
    """I_x(a, b), the probability that a beta variable of shape (a, b) is below x.

    By the continued fraction of DLMF 8.17.22, of I_x(a, b) or of 1 - I_{1-x}(b, a), whichever converges
    faster. a = 0 and b = 0 are the limits 1 and 0.

    Args:
        x: from 0 to 1.
        a, b: not negative, not both 0.
    """
    if a == 0 or x >= 1:
        return 1.0
    if b == 0 or x <= 0:
        return 0.0
    if x > (a + 1) / (a + b + 2):
        return 1.0 - incomplete_beta(1.0 - x, b, a)
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    # Lentz's evaluation of 1 / (1 + d_1 / (1 + d_2 / ...)).
    c, d = 1.0, 1.0 / _kept(1.0 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, 100_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 / _kept(1.0 + term * d)
            c = _kept(1.0 + term / c)
            value *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return math.exp(front) * value / a


def _kept(x: float) -> float:
    return x if abs(x) > _TINY else _TINY


def normal_quantile(probability: float) -> float:
    """The number that a standard normal variable is below with that probability."""
    return NormalDist().inv_cdf(probability)


@functools.lru_cache(maxsize=4096)
def student_quantile(probability: float, freedom: float) -> float:
    """The number that Student's t with `freedom` degrees of freedom (any positive number) is below.

    P(|t| > s) = I_y(freedom / 2, 1 / 2) with y = freedom / (freedom + s^2).

    Source: Student, The probable error of a mean, 1908.
    """
    if probability == 0.5:
        return 0.0
    if probability < 0.5:
        return -student_quantile(1.0 - probability, freedom)
    if freedom >= _NEARLY_NORMAL:
        z = normal_quantile(probability)
        return z + (z**3 + z) / (4 * freedom)
    tail = 2.0 * (1.0 - probability)
    y = _root(lambda y: incomplete_beta(y, freedom / 2, 0.5) - tail)
    return math.sqrt(freedom * (1.0 - y) / y)


@functools.lru_cache(maxsize=4096)
def rate_bounds(successes: float, n: float, level: float) -> tuple[float, float]:
    """The mid-P bounds of a binomial rate: the rates at which what was seen is in a tail of (1 - level) / 2.

        P(X > x; low) + P(X = x; low) / 2 = (1 - level) / 2,   P(X < x; high) + P(X = x; high) / 2 the same

    Both counts may be fractions, as effective sample sizes are: P(X >= x; p) = I_p(x, n - x + 1).

    Source: Lancaster, Significance tests in discrete distributions, 1961; Berry and Armitage 1995.
    """
    alpha = (1.0 - level) / 2
    failures = max(n - successes, 0.0)

    def above(p: float) -> float:
        own = incomplete_beta(p, successes, failures + 1)
        return 0.5 * (own + incomplete_beta(p, successes + 1, failures))

    low = 0.0 if successes <= 0 else _root(lambda p: above(p) - alpha)
    high = 1.0 if failures <= 0 else _root(lambda p: above(p) - (1.0 - alpha))
    return low, high


def _root(function: Callable[[float], float]) -> float:
    """Where an increasing function on [0, 1] is 0, to 12 digits however small it is."""
    low, high = 0.0, 1.0
    while high > 1e-300:
        if function(high / 16) < 0:
            low = high / 16
            break
        high /= 16
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if not low < middle < high:  # no number between them: the root is 0, or as good as
            break
        low, high = (middle, high) if function(middle) < 0 else (low, middle)
    return (low + high) / 2
