"""F_f(m) and w_f(m) for generators in no catalogue, at the extremes, and their derivatives."""

import math
from functools import lru_cache

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import sympy

from fdiv_jax.divergences import InfiniteDivergenceError, divergence
from tests.divergences.oracles import KINKS, UNLISTED, finite_difference, gaussian_value, quickly

EXTREMES = (0.0, 1e-37, 1e-30, 1e-12, 1e-7, 1e-3, 1.0, 80.0, 1e3, 1e6, 1e12, 1e30)
CLOSED = [
    "kl",
    "reverse_kl",
    "jeffreys",
    "squared_hellinger",
    "pearson_chi2",
    "neyman_chi2",
    "alpha(3)",
    "alpha(sqrt(2))",
]
QUADRATURE = ["jensen_shannon", "le_cam", "total_variation", *UNLISTED]
# One of each kind: kinks at and beside t = 1, both tails rising, both falling, faster than every power.
KINDS = [
    "jensen_shannon", "total_variation", "exp(-t) - exp(-1)", "t**1.3 - 1 + pi/4 - atan(t)",
    "Max(1 - t, 0)**2 + Abs(t - 3) - 2", "Max(1/t, t) - 1", "(t - 1)**4",
]  # fmt: skip
# Two of them in the fast tests: smooth, and with kinks.
QUICK = ["exp(-t) - exp(-1)", "Max(1 - t, 0)**2 + Abs(t - 3) - 2"]


@lru_cache
def measured(text):
    """(m, value, weight) in float64; a row for each point of a five-point stencil."""
    d = divergence(text)
    m = np.array([0.02, 0.7, 6.0])
    stack = np.stack([m * (1 + k * 1e-3) for k in (-2, -1, 0, 1, 2)])
    with jax.enable_x64(True):
        values = jax.jit(lambda x: (d.gaussian_divergence(x), d.gaussian_weight(x)))(stack.reshape(-1))
    return m, *(np.asarray(x).reshape(stack.shape) for x in values)


def stencil_slope(values, m):
    """Fourth-order central difference along the first axis of five points."""
    return (values[0] - 8 * values[1] + 8 * values[3] - values[4]) / (12e-3 * m)


@pytest.mark.parametrize("text", quickly(UNLISTED, QUICK))
def test_value_equals_adaptive_integration(text):
    m, value, _ = measured(text)
    exact = [gaussian_value(UNLISTED[text], float(x), KINKS.get(text, ())) for x in m]
    np.testing.assert_allclose(value[2], exact, rtol=1e-10, atol=1e-18)


@pytest.mark.parametrize("text", quickly(UNLISTED, QUICK))
def test_weight_is_twice_the_slope_of_the_value(text):
    m, value, weight = measured(text)
    np.testing.assert_allclose(weight[2], 2 * stencil_slope(value, m), rtol=1e-7, atol=1e-13)


@pytest.mark.parametrize(
    "text",
    [
        "squared_hellinger",
        pytest.param("jensen_shannon", marks=pytest.mark.slow),
        pytest.param("total_variation", marks=pytest.mark.slow),
        KINDS[4],
    ],
)
def test_second_derivative(text, x64):
    d = divergence(text)
    m, _, weight = measured(text)
    slope, hessian = jax.jit(jax.vmap(jax.value_and_grad(jax.grad(d.gaussian_divergence))))(m)
    np.testing.assert_allclose(2 * slope, weight[2], rtol=1e-13)
    np.testing.assert_allclose(hessian, stencil_slope(weight, m) / 2, rtol=1e-7, atol=1e-10)


@pytest.mark.slow
def test_third_derivative(x64):
    for text in ("Max(t - 2, 0)",):
        d = divergence(text)
        second = jax.vmap(jax.grad(d.gaussian_weight))
        third = jax.jit(jax.grad(jax.grad(d.gaussian_weight)))(0.9)
        assert float(third) == pytest.approx(float(finite_difference(second, 0.9, 1e-3)[()]), rel=1e-6)


