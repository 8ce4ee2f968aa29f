"""bfloat16 compute: how far every network is from float32, and what stays in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fdiv_jax.nn import (
    AutoencoderKL,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    TextConditioning,
    VAEConfig,
    abstract_module,
)
from tests.tiny import fill, tiny_pipeline


def normal(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _unet(family):
    unet = tiny_pipeline(family=family).unet
    text = normal(2, 5, unet.config.cross_attention_dim)
    if family == "sdxl":
        sizes = np.full((2, 6), 512, np.float32)
        text = TextConditioning(text, normal(2, unet.config.pooled_dim), sizes)
    return unet, "__call__", (normal(2, 8, 8, 4), np.array([3, 900]), text)


def _clip(method):
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = CLIPConfig(
        CLIPTextConfig(vocab_size=50, max_position_embeddings=9, eos_token_id=49, **small),
        CLIPVisionConfig(image_size=16, patch_size=4, **small),
        projection_dim=8,
    )
    model = fill(abstract_module(lambda rngs: CLIPModel(config, rngs=rngs)), np.random.default_rng(1))
    tokens = np.random.default_rng(0).integers(0, 48, (2, 9))
    tokens[:, -1] = 49
    return model, method, (tokens if method == "embed_texts" else normal(2, 16, 16, 3),)


def _vae(method):
    return tiny_pipeline().vae, method, (normal(2, 16, 16, 3) if method == "encode" else normal(2, 8, 8, 4),)


CASES = {
    "UNet sd1": (_unet, "sd1"),
    "UNet sd2": (_unet, "sd2"),
    "UNet sdxl": (_unet, "sdxl"),
    "CLIP text": (_clip, "embed_texts"),
    "CLIP vision": (_clip, "embed_images"),
    "VAE encoder": (_vae, "encode"),
    "VAE decoder": (_vae, "decode"),
}


def case(name):
    """(model, its method, the method's inputs)."""
    build, argument = CASES[name]
    return build(argument)


def function(model, method, dtype):
    """(a method of the model at that compute precision as a function of its parameters, the parameters)."""
    state = nnx.split(model)[1]
    graph = nnx.split(abstract_module(lambda rngs: type(model)(model.config, rngs=rngs, dtype=dtype)))[0]
    return lambda state, *inputs: getattr(nnx.merge(graph, state), method)(*inputs), state


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name != "CLIP text")) for name in CASES],
)
def test_the_error_of_bfloat16_is_bounded(name):
    """Of 8 bits: a few roundings of 2^-9 each, relative to the root mean square of the output."""
    model, method, inputs = case(name)
    outputs = []
    for dtype in (jnp.float32, jnp.bfloat16):
        run, state = function(model, method, dtype)
        run = jax.jit(run, compiler_options={"xla_backend_optimization_level": "0"})
        outputs.append(jax.tree.leaves(run(state, *inputs))[0])
    full, half = outputs
    assert full.dtype == half.dtype == jnp.float32
    error = np.sqrt(np.mean((full - half) ** 2) / np.mean(np.square(full)))
    print(f"{name}: {error:.1e}")
    assert 1e-4 < error < 3e-2


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_norms_softmax_and_time_stay_in_float32(name):
    """With bfloat16 compute, products are bfloat16 and no statistic, exponential or sinusoid is."""
    model, method, inputs = case(name)
    run, state = function(model, method, jnp.bfloat16)
    found = list(equations(jax.make_jaxpr(run)(state, *inputs).jaxpr))
    kinds = {}
    for equation in (equation for equation in found if equation.invars):
        kinds.setdefault(equation.primitive.name, []).append(equation.invars[0].aval.dtype)
    islands = {"rsqrt", "exp", "reduce_sum", "reduce_max", "sin", "cos", "div"}
    wide = {kind: set(map(str, dtypes)) for kind, dtypes in kinds.items() if kind in islands}
    assert all(dtypes <= {"float32", "int32", "bool"} for dtypes in wide.values()), wide
    assert {"rsqrt", "exp", "reduce_sum"} <= set(wide)
    products = kinds["dot_general"] + kinds.get("conv_general_dilated", [])
    assert products.count(jnp.bfloat16) > len(products) / 2
    if name.startswith("UNet"):
        assert {"sin", "cos"} <= set(wide)
        layers = kinds["dot_general"].count(jnp.float32)
        assert layers == (4 if "sdxl" in name else 2)  # the time's two layers, XL's two of text and sizes


def test_float16_leaves_the_autoencoder_in_float32_where_its_file_asks():
    """force_upcast: values of XL's autoencoder pass what float16 holds."""
    for force, expected in ((True, jnp.float32), (False, jnp.float16)):
        config = VAEConfig(block_out_channels=(8,), norm_num_groups=2, force_upcast=force)
        for dtype, result in ((jnp.float16, expected), (jnp.bfloat16, jnp.bfloat16)):
            vae = abstract_module(lambda rngs, c=config, d=dtype: AutoencoderKL(c, rngs=rngs, dtype=d))
            assert vae.dtype == vae.decoder.conv_in.dtype == result
