"""Quantiles of Student's t and bounds of a binomial rate, by the special functions of SciPy.

SciPy is imported by the first call: it comes with JAX, and takes longer to import than this package.
"""

from __future__ import annotations

import functools
from statistics import NormalDist
from typing import Any

__all__ = ["normal_quantile", "rate_bounds", "student_quantile"]


def normal_quantile(probability: float) -> float:
    """The number that a standard normal variable is below with that probability."""
    return NormalDist().inv_cdf(probability)


@functools.lru_cache(maxsize=4096)
def student_quantile(probability: float, freedom: float) -> float:
    """The number that Student's t with `freedom` degrees of freedom (any positive number) is below.

    Source: Student, The probable error of a mean, 1908.
    """
    from scipy.special import stdtrit

    return float(stdtrit(freedom, probability))


@functools.lru_cache(maxsize=4096)
def rate_bounds(successes: float, n: float, level: float) -> tuple[float, float]:
    """The mid-P bounds of a binomial rate: the rates at which what was seen is in a tail of (1 - level) / 2.

        P(X > x; low) + P(X = x; low) / 2 = (1 - level) / 2,   P(X < x; high) + P(X = x; high) / 2 the same

    Both counts may be fractions, as effective sample sizes are: P(X >= x; p) = I_p(x, n - x + 1).

    Source: Lancaster, Significance tests in discrete distributions, 1961; Berry and Armitage 1995.
    """
    from scipy.optimize import root_scalar
    from scipy.special import betainc

    alpha = (1.0 - level) / 2
    failures = max(n - successes, 0.0)

    def above(p: float) -> float:
        """P(X > x) + P(X = x) / 2; I_p(0, b) is 1 and I_p(a, 0) is 0."""
        own = betainc(successes, failures + 1, p) if successes > 0 else 1.0
        more = betainc(successes + 1, failures, p) if failures > 0 else 0.0
        return 0.5 * float(own + more)

    def rate_with(tail: float) -> float:
        """To 12 digits however small it is."""
        options: Any = {"xtol": 1e-300, "rtol": 1e-12, "maxiter": 2000}
        return root_scalar(lambda p: above(p) - tail, bracket=(0.0, 1.0), method="brentq", **options).root

    return (
        rate_with(alpha) if successes > 0 else 0.0,
        rate_with(1.0 - alpha) if failures > 0 else 1.0,
    )
