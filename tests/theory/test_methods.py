"""Momentum, Adam, penalties and decay: update matrices against automatic differentiation of the step itself.

The game is P = N(0, s^2) against Q = N(theta, s^2) with v = w x + b, whose expectations are known in closed
form for four divergences; features (x, 1) have Gram = diag(s^2, 1) and K = (1, 0).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fdiv_jax import divergence, theory

S = 1.3
GRAM, COUPLING = np.diag([S**2, 1.0]), np.array([[1.0], [0.0]])


def second_moment(theta, w, b):
    return (w * theta + b) ** 2 + w**2 * S**2


def normal_exponential(c, theta, w, b):
    """E exp(c v) for x ~ N(theta, s^2)."""
    return jnp.exp(c * (w * theta + b) + c**2 * w**2 * S**2 / 2)


# (value V(theta, w, b), b at the equilibrium, whether T = g(v))
GAMES = {
    "kl": (lambda t, w, b: b - normal_exponential(1.0, t, w, b) / jnp.e, 1.0, False),
    "pearson_chi2": (lambda t, w, b: b - second_moment(t, w, b) / 4 - (w * t + b), 0.0, False),
    "squared_hellinger": (
        lambda t, w, b: 2 - normal_exponential(-1.0, 0.0, w, b) - normal_exponential(1.0, t, w, b),
        0.0,
        True,
    ),
    "neyman_chi2": (
        lambda t, w, b: 2 * normal_exponential(-0.5, t, w, b) - 1 - normal_exponential(-1.0, 0.0, w, b),
        0.0,
        True,
    ),
}
A, B, H = 0.7, 1.9, 0.05  # speeds of the players, step
SCALE = np.array([0.4, 2.0, 0.6])  # Adam's frozen root of second moments


def field(name, penalty):
    """(theta, w, b) -> its velocity, from the value and the penalty alone."""
    value, b0, _ = GAMES[name]

    def objective(z):
        regular = penalty.get("decay", 0.0) / 2 * (z[1] ** 2 + (z[2] - b0) ** 2)
        slope = z[1] * (1.0 if not GAMES[name][2] else divergence(name).activation_slope)
        regular = regular + penalty.get("gradient", 0.0) / 2 * slope**2  # d_x T at the equilibrium's T'
        return value(z[0], z[1], z[2]), value(z[0], z[1], z[2]) - regular

    def velocity(z):
        model = jax.grad(lambda z: objective(z)[0])(z)
        critic = jax.grad(lambda z: objective(z)[1])(z)
        return jnp.array([-A * model[0], B * critic[1], B * critic[2]])

    return jax.jit(velocity), jnp.array([0.0, 0.0, b0])


def jacobian(name, penalty):
    gradient = penalty.get("gradient", 0.0)
    matrix = penalty.get("decay", 0.0) * np.eye(2) + np.diag([gradient, 0.0])
    return theory.game_jacobian(name, GRAM, COUPLING, A, B, GAMES[name][2], critic_penalty=matrix)


def one_step(velocity, scheme, n, beta, gain, scale, decay, rest):
    """One iteration as a program: (z, memory) -> (z, memory), memory the buffer or the last point."""
    model, critic = jnp.array([1.0, 0, 0]), jnp.array([0, 1.0, 1.0])
    betas, gains = beta[0] * model + beta[1] * critic, gain[0] * model + gain[1] * critic

    def move(z, v, who):
        force = velocity(z) / scale
        v = jnp.where(who > 0, betas * v + gains * force, v)
        return z + H * who * (v - decay * critic * (z - rest)), v

    def step(state):
        z, memory = state[:3], state[3:]
        if scheme == "simultaneous":
            z, memory = move(z, memory, model + critic)
        elif scheme == "alternating":
            for _ in range(n):
                z, memory = move(z, memory, critic)
            z, memory = move(z, memory, model)
        elif scheme == "extragradient":
            z = z + H * velocity(z + H * velocity(z) / scale) / scale
        else:
            z, memory = z + (2 * H * velocity(z) - H * velocity(memory)) / scale, z
        return jnp.concatenate([z, memory])

    return step


CASES = [
    ("simultaneous", 1, 0.0, False, False, 0.0),
    ("alternating", 1, 0.0, False, True, 0.0),
    ("alternating", 3, 0.0, False, False, 0.4),
    ("extragradient", 1, 0.0, False, True, 0.0),
    ("optimistic", 1, 0.0, False, True, 0.0),
    ("simultaneous", 1, 0.6, False, False, 0.0),
    ("simultaneous", 1, -0.4, False, True, 0.0),
    ("simultaneous", 1, 0.9, True, True, 0.3),
    ("simultaneous", 1, (0.2, -0.5), False, False, 0.3),
    ("alternating", 1, 0.9, True, True, 0.0),
    ("alternating", 3, (0.5, 0.9), True, True, 0.3),
]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in ("kl", "neyman_chi2"))) for n in GAMES]
)
def test_update_matrices_are_derivatives_of_the_step(name, x64):
    penalty = {} if name == "kl" else {"decay": 0.3, "gradient": 0.8}
    velocity, rest = field(name, penalty)
    j = jacobian(name, penalty)
    np.testing.assert_allclose(jax.jacfwd(velocity)(rest), j, atol=1e-12)
    for scheme, n, momentum, averaged, adam, decay in CASES:
        pair = momentum if isinstance(momentum, tuple) else (momentum, momentum)
        gain = tuple(1 - beta if averaged else 1.0 for beta in pair)
        scale = SCALE if adam else np.ones(3)
        step = one_step(velocity, scheme, n, pair, gain, scale, decay, rest)
        memory = rest if scheme == "optimistic" else jnp.zeros(3)
        exact = np.asarray(jax.jacfwd(step)(jnp.concatenate([rest, memory])))
        found = theory.update_matrix(
            j, H, scheme, model_size=1, critic_steps=n, momentum=momentum, averaged=averaged,
            preconditioner=SCALE if adam else None, critic_decay=decay,
        )  # fmt: skip
        size = found.shape[0]
        np.testing.assert_allclose(found, exact[:size, :size], atol=1e-12, err_msg=f"{scheme} {momentum}")


def test_a_preconditioner_is_another_game():
    rng = np.random.default_rng(3)
    features, k = rng.normal(size=(12, 4)), rng.normal(size=(4, 2))
    gram = features.T @ features / 12
    model, critic = rng.uniform(0.2, 3.0, 2), rng.uniform(0.2, 3.0, 4)
    j = theory.game_jacobian("kl", gram, k, 0.5, 2.0) / np.concatenate([model, critic])[:, None]
    other = theory.game_jacobian("kl", *theory.preconditioned(gram, k, model=model, critic=critic), 0.5, 2.0)
    np.testing.assert_allclose(
        np.sort_complex(np.linalg.eigvals(j)), np.sort_complex(np.linalg.eigvals(other)), rtol=1e-10
    )


@settings(max_examples=30, deadline=None)
@given(
    q=st.floats(0.05, 5),
    k=st.floats(0.1, 5),
    beta=st.sampled_from([-0.7, -0.3, 0.2, 0.5, 0.9]),
    averaged=st.booleans(),
)
def test_the_limit_of_a_heavy_ball_in_closed_form(q, k, beta, averaged):
    """Just under the limit the powers of the update matrix die out, just over they grow."""
    limit = theory.game_step_limit("kl", q, k, momentum=beta, averaged=averaged)
    j = theory.game_jacobian("kl", q, k)
    for factor, stable in ((0.999, True), (0.3, True), (1.001, False)):
        matrix = theory.update_matrix(j, factor * limit, momentum=beta, averaged=averaged)
        assert (np.abs(np.linalg.eigvals(matrix)).max() < 1) == stable


@pytest.mark.parametrize(
    ("scheme", "momentum", "n"),
    [("simultaneous", (0.2, -0.5), 1), ("alternating", -0.5, 1), ("alternating", 0.3, 3)],
)
def test_limits_that_are_searched(scheme, momentum, n):
    options = {"scheme": scheme, "momentum": momentum, "critic_steps": n}
    limit = theory.game_step_limit("kl", GRAM, COUPLING, **options)
    j = theory.game_jacobian("kl", GRAM, COUPLING)
    for factor, stable in ((0.999, True), (0.1, True), (1.001, False)):
        matrix = theory.update_matrix(j, factor * limit, model_size=1, **options)
        assert (np.abs(np.linalg.eigvals(matrix)).max() < 1) == stable
    rate = theory.discrete_rate("kl", GRAM, COUPLING, 0.5 * limit, **options)
    matrix = theory.update_matrix(
        theory.game_spectrum("kl", GRAM, COUPLING).coupled, 0.5 * limit, model_size=1, **options
    )
    assert rate == pytest.approx(-np.log(np.abs(np.linalg.eigvals(matrix)).max()), rel=1e-12)


def test_negative_momentum_alternating_stabilises_a_game_without_damping():
    """Gidel et al. 2019: bilinear games converge with alternating steps and negative momentum alone."""
    options = {"scheme": "alternating"}
    assert theory.game_step_limit("total_variation", 1.0, 1.0, **options) == 0
    assert theory.game_step_limit("total_variation", 1.0, 1.0, momentum=(0.0, -0.5), **options) > 0.1
    assert theory.discrete_rate("total_variation", 1.0, 1.0, 0.3, momentum=(0.0, -0.5), **options) > 0
    assert theory.game_step_limit("total_variation", 1.0, 1.0, momentum=0.5) == 0


def test_penalties_damp_every_f_alike():
    """With a large penalty the rates of divergences come together, and gauge modes are damped as well."""
    spread = []
    for penalty in (0.0, 0.5, 50.0):
        rates = [
            theory.game_spectrum(d, GRAM, COUPLING, critic_penalty=penalty).rate
            for d in ("kl", "pearson_chi2")
        ]
        spread.append(abs(np.log(rates[0] / rates[1])))
    assert spread[0] > spread[1] > spread[2]
    spectrum = theory.game_spectrum("kl", GRAM, COUPLING, critic_penalty=0.5)
    np.testing.assert_allclose(spectrum.gauge, [-1.5])
    assert theory.game_spectrum("total_variation", GRAM, COUPLING, critic_penalty=0.5).rate > 0


def test_does_the_order_of_curvatures_survive_adam():
    """T = v: yes, in both regimes. T = g(v): only g' drops out. Direct minimisation: no."""
    curvatures = [0.5, 1.0, 2.0]
    for gram, falling in ((0.1, True), (30.0, False)):
        k = 1.0
        for adam in (False, True):
            rates = theory.rate_by_curvature(curvatures, gram, k, 0.005, adam=adam)
            assert (np.diff(rates) < 0).all() == falling
        with_g = theory.rate_by_curvature(curvatures, gram, k, 0.005, activation_slope=0.5, adam=True)
        # d = g'/f''(1), c = 1: that of T = v at twice the curvature
        other = theory.rate_by_curvature([1.0, 2.0, 4.0], gram, k, 0.005)
        np.testing.assert_allclose(with_g, other, rtol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"momentum": 1.0}, "momentum"),
        ({"momentum": (0.1, 0.2, 0.3)}, "momentum"),
        ({"momentum": 0.5, "scheme": "optimistic"}, "momentum belongs"),
        ({"momentum": (0.1, 0.2)}, "model_size"),
        ({"critic_decay": 0.1}, "model_size"),
        ({"critic_decay": -0.1, "model_size": 1}, "critic_decay"),
        ({"preconditioner": [1.0, -1.0, 1.0]}, "preconditioner"),
        ({"preconditioner": [1.0]}, "preconditioner"),
    ],
)
def test_wrong_methods_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        theory.update_matrix(np.eye(3), 0.1, **options)


def test_wrong_penalties_are_refused():
    for penalty in (-1.0, np.eye(3), [[0.0, 1.0], [0.0, 0.0]]):
        with pytest.raises(ValueError, match="critic_penalty"):
            theory.game_jacobian("kl", GRAM, COUPLING, critic_penalty=penalty)
    with pytest.raises(ValueError, match="model"):
        theory.preconditioned(GRAM, COUPLING, model=0.0, critic=1.0)
