"""Generators nobody lists: powers of a distance, extreme scales and exponents, trouble far from t = 1."""

import math
import pickle
from itertools import pairwise

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from scipy import integrate

from fdiv_jax.divergences import GeneratorError, divergence
from tests.divergences.oracles import gaussian_value


def distance_weight(p, c, m):
    """w and dw/dm of f = |t - c|^p, from w = E[r^2 f''(r)]; x = u^2 takes the singularity at t = c away."""
    root, centre = math.sqrt(m), math.log(c)

    def integrand(x, score):
        l = centre + x
        z = l + m / 2
        value = math.exp(2 * l - z * z / (2 * m)) / math.sqrt(2 * math.pi * m)
        value *= p * (p - 1) * (c * abs(math.expm1(x))) ** (p - 2)
        return value * ((z * z / m - z - 1) / (2 * m) if score else 1)

    edges = (
        np.sqrt(np.concatenate([[0, 1e-6, 1e-3, 0.1], np.arange(1, 2 + 16 + 3 * root + centre)])) * m**0.25
    )
    return [
        sum(
            integrate.quad(lambda u, g=sign, k=score: 2 * u * integrand(g * u * u, k), a, b, epsrel=1e-12)[0]
            for sign in (1, -1)
            for a, b in pairwise(edges)
        )
        for score in (False, True)
    ]


