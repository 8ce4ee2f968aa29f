"""DDIM between two timesteps, where the noise that the network sees is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fdiv_jax.diffusion import NoiseSchedule, sample
from fdiv_jax.evaluation.attacks.image_inversion import between
from tests.tiny import SCHEDULER


def schedule(kind):
    return NoiseSchedule.from_config({**SCHEDULER, "prediction_type": kind})


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_network_that_knows_the_image_comes_back_to_it_from_any_noise(kind):
    process = schedule(kind)
    x0, noise = jax.random.normal(jax.random.key(0), (2, 3, 4, 4, 2))
    t = 700
    x_t = process.add_noise(x0, noise, jnp.full(3, t))

    def network(x, times):
        signal, sigma = process.coefficients(times, x)
        return process.target(x0, (x - signal * x0) / sigma, times)

    found = sample(network, process, x_t, sampler=between(t, 0), steps=6)
    np.testing.assert_allclose(found, x0, atol=2e-5)


def test_an_image_followed_to_noise_is_what_the_process_makes_of_it():
    process = schedule("epsilon")
    x0, noise = jax.random.normal(jax.random.key(1), (2, 3, 4, 4, 2))
    up = sample(lambda x, times: noise, process, x0, sampler=between(0, 600), steps=5)
    # The noise is constant along the way, so every stride is exact but for the first, which takes x_0 for the
    # x of timestep 0.
    first = np.sqrt(process.alphas_bar[0])
    start = (x0 - np.sqrt(1 - process.alphas_bar[0]) * noise) / first
    np.testing.assert_allclose(up, process.add_noise(start, noise, jnp.full(3, 600)), atol=2e-5)
    down = sample(lambda x, times: noise, process, up, sampler=between(600, 0), steps=5)
    np.testing.assert_allclose(down, start, atol=2e-5)
