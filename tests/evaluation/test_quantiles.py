"""Quantiles and bounds against scipy and mpmath."""

import mpmath
import numpy as np
import pytest
from scipy import optimize, special, stats

from fdiv_jax.evaluation._quantiles import incomplete_beta, rate_bounds, student_quantile


@pytest.mark.parametrize("a", [0.5, 1.0, 3.7, 40.0, 5000.0, 2e5])
@pytest.mark.parametrize("b", [0.5, 2.0, 81.3, 1e5])
def test_the_incomplete_beta_function(a, b):
    middle = a / (a + b)
    width = np.sqrt(a * b / (a + b) ** 2 / (a + b + 1))
    for x in (1e-9, middle - 4 * width, middle, middle + 3 * width, 1 - 1e-6):
        if 0 < x < 1:
            assert incomplete_beta(x, a, b) == pytest.approx(special.betainc(a, b, x), rel=1e-8, abs=1e-290)


def test_the_incomplete_beta_function_in_its_tails():
    with mpmath.workdps(40):
        for x, a, b in ((1e-4, 2.5, 30.0), (0.3, 80.0, 12.5), (0.01, 0.5, 0.5)):
            exact = mpmath.betainc(a, b, 0, x, regularized=True)
            assert incomplete_beta(x, a, b) == pytest.approx(float(exact), rel=1e-11)
    assert (incomplete_beta(0.3, 0, 2), incomplete_beta(0.3, 2, 0)) == (1.0, 0.0)
    assert (incomplete_beta(0.0, 1, 2), incomplete_beta(1.0, 1, 2)) == (0.0, 1.0)


@pytest.mark.parametrize("freedom", [1, 1.7, 9, 49, 1000.5, 1e6, 1e9])
def test_student_quantiles(freedom):
    for p in (0.5, 0.6, 0.975, 0.9995, 0.01):
        assert student_quantile(p, freedom) == pytest.approx(stats.t.ppf(p, freedom), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(
    ("x", "n"), [(0, 20), (1, 20), (10, 20), (20, 20), (3, 200), (0, 5), (0, 1e6), (7, 1e6)]
)
def test_rate_bounds_put_half_the_seen_count_in_each_tail(x, n):
    low, high = rate_bounds(x, n, 0.95)

    def above(p):
        return stats.binom.sf(x, n, p) + stats.binom.pmf(x, n, p) / 2

    if x:
        assert above(low) == pytest.approx(0.025, rel=1e-6)
    else:
        assert low == 0
    if x < n:
        expected = optimize.brentq(lambda p: above(p) - 0.975, x / n, 1, xtol=1e-300, rtol=1e-12)
        assert high == pytest.approx(expected, rel=1e-6)
    else:
        assert high == 1


def test_rate_bounds_of_fractions_lie_between_those_of_whole_numbers():
    lows, highs = zip(*(rate_bounds(x, 20, 0.9) for x in (2, 2.25, 2.5, 3)), strict=True)
    assert list(lows) == sorted(lows)
    assert list(highs) == sorted(highs)
