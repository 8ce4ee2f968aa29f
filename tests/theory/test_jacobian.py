"""The block matrix and its eigenvalues, against matrices assembled by hand and derivatives of a game."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm

from fdiv_jax import divergence, theory
from fdiv_jax.divergences import variational_value
from tests.divergences.oracles import quickly

KL, HELLINGER, CHI2 = (divergence(n) for n in ("kl", "squared_hellinger", "pearson_chi2"))
JS, TV = divergence("jensen_shannon"), divergence("total_variation")


def random_blocks(seed: int, n_omega: int, n_theta: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(3 * n_omega, n_omega))
    return features.T @ features / len(features), rng.normal(size=(n_omega, n_theta))


@pytest.mark.parametrize(
    ("d", "activation", "relaxation", "slope"),
    [
        (KL, False, 1.0, 1.0),
        (HELLINGER, False, 2.0, 1.0),
        (CHI2, False, 0.5, 1.0),
        (HELLINGER, True, 2.0, 1.0),
        (JS, False, 2.0, 1.0),
        (JS, True, 0.5, 0.5),
        (TV, False, 0.0, 1.0),
        (TV, True, 0.0, 0.5),
    ],
)
def test_the_blocks_are_those_of_the_formula(d, activation, relaxation, slope):
    gram, k = random_blocks(0, 3, 2)
    found = theory.game_jacobian(d, gram, k, 0.7, 1.9, activation)
    by_hand = np.zeros((5, 5))
    for i in range(2):
        for j in range(3):
            by_hand[i, 2 + j] = 0.7 * slope * k[j, i]
            by_hand[2 + j, i] = -1.9 * slope * k[j, i]
    by_hand[2:, 2:] = -1.9 * relaxation * gram
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, by_hand, rtol=1e-15)


@pytest.mark.parametrize(
    "name", quickly(["kl", "reverse_kl", "le_cam", "gan", "alpha(0.3)"], ["kl", "le_cam"])
)
@pytest.mark.parametrize("activation", [False, True])
def test_the_jacobian_is_the_derivative_of_the_game(name, activation):
    """Central differences of the gradient of the variational value on a sample, with its Gram and K."""
    d = divergence(name)
    with jax.enable_x64(True):
        z = jnp.asarray(np.random.default_rng(1).normal(size=(200, 2)))

        def features(x):
            return jnp.concatenate([jnp.tanh(x), x[:, :1] * x[:, 1:], jnp.ones((len(x), 1))], axis=1)

        def move(theta):
            return z * jnp.exp(theta[2]) + theta[:2]

        def value(theta, omega):
            return variational_value(
                d, features(z) @ omega, features(move(theta)) @ omega, activation=activation
            )

        def field(point):
            by_theta, by_omega = jax.grad(value, (0, 1))(point[:3], point[3:])
            return jnp.concatenate([-0.4 * by_theta, 1.3 * by_omega])

        s0, v0 = d.equilibrium
        at = jnp.zeros(7).at[6].set(v0 if activation else s0)
        step = 1e-5
        field = jax.jit(field)
        columns = [(field(at.at[i].add(step)) - field(at.at[i].add(-step))) / (2 * step) for i in range(7)]
        gram = features(z).T @ features(z) / len(z)
        coupling = jax.jacfwd(lambda theta: features(move(theta)).mean(0))(jnp.zeros(3))
    predicted = theory.game_jacobian(d, np.asarray(gram), np.asarray(coupling), 0.4, 1.3, activation)
    np.testing.assert_allclose(np.array(columns).T, predicted, atol=1e-8)


def test_the_jacobian_drives_the_flow():
    """scipy's matrix exponential of J falls at the rate of `game_spectrum` once the faster modes are gone."""
    gram, k = random_blocks(3, 4, 2)
    spectrum = theory.game_spectrum(KL, gram, k)
    j = theory.game_jacobian(KL, gram, k)
    # only what can be seen from the model: start in theta
    start = np.concatenate([np.ones(2), np.zeros(4)])
    times = np.linspace(200, 400, 400)
    size = [np.linalg.norm((expm(j * t) @ start)[:2]) for t in times]
    peaks = np.maximum.accumulate(np.log(size)[::-1])[::-1]
    slope = np.polyfit(times, peaks, 1)[0]
    assert slope == pytest.approx(-spectrum.rate, rel=0.02)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n_omega=st.integers(1, 6),
    n_theta=st.integers(1, 6),
    gauges=st.integers(0, 3),
    spare=st.integers(0, 2),
)
def test_the_spectrum_is_complete(seed, n_omega, n_theta, gauges, spare):
    """Coupled, gauge and neutral together are all eigenvalues; the added gauge modes are found."""
    gram, k = random_blocks(seed, n_omega, n_theta)
    levels = np.linspace(0.3, 0.9, gauges) if gauges else np.zeros(0)
    whole = np.zeros((n_omega + gauges, n_omega + gauges))
    whole[:n_omega, :n_omega], whole[n_omega:, n_omega:] = gram, np.diag(levels)
    wide = np.zeros((n_omega + gauges, n_theta + spare))
    wide[:n_omega, :n_theta] = k
    rng = np.random.default_rng(seed + 1)
    u, _ = np.linalg.qr(rng.normal(size=(len(whole), len(whole))))
    v, _ = np.linalg.qr(rng.normal(size=(n_theta + spare, n_theta + spare)))
    whole, wide = u @ whole @ u.T, u @ wide @ v
    found = theory.game_spectrum(HELLINGER, whole, wide, 0.8, 1.2)
    np.testing.assert_allclose(np.sort(found.gauge), np.sort(-1.2 * 2 * levels), rtol=1e-9)
    together = np.concatenate([found.eigenvalues, found.gauge, np.zeros(found.neutral)])
    expected = np.linalg.eigvals(theory.game_jacobian(HELLINGER, whole, wide, 0.8, 1.2))
    assert together.size == expected.size
    # symmetric functions of the spectrum: no matching of nearly equal roots is needed
    for t in (0.3, 1.0, 2.0):
        assert np.exp(t * together).sum() == pytest.approx(np.exp(t * expected).sum(), rel=1e-8)


