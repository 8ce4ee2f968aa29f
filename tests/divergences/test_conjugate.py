"""Conjugates against a numerical supremum; derivatives; the domain; activations."""

import math
from functools import lru_cache

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import sympy

from fdiv_jax.divergences import catalogue, divergence
from tests.divergences.oracles import LISTED, UNLISTED, quickly, supremum

EVERY = {**LISTED, **UNLISTED}
# One of each kind: closed or numerical conjugate, bounded or unbounded domain, kinks, special functions.
KINDS = [
    "kl", "reverse_kl", "jeffreys", "jensen_shannon", "le_cam", "total_variation", "alpha(1/3)",
    "t*atan(t) - pi/4", "Max(1 - t, 0)**2 + Abs(t - 3) - 2", "exp(-t) - exp(-1)",
]  # fmt: skip
# The last three have numerical conjugates, which take many seconds to derive and to compile; the quick
# example of one is in test_exponential_tails.py.
QUICK = KINDS[:-3]
STEP = 1e-4


def test_every_entry_is_compared():
    assert set(catalogue()) <= set(LISTED)


def slopes_inside(d, count=9):
    """Values of s over the domain: below f'(0+) where that is finite, and up to a hundredth of the edge."""
    low, high = (float(x) for x in d.slopes)
    low = low - 0.7 if math.isfinite(low) else d.equilibrium[0] - 4
    top = high if math.isfinite(high) else d.equilibrium[0] + 3
    edge = 0.01 * (top - low) if math.isfinite(high) else 0.0
    return np.linspace(low, top - edge, count)


def functions_of_s(d):
    """Everything that takes s, compiled as one."""

    def at(s):
        return d.conjugate(s), jax.grad(d.conjugate)(s), d.conjugate_prime(s), jax.grad(d.conjugate_prime)(s)

    return jax.jit(jax.vmap(at))


@lru_cache
def measured(text):
    """In float64: points of the domain, the last of them s0; results there and up to two steps aside;
    results just below, at and above the upper end of the domain, where it has one.
    """
    d = divergence(text)
    with jax.enable_x64(True):
        s = np.append(slopes_inside(d), d.equilibrium[0])
        stack = np.stack([s + k * STEP for k in (-2, -1, 0, 1, 2)])
        top = float(d.slopes[1])
        top = top if math.isfinite(top) else s.max() + 1
        results = functions_of_s(d)(np.concatenate([stack.reshape(-1), [top - 1e-12, top, top + 0.5]]))
        results = [np.asarray(r) for r in results]
        return s, [r[:-3].reshape(stack.shape) for r in results], [r[-3:] for r in results]


def slope_of(values):
    """Central difference of the fourth order along the first axis of five points."""
    return (values[0] - 8 * values[1] + 8 * values[3] - values[4]) / (12 * STEP)


