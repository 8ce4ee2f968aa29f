"""Every implementation of attention against NumPy and PyTorch in float64; its memory; how it is chosen."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fdiv_jax.nn import dot_product_attention, with_attention
from fdiv_jax.nn.attention import LONG, forward_mode
from fdiv_jax.unlearning import Network
from tests.tiny import tiny_pipeline

IMPLEMENTATIONS = ("plain", "blocked", "library")
# queries, keys, heads, width of a head, keys a block
SHAPES = [(1, 1, 1, 1, 16), (5, 7, 2, 3, 4), (33, 77, 3, 5, 16), (64, 64, 2, 8, 16), (9, 40, 1, 24, 40)]


def arrays(q, k, heads, width, n=2, seed=0, dtype=float):
    rng = np.random.default_rng(seed)
    shapes = [(n, q, heads, width), (n, k, heads, width), (n, k, heads, width), (n, q, heads, width)]
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


def reference(query, key, value, mask=None):
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    scores = np.einsum("nqhd,nkhd->nhqk", query, key) / np.sqrt(query.shape[-1])
    if mask is not None:
        scores = np.where(mask, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("nhqk,nkhd->nqhd", weights / weights.sum(-1, keepdims=True), value)


def value_and_gradients(query, key, value, cotangent, mask=None, **options):
    @jax.jit
    def run(*inputs):
        out, pull = jax.vjp(lambda *x: dot_product_attention(*x, mask, **options), *inputs)
        return (out, *pull(cotangent))

    return run(query, key, value)


@pytest.mark.interop
@pytest.mark.parametrize("implementation", ["plain", "blocked"])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_pytorchs(x64, implementation, shape):
    torch = pytest.importorskip("torch")
    *inputs, cotangent = arrays(*shape[:-1])
    mask = np.random.default_rng(1).random((2, 1, shape[0], shape[1])) < 0.7
    mask[..., 0] = True
    theirs = [torch.tensor(np.asarray(x)).transpose(1, 2).requires_grad_() for x in inputs]
    out = torch.nn.functional.scaled_dot_product_attention(*theirs, attn_mask=torch.tensor(mask))
    gradients = torch.autograd.grad(out, theirs, torch.tensor(np.asarray(cotangent)).transpose(1, 2))
    found = value_and_gradients(
        *inputs, cotangent, jnp.asarray(mask), implementation=implementation, block=shape[-1]
    )
    for ours, other in zip(found, (out, *gradients), strict=True):
        np.testing.assert_allclose(ours, other.detach().transpose(1, 2).numpy(), atol=1e-12)


@pytest.mark.parametrize(
    "shape", [pytest.param(s, marks=[pytest.mark.slow] * (s != SHAPES[1])) for s in SHAPES]
)
def test_all_agree_in_float32(shape):
    *inputs, cotangent = arrays(*shape[:-1], dtype=np.float32)
    expected = value_and_gradients(*inputs, cotangent, implementation="plain")
    np.testing.assert_allclose(expected[0], reference(*inputs), atol=1e-5)
    for implementation in ("blocked", "library", "auto"):
        found = value_and_gradients(*inputs, cotangent, implementation=implementation, block=shape[-1])
        for ours, other in zip(found, expected, strict=True):
            assert ours.dtype == jnp.float32
            np.testing.assert_allclose(ours, other, atol=1e-5)


@pytest.mark.slow
def test_second_derivatives_both_ways(x64):
    """Against central differences of the gradient that PyTorch agrees with."""
    *inputs, cotangent = arrays(5, 7, 2, 3)
    direction = arrays(5, 7, 2, 3, seed=1)[:3]

    def gradients(*x, implementation="plain"):
        return value_and_gradients(*x, cotangent, implementation=implementation, block=4)[1:]

    step = 1e-5
    ahead, behind = (
        gradients(*(x + sign * step * d for x, d in zip(inputs, direction, strict=True))) for sign in (1, -1)
    )
    expected = [(a - b) / (2 * step) for a, b in zip(ahead, behind, strict=True)]
    forward = jax.jvp(gradients, tuple(inputs), tuple(direction))[1]
    reverse = jax.vjp(gradients, *inputs)[1](tuple(direction))  # the Hessian is symmetric
    of_blocked = functools.partial(gradients, implementation="blocked")
    blocked = jax.vjp(of_blocked, *inputs)[1](tuple(direction))
    blocked_forward = jax.jvp(of_blocked, tuple(inputs), tuple(direction))[1]
    for found in (forward, reverse, blocked, blocked_forward):
        for ours, other in zip(found, expected, strict=True):
            assert np.abs(other).max() > 1e-2
            np.testing.assert_allclose(ours, other, atol=1e-8)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(
            lambda *x: dot_product_attention(*x, implementation="blocked"), tuple(inputs), tuple(direction)
        )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_bfloat16_softmax_is_float32(implementation):
    """Scores near 200 are 1 apart in bfloat16; weights from such scores would be off by factors."""
    rng = np.random.default_rng(0)
    query = np.ones((1, 3, 1, 4))
    key = 100 + rng.integers(-1, 2, (1, 21, 1, 4)) / 2
    query, key = jnp.asarray(query, jnp.bfloat16), jnp.asarray(key, jnp.bfloat16)
    value = jnp.asarray(rng.standard_normal((1, 21, 1, 4)), jnp.bfloat16)
    found = dot_product_attention(query, key, value, implementation=implementation, block=8)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(found, np.float64), reference(query, key, value), atol=2e-2)


@pytest.mark.slow
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("width", "atol"), [(5, 0.02), (40, 0.02), (160, 0.02)])
def test_bfloat16_gradients_are_near(implementation, width, atol):
    *inputs, cotangent = arrays(20, 37, 2, width)
    expected = value_and_gradients(*inputs, cotangent, implementation="plain")
    half = [x.astype(jnp.bfloat16) for x in (*inputs, cotangent)]
    for ours, other in zip(
        value_and_gradients(*half, implementation=implementation, block=16), expected, strict=True
    ):
        assert ours.dtype == jnp.bfloat16
        np.testing.assert_allclose(ours.astype(jnp.float32), other, atol=atol * np.abs(other).max())


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_masks_and_large_scores(implementation):
    *inputs, cotangent = arrays(19, 19, 2, 4, dtype=np.float32)
    causal = np.tril(np.ones((19, 19), bool))[None, None]
    query, *others = inputs
    found = value_and_gradients(
        300 * query, *others, cotangent, jnp.asarray(causal), implementation=implementation, block=8
    )
    np.testing.assert_allclose(found[0], reference(300 * np.asarray(query), *others, causal), atol=1e-4)
    assert all(np.isfinite(x).all() for x in found)


def test_a_query_that_may_see_nothing_sees_the_mean():
    *inputs, cotangent = arrays(3, 10, 1, 4, dtype=np.float32)
    mask = jnp.ones((1, 1, 3, 10), bool).at[:, :, 1].set(False)
    plain, blocked = (
        value_and_gradients(*inputs, cotangent, mask, implementation=name, block=4)
        for name in ("plain", "blocked")
    )
    np.testing.assert_allclose(plain[0][:, 1], inputs[2].mean(1), atol=1e-6)
    for ours, other in zip(blocked, plain, strict=True):
        np.testing.assert_allclose(ours, other, atol=1e-5)


@pytest.mark.parametrize("derivative", [False, True])
def test_memory_is_linear_in_the_length(derivative):
    def needed(length, implementation):
        def function(*x):
            out = dot_product_attention(*x, implementation=implementation, block=64)
            return (out**2).sum() if derivative else out

        inputs = [jax.ShapeDtypeStruct((1, length, 2, 8), jnp.float32)] * 3
        function = jax.grad(function, argnums=(0, 1, 2)) if derivative else function
        return jax.jit(function).lower(*inputs).compile().memory_analysis().temp_size_in_bytes

    short, long = (needed(length, "blocked") for length in (1024, 4096))
    assert long < 4.5 * short
    if derivative:  # forward alone, the CPU compiler never holds all the scores at once
        assert needed(4096, "plain") > 3.9 * needed(2048, "plain")  # two copies of the scores; three below
        assert needed(4096, "plain") > 10 * long


def test_auto_is_plain_for_short_and_blocked_for_long_sequences():
    def steps(length, keys):
        shapes = [jax.ShapeDtypeStruct((1, n, 1, 4), jnp.float32) for n in (length, keys, keys)]
        return "scan" in str(jax.make_jaxpr(dot_product_attention)(*shapes))

    assert steps(LONG, LONG)
    assert not any((steps(LONG - 1, LONG - 1), steps(4 * LONG, 77), steps(77, 4 * LONG)))


@pytest.mark.slow
def test_the_choice_is_part_of_a_networks_structure():
    pipe = tiny_pipeline()
    blocked = pipe.with_attention("blocked")
    assert Network(blocked.unet) != Network(pipe.unet)
    assert Network(blocked.unet) == Network(tiny_pipeline(seed=4).with_attention("blocked").unet)
    assert Network(blocked.with_attention("auto").unet) == Network(pipe.unet)
    for module in blocked.components.values():
        layers = [m for _, m in nnx.iter_modules(module) if hasattr(m, "implementation")]
        assert layers
        assert {layer.implementation for layer in layers} == {"blocked"}
    text = pipe.encode_prompts(["a sneaker"])
    np.testing.assert_allclose(blocked.encode_prompts(["a sneaker"]), text, atol=1e-5)
    latents = jax.random.normal(jax.random.key(0), (1, *pipe.latent_shape))
    expected = pipe.denoise(latents, 7, text)
    for name in IMPLEMENTATIONS:
        found = pipe.with_attention(name).denoise(latents, 7, text)
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.wrong_types
def test_unknown_names_are_refused():
    for call in (
        lambda: dot_product_attention(*arrays(2, 2, 1, 1)[:3], implementation="flash"),
        lambda: with_attention(tiny_pipeline().unet, "flash"),
    ):
        with pytest.raises(ValueError, match="'flash', expected one of auto, plain, blocked, library"):
            call()
    with pytest.raises(ValueError, match="at least 1"):
        dot_product_attention(*arrays(2, 2, 1, 1)[:3], implementation="blocked", block=0)


def test_in_forward_mode_long_attention_is_pushed_forward_and_back(x64):
    *inputs, cotangent = arrays(9, 13, 2, 3)
    direction = arrays(9, 13, 2, 3, seed=1)[:3]

    def both(implementation):
        def function(*x):
            return dot_product_attention(*x, implementation=implementation, block=4)

        value, linear = jax.linearize(function, *inputs)
        return value, linear(*direction), *jax.linear_transpose(linear, *inputs)(cotangent)

    expected = both("plain")
    with forward_mode():
        found = both("blocked")
    for ours, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, other, atol=1e-12)
    with pytest.raises(TypeError, match="forward-mode"):
        both("blocked")


@pytest.mark.slow
def test_pushed_forward_the_scores_are_not_kept():
    def needed(length):
        inputs = [jax.ShapeDtypeStruct((1, length, 2, 8), jnp.float32)] * 3

        def push(inputs, tangents):
            with forward_mode():
                return jax.jvp(dot_product_attention, inputs, tangents)[1]

        compiled = jax.jit(push).lower(tuple(inputs), tuple(inputs)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert needed(4096) < 4.5 * needed(1024)