def test_commuting_blocks_give_the_roots_of_the_quadratic():
    q, k = np.array([4.0, 1.0, 0.25]), np.array([0.7, 1.5, 0.2])
    found = theory.game_spectrum(CHI2, np.diag(q), np.diag(k), 0.5, 2.0).eigenvalues
    expected = np.concatenate(
        [np.roots([1, 2.0 * 0.5 * a, 0.5 * 2.0 * b**2]) for a, b in zip(q, k, strict=True)]
    )
    np.testing.assert_allclose(np.sort(found), np.sort(expected), rtol=1e-12)


def test_a_constant_couples_when_the_features_have_a_mean():
    """Its direction is a gauge mode only for centred features; Gram decides, not the name."""
    centred = theory.game_spectrum(KL, np.diag([2.0, 1.0]), [[1.0], [0.0]])
    shifted = theory.game_spectrum(KL, [[2.0, 0.6], [0.6, 1.0]], [[1.0], [0.0]])
    np.testing.assert_allclose(centred.gauge, [-1.0])
    assert len(shifted.gauge) == 0
    assert len(shifted.eigenvalues) == 3


def test_without_damping_only_circles_are_left():
    spectrum = theory.game_spectrum(TV, *random_blocks(5, 4, 2))
    assert spectrum.rate == pytest.approx(0.0, abs=1e-12)
    assert len(spectrum.eigenvalues) == 4
    assert spectrum.neutral == 2
    np.testing.assert_allclose(np.real(spectrum.eigenvalues), 0, atol=1e-12)


