"""D_f between Gaussians of unequal variance, against closed forms, two-dimensional integrals and samples."""

import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from scipy import stats

from fdiv_jax.divergences import (
    InfiniteDivergenceError,
    divergence,
    unequal_gaussian_divergence,
)
from fdiv_jax.divergences._noncentral import noncentral_chi2_log_density
from tests.divergences.oracles import finite_difference


def log_density(x, n, noncentrality):
    """In 60 digits."""
    with mpmath.workdps(60):
        x, noncentrality, nu = mpmath.mpf(x), mpmath.mpf(noncentrality), mpmath.mpf(n) / 2 - 1
        if noncentrality == 0:
            return float(-x / 2 + nu * mpmath.log(x) - (nu + 1) * mpmath.log(2) - mpmath.loggamma(nu + 1))
        bessel = mpmath.besseli(nu, mpmath.sqrt(x * noncentrality))
        power = nu / 2 * mpmath.log(x / noncentrality)
        return float(-mpmath.log(2) - (x + noncentrality) / 2 + power + mpmath.log(bessel))


@pytest.mark.parametrize("n", [1, 2, 5, 49, 50, 300, 16384])
def test_the_noncentral_density_in_60_digits(n, x64):
    found, exact = [], []
    for noncentrality in (0.0, 1e-8, 0.3, 100.0, 249.0, 251.0, 1e4, 1e8):
        spread = math.sqrt(2 * n + 4 * noncentrality)
        x = np.array([max(n + noncentrality + k * spread, 0.02 * n) for k in (-4, 0, 6)])
        found += np.asarray(
            noncentral_chi2_log_density(jnp.asarray(x), n, jnp.asarray(noncentrality))
        ).tolist()
        exact += [log_density(y, n, noncentrality) for y in x]
    np.testing.assert_allclose(found, exact, rtol=0, atol=2e-11)


def cumulant(p, m, rho, n):
    u = 1 + (1 - p) * (rho - 1)
    return n / 2 * ((1 - p) * np.log(rho) - np.log(u)) - p * (1 - p) * m / (2 * u)


CLOSED = {
    "kl": lambda m, rho, n: m / 2 + n / 2 * (rho - 1 - np.log(rho)),
    "reverse_kl": lambda m, rho, n: m / (2 * rho) + n / 2 * (1 / rho - 1 + np.log(rho)),
    "squared_hellinger": lambda m, rho, n: -2 * np.expm1(cumulant(0.5, m, rho, n)),
    "pearson_chi2": lambda m, rho, n: np.expm1(cumulant(2, m, rho, n)),
    "neyman_chi2": lambda m, rho, n: np.expm1(cumulant(-1, m, rho, n)),
    "alpha(1.7)": lambda m, rho, n: np.expm1(cumulant(1.7, m, rho, n)) / (1.7 * 0.7),
    # quadrature: the parts of the first cancel, the second has no formula (expectations of both are known)
    "(t - 1)**4": lambda m, rho, n: sum(
        c * np.expm1(cumulant(p, m, rho, n)) for c, p in ((1, 4), (-4, 3), (6, 2))
    ),
    "t*log(t) + Max(t - 1, 0) - Max(1 - t, 0)": lambda m, rho, n: m / 2 + n / 2 * (rho - 1 - np.log(rho)),
}
EXACT = ("kl", "reverse_kl", "squared_hellinger", "pearson_chi2", "neyman_chi2", "alpha(1.7)")
QUICK = ("kl", "neyman_chi2", "alpha(1.7)")
RATIOS = {
    "alpha(1.7)": (0.05, 0.7, 1.2, 2.2),
    "pearson_chi2": (0.1, 0.9, 1.3, 1.9),
    "neyman_chi2": (0.6, 0.9, 3.0),
    "(t - 1)**4": (0.5, 1.1, 1.3),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in QUICK)) for n in CLOSED]
)
def test_closed_forms(name, x64):
    d = divergence(name)
    for n in (1, 2, 3, 60) if divergence(name).name in EXACT else (1, 60):
        rho, m = np.meshgrid(RATIOS.get(name, (0.05, 0.7, 1.2, 6.0)), (0.0, 0.4, 9.0))
        exact = CLOSED[name](m, rho, n)
        with np.errstate(over="ignore"):
            known = exact < 1e250
        found = np.asarray(unequal_gaussian_divergence(d, m, rho, n))
        np.testing.assert_allclose(found[known], exact[known], rtol=1e-10, atol=1e-14, err_msg=str(n))


def in_the_plane(f, m, rho, n):
    """The same number in two dimensions: along delta, and the norm across it."""
    reach = 13 * math.sqrt(max(rho, 1.0))  # of P as well
    y = np.linspace(-reach, reach, 1201)
    along = np.exp(-y * y / 2) / math.sqrt(2 * math.pi) * (y[1] - y[0])
    if n == 1:
        norm, across = np.zeros(1), np.ones(1)
    else:
        centre = math.sqrt(n - 1)
        norm = np.linspace(max(centre - reach, 0), centre * math.sqrt(max(rho, 1.0)) + reach, 1201)
        across = stats.chi.pdf(norm, n - 1) * (norm[1] - norm[0])
        across[0] /= 2 if n == 2 else 1
    y, norm = y[:, None], norm[None, :]
    log_r = -n / 2 * np.log(rho) + ((1 - 1 / rho) * (y * y + norm * norm)) / 2 + y * math.sqrt(m) / rho
    # Far out, where the density is below every float, r may be beyond them.
    r = np.exp(np.minimum(log_r - m / (2 * rho), 600.0))
    return float(np.sum(along[:, None] * across * f(r)))


