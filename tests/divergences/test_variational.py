"""The variational objective on Gaussians, its averages and its gradients."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fdiv_jax.divergences import divergence, variational_value
from tests.divergences.oracles import quickly

NAMES = [
    "kl",
    "reverse_kl",
    "jeffreys",
    "squared_hellinger",
    "pearson_chi2",
    "neyman_chi2",
    "jensen_shannon",
    "gan",
    "le_cam",
]
# One formula of each kind of conjugate in the fast tests: an exponential, a power, a logarithm, Lambert's W.
QUICK = ["kl", "jeffreys", "pearson_chi2", "jensen_shannon", "total_variation"]


@pytest.mark.parametrize("name", quickly(NAMES, QUICK))
def test_the_optimal_critic_reaches_the_gaussian_divergence(name, x64):
    """P = N(mu, 1), Q = N(0, 1), T = f'(dP/dQ): V equals F_f(mu^2)."""
    d, mu = divergence(name), 0.8
    nodes, weights = np.polynomial.hermite_e.hermegauss(160)
    weights = weights / math.sqrt(2 * math.pi)

    def ratio(x):
        return jnp.exp(mu * x - mu**2 / 2)

    slope = jax.vmap(jax.grad(d.f))
    value = variational_value(
        d, slope(ratio(nodes + mu)), slope(ratio(nodes)), activation=False, weights=weights
    )
    assert float(value) == pytest.approx(float(d.gaussian_divergence(mu**2)), rel=1e-6)


@pytest.mark.parametrize("name", quickly([*NAMES, "total_variation"], QUICK))
def test_at_the_equilibrium_it_is_zero_and_stationary(name, x64):
    d = divergence(name)
    s0, v0 = d.equilibrium

    def value(v, activation):
        return variational_value(d, v, v, activation=activation)

    for point, activation in ((s0, False), (v0, True)):
        v = jnp.full((4, 1), point)
        assert float(value(v, activation)) == pytest.approx(0, abs=1e-14)
        np.testing.assert_allclose(jax.grad(value)(v, activation), 0, atol=1e-14)


def test_plain_means_and_weights():
    d = divergence("kl")
    v_p, v_q = jnp.array([[0.5], [1.5]]), jnp.array([0.0, 1.0, 2.0])
    expected = 1.0 - np.mean(np.exp(np.array([0.0, 1.0, 2.0]) - 1))
    assert float(variational_value(d, v_p, v_q)) == pytest.approx(expected, rel=1e-6)
    pair = (jnp.full((2, 1), 0.5), jnp.full(3, 1 / 3))
    assert float(variational_value(d, v_p, v_q, weights=pair)) == pytest.approx(expected, rel=1e-6)
    assert variational_value(d, v_p, v_q).shape == ()


def test_outside_the_domain_without_activation():
    d = divergence("jensen_shannon")
    assert float(variational_value(d, jnp.zeros(2), jnp.array([0.0, 5.0]), activation=False)) == -math.inf


def test_refusals():
    d = divergence("kl")
    with pytest.raises(ValueError, match="no samples"):
        variational_value(d, jnp.zeros(0), jnp.zeros(2))
    with pytest.raises(ValueError, match=r"weights have shape \(3,\), expected .* \(2,\)"):
        variational_value(d, jnp.zeros(2), jnp.zeros(2), weights=jnp.ones(3))
    with pytest.raises(ValueError, match="pair"):
        variational_value(d, jnp.zeros(2), jnp.zeros(2), weights=(1.0, 2.0, 3.0))