@pytest.mark.parametrize(
    ("gram", "coupling", "options", "message"),
    [
        ([[1.0, 0.5], [0.0, 1.0]], np.ones((2, 1)), {}, "symmetric"),
        ([[1.0, 2.0], [2.0, 1.0]], np.ones((2, 1)), {}, "semi-definite"),
        (np.eye(2), np.ones((3, 1)), {}, r"n_omega = 2.*\(3, 1\)"),
        (np.eye(2), np.ones(2), {}, r"shape \(2,\)"),
        (np.ones((2, 3)), np.ones((2, 1)), {}, "square"),
        (np.eye(2) * np.nan, np.ones((2, 1)), {}, "finite"),
        (np.eye(2), np.full((2, 1), np.inf), {}, "finite"),
        (1.0, 1.0, {"model_step": 0.0}, "model_step"),
        (1.0, 1.0, {"critic_step": -1.0}, "critic_step"),
        (1.0, 1.0, {"critic_step": np.nan}, "critic_step"),
        (np.zeros((0, 0)), np.zeros((0, 1)), {}, "entries"),
    ],
)
def test_wrong_blocks_are_refused(gram, coupling, options, message):
    with pytest.raises(ValueError, match=message):
        theory.game_jacobian(KL, gram, coupling, **options)


def test_wrong_kinds_are_refused():
    with pytest.raises(TypeError, match="Divergence"):
        theory.game_jacobian(3.0, 1.0, 1.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="real numbers"):
        theory.game_jacobian(KL, [[1j]], 1.0)
    with pytest.raises(TypeError, match="model_step"):
        theory.game_jacobian(KL, 1.0, 1.0, model_step="1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="zero"):
        theory.game_spectrum(KL, np.eye(2), np.zeros((2, 2)))


@pytest.mark.parametrize("activation", [False, True])
def test_a_generator_that_is_linear_beyond_one_has_no_game(activation):
    """s0 = f'(1) = f'(oo): above it f* is oo and the critic's value -oo."""
    with pytest.raises(
        ValueError, match=r"linear beyond t = 1, so the critic's equilibrium s0 = f'\(1\) = 0"
    ):
        theory.game_rate("Max(1 - t, 0)**2", damping=1.0, coupling=1.0, activation=activation)
    theory.game_rate("Max(t - 1, 0)**2", damping=1.0, coupling=1.0)
    assert theory.descent_rate("Max(1 - t, 0)**2", [1.0], 0.1) > 0


def test_float32_matrices_are_taken_as_they_are():
    """A Gram matrix from a float32 network is symmetric and semi-definite only to float32."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 6)).astype(np.float32)
    gram = features.T @ features / np.float32(40)
    gram[0, 1] += np.float32(1e-7)
    theory.game_jacobian(KL, gram, np.ones((6, 2), np.float32))
    theory.game_jacobian(KL, jnp.asarray(gram), jnp.ones((6, 2)))


def test_float32_noise_couples_no_gauge_mode():
    rng = np.random.default_rng(2)
    turn, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    gram = (turn @ np.diag([2.0, 1.0, 0.6, 0.3]) @ turn.T).astype(np.float32)
    k = (turn @ np.array([[1.0, 0.2], [0.3, 1.0], [0, 0], [0, 0]])).astype(np.float32)
    spectrum = theory.game_spectrum(KL, gram, k)
    np.testing.assert_allclose(spectrum.gauge, [-0.3, -0.6], rtol=1e-4)
    exact = theory.game_spectrum(KL, np.diag([2.0, 1.0]), [[1.0, 0.2], [0.3, 1.0]])
    assert spectrum.rate == pytest.approx(exact.rate, rel=1e-4)


def test_a_name_or_an_expression_stands_for_a_divergence():
    assert theory.game_jacobian("t*log(t)", 1.0, 2.0)[1, 1] == -1.0
    assert theory.game_jacobian("squared_hellinger", 1.0, 2.0)[1, 1] == -2.0