SMOOTH = {
    "jensen_shannon": lambda t: t * np.log(t) - (t + 1) * np.log((t + 1) / 2),
    "le_cam": lambda t: (t - 1) * ((t - 1) / (t + 1)),
}
CASES = [(0.0, 1.5), (2.0, 0.6), (0.5, 1.0001), (30.0, 1.02), (1.0, 8.0)]


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 4, 31, 16384])
def test_a_two_dimensional_integral(n, x64):
    name, f = list(SMOOTH.items())[n % 2]
    cases = [(m, 1 + (rho - 1) / math.sqrt(n)) for m, rho in CASES]
    exact = [in_the_plane(f, m, rho, n) for m, rho in cases]
    m, rho = np.array(cases).T
    np.testing.assert_allclose(unequal_gaussian_divergence(name, m, rho, n), exact, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("n", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 500))])
def test_total_variation_is_a_difference_of_distribution_functions(n, x64):
    """P(r > 1) - Q(r > 1), by scipy's noncentral chi squared."""
    for m, rho in ((0.0, 1.4), (0.3, 0.5), (4.0, 1.2)):
        e = rho - 1
        edge = rho * (
            m / e**2 + n * math.log(rho) / e
        )  # of R^2 under Q; under P, R^2/rho has lambda m rho / e^2
        laws = stats.ncx2(n, m * rho / e**2), stats.ncx2(n, m / e**2)
        if m == 0:
            laws = stats.chi2(n), stats.chi2(n)
        under_p, under_q = laws[0].cdf(edge / rho), laws[1].cdf(edge)
        found = float(unequal_gaussian_divergence("total_variation", m, rho, n))
        assert found == pytest.approx(abs(under_p - under_q), rel=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 64, 16384])
def test_a_million_samples(n, x64):
    rng = np.random.default_rng(n)
    m, rho = 1.5, 1 + 0.8 / math.sqrt(n)
    y = rng.normal(size=1_000_000)
    rest = rng.chisquare(n - 1, size=y.size)
    log_r = (
        -n / 2 * math.log(rho) + (1 - 1 / rho) * (y * y + rest) / 2 + y * math.sqrt(m) / rho - m / (2 * rho)
    )
    for name in ("jensen_shannon", "squared_hellinger", "total_variation"):
        d = divergence(name)
        values = np.asarray(d.f(np.exp(log_r)))
        found = float(unequal_gaussian_divergence(d, m, rho, n))
        assert abs(values.mean() - found) < 4 * values.std() / 1000


def fourth_difference(m, ratios, n):
    """That of F of (t - 1)^4 over F, in 60 digits: about (18 m h)^4, as F is about e^(6 m / (1 - 3 e))."""
    with mpmath.workdps(60):

        def value(rho):
            total = mpmath.mpf(0)
            for c, p in ((1, 4), (-4, 3), (6, 2)):
                q, u = 1 - p, 1 + (1 - p) * (rho - 1)
                exponent = mpmath.mpf(n) / 2 * (q * mpmath.log(rho) - mpmath.log(u)) - p * q * m / (2 * u)
                total += c * mpmath.expm1(exponent)
            return total

        values = [value(mpmath.mpf(float(rho))) for rho in ratios.ravel()]
        return float(mpmath.fsum(c * v for c, v in zip((1, -4, 6, -4, 1), values, strict=True)) / values[2])