@pytest.mark.parametrize("text", quickly(EVERY, QUICK))
def test_conjugate_equals_the_supremum(text):
    d = divergence(text)
    s, (value, *_), _ = measured(text)
    exact = np.array([supremum(EVERY[text], x) for x in s])
    np.testing.assert_allclose(value[2], exact, rtol=1e-8, atol=1e-8)
    if d.conjugate_expression is not None:
        symbol = sympy.Symbol("s", real=True)
        for x, y in zip(s, exact, strict=True):
            symbolic = sympy.re(sympy.N(d.conjugate_expression.subs(symbol, sympy.Rational(x)), 25))
            assert float(symbolic) == pytest.approx(y, rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("text", quickly(EVERY, QUICK))
def test_derivatives_of_the_conjugate(text):
    d = divergence(text)
    s, (value, slope, prime, second), _ = measured(text)
    ends = [float(x) for part in d._conjugate.segments for x in (part.lower, part.upper)]
    away = np.array([all(abs(x - end) > 0.02 for end in ends) for x in s])
    if d.curvature == 0:
        away[-1] = False  # f*'' is infinite at s0
    assert away.sum() >= 5
    for found, reference in ((slope, value), (prime, value), (second, prime)):
        numeric = slope_of(reference)
        np.testing.assert_allclose(found[2][away], numeric[away], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("text", quickly(EVERY, QUICK))
def test_at_the_equilibrium(text, x64):
    d = divergence(text)
    s0, v0 = d.equilibrium
    _, (value, _, prime, second), _ = measured(text)
    assert value[2, -1] == pytest.approx(s0, abs=1e-12)
    # Where s0 is an end of the slopes or lies between two, t* = 1 is one of many maximisers.
    if d.curvature not in (0, sympy.oo) and text not in KINKED_SECOND:
        assert prime[2, -1] == pytest.approx(1, abs=1e-7)
        assert second[2, -1] == pytest.approx(1 / float(d.curvature), rel=1e-7)
    assert d.activation_map(jnp.asarray(v0)) == pytest.approx(s0, abs=1e-14)
    slope = jax.grad(d.activation_map)(jnp.asarray(v0))
    assert float(slope) == pytest.approx(d.activation_slope, rel=1e-12)


# f'' jumps at t = 1.
KINKED_SECOND = ("Max(1 - t, 0)**2 + Abs(t - 3) - 2",)


@pytest.mark.parametrize("text", quickly(KINDS, QUICK))
def test_in_float32(text):
    d = divergence(text)
    s = slopes_inside(d).astype(np.float32)
    far = np.array([-1e30, -1e5, -40.0, 40.0, 1e5, 1e30], np.float32)
    with jax.enable_x64(True):
        exact = np.asarray(d.conjugate(s.astype(np.float64)))
    results = functions_of_s(d)(np.concatenate([s, far]))
    assert results[0].dtype == jnp.float32
    np.testing.assert_allclose(results[0][: len(s)], exact, rtol=3e-5, atol=3e-5)
    for result in results:
        assert not np.any(np.isnan(result))


@pytest.mark.parametrize("text", quickly(EVERY, QUICK))
def test_the_domain(text):
    d = divergence(text)
    domain, top = d.conjugate_domain, float(d.slopes[1])
    assert domain.start == -sympy.oo
    if math.isinf(top):
        assert domain.end == sympy.oo
        return
    _, _, (value, slope, prime, _) = measured(text)
    assert math.isinf(value[2])
    assert math.isinf(prime[2])
    assert slope[2] == 0
    if domain.right_open:
        assert math.isinf(d._conjugate.value_at_top)
    else:
        assert value[1] == pytest.approx(value[0], abs=1e-4)


@pytest.mark.slow
def test_second_derivative_by_differentiating_twice(x64):
    for text in ("jensen_shannon", "t*atan(t) - pi/4"):
        d = divergence(text)
        hessian = jax.grad(jax.grad(d.conjugate))(d.equilibrium[0])
        assert float(hessian) == pytest.approx(1 / float(d.curvature), rel=1e-9)


def test_the_conjugate_knows_that_t_is_positive(x64):
    pearson = divergence("pearson_chi2")
    np.testing.assert_allclose(pearson.conjugate(np.array([-5.0, -2.0, -1.0])), [-1, -1, -0.75])
    assert float(jax.grad(pearson.conjugate)(-5.0)) == 0
    le_cam = divergence("le_cam")
    np.testing.assert_allclose(le_cam.conjugate(np.array([-9.0, -3.0, 0.0, 1.0])), [-1, -1, 0, 3])
    tv = divergence("total_variation")
    np.testing.assert_allclose(tv.conjugate(np.array([-9.0, -0.25, 0.5])), [-0.5, -0.25, 0.5])


def functions_of_v(d):
    def at(v):
        return (
            d.activation(v),
            d.conjugate_of_activation(v),
            jax.grad(d.activation)(v),
            jax.grad(d.conjugate_of_activation)(v),
        )

    return jax.jit(jax.vmap(at))


@pytest.mark.parametrize("text", quickly(KINDS, QUICK))
def test_activation_maps_into_the_domain_and_increases(text, x64):
    d = divergence(text)
    v = np.linspace(-30, 30, 121)
    out, composed, slope, composed_slope = map(np.asarray, functions_of_v(d)(v))
    middle = np.abs(v) < 3
    assert np.all(np.diff(out) >= 0)
    assert np.all(np.diff(out[middle]) > 0)
    assert np.all(np.isfinite(d.conjugate(out)))
    assert np.all(slope >= 0)
    np.testing.assert_allclose(composed[middle], d.conjugate(out[middle]), rtol=1e-9, atol=1e-9)
    chain = np.asarray(d.conjugate_prime(out)) * slope
    away = middle & np.array([all(abs(x - float(end)) > 1e-9 for end in d.slopes) for x in out])
    np.testing.assert_allclose(composed_slope[away], chain[away], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("text", quickly(KINDS, QUICK))
def test_the_composed_term_stays_finite_in_float32(text):
    """A critic that is sure of itself: f*(g(v)) is not inf through rounding at the edge of the domain."""
    results = functions_of_v(divergence(text))(jnp.linspace(-40, 40, 81, dtype=jnp.float32))
    assert all(np.all(np.isfinite(result)) for result in results)


def test_activations_of_the_table(x64):
    v = np.linspace(-3, 3, 13)
    softplus = np.log1p(np.exp(-v))
    table = {
        "kl": v, "reverse_kl": -np.exp(-v), "jeffreys": v, "squared_hellinger": 1 - np.exp(-v),
        "pearson_chi2": v,
        "neyman_chi2": 1 - np.exp(-v), "jensen_shannon": np.log(2) - softplus, "gan": -softplus,
        "le_cam": 1 - np.exp(-v), "total_variation": np.tanh(v) / 2,
    }  # fmt: skip
    for name, values in table.items():
        np.testing.assert_allclose(divergence(name).activation(v), values, rtol=1e-13, err_msg=name)
    assert divergence("jensen_shannon").activation_slope == pytest.approx(0.5)


@pytest.mark.parametrize(
    "name", [n for n in catalogue() if divergence(n).activation_map.kind == "exponential"]
)
def test_the_rule_for_expressions_gives_the_tables_activation(name):
    d = divergence(name)
    unnamed = divergence(d.generator + 0)
    from fdiv_jax.divergences import _activation

    rule = _activation.chosen(unnamed.slopes[1], unnamed.slopes[0], unnamed.equilibrium_slope, False)
    assert rule.expression == d.activation_expression


def test_f_itself(x64):
    t = np.array([0.2, 1.0, 1.9, 2.0, 2.6, 7.0])
    for text in QUICK:
        exact = [float(EVERY[text](mpmath.mpf(x))) for x in t]
        np.testing.assert_allclose(divergence(text).f(t), exact, rtol=1e-12, atol=1e-14, err_msg=text)
    assert float(divergence("kl").f(0.0)) == 0
    assert float(divergence("reverse_kl").f(0.0)) == math.inf
    assert float(divergence("kl").f(-1.0)) == math.inf
