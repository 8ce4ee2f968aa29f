"""Properties of random convex combinations of catalogue generators."""

import jax
import numpy as np
import pytest
import sympy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fdiv_jax.divergences import divergence, variational_value

NAMES = [
    "kl",
    "reverse_kl",
    "squared_hellinger",
    "pearson_chi2",
    "neyman_chi2",
    "jensen_shannon",
    "le_cam",
    "total_variation",
]
QUICK = settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
mixtures = st.dictionaries(st.sampled_from(NAMES), st.integers(1, 8), min_size=2, max_size=3)


def mixture(parts):
    terms = [sympy.Rational(weight, 4) * divergence(name).generator for name, weight in parts.items()]
    return divergence(str(sympy.Add(*terms)).replace("Abs", "abs"))


@pytest.mark.slow
@QUICK
@given(parts=mixtures)
def test_value_weight_and_curvature_are_linear_in_f(parts):
    d = mixture(parts)
    m = np.array([1e-3, 0.3, 5.0])
    with jax.enable_x64(True):
        for method in ("gaussian_divergence", "gaussian_weight"):
            expected = sum(w / 4 * np.asarray(getattr(divergence(n), method)(m)) for n, w in parts.items())
            np.testing.assert_allclose(getattr(d, method)(m), expected, rtol=1e-11)
    expected = sum(sympy.Rational(w, 4) * divergence(n).curvature for n, w in parts.items())
    assert d.curvature == expected


@pytest.mark.slow
@QUICK
@given(parts=mixtures, shift=st.integers(-3, 3))
def test_fenchel_young(parts, shift):
    """f(t) + f*(s) >= s t, with equality at s = f'(t); a tangent shifts s and nothing else."""
    d = mixture(parts)
    t = np.array([0.3, 0.9, 1.7, 4.0])
    with jax.enable_x64(True):
        f, slope = np.asarray(d.f(t)), np.asarray(jax.vmap(jax.grad(d.f))(t))
        conjugate = np.asarray(d.conjugate(slope))
        np.testing.assert_allclose(f + conjugate, slope * t, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(d.conjugate_prime(slope), t, rtol=1e-6)
        gap = f[:, None] + np.asarray(d.conjugate(slope))[None, :] - slope[None, :] * t[:, None]
        assert np.all(gap >= -1e-9)
        if shift:
            shifted = divergence(d.generator + shift * (sympy.Symbol("t", positive=True) - 1))
            np.testing.assert_allclose(
                shifted.conjugate(slope + shift), conjugate + shift, rtol=1e-9, atol=1e-9
            )


@pytest.mark.slow
@QUICK
@given(parts=mixtures)
def test_the_variational_value_is_a_lower_bound_and_tight(parts):
    d = mixture(parts)
    with jax.enable_x64(True):
        # P and Q on three points, E_Q[f(p/q)] exactly.
        p, q = np.array([0.2, 0.5, 0.3]), np.array([0.4, 0.35, 0.25])
        exact = float(np.sum(q * np.asarray(d.f(p / q))))
        best = np.asarray(jax.vmap(jax.grad(d.f))(p / q))
        tight = float(variational_value(d, best, best, activation=False, weights=(p, q)))
        assert tight == pytest.approx(exact, rel=1e-9, abs=1e-12)
        v = np.random.default_rng(0).normal(size=3)
        assert float(variational_value(d, v, v, weights=(p, q))) <= exact + 1e-12
