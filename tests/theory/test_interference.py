"""Who else is moved: the formulas against descent on a linear model and, in the limit, on a nonlinear one."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from fdiv_jax import divergence
from fdiv_jax.theory import (
    QuadraticDistances,
    descent_filter,
    krylov_basis,
    predicted_damage,
    quadratic_descent,
)


def matrices(seed=0, samples=5, outputs=3, size=7):
    """Errors (n, p) and Jacobians (n, p, size) of two concepts."""
    rng = np.random.default_rng(seed)
    error, own, other = (rng.standard_normal((samples, outputs, *more)) for more in ((), (size,), (size,)))
    return error, own / size, other / size


def flat(values, samples):
    """The mean over samples as a sum of squares."""
    return values.reshape(-1, *values.shape[2:]) / np.sqrt(samples)


@pytest.mark.parametrize(
    ("hk", "n"), [(1e-12, 3), (1e-3, 1000), (0.4999, 7), (0.5001, 7), (1.7, 4), (2.5, 3)]
)
def test_the_filter_is_the_geometric_sum(hk, n):
    with mpmath.workdps(60):
        k = mpmath.mpf(hk) / mpmath.mpf(0.25)
        expected = mpmath.fsum((1 - mpmath.mpf(0.25) * k) ** i for i in range(n)) * mpmath.mpf(0.25)
        assert float(descent_filter(float(k), 0.25, n)) == pytest.approx(float(expected), rel=1e-13)
    assert descent_filter(0.0, 0.25, n) == n * 0.25


def test_damage_is_that_of_descent_step_by_step():
    error, own, other = matrices()
    e, a, b = (flat(values, len(error)) for values in (error, own, other))
    h, theta = 0.9 / np.linalg.norm(a, 2) ** 2, np.zeros(a.shape[1])
    for n in range(1, 40):
        theta = theta - h * a.T @ (e + a @ theta)
        predicted = predicted_damage(a @ a.T, b @ a.T, e, h, n)
        assert predicted == pytest.approx(np.sum((b @ theta) ** 2), rel=1e-9)
    least_squares = -np.linalg.lstsq(a, e, rcond=1e-9)[0]
    assert predicted_damage(a @ a.T, b @ a.T, e, h) == pytest.approx(
        np.sum((b @ least_squares) ** 2), rel=1e-6
    )


def test_damage_on_a_nonlinear_network_is_first_order(x64):
    """The error of the prediction for a network that is moved by eps falls with eps, as its order says."""
    rng = np.random.default_rng(1)
    w, x_i, x_j = (jnp.asarray(rng.standard_normal(s)) for s in ((4, 3), (6, 4), (6, 4)))

    def outputs(theta, x):
        return jnp.tanh(x @ theta.reshape(4, 3)).reshape(-1) / np.sqrt(len(x))

    start, shift = w.ravel(), jnp.asarray(rng.standard_normal(18))
    j_i, j_j = (jax.jacfwd(outputs)(start, x) for x in (x_i, x_j))

    @jax.jit
    def descend(goal):
        slope = jax.grad(lambda theta: 0.5 * jnp.sum((outputs(theta, x_i) - goal) ** 2))
        return jax.lax.fori_loop(0, 20, lambda _, theta: theta - h * slope(theta), start)

    h, wrong = 0.5, []
    for eps in (0.1, 0.05, 0.025):
        theta = descend(outputs(start, x_i) - eps * shift)
        measured = float(jnp.sum((outputs(theta, x_j) - outputs(start, x_j)) ** 2))
        predicted = predicted_damage(j_i @ j_i.T, j_j @ j_i.T, eps * shift, h, 20)
        wrong.append(abs(measured / predicted - 1))
    assert wrong[0] < 0.5
    orders = np.log2(np.array(wrong[:-1]) / np.array(wrong[1:]))
    np.testing.assert_allclose(orders, 1.0, atol=0.25)


@pytest.mark.parametrize("name", ["kl", "squared_hellinger", "pearson_chi2"])
def test_quadratic_descent_is_gradient_descent_by_autodiff(name, x64):
    error, own, _ = matrices(samples=4)
    d, sigma, h = divergence(name), 1.7, 0.6
    batches = np.array([[0, 1], [2, 3], [1, 1], [3, 0], [0, 2]])

    def loss(z, rows):
        m = jnp.sum((e[rows] + a[rows] @ z) ** 2, axis=1)
        return jnp.mean(d.gaussian_divergence(m / sigma**2))

    e, a, slope = jnp.asarray(error), jnp.asarray(own), jax.jit(jax.grad(loss))
    for chosen, rows in ((None, [np.arange(4)] * 5), (batches, batches)):
        z, path = jnp.zeros(own.shape[-1]), []
        for row in rows:
            path.append(z)
            z = z - h * slope(z, row)
        found = quadratic_descent(name, QuadraticDistances.of(error, own), h, 5, sigma=sigma, batches=chosen)
        np.testing.assert_allclose(found, [*path, z], rtol=1e-8, atol=1e-10)


def test_many_runs_at_once_are_each_alone_and_say_where_they_diverge():
    error, own, _ = matrices()
    q = QuadraticDistances.of(error, own)
    steps, sigmas = np.array([0.1, 1.0, 1e4]), np.array([[1.0], [2.0]])
    together = quadratic_descent("jensen_shannon", q, steps, 30, sigma=sigmas)
    assert together.shape == (31, 2, 3, own.shape[-1])
    for i in range(2):
        for k in range(3):
            alone = quadratic_descent("jensen_shannon", q, steps[k], 30, sigma=sigmas[i, 0])
            np.testing.assert_allclose(together[:, i, k], alone, rtol=1e-9, atol=1e-12)
    q_far = QuadraticDistances.of(3 * error, own)
    chi2 = quadratic_descent("pearson_chi2", q_far, 0.5, 10)
    assert np.isfinite(chi2[0]).all()
    assert np.isnan(chi2[-1]).all()
    assert np.isfinite(quadratic_descent("squared_hellinger", q_far, 0.5, 10)).all()


def test_the_spectrum_accounts_for_what_kl_removes():
    error, own, _ = matrices()
    q = QuadraticDistances.of(error, own)
    k, share = q.spectrum
    h = 1.3 / k[0]
    path = q(quadratic_descent("kl", q, h, 25)).mean(-1)
    rest = q.start.mean() - share.sum()
    expected = [rest + np.sum(share * (1 - h * k) ** (2 * n)) for n in range(26)]
    np.testing.assert_allclose(path, expected, rtol=1e-9)
    a = flat(own, len(own))
    np.testing.assert_allclose(k, np.linalg.svd(a, compute_uv=False) ** 2, rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_krylov_space_holds_the_first_steps_of_descent(dtype):
    rng = np.random.default_rng(2)
    root = rng.standard_normal((40, 40)) * np.logspace(0, -3, 40)
    hessian = (root @ root.T).astype(dtype)
    starts = rng.standard_normal((2, 40)).astype(dtype)
    v, t = krylov_basis(lambda rows: rows @ hessian, starts, 5)
    assert v.dtype == dtype
    assert v.shape == (10, 40)
    tolerance = 1e-4 if dtype == np.float32 else 1e-10
    np.testing.assert_allclose(v @ v.T, np.eye(10), atol=tolerance)
    np.testing.assert_allclose(t, v @ hessian @ v.T, atol=tolerance * np.abs(t).max())
    h, theta = 1 / np.linalg.norm(hessian, 2), np.zeros(40)
    for _ in range(5):
        theta = theta - h * (starts[1] + hessian @ theta)
    np.testing.assert_allclose(theta @ v.T @ v, theta, atol=10 * tolerance * np.abs(theta).max())


def test_a_direction_that_is_not_new_is_left_out():
    v, t = krylov_basis(lambda rows: rows * np.array([2.0, 3.0, 4.0]), [[1.0, 0, 0], [2.0, 0, 0]], 6)
    assert v.shape == (1, 3)
    np.testing.assert_allclose(t, [[2.0]])


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: descent_filter([-1.0], 0.1, 3), "eigenvalues >= 0"),
        (lambda: descent_filter([1.0], 0.1, 0), "steps >= 1"),
        (lambda: descent_filter([30.0], 0.1, None), "step < 2/k"),
        (lambda: predicted_damage([[1.0]], [[1.0, 2.0]], [1.0], 0.1), "expected own"),
        (lambda: predicted_damage([[1.0, 5.0], [0.0, 1.0]], [[1.0, 0]], [1.0, 1.0], 0.1), "symmetric"),
        (lambda: predicted_damage([[-1.0]], [[1.0]], [1.0], 0.1), "semi-definite"),
        (lambda: krylov_basis(lambda rows: rows, [[0.0, 0.0]], 2), "zeros"),
        (lambda: krylov_basis(lambda rows: rows, [1.0, 0.0], 2), r"\(n_rows, size\)"),
        (lambda: QuadraticDistances.of([[1.0]], [[1.0]]), "jacobian"),
        (lambda: quadratic_descent("kl", QuadraticDistances.of([[1.0]], [[[1.0]]]), -1.0, 2), "step > 0"),
        (
            lambda: quadratic_descent("kl", QuadraticDistances.of([[1.0]], [[[1.0]]]), 0.1, 2, batches=[[0]]),
            "batches",
        ),
    ],
)
def test_wrong_arguments_are_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_descent_on_the_others_takes_back_what_they_see_of_a_change(seed):
    """Proposition 15, step by step and in the end."""
    rng = np.random.default_rng(seed)
    concept, others = rng.standard_normal((6, 30)), rng.standard_normal((12, 30))
    change = rng.standard_normal(30)
    k, u = np.linalg.eigh(others @ others.T)
    h, theta = 1.0 / k.max(), change.copy()
    for n in range(1, 60):
        theta = theta - h * others.T @ (others @ theta)
        filtered = u @ (descent_filter(k, h, n) * (u.T @ (others @ change)))
        predicted = concept @ change - concept @ others.T @ filtered
        np.testing.assert_allclose(concept @ theta, predicted, rtol=1e-9)
    for _ in range(4000):
        theta = theta - h * others.T @ (others @ theta)
    seen = np.linalg.pinv(others) @ others
    np.testing.assert_allclose(theta, change - seen @ change, atol=1e-8)
    unseen = change - seen @ change
    np.testing.assert_allclose(unseen - h * others.T @ (others @ unseen), unseen, atol=1e-12)
