"""Plateaus of samples whose m are quadratic functions: scipy's minimiser, chains of the iteration."""

import numpy as np
import pytest
from scipy.optimize import minimize

from fdiv_jax import theory


def samples(n=60, p=3, r=4, spread=1.0, seed=0):
    """Errors that no z removes, and Jacobians of unlike sizes."""
    rng = np.random.default_rng(seed)
    jacobian = rng.normal(size=(n, p, r)) * np.geomspace(1, 0.4, r) * rng.uniform(0.5, 1.5, (n, 1, 1))
    return theory.QuadraticDistances.of(0.3 * spread * rng.normal(size=(n, p)) + 0.2, jacobian)


LOSSES = {
    "kl": lambda m: m / 2,
    "squared_hellinger": lambda m: 2 * (1 - np.exp(-m / 8)),
    "pearson_chi2": np.expm1,
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_minimum_is_scipys(name):
    model, sigma = samples(), 0.7

    def loss(z):
        return LOSSES[name](model(z) / sigma**2).mean()

    best = minimize(loss, np.zeros(4), options={"gtol": 1e-8})
    found = theory.quadratic_minimum(name, model, sigma=sigma)
    np.testing.assert_allclose(found, best.x, atol=1e-6)
    assert loss(found) <= best.fun


def test_directions_that_move_nothing_stay():
    model = samples()
    wide = theory.QuadraticDistances(
        model.start, np.pad(model.slope, ((0, 0), (0, 1))), np.pad(model.gram, ((0, 0), (0, 1), (0, 1)))
    )
    assert theory.quadratic_minimum("kl", wide)[-1] == 0
    one, other = (theory.quadratic_plateau("kl", each, 0.05, 4) for each in (model, wide))
    assert other.excess == pytest.approx(one.excess, rel=1e-9)
    assert not other.covariance[-1].any()


def test_kl_is_descent_noise():
    """The same equation from matrices, the second moments of the kernels as one matrix."""
    model = samples()
    z = theory.quadratic_minimum("kl", model)
    pull = model.slope + model.gram @ z
    second = np.mean([np.kron(each, each) for each in model.gram], axis=0)
    expected = theory.descent_noise(
        "kl", model.gram.mean(0), pull.T @ pull / len(pull), 0.1, 2, second=second
    )
    assert theory.quadratic_plateau("kl", model, 0.1, 2).excess == pytest.approx(expected, rel=1e-9)


def test_a_step_at_which_noise_grows_is_refused():
    with pytest.raises(ValueError, match="dies out"):
        theory.quadratic_plateau("kl", samples(), 100.0, 2)
    with pytest.raises(ValueError, match="dies out"):  # the mean path is stable, batches of one are not
        theory.quadratic_plateau("kl", samples(), 0.75, 1)
    with pytest.raises(ValueError, match="batch_size"):
        theory.quadratic_plateau("kl", samples(), 0.1, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kl", "squared_hellinger", "pearson_chi2"])
def test_chains_of_descent_rest_there(name):
    """Thousands of independent chains, nothing linearised in the weight."""
    model, sigma, batch, chains, steps = samples(n=40, r=2), 1.5, 8, 1500, 160
    curvature = {"kl": 1.0, "squared_hellinger": 0.5, "pearson_chi2": 2.0}[name]
    h = 0.1 * sigma**2 / curvature
    rng = np.random.default_rng(3)
    best = theory.quadratic_minimum(name, model, sigma=sigma)
    weight = {
        "kl": np.ones_like,
        "squared_hellinger": lambda m: np.exp(-m / 8) / 2,
        "pearson_chi2": lambda m: 2 * np.exp(m),
    }[name]
    z, total = np.tile(best, (chains, 1)), []
    for step in range(steps):
        i = rng.integers(40, size=(chains, batch))
        bent = np.einsum("cbrs,cs->cbr", model.gram[i], z)
        m = model.start[i] + np.einsum("cbr,cr->cb", 2 * model.slope[i] + bent, z)
        pull = weight(m / sigma**2)[..., None] / sigma**2 * (model.slope[i] + bent)
        z = z - h * pull.mean(1)
        if step >= 60:
            total.append(model(z).mean() - model(best).mean())
    found = theory.quadratic_plateau(name, model, h, batch, sigma=sigma)
    assert np.mean(total) == pytest.approx(found.excess, rel=0.04)
