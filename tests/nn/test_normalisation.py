"""Group normalisation against the definition in float64, PyTorch, and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fdiv_jax.nn.normalisation import normalise_groups

# n, pixels, channels, groups
SHAPES = [((2, 3, 4, 8), 4), ((1, 5, 6), 1), ((3, 2, 2, 6), 6), ((2, 7, 4), 2)]
EPSILON = 1e-5


def arrays(shape, seed=0, offset=0.0):
    rng = np.random.default_rng(seed)
    parts = [rng.standard_normal(shape) + offset, *(rng.standard_normal(shape[-1]) for _ in range(2))]
    return [jnp.asarray(part) for part in parts]


def definition(x, scale, bias, groups):
    n, c = x.shape[0], x.shape[-1]
    parts = x.reshape(n, -1, groups, c // groups)
    mean, variance = parts.mean((1, 3), keepdims=True), parts.var((1, 3), keepdims=True)
    return ((parts - mean) / np.sqrt(variance + EPSILON)).reshape(x.shape) * scale + bias


@pytest.mark.parametrize(("shape", "groups"), SHAPES)
def test_values_are_the_definition(x64, shape, groups):
    x, scale, bias = arrays(shape)
    np.testing.assert_allclose(
        normalise_groups(x, scale, bias, groups, EPSILON),
        definition(*map(np.asarray, (x, scale, bias)), groups),
        atol=1e-13,
    )


def test_float32_keeps_its_digits_far_from_zero():
    """Of numbers around 1000 with a spread of 1 a one-pass variance loses three digits."""
    x, scale, bias = (a.astype(jnp.float32) for a in arrays((2, 8, 8, 8), offset=1000.0))
    found = normalise_groups(x, scale, bias, 4, EPSILON)
    np.testing.assert_allclose(
        found, definition(np.asarray(x, float), *map(np.asarray, (scale, bias)), 4), atol=2e-3
    )


@pytest.mark.interop
@pytest.mark.parametrize(("shape", "groups"), SHAPES)
def test_gradients_are_pytorchs(x64, shape, groups):
    torch = pytest.importorskip("torch")
    inputs, (cotangent, *_) = arrays(shape), arrays(shape, seed=1)
    theirs = [torch.tensor(np.asarray(a), requires_grad=True) for a in inputs]
    out = torch.nn.functional.group_norm(theirs[0].movedim(-1, 1), groups, *theirs[1:], eps=EPSILON)
    expected = torch.autograd.grad(out.movedim(1, -1), theirs, torch.tensor(np.asarray(cotangent)))
    _, pull = jax.vjp(lambda *a: normalise_groups(*a, groups, EPSILON), *inputs)
    for ours, other in zip(pull(jnp.asarray(cotangent)), expected, strict=True):
        np.testing.assert_allclose(ours, other.numpy(), atol=1e-12)


def test_second_derivatives_forward_and_reverse(x64):
    shape, groups = SHAPES[0]
    inputs, direction, (cotangent, *_) = arrays(shape), arrays(shape, seed=1), arrays(shape, seed=2)

    def gradients(*a):
        return jax.grad(lambda *b: jnp.vdot(cotangent, normalise_groups(*b, groups, EPSILON)), (0, 1, 2))(*a)

    step = 1e-5
    ahead, behind = (
        gradients(*(a + sign * step * d for a, d in zip(inputs, direction, strict=True))) for sign in (1, -1)
    )
    forward = jax.jvp(gradients, tuple(inputs), tuple(direction))[1]
    reverse = jax.vjp(gradients, *inputs)[1](tuple(jnp.asarray(d) for d in direction))
    for a, b, f, r in zip(ahead, behind, forward, reverse, strict=True):
        np.testing.assert_allclose(f, (a - b) / (2 * step), atol=1e-7)
        np.testing.assert_allclose(r, (a - b) / (2 * step), atol=1e-7)
