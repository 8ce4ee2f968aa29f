"""Rates, critical damping and plain descent, against mpmath's roots and iterated maps."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fdiv_jax import divergence, theory

KL, HELLINGER, CHI2 = (divergence(n) for n in ("kl", "squared_hellinger", "pearson_chi2"))
JS, TV = divergence("jensen_shannon"), divergence("total_variation")
positive = st.floats(1e-3, 1e3)


def root_rate(beta, stiffness):
    """-max Re of the roots of x^2 + beta x + stiffness with 60 digits."""
    with mpmath.workdps(60):
        disc = mpmath.sqrt(mpmath.mpf(beta) ** 2 - 4 * mpmath.mpf(stiffness))
        return float(-max(mpmath.re((-beta + disc) / 2), mpmath.re((-beta - disc) / 2)))


@settings(max_examples=150, deadline=None)
@given(q=positive, k=positive, a=positive, b=positive, activation=st.booleans())
def test_the_rate_is_the_slow_root(q, k, a, b, activation):
    for d in (KL, JS):
        slope = d.activation_slope if activation else 1.0
        beta = mpmath.mpf(b) * slope**2 / float(d.curvature) * q
        expected = root_rate(beta, mpmath.mpf(a) * b * slope**2 * mpmath.mpf(k) ** 2)
        found = theory.game_rate(d, damping=q, coupling=k, model_step=a, critic_step=b, activation=activation)
        assert isinstance(found, float)
        # at critical damping the rate itself is a square root away from its data
        zeta = theory.damping_ratio(
            d, damping=q, coupling=k, model_step=a, critic_step=b, activation=activation
        )
        assert found == pytest.approx(expected, rel=1e-12 if abs(zeta - 1) > 1e-3 else 1e-6)


def test_figures_of_the_gaussian_game():
    """P = N(0, s^2), Q = N(theta, s^2), a linear critic: predicted rates at s = 1 and s = 3."""
    rates = {
        s: [round(theory.game_rate(d, damping=s**2, coupling=1.0), 4) for d in (KL, CHI2, HELLINGER, JS)]
        for s in (1.0, 3.0)
    }
    assert rates[1.0] == [0.5, 0.25, 1.0, 1.0]
    assert rates[3.0] == [0.1125, 0.2344, 0.0557, 0.0557]


def test_the_order_of_the_paper_and_its_reversal():
    """Weak damping: the smaller the curvature the faster. Strong damping: the other way round."""
    weak = [theory.game_rate(d, damping=0.1, coupling=1.0) for d in (HELLINGER, KL, CHI2)]
    strong = [theory.game_rate(d, damping=50.0, coupling=1.0) for d in (HELLINGER, KL, CHI2)]
    assert weak == sorted(weak, reverse=True)
    assert strong == sorted(strong)
    np.testing.assert_allclose(weak, [0.1, 0.05, 0.025], rtol=1e-12)
    np.testing.assert_allclose(strong, [1 / 100, 1 / 50, 1 / 25], rtol=2e-3)


def test_no_cancellation_far_above_critical_damping():
    found = theory.game_rate(KL, damping=1e9, coupling=1.0)
    assert found == pytest.approx(root_rate(1e9, 1.0), rel=1e-14)


def test_modes_the_slowest_decides_and_gauge_modes_do_not():
    q, k = np.array([1.0, 4.0, 0.01]), np.array([1.0, 1.0, 0.0])
    alone = [theory.game_rate(KL, damping=a, coupling=1.0) for a in (1.0, 4.0)]
    assert theory.game_rate(KL, damping=q, coupling=k) == min(alone)
    assert theory.game_rate(KL, damping=q[:2], coupling=1.0) == min(alone)
    spectrum = theory.game_spectrum(KL, np.diag(q), np.diag(k))
    assert spectrum.rate == pytest.approx(min(alone), rel=1e-12)


def test_a_kink_does_not_damp_and_has_no_descent_rate():
    assert theory.game_rate(TV, damping=3.0, coupling=1.0) == 0.0
    assert theory.game_rate(TV, damping=3.0, coupling=1.0, activation=True) == 0.0
    assert theory.game_rate(KL, damping=0.0, coupling=1.0) == 0.0
    with pytest.raises(ValueError, match="infinite"):
        theory.descent_rate(TV, [1.0], 0.1)
    with pytest.raises(ValueError, match="infinite"):
        theory.descent_step_limit(TV, [1.0])


def test_a_flat_generator_has_no_linearisation():
    class Flat:
        name, curvature, activation_slope = "(t-1)**4", 0, 1.0

    with pytest.raises(ValueError, match=r"f''\(1\) = 0"):
        theory.game_rate(Flat(), damping=1.0, coupling=1.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        {"damping": -1.0, "coupling": 1.0},
        {"damping": 1.0, "coupling": 0.0},
        {"damping": [1.0, 2.0], "coupling": [1.0, 2.0, 3.0]},
        {"damping": np.nan, "coupling": 1.0},
        {"damping": 1.0, "coupling": np.inf},
        {"damping": 1.0, "coupling": 1.0, "model_step": -1.0},
        {"damping": [], "coupling": []},
    ],
)
def test_wrong_modes_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        theory.game_rate(KL, **wrong)


@settings(max_examples=60, deadline=None)
@given(q=positive, k=positive, a=positive, b=positive, slope=st.sampled_from([1.0, 0.5, 0.3]))
def test_the_critical_curvature_is_the_fastest(q, k, a, b, slope):
    """A scan over curvatures at a fixed activation slope peaks there, and the discriminant vanishes."""
    best = theory.critical_curvature(
        damping=q, coupling=k, model_step=a, critic_step=b, activation_slope=slope
    )

    def rate(curvature):
        return root_rate(b * slope**2 * q / curvature, a * b * slope**2 * k**2)

    assert b * slope**2 / best * q == pytest.approx(2 * k * np.sqrt(a * b) * slope, rel=1e-12)
    for factor in (0.5, 0.9, 0.99, 1.01, 1.1, 2.0):
        assert rate(best * factor) < rate(best) * (1 + 1e-9)


def test_damping_ratio_is_critical_curvature_over_curvature():
    q, k = np.array([1.0, 4.0]), np.array([0.5, 3.0])
    expected = theory.critical_curvature(damping=q, coupling=k, critic_step=2.0) / 0.5
    np.testing.assert_allclose(
        theory.damping_ratio(HELLINGER, damping=q, coupling=k, critic_step=2.0), expected, rtol=1e-14
    )
    assert isinstance(theory.critical_curvature(damping=1.0, coupling=1.0), float)
    with pytest.raises(ValueError, match="damping > 0"):
        theory.critical_curvature(damping=0.0, coupling=1.0)


@settings(max_examples=60, deadline=None)
@given(
    spectrum=st.lists(st.floats(0.05, 20.0), min_size=1, max_size=5),
    fraction=st.floats(0.01, 0.98),
)
def test_descent_follows_its_rate(spectrum, fraction):
    """Gradient descent on the quadratic f''(1) x^T diag(k) x / 2, iterated."""
    for d, curvature in ((HELLINGER, 0.5), (CHI2, 2.0)):
        limit = theory.descent_step_limit(d, spectrum)
        step = fraction * limit
        rate = theory.descent_rate(d, spectrum, step)
        factors = np.abs(1 - step * curvature * np.array(spectrum))
        assert 1 - rate == pytest.approx(factors.max(), abs=1e-12)
        x = np.ones(len(spectrum))
        for _ in range(5):
            x = x - step * curvature * np.array(spectrum) * x
        assert np.abs(x).max() == pytest.approx((1 - rate) ** 5, rel=1e-9, abs=1e-12)
        assert theory.descent_rate(d, spectrum, 1.01 * limit) < 0


def test_small_steps_descend_at_curvature_times_the_least_eigenvalue():
    assert theory.descent_rate(CHI2, [3.0, 0.5], 1e-9) == 2.0 * 0.5 * 1e-9
    with pytest.raises(ValueError, match="leave out"):
        theory.descent_rate(CHI2, [3.0, 0.0], 0.1)
    with pytest.raises(ValueError, match="step"):
        theory.descent_rate(CHI2, [3.0], 0.0)


@pytest.mark.slow
def test_modes_run_inside_jit_in_both_precisions():
    beta, omega = np.array([0.5, 2.0, 7.0]), np.array([1.0, 1.0, 1.0])
    expected = [root_rate(b, 1.0) for b in beta]
    for x64, rtol in ((False, 1e-6), (True, 1e-14)):
        with jax.enable_x64(x64):
            found = jax.jit(theory.mode_rate)(jnp.asarray(beta), jnp.asarray(omega))
            roots = jax.jit(theory.mode_eigenvalues)(jnp.asarray(beta), jnp.asarray(omega))
            slopes = jax.vmap(jax.grad(lambda b: theory.mode_rate(b, jnp.ones(()))))(jnp.asarray(beta))
            np.testing.assert_allclose(found, expected, rtol=rtol)
            np.testing.assert_allclose(-np.max(np.real(roots), axis=-1), expected, rtol=rtol)
            # from implicit differentiation: d rate / d beta = 1/2 below, -rate / (beta - 2 rate) above
            np.testing.assert_allclose(slopes[0], 0.5, rtol=1e-6)
            np.testing.assert_allclose(slopes[2], -expected[2] / (7 - 2 * expected[2]), rtol=1e-5)
    for b in (0.0, 0.3, 2.0, 9.0):
        np.testing.assert_allclose(
            np.sort_complex(theory.mode_eigenvalues(b, 1.0)), np.sort_complex(np.roots([1, b, 1])), atol=1e-7
        )


@pytest.mark.parametrize(
    ("q", "k"), [(1e-170, 1e-175), (1e200, 1e190), (1e-170, 1e-165), (1e160, 1e160), (2e-200, 1e-200)]
)
def test_squares_that_over_or_underflow(q, k):
    with mpmath.workdps(60):
        root = mpmath.sqrt(mpmath.mpf(q) ** 2 - 4 * mpmath.mpf(k) ** 2)
        exact = [complex((-mpmath.mpf(q) + sign * root) / 2) for sign in (1, -1)]
    assert theory.game_rate(KL, damping=q, coupling=k) == pytest.approx(-exact[0].real, rel=1e-12, abs=0)
    np.testing.assert_allclose(theory.mode_eigenvalues(q, k), exact, rtol=1e-12)
    ratio = theory.critical_curvature(damping=1.0, coupling=1.0, model_step=1e-200, critic_step=1e200)
    assert ratio == pytest.approx(5e199)
