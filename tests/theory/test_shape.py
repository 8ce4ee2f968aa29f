"""The noise of the variational gradient against samples, and distances of weights against closed forms."""

import math

import numpy as np
import pytest

from fdiv_jax import theory
from fdiv_jax.divergences import catalogue

M = np.array([0.0, 0.3, 2.0])


@pytest.mark.parametrize("a", [-1, 0.5, 2, 3])
def test_the_noise_of_the_power_family(a):
    np.testing.assert_allclose(
        theory.gradient_noise(f"alpha({a})", M), np.expm1((a - 1) ** 2 * M), rtol=1e-11
    )
    np.testing.assert_allclose(
        theory.gradient_noise(f"alpha({a})", M, moved="Q"), np.expm1(a**2 * M), rtol=1e-11
    )


def test_the_noise_of_kl_and_of_a_kink():
    np.testing.assert_allclose(theory.gradient_noise("kl", M), 0, atol=1e-14)
    np.testing.assert_allclose(theory.gradient_noise("reverse_kl", M, moved="Q"), 0, atol=1e-14)
    assert np.isnan(theory.gradient_noise("total_variation", 1.0))
    with pytest.raises(ValueError, match="'P' or 'Q'"):
        theory.gradient_noise("kl", 1.0, moved="R")


@pytest.mark.parametrize("moved", ["P", "Q"])
def test_the_noise_of_sampled_gradients(moved):
    """Gradients of the best critic, T = f'(r) = log(2 r/(1 + r)) of jensen_shannon, at samples of what moves;
    the variance lies in the interval of 4 standard errors from 400 batches."""
    m, rng = 1.5, np.random.default_rng(3)
    x = rng.normal(size=(400, 5000)) + (
        math.sqrt(m) if moved == "P" else 0.0
    )  # P = N(sqrt(m), 1), Q = N(0, 1)
    r = np.exp(math.sqrt(m) * x - m / 2)
    # d/dx of T(x) on P, and of f*(T(x)) = -log(2 - e^T) on Q
    slope = math.sqrt(m) / (1 + r)
    gradient = slope if moved == "P" else slope * np.exp(np.log(2 * r / (1 + r))) / (2 - 2 * r / (1 + r))
    batches = gradient.var(axis=1) / gradient.mean() ** 2
    error = 4 * batches.std() / math.sqrt(batches.size)
    assert theory.gradient_noise("jensen_shannon", m, moved=moved) == pytest.approx(batches.mean(), abs=error)
    assert error < 0.02 * batches.mean()


def test_distances_of_the_power_family():
    """w/w(0) = e^(a (a - 1) m/2), so the distance is |a (a - 1) - b (b - 1)| m/2."""
    for a, b, m in ((0.3, 2, 4.0), (-1, 0.5, 9.0), (0.3, 0.7, 9.0)):
        exact = abs(a * (a - 1) - b * (b - 1)) * m / 2
        assert theory.weight_distance(f"alpha({a})", f"alpha({b})", m) == pytest.approx(exact, abs=1e-11)


def test_the_nearest_by_an_independent_integral():
    """f'' = 1/(t (1 + t)) + 0.02/t, a little more than jensen_shannon, by the rule of Gauss and Hermite."""
    roots, weights = np.polynomial.hermite_e.hermegauss(200)

    def log_shape(second):
        m = np.linspace(0, 3, 200)[1:, None] ** 2
        r = np.exp(np.sqrt(m) * roots - m / 2)
        w = (r**2 * second(r)) @ (weights / weights.sum())
        return np.log(w / second(1.0))

    def mixture(t):
        return 1 / (t * (1 + t)) + 0.02 / t

    found = {
        near.name: near.distance for near in theory.nearest("t*log(t) - (t + 1)*log((t + 1)/2) + t*log(t)/50")
    }
    exact = {
        "kl": np.abs(log_shape(mixture)).max(),
        "jensen_shannon": np.abs(log_shape(mixture) - log_shape(lambda t: 1 / (t * (1 + t)))).max(),
        "squared_hellinger": np.abs(log_shape(mixture) - log_shape(lambda t: t**-1.5)).max(),
    }
    for name, distance in exact.items():
        assert found[name] == pytest.approx(distance, rel=1e-6)
    assert min(found, key=found.__getitem__) in ("jensen_shannon", "gan")
    assert "total_variation" not in found
    assert set(found) == {name for name, d in catalogue().items() if d.is_smooth}
