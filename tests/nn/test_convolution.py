"""Convolutions against XLA's own, and their derivatives against those that XLA writes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fdiv_jax.compiling import jit, platform, traced_for
from fdiv_jax.nn.convolution import conv_general_dilated, in_loop
from tests.nn.helpers import of_library

AXES = ("NHWC", "HWIO", "NHWC")
SHAPES = [  # n h w inputs; k; outputs; strides; padding
    ((1, 4, 4, 6), 3, 12, (1, 1), ((1, 1), (1, 1))),
    ((2, 2, 2, 5), 3, 9, (1, 1), ((1, 1), (1, 1))),
    ((16, 1, 4, 2), 3, 2, (1, 1), ((1, 1), (1, 1))),
    ((1, 3, 5, 2), 3, 16, (1, 1), ((0, 1), (2, 0))),
    ((1, 4, 4, 3), 5, 12, (1, 1), ((2, 2), (2, 2))),
    ((1, 4, 4, 6), 2, 12, (1, 1), ((0, 0), (0, 0))),
    ((1, 4, 4, 6), 1, 12, (1, 1), ((0, 0), (0, 0))),
    ((1, 4, 4, 6), 3, 8, (2, 2), ((0, 1), (0, 1))),
    ((3, 2, 2, 4), 4, 8, (2, 2), ((1, 1), (1, 1))),
    # more pixels than outputs
    ((2, 4, 4, 6), 1, 3, (1, 1), ((0, 0), (0, 0))),
    ((3, 6, 7, 4), 3, 5, (2, 2), ((0, 1), (0, 1))),
    ((2, 9, 8, 5), 4, 7, (2, 3), ((1, 1), (1, 2))),
    ((2, 8, 8, 6), 3, 8, (1, 1), ((1, 1), (1, 1))),
]


def case(shape, side, outputs, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(sum(shape)), 4)
    kernel = (side, side, shape[-1], outputs)
    return [
        jax.random.normal(key, size, dtype)
        for key, size in zip(keys, (shape, kernel, shape, kernel), strict=True)
    ]


def pair(strides, padding):
    ours = lambda x, k: conv_general_dilated(x, k, strides, padding, dimension_numbers=AXES)  # noqa: E731
    xla = lambda x, k: jax.lax.conv_general_dilated(x, k, strides, padding, dimension_numbers=AXES)  # noqa: E731
    return ours, xla


@pytest.mark.parametrize(("shape", "side", "outputs", "strides", "padding"), SHAPES)
def test_values_and_derivatives_of_every_kind_are_those_of_xla(shape, side, outputs, strides, padding):
    x, kernel, of_x, of_kernel = case(shape, side, outputs)

    def everything(function):
        def all_of(x, kernel, of_x, of_kernel):
            out, pull = jax.vjp(function, x, kernel)
            alone = jax.grad(lambda x: (function(x, kernel) ** 2).sum())
            return (
                out,
                pull(jnp.cos(out)),
                jax.jvp(function, (x, kernel), (of_x, of_kernel))[1],
                jax.jvp(lambda k: function(x, k), (kernel,), (of_kernel,))[1],
                jax.jvp(alone, (x,), (of_x,))[1],  # forward over reverse
                jax.vmap(lambda t: jax.jvp(lambda x: function(x, kernel), (x,), (t,))[1])(
                    jnp.stack([x, of_x])
                ),
            )

        return jax.jit(all_of)(x, kernel, of_x, of_kernel)

    ours, xla = pair(strides, padding)
    with in_loop():
        inside = everything(ours)
    ours, xla = (everything(function) for function in (ours, xla))
    for mine, theirs in zip(jax.tree.leaves(inside), jax.tree.leaves(xla), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=3e-6 * np.abs(theirs).max())
    for mine, theirs in zip(jax.tree.leaves(ours), jax.tree.leaves(xla), strict=True):
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(mine, theirs, atol=3e-6 * scale)


def backward(function, x, kernel):
    return str(jax.make_jaxpr(lambda x: jax.vjp(lambda x: function(x, kernel), x)[1](function(x, kernel)))(x))


def test_the_kernel_is_turned_around_only_where_the_map_is_large_or_the_device_another():
    ours, _ = pair((1, 1), ((1, 1), (1, 1)))
    small, large = case((1, 4, 4, 6), 3, 12), case((2, 8, 8, 6), 3, 8)
    assert "rev[" not in backward(ours, *small[:2])
    assert "rev[" in backward(ours, *large[:2])
    with traced_for("tpu"):
        assert platform() == "tpu"
        assert "rev[" in backward(ours, *small[:2])
    assert platform() == jax.default_backend()


@pytest.mark.parametrize(("shape", "side", "outputs", "strides", "padding"), SHAPES[-3:])
def test_derivatives_are_convolutions_as_the_library_of_a_cpu_has_them(
    shape, side, outputs, strides, padding
):
    """XLA brings the axes of others in order outside of loops and branches only."""
    x, kernel, *_ = case(shape, side, outputs)
    counts = {}
    for name, function in zip(("ours", "xla"), pair(strides, padding), strict=True):
        gradient = jax.grad(lambda x, k, f=function: (f(x, k) ** 2).sum(), argnums=(0, 1))
        with in_loop():
            program = jax.make_jaxpr(lambda x, k, g=gradient: jax.lax.cond(x[0, 0, 0, 0] > 0, g, g, x, k))(
                x, kernel
            )
        counts[name] = of_library(program.jaxpr)
    assert len(counts["ours"]) == 6
    assert all(counts["ours"])
    assert not all(counts["xla"])


def test_half_precision_stays():
    x, kernel, *_ = case((1, 4, 4, 6), 3, 12, jnp.bfloat16)
    ours, xla = pair((1, 1), ((1, 1), (1, 1)))
    got, expected = (jax.grad(lambda x, f=f: f(x, kernel).astype(jnp.float32).sum())(x) for f in (ours, xla))
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(got.astype(jnp.float32), expected.astype(jnp.float32), rtol=0.05, atol=0.2)


def test_a_program_is_compiled_with_options_outside_and_without_inside_another():
    double = jit(lambda x, n: n * x, static_argnums=1)
    assert double(jnp.ones(2), 2).sum() == 4
    assert jax.jit(lambda x: double(x, 3).sum())(jnp.ones(2)) == 6
    assert jax.vmap(lambda x: double(x, 2))(jnp.ones(3)).shape == (3,)
    assert double.lower(jnp.ones(2), 2).compile()(jnp.ones(2)).shape == (2,)
