"""`gaussian_log_moment` against another rule, and against the quadrature in JAX."""

import math

import numpy as np
import pytest
import scipy.stats

from fdiv_jax.divergences import divergence, gaussian_log_moment
from tests.divergences.oracles import quickly

# f''(t) by hand.
SECOND = {
    "kl": lambda t: 1 / t,
    "pearson_chi2": lambda t: 2 + 0 * t,
    "jensen_shannon": lambda t: 1 / (t * (1 + t)),
    "le_cam": lambda t: 8 / (1 + t) ** 3,
    "exp(-t) - exp(-1)": lambda t: np.exp(-t),
    "t*atan(t) - pi/4": lambda t: 2 / (1 + t**2) ** 2,
}


@pytest.mark.parametrize("text", SECOND)
@pytest.mark.parametrize(("power", "ratio"), [(1, 0.0), (2, -1.0), (2, 0.0), (1, 1.5)])
def test_moments_of_the_curvature(text, power, ratio):
    """The trapezoidal rule on a fine grid of l, which converges exponentially for these."""
    for m in (0.02, 1.0, 9.0):
        root = math.sqrt(m)
        l = np.arange(-m / 2 - 4 * m - 12 * root, 4 * m + 12 * root, min(root, 1.0) / 20)
        t = np.exp(l)
        values = (t**2 * SECOND[text](t)) ** power * t**ratio * scipy.stats.norm.pdf(l, -m / 2, root)
        exact = math.log(values.sum() * (l[1] - l[0]))
        found = gaussian_log_moment(divergence(text), m, power, ratio)
        assert float(found) == pytest.approx(exact, abs=1e-11)


TEXTS = [
    "total_variation",
    "abs(t - 1)**1.5",
    "Max(1 - t, 0)**2 + Abs(t - 3) - 2",
    "exp(Max(log(t), 0)**(3/2)) - 1",
]


@pytest.mark.parametrize("text", quickly(TEXTS, TEXTS[:1]))
def test_the_weight_is_that_of_the_quadrature_in_jax(text, x64):
    d = divergence(text)
    m = np.array([1e-20, 1e-3, 1.0, 8.0])
    exact = np.asarray(d.gaussian_log_weight(m))
    np.testing.assert_allclose(gaussian_log_moment(d, m), exact, rtol=1e-12, atol=1e-12)


def test_a_kink_has_no_second_moment():
    assert np.isnan(gaussian_log_moment(divergence("total_variation"), 1.0, 2))


@pytest.mark.parametrize("m", [0.0, -1.0, np.inf, np.nan])
def test_a_bad_distance_is_refused(m):
    with pytest.raises(ValueError, match="finite m > 0"):
        gaussian_log_moment(divergence("kl"), m)


def test_end_values_and_tail_exponents():
    assert divergence("squared_hellinger").value_at_zero == 1
    assert divergence("reverse_kl").value_at_zero == float("inf")
    assert divergence("jensen_shannon").tail_exponents == (1.0, 0.0)
    assert divergence("total_variation").tail_exponents == (float("inf"), float("-inf"))
    assert divergence("exp(-t) - exp(-1)").tail_exponents == (2.0, float("-inf"))
