"""Plateaus of minibatch noise: scipy's Lyapunov solver, and many chains of the real iteration."""

import numpy as np
import pytest
from scipy.linalg import solve_discrete_lyapunov

from fdiv_jax import theory


@pytest.mark.parametrize("radius", [0.3, 0.9, 0.999])
def test_the_stationary_covariance_is_scipys(radius):
    rng = np.random.default_rng(0)
    a, root = rng.normal(size=(5, 5)), rng.normal(size=(5, 5))
    a *= radius / np.abs(np.linalg.eigvals(a)).max()
    found = theory.stationary_covariance(a, root @ root.T)
    np.testing.assert_allclose(found, solve_discrete_lyapunov(a, root @ root.T), rtol=1e-9, atol=1e-9)


def test_plateaus_of_one_mode():
    """x' = (1 - g k) x + g xi: m = k g^2 S / (B (1 - (1 - g k)^2)) = g S / (B (2 - g k))."""
    for name, curvature in (("kl", 1), ("squared_hellinger", 0.5), ("pearson_chi2", 2)):
        g, k, s = 0.1 * curvature, 1.7, 0.4
        found = theory.descent_noise(name, k, s, 0.1, 8)
        assert found == pytest.approx(g * s / (8 * (2 - g * k)), rel=1e-12)
    equal = [theory.descent_noise(d, 1.0, 1.0, h, 4) for d, h in (("kl", 0.1), ("pearson_chi2", 0.05))]
    assert equal[0] == pytest.approx(equal[1], rel=1e-12)


def test_the_game_rests_at_a_height_that_rises_with_the_curvature():
    """h a C f''(1) / (B q), in both regimes, at any coupling, with and without the activation."""
    for q, k in ((0.2, 1.0), (9.0, 0.5)):
        for name, activation in (("kl", False), ("pearson_chi2", False), ("jensen_shannon", True)):
            found = theory.game_noise(
                name,
                q,
                k,
                1e-5,
                10,
                feature_covariance=q,
                model_step=0.3,
                critic_step=1.7,
                activation=activation,
            )
            curvature = {"kl": 1, "pearson_chi2": 2, "jensen_shannon": 0.5}[name]
            assert found == pytest.approx(1e-5 * 0.3 * curvature / 10, rel=1e-3)


def descent_chains(weight, vectors, targets, h, batch, chains, steps, rng):
    """Minibatch descent on the mean of F_f((a_i x - y_i)^2), nothing linearised; mean m at the end."""
    n = vectors.shape[1]
    x = np.zeros((chains, n))
    kernel = vectors.T @ vectors / len(vectors)
    best = np.linalg.solve(kernel, vectors.T @ targets / len(vectors))
    total, count = 0.0, 0
    x += best
    for step in range(steps):
        i = rng.integers(len(vectors), size=(chains, batch))
        error = np.einsum("cbn,cn->cb", vectors[i], x) - targets[i]
        x = x - h * np.einsum("cb,cbn->cn", weight(error**2) * error, vectors[i]) / batch
        if step >= steps // 2:
            away = x - best
            total, count = total + np.einsum("cn,nm,cm->c", away, kernel, away).mean(), count + 1
    return total / count


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "weight"),
    [
        ("kl", np.ones_like),
        ("squared_hellinger", lambda m: np.exp(-m / 8) / 2),
        ("pearson_chi2", lambda m: 2 * np.exp(m)),
    ],
)
def test_ten_thousand_chains_of_descent(name, weight):
    rng = np.random.default_rng(5)
    vectors, targets = rng.normal(size=(200, 2)) * [1.0, 0.6], 0.05 * rng.normal(size=200)
    kernel = vectors.T @ vectors / 200
    best = np.linalg.solve(kernel, vectors.T @ targets / 200)
    pulls = (targets - vectors @ best)[:, None] * vectors
    second = np.mean([np.kron(np.outer(a, a), np.outer(a, a)) for a in vectors], axis=0)
    h = 0.2 / {"kl": 1, "squared_hellinger": 0.5, "pearson_chi2": 2}[name]
    predicted = theory.descent_noise(name, kernel, pulls.T @ pulls / 200, h, 4, second=second)
    measured = descent_chains(weight, vectors, targets, h, 4, 10_000, 240, rng)
    assert measured == pytest.approx(predicted, rel=0.02)
    assert theory.descent_noise(name, kernel, pulls.T @ pulls / 200, h, 4) != pytest.approx(
        predicted, rel=0.05
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheme", "momentum"), [("simultaneous", 0.0), ("alternating", 0.0), ("simultaneous", -0.3)]
)
def test_ten_thousand_chains_of_the_game(scheme, momentum):
    """P = N(0, 1), Q = N(theta, 1), T = v = w x + b for chi2, f* = v^2/4 + v, on batches of both."""
    rng = np.random.default_rng(7)
    chains, batch, h = 10_000, 16, 0.02
    gram, coupling, covariance = np.eye(2), np.array([[1.0], [0.0]]), np.diag([1.0, 0.0])
    predicted = theory.game_noise(
        "pearson_chi2",
        gram,
        coupling,
        h,
        batch,
        feature_covariance=covariance,
        scheme=scheme,
        momentum=momentum,
    )
    theta, w, b = np.zeros((3, chains))
    buffers = np.zeros((3, chains))

    def forces(theta, w, b):
        p = rng.normal(size=(chains, batch))
        q = theta[:, None] + rng.normal(size=(chains, batch))
        slope = (w[:, None] * q + b[:, None]) / 2 + 1  # f*'(v)
        return np.array([(slope * w[:, None]).mean(1), (p - slope * q).mean(1), (1 - slope).mean(1)])

    total, count, steps = 0.0, 0, 900
    for step in range(steps):
        if scheme == "simultaneous":
            buffers = momentum * buffers + forces(theta, w, b)
            theta, w, b = theta + h * buffers[0], w + h * buffers[1], b + h * buffers[2]
        else:
            _, dw, db = forces(theta, w, b)
            w, b = w + h * dw, b + h * db
            theta = theta + h * forces(theta, w, b)[0]
        if step >= 300:
            total, count = total + (theta**2).mean(), count + 1
    assert total / count == pytest.approx(predicted, rel=0.02)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.stationary_covariance([[1.0]], [[1.0]]), "spectral radius"),
        (lambda: theory.stationary_covariance(np.eye(2) / 2, [[1.0]]), "square shape"),
        (lambda: theory.descent_noise("kl", 1.0, 1.0, 2.5, 4), "spectral radius"),
        (lambda: theory.descent_noise("total_variation", 1.0, 1.0, 0.1, 4), "is infinite"),
        (lambda: theory.descent_noise("kl", [1.0, 2.0], [1.0], 0.1, 4), "covariance of shape"),
        (lambda: theory.descent_noise("kl", 1.0, 1.0, 0.1, 1, second=[[1e4]]), "dies out"),
        (
            lambda: theory.game_noise("kl", 1.0, 1.0, 0.1, 4, feature_covariance=1.0, scheme="optimistic"),
            "optimistic",
        ),
        (lambda: theory.descent_noise("kl", 1.0, 1.0, 0.1, 0), "batch_size"),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
