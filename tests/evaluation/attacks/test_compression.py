"""Weights with fewer digits, or fewer weights, against what the definitions say number by number."""

import jax.numpy as jnp
import numpy as np
import pytest

from fdiv_jax.evaluation.attacks.compression import pruned, quantised, rounded_to_float8

KERNEL = np.random.default_rng(0).standard_normal((3, 2, 5)).astype(np.float32) * np.float32(
    [1, 9, 1e-4, 2, 0]
)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_every_weight_goes_to_the_nearest_point_of_its_channels_grid(bits):
    found = np.asarray(quantised(jnp.asarray(KERNEL), bits), np.float64)
    for channel in range(KERNEL.shape[-1]):
        exact, got = KERNEL[..., channel].astype(np.float64), found[..., channel]
        grid = np.linspace(-1, 1, 2**bits - 1) * np.abs(exact).max()
        nearest = np.abs(exact[..., None] - grid).min(-1)
        scale = np.abs(exact).max()
        np.testing.assert_allclose(np.abs(exact - got), nearest, atol=2e-7 * scale)
        assert np.abs(got[..., None] - grid).min(-1).max() <= 2e-7 * scale


def test_eight_bit_floats_keep_three_binary_digits():
    found = np.asarray(rounded_to_float8(jnp.asarray(KERNEL)), np.float64)
    largest = np.abs(KERNEL).max((0, 1))
    normal = np.abs(KERNEL) > largest / 448 * 2.0**-6
    error = np.abs(found - KERNEL) / np.where(normal, np.abs(KERNEL), 1)
    assert 0.01 < error[normal].max() <= 2.0**-4 + 1e-6
    assert not found[..., 4].any()


def test_the_smallest_weights_are_pruned():
    kernel = np.random.default_rng(1).permutation(np.arange(1, 21)).reshape(4, 5) * np.float32(-1)
    found = np.asarray(pruned(jnp.asarray(kernel), 0.3))
    assert sorted(np.abs(found[found != 0])) == list(range(7, 21))
    np.testing.assert_array_equal(found[found != 0], kernel[found != 0])
