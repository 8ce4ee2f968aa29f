"""Quantiles and bounds against mpmath."""

import mpmath
import pytest

from fdiv_jax.evaluation._quantiles import normal_quantile, rate_bounds, student_quantile


def student_below(s, freedom):
    """P(t < s), by the incomplete beta function of the tail."""
    y = freedom / (freedom + mpmath.mpf(s) ** 2)
    tail = mpmath.betainc(mpmath.mpf(freedom) / 2, 0.5, 0, y, regularized=True) / 2
    return tail if s < 0 else 1 - tail


@pytest.mark.parametrize("freedom", [1, 1.7, 9, 49, 1000.5])
def test_student_quantiles(freedom):
    with mpmath.workdps(30):
        for p in (0.6, 0.975, 0.9995, 0.01):
            found = student_below(student_quantile(p, freedom), freedom)
            assert float(found) == pytest.approx(p, rel=1e-9), (p, freedom)
    assert student_quantile(0.5, freedom) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("freedom", [1e6, 1e9])
def test_with_many_degrees_of_freedom_it_is_nearly_normal(freedom):
    """Fisher and Cornish 1960: z + (z^3 + z) / (4 n) + O(n^-2)."""
    for p in (0.6, 0.975, 0.9995, 0.01):
        z = float(mpmath.sqrt(2) * mpmath.erfinv(2 * p - 1))
        assert normal_quantile(p) == pytest.approx(z, rel=1e-9)
        assert student_quantile(p, freedom) == pytest.approx(z + (z**3 + z) / (4 * freedom), rel=1e-8)


def above(x, n, p):
    """P(X > x) + P(X = x) / 2 of a binomial count."""
    p = mpmath.mpf(p)
    own = mpmath.betainc(x, n - x + 1, 0, p, regularized=True) if x else 1
    more = mpmath.betainc(x + 1, n - x, 0, p, regularized=True) if x < n else 0
    return float((own + more) / 2)


@pytest.mark.parametrize(
    ("x", "n"), [(0, 20), (1, 20), (10, 20), (20, 20), (2.25, 20), (3, 200), (0, 5), (0, 1e6), (7, 1e6)]
)
def test_rate_bounds_put_half_the_seen_count_in_each_tail(x, n):
    low, high = rate_bounds(x, n, 0.95)
    with mpmath.workdps(30):
        if x:
            assert above(x, n, low) == pytest.approx(0.025, rel=1e-6)
        else:
            assert low == 0
        if x < n:
            assert 1 - above(x, n, high) == pytest.approx(0.025, rel=1e-6)
        else:
            assert high == 1


def test_rate_bounds_of_no_event_have_a_formula():
    """(1 - p)^n / 2 = 0.025 where nothing was seen."""
    for n in (5, 20, 1e6):
        exact = -mpmath.expm1(mpmath.log(mpmath.mpf("0.05")) / n)
        assert rate_bounds(0, n, 0.95)[1] == pytest.approx(float(exact), rel=1e-11)


def test_rate_bounds_of_fractions_lie_between_those_of_whole_numbers():
    lows, highs = zip(*(rate_bounds(x, 20, 0.9) for x in (2, 2.25, 2.5, 3)), strict=True)
    assert list(lows) == sorted(lows)
    assert list(highs) == sorted(highs)