@pytest.mark.parametrize("text", quickly([*CLOSED, *KINDS], [*CLOSED, KINDS[0]]))
def test_extremes_in_float32(text):
    d = divergence(text)
    m = jnp.asarray(EXTREMES, jnp.float32)

    def at(x):
        return d.gaussian_divergence(x), d.gaussian_weight(x), jax.grad(d.gaussian_divergence)(x)

    value, weight, slope = (np.asarray(x) for x in jax.jit(jax.vmap(at))(m))
    assert value.dtype == weight.dtype == np.float32
    curvature = float(d.curvature)
    assert np.all(np.isfinite(value))
    assert np.all(value >= 0)
    assert np.all(np.diff(value) >= -1e-5 * value[1:]), "increasing in m"
    assert np.all(np.isfinite(weight[1:]))
    assert np.all(np.isfinite(slope))
    assert value[0] == 0
    assert weight[0] == pytest.approx(curvature, rel=1e-6)
    if 0 < curvature < math.inf:
        for i, tiny in enumerate(EXTREMES):
            if 0 < tiny < 1e-6:
                # Where f'' falls from 2 to 0 at t = 1, w = 2 e^m Phi(-3 sqrt(m) / 2), so the first
                # correction is 3 sqrt(m / (2 pi)) = 1.197 sqrt(m).
                tolerance = 5e-6 + (1.2 * math.sqrt(tiny) if text.startswith("Max(1 - t") else 0)
                assert value[i] == pytest.approx(curvature * float(m[i]) / 2, rel=tolerance)
                assert weight[i] == pytest.approx(curvature, rel=tolerance)


@pytest.mark.parametrize("text", ["kl", "squared_hellinger", "jensen_shannon"])
def test_the_slope_at_the_minimum_is_half_the_curvature(text):
    d = divergence(text)
    slope = jax.grad(d.gaussian_divergence)(jnp.float32(0))
    assert float(slope) == pytest.approx(float(d.curvature) / 2, rel=1e-6)


def test_a_flat_minimum(x64):
    # f = (t-1)^4: F = E[(r-1)^4] = 3 m^2 + O(m^3)
    d = divergence("(t - 1)**4")
    assert float(d.gaussian_divergence(1e-9)) == pytest.approx(3e-18, rel=1e-7)
    assert float(d.gaussian_weight(1e-9)) == pytest.approx(12e-9, rel=1e-7)


def test_values_beyond_float32_in_logarithms():
    d = divergence("t**2.5 - 1 + 0.1*atan(1) - 0.1*atan(t)")  # no closed form; w ~ 3.75 exp(1.875 m)
    for m in (100.0, 1e4):
        found = float(d.gaussian_log_weight(jnp.float32(m)))
        assert found == pytest.approx(1.875 * m + math.log(3.75), rel=1e-5)
    assert float(divergence("pearson_chi2").gaussian_weight(jnp.float32(500))) == np.finfo(np.float32).max
    tv = divergence("total_variation")
    assert float(tv.gaussian_log_weight(jnp.float32(4e3))) == pytest.approx(
        -500 - 0.5 * math.log(8e3 * math.pi), rel=1e-5
    )


