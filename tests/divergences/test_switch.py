"""One compiled function serves several divergences: each is the member's own, with its derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fdiv_jax.divergences import DivergenceSwitch, divergence

MEMBERS = tuple(divergence(name) for name in ("kl", "pearson_chi2", "jensen_shannon"))
SWITCH = DivergenceSwitch(MEMBERS)

# By hand: kl, Pearson chi2 and Jensen-Shannon, in that order.
F = (
    lambda t: t * np.log(t),
    lambda t: (t - 1) ** 2,
    lambda t: t * np.log(t) - (t + 1) * np.log((t + 1) / 2),
)
CONJUGATE = (
    lambda s: np.exp(s - 1),
    lambda s: s + s**2 / 4,
    lambda s: -np.log(2 - np.exp(s)),
)


@pytest.mark.parametrize("index", range(3))
def test_the_functions_are_those_of_the_member(index, x64):
    t, s = np.linspace(0.2, 3.0, 7), np.linspace(-1.5, 0.6, 7)
    traced = jax.jit(
        lambda i: (SWITCH.at(i).f(t), SWITCH.at(i).conjugate(s), SWITCH.at(i).conjugate_prime(s))
    )
    f, conjugate, prime = traced(jnp.asarray(index))
    np.testing.assert_allclose(f, F[index](t), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(conjugate, CONJUGATE[index](s), rtol=1e-12, atol=1e-14)
    h = 1e-6
    slope = (CONJUGATE[index](s + h) - CONJUGATE[index](s - h)) / (2 * h)
    np.testing.assert_allclose(prime, slope, rtol=1e-7, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("index", range(3))
def test_derivatives_are_those_of_the_member(index):
    d, x = MEMBERS[index], jnp.linspace(0.1, 2.0, 5)
    names = ("activation", "conjugate_of_activation", "gaussian_divergence", "gaussian_log_weight")

    @jax.jit
    def slopes(i):
        return [jax.vmap(jax.grad(getattr(SWITCH.at(i), name)))(x) for name in names]

    for name, found in zip(names, slopes(jnp.asarray(index)), strict=True):
        np.testing.assert_allclose(found, jax.vmap(jax.grad(getattr(d, name)))(x), rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(SWITCH.at(index).gaussian_weight(x), d.gaussian_weight(x), rtol=1e-6)


def test_many_indices_at_once():
    found = jax.vmap(lambda i: SWITCH.at(i).gaussian_weight(0.0))(jnp.arange(3))
    np.testing.assert_allclose(found, [1.0, 2.0, 0.5], rtol=1e-6)  # w_f(0) = f''(1)


def test_one_program_serves_all():
    traced = []

    @jax.jit
    def weight(index):
        traced.append(1)
        return SWITCH.at(index).gaussian_weight(0.3)

    assert len({float(weight(jnp.asarray(i))) for i in range(3)}) == 3
    assert len(traced) == 1
    assert DivergenceSwitch(list(MEMBERS)) == SWITCH
    assert hash(SWITCH) == hash(DivergenceSwitch(MEMBERS))


def test_what_is_no_switch_is_refused():
    with pytest.raises(ValueError, match="no divergences"):
        DivergenceSwitch(())
    with pytest.raises(ValueError, match="kl comes twice"):
        DivergenceSwitch((MEMBERS[0], divergence("kl")))
    with pytest.raises(TypeError, match="member 0 of a switch must be a Divergence, got 'kl'"):
        DivergenceSwitch(("kl",))
    for index in (0.5, jnp.arange(2)):
        with pytest.raises(TypeError, match="one integer"):
            SWITCH.at(index)
    assert SWITCH.index(divergence("pearson_chi2")) == 1
    with pytest.raises(ValueError, match="le_cam is not a member of the switch between kl, pearson_chi2"):
        SWITCH.index(divergence("le_cam"))