@pytest.mark.parametrize(("p", "c"), [(1.5, 1), (2.5, 1), (1.5, 2)])
@pytest.mark.slow
def test_powers_of_a_distance(p, c, x64):
    d = divergence(f"Abs(t - {c})**{p} - {c - 1}")
    m = np.array([0.1, 9.0])

    def everything(m):
        weight, slope = jax.vmap(jax.value_and_grad(d.gaussian_weight))(m)
        return jax.vmap(jax.grad(d.gaussian_divergence))(m), weight, slope, d.gaussian_log_weight(m)

    half, weight, slope, log_weight = jax.jit(everything)(np.append(m, 0.0))
    exact, exact_slope = np.array([distance_weight(p, c, x) for x in m]).T
    np.testing.assert_allclose(weight[:2], exact, rtol=1e-10)
    np.testing.assert_allclose(2 * half[:2], exact, rtol=1e-10)
    np.testing.assert_allclose(slope[:2], exact_slope, rtol=1e-8)
    np.testing.assert_allclose(log_weight[:2], np.log(exact), atol=1e-10)
    assert weight[2] == pytest.approx(float(d.curvature), rel=1e-12)
    assert half[2] == (0.0 if math.isinf(weight[2]) else weight[2] / 2)
    assert np.isfinite(slope[2])
    single = jax.jit(everything)(m.astype(np.float32))
    for found, expected in zip(single, (exact / 2, exact, exact_slope, np.log(exact)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_power_on_one_side_of_the_minimum(x64):
    d = divergence("Max(t - 1, 0)**1.5 + (t - 1)**2")
    exact = gaussian_value(lambda t: max(t - 1, mpmath.mpf(0)) ** 1.5 + (t - 1) ** 2, 0.7, [0.0])
    assert float(d.gaussian_divergence(0.7)) == pytest.approx(exact, rel=1e-9)


@pytest.mark.slow
def test_a_slope_that_overflows_in_part(x64):
    # f' = t / sqrt(1 + t^2) - 1/sqrt(2) falls back to -1/sqrt(2) where t^2 overflows.
    d = divergence("sqrt(1 + t**2) - (1 + t)/sqrt(2)")
    s = np.array([-0.5, 0.0, 0.2])
    sigma = s + math.sqrt(0.5)
    np.testing.assert_allclose(d.conjugate(s), math.sqrt(0.5) - np.sqrt(1 - sigma**2), atol=1e-12)
    np.testing.assert_allclose(d.conjugate_prime(s), sigma / np.sqrt(1 - sigma**2), rtol=1e-9)


@pytest.mark.parametrize("a", ["1e-9", "-0.0001", "1.0001", "0.999999"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_alpha_beside_its_limits(a, dtype, x64):
    d = divergence(f"alpha({a})")
    alpha = mpmath.mpf(a)
    rtol, points = 300 * np.finfo(dtype).eps, np.array([0.25, 0.5, 2.0, 40.0], dtype)
    s = np.array([-2.0, -0.5, 0.5, 0.75], dtype)
    with mpmath.workdps(50):
        f = [
            float((t**alpha - alpha * t + alpha - 1) / (alpha * (alpha - 1)))
            for t in map(mpmath.mpf, map(float, points))
        ]
        powers = [(1 + (alpha - 1) * mpmath.mpf(float(x))) ** (alpha / (alpha - 1)) for x in s]
        conjugate = [float((power - 1) / alpha) for power in powers]
    np.testing.assert_allclose(d.f(points), f, rtol=rtol)
    np.testing.assert_allclose(d.conjugate(s), conjugate, rtol=rtol)
    v = np.array([d.activation_map.inverse(float(x)) for x in s], dtype)
    np.testing.assert_allclose(d.conjugate_of_activation(v), conjugate, rtol=rtol)


def test_a_steep_composed_term_has_no_nan():
    d = divergence("alpha(-7/3)")
    for v in (-1e3, -50.0, 50.0, 1e3):
        assert not math.isnan(jax.grad(d.conjugate_of_activation)(v))
    mixed = divergence("(sqrt(t) - 1)**2 + Abs(t - 1)/100")
    assert float(mixed.conjugate_of_activation(-1e3)) == pytest.approx(-1.01)


@pytest.mark.slow
def test_a_function_beyond_the_reach_of_mpmath(x64):
    d = divergence("erfc(t) - erfc(1)")
    exact = gaussian_value(lambda t: mpmath.erfc(t) - mpmath.erfc(1), 0.7)
    assert float(d.gaussian_divergence(0.7)) == pytest.approx(exact, rel=1e-9)
    # f' = -2/sqrt(pi) exp(-t^2) = s
    s = -0.3
    t = math.sqrt(-math.log(-s * math.sqrt(math.pi) / 2))
    assert float(d.conjugate(s)) == pytest.approx(s * t - math.erfc(t) + math.erfc(1), rel=1e-9)


def test_a_small_scale_saturates_no_earlier_than_it_must():
    m = jnp.float32(100.0)
    d = divergence("1e-12*(t - 1)**2")
    assert float(d.gaussian_divergence(m)) == pytest.approx(1e-12 * math.exp(100), rel=1e-5)
    assert float(d.gaussian_weight(m)) == pytest.approx(2e-12 * math.exp(100), rel=1e-5)


def test_two_formulas_that_touch_are_told_apart():
    assert divergence("Max(t*log(t), t - 1)").curvature == 1
    assert divergence("Max(t - 1, t*log(t))").is_smooth


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("t**2 - 1e-16*t**3 - 1 + 1e-16", r"e\+1[5-9]\) = -"),
        ("t**2 - 1e-60*t**3 - 1 + 1e-60", r"e\+[6-9]\d\) = -"),
        ("-log(t) - 1e-9/sqrt(t) + 1e-9", r"e-(19|20)\) = -"),
        ("1/t - 1e-25/t**2 - 1 + 1e-25", r"e-2\d\) = -"),
    ],
)
def test_concave_far_away(text, place):
    with pytest.raises(GeneratorError, match=f"not convex: f''.*{place}"):
        divergence(text)


@pytest.mark.parametrize("text", ["t**2 - log(1 + t**2) - 1 + log(2)", "tanh(1) - tanh(t)", "(t - 1)**64"])
def test_rounding_refuses_no_convex_function(text):
    d = divergence(text).reversed()  # in which orders of 1/t cancel
    assert float(d.curvature) == float(divergence(text).curvature)


def test_oscillation_is_refused_and_not_missed():
    d = divergence("t**2 - 1 + sin(t)/100 - sin(1)/100")
    with pytest.raises(NotImplementedError, match=r"oscillates too fast near \|log t\|"):
        d.gaussian_weight(1.0)


@pytest.mark.parametrize("text", ["exp(t) - E*t", "kl", "alpha(0.5)", "t*log(t) + Abs(t - 1)"])
def test_every_divergence_can_be_pickled(text):
    d = divergence(text, allow_infinite=True)
    assert pickle.loads(pickle.dumps(d)) == d
