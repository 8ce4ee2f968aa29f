"""Generators that grow faster than every power of t and slower than exp(c log(t)^2): F is finite for every
m."""

from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from fdiv_jax.divergences import InfiniteDivergenceError, divergence, unequal_gaussian_divergence
from tests.divergences.oracles import quickly

DISTANCES = ("0.01", "1", "2", "10", "50")


@lru_cache
def log_moment(p, m, order):
    """log E[h(l)] for h(l) = exp(|l|^p) - 1, or of h'' - h' for the weight; l ~ N(-m/2, m), with cuts at the
    scale of the density at 0 and around x = (p m)^(1/(2 - p)), where x^p - x^2/(2 m) is largest."""
    p, m = mpmath.mpf(p), mpmath.mpf(m)
    at = (p * m) ** (1 / (2 - p))
    peak = max(at**p - at**2 / (2 * m), 0)
    wide = mpmath.sqrt(m / (2 - p))

    def integrand(x, sign):
        if order == 0:
            value = mpmath.expm1(x**p)
        else:
            first = p * x ** (p - 1)
            value = mpmath.exp(x**p) * (first**2 + first * (p - 1) / x - sign * first)
        return value * mpmath.exp(-(x**2) / (2 * m) - sign * x / 2 - peak)

    cuts = {mpmath.mpf(0), *(mpmath.sqrt(m) * mpmath.mpf(2) ** -k for k in range(-4, 12))}
    cuts |= {at + k * wide for k in range(-24, 25, 2) if at + k * wide > 0} | {
        at * k / 8 for k in range(1, 9)
    }
    near = sorted(x for x in cuts if x <= mpmath.sqrt(m) * mpmath.mpf(2) ** -11)
    far = [near[-1], *sorted(cuts - set(near))]
    total = sum(
        # Gauss's rule takes a third of the time, and does not like the power of x at 0.
        mpmath.quad(f, near) + mpmath.quad(f, far, method="gauss-legendre")
        for f in (partial(integrand, sign=1), partial(integrand, sign=-1))
    )
    return mpmath.log(total) + peak - m / 8 - mpmath.log(2 * mpmath.pi * m) / 2


def check(found, logs, dtype, rtol):
    """Against e^log, or the largest number where that is larger; the exponent loses digits as it grows."""
    limit = float(np.finfo(dtype).max)
    for value, log in zip(np.asarray(found, np.float64), logs, strict=True):
        large = log > mpmath.log(limit)
        exact = limit if large else float(mpmath.exp(log))
        assert value == pytest.approx(exact, rel=rtol * max(1.0, 0 if large else float(log)))


@pytest.mark.slow
@pytest.mark.parametrize("p", quickly(("1.5", "1.6", "1.9"), ("1.5",)))
def test_the_value(p):
    d = divergence(f"exp(abs(log(t))**{p}) - 1")
    with mpmath.workdps(30 if p < "1.9" else 60):
        logs = [log_moment(p, m, 0) for m in DISTANCES]
        with jax.enable_x64(True):
            check(d.gaussian_divergence(jnp.array([float(m) for m in DISTANCES])), logs, np.float64, 1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("p", ["1.5", "1.6", "1.9"])
@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-13), (np.float32, 2e-6)])
def test_the_weight_and_its_logarithm(p, dtype, rtol):
    d = divergence(f"exp(abs(log(t))**{p}) - 1")
    with mpmath.workdps(30 if p < "1.9" else 60), jax.enable_x64(dtype == np.float64):
        logs = [log_moment(p, m, 1) for m in DISTANCES]
        m = jnp.array([float(m) for m in DISTANCES], dtype)
        check(d.gaussian_weight(m), logs, dtype, rtol)
        exact = np.array([float(x) for x in logs])
        found = np.asarray(d.gaussian_log_weight(m), np.float64)
        if dtype == np.float32:  # log r of the peak is beyond its squares
            exact, found = exact[exact < 1e35], found[exact < 1e35]
        np.testing.assert_allclose(found, exact, rtol=1e-12 if dtype == np.float64 else 2e-4)
        if dtype == np.float64:
            slope = [mpmath.diff(lambda x: log_moment(p, x, 1), mpmath.mpf(x)) for x in ("0.3", "1")]
            found = [jax.grad(d.gaussian_log_weight)(x) for x in (0.3, 1.0)]
            np.testing.assert_allclose(found, np.array(slope, float), rtol=1e-9)


@pytest.mark.slow
def test_unequal_variances():
    d = divergence("exp(abs(log(t))**1.5) - 1")
    for ratio in (0.5, 2.0):
        with pytest.raises(InfiniteDivergenceError, match=r"ratio = .*faster than every power"):
            unequal_gaussian_divergence(d, 1.0, ratio, 2)
    with pytest.raises(NotImplementedError, match="faster than every power"):
        unequal_gaussian_divergence(d, 1.0, 1.0, 2)


@pytest.mark.slow
@pytest.mark.parametrize("m", ["0.01", "1"])
def test_f_of_a_hundred_digits_at_zero_is_integrated(m):
    """exp(300 (1 - t)) - 1 rises to 2e130 at t = 0: E_Q[f] and E_Q[r^2 f''] by mpmath, l = log r normal."""
    d = divergence("exp(300*(1 - t)) - 1")
    with mpmath.workdps(40):
        s = mpmath.sqrt(mpmath.mpf(m))

        def mean(of):
            cuts = mpmath.linspace(-60, 12, 145)
            return mpmath.quad(lambda z: of(mpmath.exp(s * z - s**2 / 2)) * mpmath.npdf(z), cuts)

        value = mean(lambda r: mpmath.exp(300 * (1 - r)) - 1)
        weight = mean(lambda r: 90_000 * r**2 * mpmath.exp(300 * (1 - r)))
    with jax.enable_x64(True):
        assert float(d.gaussian_divergence(float(m))) == pytest.approx(float(value), rel=1e-9)
        assert float(d.gaussian_log_weight(float(m))) == pytest.approx(float(mpmath.log(weight)), rel=1e-12)


@pytest.mark.parametrize("rate", ["700", "1e4"])
def test_what_float64_does_not_hold_is_refused_and_not_cut_off(rate):
    """f'' of exp(1e4 (1 - t)) - 1 rises to 1e4350; cut off at 1e300 it gave a number for D_f(0.01)."""
    d = divergence(f"exp({rate}*(1 - t)) - 1")
    for function in (d.gaussian_divergence, d.gaussian_weight, d.gaussian_log_weight):
        with pytest.raises(NotImplementedError, match=r"too large for float64|too fast"):
            function(0.01)