@pytest.mark.parametrize(
    "name",
    [
        "squared_hellinger",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("jensen_shannon", "total_variation", "(t - 1)**4")
        ),
    ],
)
def test_near_equal_variances(name, x64):
    """Equal to `gaussian_divergence` at ratio 1, and smooth through it."""
    d, h = divergence(name), 1e-5
    m = np.array([0.0, 1e-30, 1e-9, 0.02, 1.0, 12.0])
    exact = np.asarray(d.gaussian_divergence(m))
    ratios = 1 + h * np.arange(-2, 3)[:, None]
    for n in (8, 16384):
        values = np.asarray(unequal_gaussian_divergence(d, m, ratios, n))
        np.testing.assert_allclose(values[2], exact, rtol=1e-10, atol=1e-300)
        if n == 8:  # h^4 is 1e-20: but for (t - 1)^4, what is left is rounding
            fourth = (values[0] - 4 * values[1] + 6 * values[2] - 4 * values[3] + values[4])[3:]
            exact_fourth = [fourth_difference(x, ratios, n) if name == "(t - 1)**4" else 0.0 for x in m[3:]]
            np.testing.assert_allclose(fourth / values[2, 3:], exact_fourth, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    "name",
    ["kl", pytest.param("total_variation", marks=pytest.mark.slow)],
)
def test_gradients(name, x64):
    d, n = divergence(name), 30
    m, rho = np.array([0.7, 0.7, 2.0, 0.0, 9.0]), np.array([1.3, 1.0, 0.98, 0.8, 1.1])
    total = jax.jit(jax.grad(lambda a, b: unequal_gaussian_divergence(d, a, b, n).sum(), argnums=(0, 1)))
    slopes = total(m, rho)
    h = 1e-3
    by_rho = finite_difference(lambda x: unequal_gaussian_divergence(d, m, x, n), rho, 0.1 * h)
    np.testing.assert_allclose(slopes[1], by_rho, rtol=1e-6, atol=1e-9)
    m0 = m[m > 0]
    by_m = finite_difference(lambda x: unequal_gaussian_divergence(d, x, rho[m > 0], n), m0, h)
    np.testing.assert_allclose(slopes[0][m > 0], by_m, rtol=1e-6)
    np.testing.assert_allclose(slopes[0][1], d.gaussian_weight(0.7) / 2, rtol=1e-9)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) for name in ("kl", "pearson_chi2", "jensen_shannon")],
)
def test_the_hessian_at_the_equilibrium_is_the_curvature_times_fishers_information(name, x64):
    """In the mean (unit s2) f''(1), in the logarithm of the variance f''(1) n / 2, and nothing mixed."""
    d, n = divergence(name), 6

    def value(z):
        return unequal_gaussian_divergence(d, z[0] ** 2, jnp.exp(z[1]), n)

    points = jnp.array([[0.0, 0.0], [1e-4, 1e-5], [1e-5, 1e-4]])
    both = jax.jit(jax.vmap(lambda z: (jax.grad(value)(z), jax.hessian(value)(z))))
    gradients, hessians = both(points)
    np.testing.assert_allclose(gradients[0], 0, atol=1e-12)
    curvature = float(d.curvature)
    for hessian in hessians:
        np.testing.assert_allclose(hessian, np.diag([curvature, curvature * n / 2]), atol=3e-3)
    np.testing.assert_allclose(hessians[0, 0, 0], curvature, rtol=1e-9)


@pytest.mark.slow
def test_float32_shapes_and_the_trace():
    d = divergence("jensen_shannon")
    m, rho = np.float32([0.0, 1e-30, 1e-3, 1.0, 50.0]), np.float32([1.0, 1.0, 1.001, 0.7, 1.5])
    found = unequal_gaussian_divergence(d, m, rho, 12)
    assert found.dtype == jnp.float32
    with jax.enable_x64(True):
        exact = unequal_gaussian_divergence(d, m.astype(float), rho.astype(float), 12)
    np.testing.assert_allclose(found, exact, rtol=2e-4)
    assert unequal_gaussian_divergence("kl", np.ones((2, 1)), np.ones(3), 2).shape == (2, 3)
    traced = jax.jit(lambda r: unequal_gaussian_divergence("pearson_chi2", 1.0, r, 3))
    assert np.isinf(traced(2.5))
    assert float(traced(1.5)) == pytest.approx(CLOSED["pearson_chi2"](1.0, 1.5, 3), rel=1e-5)
    assert np.isnan(unequal_gaussian_divergence("kl", np.nan, 1.0, 2))


@pytest.mark.slow
def test_what_is_infinite_is_refused():
    for name, ratio, words in (
        ("pearson_chi2", 2.0, "below 2"),
        ("pearson_chi2", [1.0, 3.0], "ratio = 3.0"),
        ("neyman_chi2", 0.5, "above 0.5"),
        ("alpha(3)", 1.6, "below 1.5"),
        ("(t - 1)**4", 1.4, "below 1.33"),
        ("t**2.5 - 1 + 0.1*atan(1) - 0.1*atan(t)", 1.7, "below 1.66"),
    ):
        with pytest.raises(InfiniteDivergenceError, match=words):
            unequal_gaussian_divergence(name, 1.0, ratio, 3)
    with pytest.raises(InfiniteDivergenceError, match="every power"):
        unequal_gaussian_divergence(divergence("exp(t) - E*t", allow_infinite=True), 1.0, 1.0, 3)
    for name in ("kl", "jensen_shannon", "total_variation"):
        assert np.isfinite(unequal_gaussian_divergence(name, 1.0, [1e-3, 1e3], 3)).all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((-1.0, 1.0, 2), ValueError, "m must be"),
        ((1.0, 0.0, 2), ValueError, "ratio"),
        ((1.0, np.inf, 2), ValueError, "ratio"),
        ((1.0, 1.0, 0), ValueError, "dimensions"),
        ((1.0, 1.0, 2.0), TypeError, "dimensions"),
        ((1j, 1.0, 2), TypeError, "real"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        unequal_gaussian_divergence("kl", *arguments)


def test_no_second_derivative_across_a_kink(x64):
    with pytest.raises(NotImplementedError, match="kinks"):
        jax.grad(jax.grad(lambda m: unequal_gaussian_divergence("total_variation", m, 1.2, 3)))(1.0)
