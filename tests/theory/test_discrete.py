"""Discrete steps: update matrices against iterated maps, limits against the spectral radius on both sides."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fdiv_jax import divergence, theory

KL, HELLINGER, CHI2 = (divergence(n) for n in ("kl", "squared_hellinger", "pearson_chi2"))
TV = divergence("total_variation")
SCHEMES = [("simultaneous", 1), ("alternating", 1), ("alternating", 4), ("alternating", 5)]
SCHEMES += [("extragradient", 1), ("optimistic", 1)]


def iterate(j, z, h, scheme, model_size, critic_steps, count):
    """The iteration written out player by player."""
    model, critic = slice(0, model_size), slice(model_size, None)
    before = z.copy()
    for _ in range(count):
        if scheme == "simultaneous":
            z = z + h * j @ z
        elif scheme == "alternating":
            z = z.copy()
            for _ in range(critic_steps):
                z[critic] = z[critic] + h * (j @ z)[critic]
            z[model] = z[model] + h * (j @ z)[model]
        elif scheme == "extragradient":
            z = z + h * j @ (z + h * j @ z)
        else:
            z, before = z + 2 * h * j @ z - h * j @ before, z
    return z, before


@pytest.mark.parametrize(("scheme", "critic_steps"), SCHEMES)
def test_the_update_matrix_is_one_iteration(scheme, critic_steps):
    rng = np.random.default_rng(0)
    j = rng.normal(size=(5, 5))
    matrix = theory.update_matrix(j, 0.1, scheme, model_size=2, critic_steps=critic_steps)
    z = rng.normal(size=5)
    expected, before = iterate(j, z, 0.1, scheme, 2, critic_steps, 3)
    if scheme == "optimistic":
        found = np.linalg.matrix_power(matrix, 3) @ np.concatenate([z, z])
        np.testing.assert_allclose(found, np.concatenate([expected, before]), rtol=1e-12)
    else:
        np.testing.assert_allclose(np.linalg.matrix_power(matrix, 3) @ z, expected, rtol=1e-12)


def radius(d, gram, k, h, scheme, critic_steps, **options):
    """Spectral radius of the full update matrix, idle directions (an eigenvalue 1 that stays) taken out."""
    j = theory.game_jacobian(d, gram, k, **options)
    matrix = theory.update_matrix(j, h, scheme, model_size=k.shape[1], critic_steps=critic_steps)
    values = np.linalg.eigvals(matrix)
    return np.abs(values[np.abs(values - 1) > 1e-9]).max()


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    shape=st.sampled_from([(1, 1), (2, 1), (3, 2), (4, 4), (3, 5)]),
    scheme=st.sampled_from(SCHEMES),
    speeds=st.sampled_from([(1.0, 1.0), (0.1, 3.0), (5.0, 0.5)]),
    strength=st.floats(0.1, 10.0),
)
def test_just_under_the_limit_is_stable_just_over_is_not(seed, shape, scheme, speeds, strength):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(4 * shape[0], shape[0]))
    gram, k = features.T @ features / len(features), strength * rng.normal(size=shape)
    name, critic_steps = scheme
    options = {"model_step": speeds[0], "critic_step": speeds[1]}
    limit = theory.game_step_limit(HELLINGER, gram, k, scheme=name, critic_steps=critic_steps, **options)
    assert limit > 0
    assert radius(HELLINGER, gram, k, 0.999 * limit, name, critic_steps, **options) < 1
    assert radius(HELLINGER, gram, k, 1.001 * limit, name, critic_steps, **options) > 1
    for fraction in (0.02, 0.3, 0.6, 0.9):  # nothing unstable on the way
        assert radius(HELLINGER, gram, k, fraction * limit, name, critic_steps, **options) < 1


@settings(max_examples=50, deadline=None)
@given(q=st.floats(0.01, 20), k=st.floats(0.01, 20), a=st.floats(0.1, 5), b=st.floats(0.1, 5))
def test_limits_of_one_mode_in_closed_form(q, k, a, b):
    beta, square = b * q, a * b * k**2  # kl: d = 1
    options = {"model_step": a, "critic_step": b}
    alternating = theory.game_step_limit(KL, q, k, scheme="alternating", **options)
    assert alternating == pytest.approx(4 / (beta + np.sqrt(beta**2 + 4 * square)), rel=1e-9)
    roots = np.roots([1, beta, square])
    simultaneous = theory.game_step_limit(KL, q, k, **options)
    assert simultaneous == pytest.approx(min(-2 * r.real / abs(r) ** 2 for r in roots), rel=1e-6)


def test_known_limits_without_damping_and_of_a_plain_decay():
    """Bilinear games: extra-gradient 1/L, optimistic 1/(sqrt 3 L). A real mode: 2, 1, 2/3 over its rate."""
    assert theory.game_step_limit(TV, 1.0, 2.0) == 0.0
    assert theory.game_step_limit(TV, 1.0, 2.0, scheme="alternating", critic_steps=3) == 0.0
    assert theory.game_step_limit(TV, 1.0, 2.0, scheme="extragradient") == pytest.approx(1 / 2)
    assert theory.game_step_limit(TV, 1.0, 2.0, scheme="optimistic") == pytest.approx(1 / (2 * np.sqrt(3)))
    strong = {"gram": np.diag([1e4]), "coupling": np.array([[1e-3]])}
    ends: tuple[tuple[theory.Scheme, float], ...]
    ends = (("simultaneous", 2), ("alternating", 2), ("extragradient", 1), ("optimistic", 2 / 3))
    for scheme, expected in ends:
        assert theory.game_step_limit(KL, **strong, scheme=scheme) == pytest.approx(expected / 1e4, rel=1e-6)


def test_the_gauge_mode_counts_for_the_limit_but_not_for_the_rate():
    gram, k = np.diag([0.1, 50.0]), np.array([[1.0], [0.0]])
    alone = np.array([[0.1]]), np.array([[1.0]])
    assert theory.game_step_limit(KL, gram, k, scheme="alternating") == pytest.approx(2 / 50)
    assert theory.game_step_limit(KL, *alone, scheme="alternating") > 1
    assert theory.discrete_rate(KL, gram, k, 0.01) == pytest.approx(theory.discrete_rate(KL, *alone, 0.01))


@pytest.mark.parametrize(("scheme", "critic_steps"), SCHEMES)
def test_the_rate_per_iteration_is_what_an_iteration_shows(scheme, critic_steps):
    gram, k = np.array([[2.0, 0.4], [0.4, 1.0]]), np.array([[1.0], [0.3]])
    h = 0.05
    found = theory.discrete_rate(CHI2, gram, k, h, scheme=scheme, critic_steps=critic_steps)
    j = theory.game_jacobian(CHI2, gram, k)
    early, _ = iterate(j, np.ones(3), h, scheme, 1, critic_steps, 400)
    late, _ = iterate(j, np.ones(3), h, scheme, 1, critic_steps, 1200)
    assert np.log(np.linalg.norm(early) / np.linalg.norm(late)) / 800 == pytest.approx(found, rel=0.02)


@pytest.mark.parametrize("scheme", ["simultaneous", "alternating", "extragradient", "optimistic"])
def test_small_steps_follow_the_flow(scheme):
    flow = theory.game_rate(HELLINGER, damping=3.0, coupling=1.0)
    h = 1e-5
    assert theory.discrete_rate(HELLINGER, 3.0, 1.0, h, scheme=scheme) / h == pytest.approx(flow, rel=1e-3)


def test_simultaneous_steps_blow_up_a_game_without_damping():
    assert theory.discrete_rate(TV, 1.0, 1.0, 0.1) == pytest.approx(-0.5 * np.log(1.01))
    assert theory.discrete_rate(TV, 1.0, 1.0, 0.1, scheme="alternating") == pytest.approx(0, abs=1e-12)
    assert theory.discrete_rate(TV, 1.0, 1.0, 0.1, scheme="extragradient") > 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"scheme": "adam"}, ValueError, "adam"),
        ({"scheme": "simultaneous", "critic_steps": 2}, ValueError, "alternating"),
        ({"scheme": "alternating", "critic_steps": 0}, ValueError, "critic_steps"),
        ({"scheme": "alternating", "critic_steps": 1.5}, TypeError, "integer"),
    ],
)
def test_wrong_schemes_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        theory.game_step_limit(KL, 1.0, 1.0, **options)


def test_wrong_update_matrices_are_refused():
    with pytest.raises(ValueError, match="square"):
        theory.update_matrix(np.ones((2, 3)), 0.1)
    with pytest.raises(ValueError, match="model_size"):
        theory.update_matrix(np.eye(3), 0.1, "alternating")
    with pytest.raises(ValueError, match="model_size"):
        theory.update_matrix(np.eye(3), 0.1, "alternating", model_size=3)
    with pytest.raises(ValueError, match="step"):
        theory.update_matrix(np.eye(3), 0.0)


@pytest.mark.parametrize("critic_steps", [2, 3, 5])
def test_a_mode_too_slow_to_move_does_not_end_stability(critic_steps):
    """Strong damping: the slow factor is 1 to rounding, the limit is the critic's own, 2 / (b d q_max)."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        features = rng.normal(size=(12, 3))
        gram = features.T @ features / 12
        limit = theory.game_step_limit(
            "1e-7*(t-1)**2", gram, rng.normal(size=(3, 2)), scheme="alternating", critic_steps=critic_steps
        )
        strongest = np.linalg.eigvalsh(gram)[-1] / 2e-7
        assert limit == pytest.approx(2 / strongest, rel=1e-6)
