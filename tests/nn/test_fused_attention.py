"""Fused attention: the values where no TPU is, which arrays take which kernel, and its FLOPs."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fdiv_jax.compiling import traced_for
from fdiv_jax.nn import dot_product_attention, fused_attention
from fdiv_jax.nn.attention import LONG
from fdiv_jax.nn.work import work_of


@pytest.fixture(autouse=True)
def fresh():
    fused_attention._tell.cache_clear()
    yield
    fused_attention._capability.cache_clear()


def shapes(queries, keys, dtype="bfloat16", heads=2, width=8):
    return [jax.ShapeDtypeStruct((3, n, heads, width), dtype) for n in (queries, keys, keys)]


def program(arrays, mask=None, kind="tpu", divided=False, implementation="auto"):
    def function(*inputs):
        return dot_product_attention(*inputs, mask, implementation=implementation)

    with traced_for(kind, divided=divided):
        return str(jax.make_jaxpr(function)(*arrays))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("queries", "keys", "heads", "width", "dtype", "atol"),
    [(256, 384, 2, 40, "float32", 2e-6), (128, 128, 1, 160, "bfloat16", 0.02)],
)
def test_splash_attention_has_the_values_and_gradients_of_the_plain_one(
    queries, keys, heads, width, dtype, atol, monkeypatch
):
    rng = np.random.default_rng(0)
    inputs = [
        jnp.asarray(rng.standard_normal((2, n, heads, width)), dtype) for n in (queries, keys, keys, queries)
    ]
    kernel = fused_attention.splash_kernel
    monkeypatch.setattr(fused_attention, "splash_kernel", lambda *sizes: kernel(*sizes, interpret=True))

    def everything(function):
        out, back = jax.vjp(function, *inputs[:3])
        return (out, *back(inputs[3].astype(out.dtype)))

    expected = everything(lambda *x: dot_product_attention(*x, implementation="plain"))
    for ours, other in zip(everything(fused_attention._splash), expected, strict=True):
        assert ours.dtype == jnp.dtype(dtype)
        np.testing.assert_allclose(ours.astype(jnp.float32), other.astype(jnp.float32), atol=atol)


@pytest.mark.parametrize("width", [40, 80, 160])
def test_the_kernel_of_this_accelerator_has_the_values_of_the_plain_one(width):
    if jax.default_backend() == "cpu":
        pytest.skip("no accelerator here")
    rng = np.random.default_rng(0)
    inputs = [jnp.asarray(rng.standard_normal((2, LONG, 2, width)), "bfloat16") for _ in range(4)]

    def everything(implementation):
        out, back = jax.vjp(lambda *x: dot_product_attention(*x, implementation=implementation), *inputs[:3])
        return (out, *back(inputs[3]))

    for ours, other in zip(everything("library"), everything("plain"), strict=True):
        np.testing.assert_allclose(ours.astype(jnp.float32), other.astype(jnp.float32), atol=0.03)


def test_a_tpu_takes_it_for_long_sequences_without_a_mask():
    mask = jnp.ones((1, 1, 1, LONG), bool)
    assert "pallas_call" in program(shapes(LONG, LONG))
    assert "pallas_call" in program(shapes(256, 128), implementation="library")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "pallas_call" not in program(shapes(LONG // 2, LONG))
        assert "pallas_call" not in program(shapes(LONG, LONG), mask)
        assert "pallas_call" not in program(shapes(LONG, LONG), kind="cpu")
        assert "pallas_call" not in program(shapes(LONG, LONG), kind="gpu")  # there is none here


@pytest.mark.parametrize(
    ("lengths", "divided", "said"),
    [((LONG, LONG), True, "--parallel fsdp"), ((LONG + 8, LONG), False, "1032 queries .* multiples of 128")],
)
def test_where_it_cannot_be_had_a_warning_says_why_once(lengths, divided, said):
    with pytest.warns(UserWarning, match=f"no fused attention on this TPU: .*{said}"):
        assert "scan" in program(shapes(*lengths), divided=divided)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "scan" in program(shapes(*lengths), divided=divided)


@pytest.mark.parametrize("capability", ["9.0", "8.0", "7.5", "gfx942"])
def test_a_gpu_takes_what_cudnn_takes(capability, monkeypatch):
    """cuDNN's conditions are JAX's to know: the call is refused while it is traced, and the blocked one is
    taken."""
    devices = [type("Device", (), {"compute_capability": capability})]
    monkeypatch.setattr(fused_attention.jax, "local_devices", lambda backend: devices)
    asked = []

    def cudnn(query, key, value, *, implementation):
        asked.append(implementation)
        if query.dtype == jnp.float32:
            raise NotImplementedError("Q must be fp16/bf16/fp8_e4m3fn/fp8_e5m2, got float32")
        return jnp.full_like(value, 7)

    monkeypatch.setattr(fused_attention.jax.nn, "dot_product_attention", cudnn)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        taken = [
            "scan" not in program(shapes(LONG, LONG, dtype), kind="gpu") for dtype in ("bfloat16", "float32")
        ]
    said = [str(one.message) for one in found]
    if capability == "gfx942":
        assert (taken, asked, said) == ([False, False], [], [])
    elif capability == "7.5":
        assert (taken, asked) == ([False, False], [])
        assert said == ["no fused attention on this GPU: compute capability 7.5, expected 8.0 or higher"]
    else:
        assert (taken, asked) == ([True, False], ["cudnn", "cudnn"])
        assert len(said) == 1
        assert "got float32" in said[0]


def test_cudnns_kernel_and_its_derivative_are_in_the_program_for_a_gpu(monkeypatch):
    """As JAX lowers them for CUDA, of which only the versions are made up."""
    stablehlo = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    versions = type("Versions", (), {"cudnn_get_version": staticmethod(lambda: 91000)})
    monkeypatch.setattr(stablehlo, "cuda_versions", versions)
    monkeypatch.setattr(stablehlo, "check_compute_capability", lambda capability: True)
    monkeypatch.setattr(stablehlo, "is_cuda_compute_capability_equal", lambda capability: False)
    monkeypatch.setattr(fused_attention, "_capability", functools.cache(lambda: (9, 0)))

    def loss(*inputs):
        return dot_product_attention(*inputs).astype(jnp.float32).sum()

    with traced_for("gpu"):
        traced = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).trace(*shapes(LONG, LONG, width=40))
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "fmhaSoftmax" in text
    assert "fmhaSoftmaxBackward" in text


def test_the_work_of_the_kernels_is_counted():
    """Forward q k^T and P v. The derivative makes q k^T and G v^T twice, for k and v and for q, and, outside
    of the kernels, sum_d G O."""
    arrays = shapes(LONG, 2 * LONG, heads=2, width=8)
    product = 2 * 3 * 2 * LONG * 2 * LONG * 8

    def gradients(*inputs):
        return jax.grad(lambda *x: dot_product_attention(*x).sum(), argnums=(0, 1, 2))(*inputs)

    with traced_for("tpu"):
        forward, whole = work_of(dot_product_attention, *arrays), work_of(gradients, *arrays)
    assert (forward.flops, forward.once, forward.loops) == (2 * product, 0, 0)
    assert whole.flops == 9 * product + whole.once
    assert whole.once == whole.loops == 2 * 3 * 2 * LONG * 8
    # what a kernel reads and writes is little beside the scores
    assert whole.moved < 3 * 2 * LONG * 2 * LONG * 2