@pytest.mark.slow
def test_log_weight_and_its_slope(x64):
    for text in ("jensen_shannon", "pearson_chi2"):
        d = divergence(text)
        m, _, weight = measured(text)
        log_weight = d.gaussian_log_weight(m)
        np.testing.assert_allclose(log_weight, np.log(weight[2]), rtol=0, atol=1e-12)
        slope = jax.jit(jax.vmap(jax.grad(d.gaussian_log_weight)))(m)
        np.testing.assert_allclose(slope, stencil_slope(np.log(weight), m), rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("text", ["total_variation", pytest.param("Abs(t - 1)**1.5", marks=pytest.mark.slow)])
def test_infinite_curvature_has_no_nan_gradient_at_the_minimum(text):
    d = divergence(text)
    assert math.isinf(float(d.gaussian_weight(0.0)))

    def loss(x):
        return jnp.mean(d.gaussian_divergence(jnp.sum(x**2, -1)))

    np.testing.assert_array_equal(jax.grad(loss)(jnp.zeros((3, 2))), 0)
    mixed = jax.grad(loss)(jnp.array([[0.0, 0.0], [0.3, -0.4]]))
    assert np.all(np.isfinite(mixed))
    np.testing.assert_array_equal(mixed[0], 0)


def test_total_variation_is_the_error_function(x64):
    m = np.geomspace(1e-8, 60, 7)
    exact = [float(mpmath.erf(mpmath.sqrt(mpmath.mpf(x) / 8))) for x in m]
    np.testing.assert_allclose(divergence("total_variation").gaussian_divergence(m), exact, rtol=1e-13)


@pytest.mark.parametrize("text", [*CLOSED, *QUADRATURE])
def test_closed_form_equals_the_exact_value(text, x64):
    d = divergence(text)
    if d.closed_form is None:
        with pytest.raises(ValueError, match="exact"):
            d.closed(1.0)
        return
    m = sympy.Symbol("m", nonnegative=True)
    assert d.closed_form.free_symbols <= {m}
    values = np.array([0.02, 0.7, 6.0])
    exact = [float(sympy.N(d.closed_form.subs(m, sympy.Rational(x)), 40)) for x in values]
    np.testing.assert_allclose(d.closed(values), exact, rtol=1e-10, atol=1e-17)


def test_closed_forms_of_theory():
    m = sympy.Symbol("m", nonnegative=True)
    expected = {
        "kl": m / 2, "reverse_kl": m / 2, "jeffreys": m, "squared_hellinger": 2 - 2 * sympy.exp(-m / 8),
        "pearson_chi2": sympy.exp(m) - 1, "neyman_chi2": sympy.exp(m) - 1,
        "total_variation": sympy.erf(sympy.sqrt(m / 8)), "alpha(3)": (sympy.exp(3 * m) - 1) / 6,
    }  # fmt: skip
    for name, formula in expected.items():
        assert sympy.simplify(divergence(name).closed_form - formula) == 0, name
    assert all(divergence(n).closed_form is None for n in ("jensen_shannon", "gan", "le_cam"))


@pytest.mark.slow
def test_logarithms_have_closed_forms(x64):
    # E_Q[log(r)^2] = m + m^2/4 and E_Q[r log(r)^2] = m + m^2/4
    d = divergence("t*log(t)**2 + 4*t*log(t) + 6*(1 - t) + log(t)**2 - 10*log(t) + 6*(t - 1)")
    m = sympy.Symbol("m", nonnegative=True)
    assert sympy.expand(d.closed_form - (2 * m + m**2 / 2 + 7 * m)) == 0
    np.testing.assert_allclose(d.gaussian_divergence(3.0), 27 + 4.5, rtol=1e-12)


@pytest.mark.parametrize(
    "text",
    quickly(
        ["exp(t) - e*t", "exp(t)-E*t", "exp(1/t) - E", "cosh(t) - cosh(1)", "t**t - 1"],
        kinds=["exp(t) - e*t", "exp(1/t) - E"],
    ),
)
def test_an_infinite_divergence_is_refused(text):
    with pytest.raises(InfiniteDivergenceError, match="infinite: f grows faster than every power"):
        divergence(text)
    d = divergence(text, allow_infinite=True)
    assert float(d.curvature) > 0
    assert np.isfinite(d.conjugate(d.equilibrium[0]))
    for method in (d.gaussian_divergence, d.gaussian_weight, d.gaussian_log_weight):
        with pytest.raises(ValueError, match="infinite"):
            method(1.0)


@pytest.mark.slow
def test_arguments(x64):
    d = divergence("jensen_shannon")
    with pytest.raises(ValueError, match=">= 0, got -1"):
        d.gaussian_divergence(-1.0)
    with pytest.raises(TypeError, match="real"):
        d.gaussian_divergence(1j)
    assert d.gaussian_divergence(2).dtype == jnp.float64
    assert d.gaussian_divergence(jnp.ones((2, 3), jnp.float32)).shape == (2, 3)
    half = d.gaussian_weight(jnp.ones(4, jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    many = jnp.linspace(0, 30, 5001)
    np.testing.assert_allclose(d.gaussian_weight(many)[::500], d.gaussian_weight(many[::500]), rtol=1e-12)
    assert np.isnan(d.gaussian_divergence(jnp.nan))


def test_static_argument_of_jit():
    @jax.jit
    def ambient(m):
        return divergence("le_cam").gaussian_weight(m)

    stepped = jax.jit(lambda d, m: d.gaussian_weight(m), static_argnums=0)
    assert float(stepped(divergence("le_cam"), 1.0)) == float(ambient(1.0))
    assert float(stepped(divergence("kl"), 1.0)) == 1.0


@pytest.mark.parametrize(
    ("name", "limit", "weight"),
    [
        ("kl", np.inf, 1),
        ("jensen_shannon", 2 * math.log(2), 0),
        pytest.param("le_cam", 2, 0, marks=pytest.mark.slow),
        ("total_variation", 1, 0),
    ],
)
def test_an_infinite_distance_has_the_limit_and_nan_is_nan(name, limit, weight):
    d, m = divergence(name), jnp.array([np.inf, np.nan], jnp.float32)
    value, slope, log_weight = d.gaussian_divergence(m), d.gaussian_weight(m), d.gaussian_log_weight(m)
    assert value[0] == pytest.approx(limit, rel=1e-5) if np.isfinite(limit) else value[0] > 1e38
    assert slope[0] == weight
    assert log_weight[0] == 0 if weight else log_weight[0] < -1e30
    for result in (value, slope, log_weight):
        assert np.isnan(result[1])
    with pytest.raises(ValueError, match="must be >= 0, got -1"):
        d.gaussian_divergence([1.0, -1.0])
