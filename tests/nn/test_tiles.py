"""Tiled decoding against diffusers' AutoencoderKL with tiling on, and from the pipeline."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fdiv_jax.checkpoints import load_component
from fdiv_jax.nn import AutoencoderKL
from fdiv_jax.nn.tiles import decode_tiles
from tests.nn.helpers import TOLERANCE, array_image, randomised, relative_error, torch_image
from tests.tiny import tiny_pipeline


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """A small autoencoder of diffusers with tiles of 8 latents = 16 px, and ours from its file."""
    pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    directory = tmp_path_factory.mktemp("vae")
    theirs = diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=2,
        sample_size=16,
    )
    randomised(theirs, seed=0).save_pretrained(directory)
    theirs.enable_tiling()
    graph, state = nnx.split(load_component(directory, AutoencoderKL).model)
    options: dict[str, str | bool] = {"xla_backend_optimization_level": "0"}
    decode = jax.jit(lambda latents: nnx.merge(graph, state).decode(latents), compiler_options=options)
    return theirs, decode


@pytest.mark.interop
@pytest.mark.parametrize(
    "size", [(8, 8), *(pytest.param(s, marks=pytest.mark.slow) for s in ((15, 21), (14, 7)))]
)
def test_tiles_are_those_of_diffusers(networks, size):
    import torch

    theirs, decode = networks
    latents = np.random.default_rng(0).standard_normal((2, *size, 4)).astype(np.float32)
    with torch.no_grad():
        expected = array_image(theirs.decode(torch_image(latents)).sample)
    found = decode_tiles(decode, jnp.asarray(latents), 8, 2)
    assert relative_error(found, expected) <= TOLERANCE
    if max(size) > 8:  # and tiling changes the image: the comparison is not one of two whole images
        assert relative_error(decode(latents), expected) > 1e-2


@pytest.mark.slow
def test_a_decoder_that_sees_single_pixels_gives_the_whole_image():
    latents = jax.random.normal(jax.random.key(0), (1, 37, 50, 3))

    def decode(x):
        assert max(x.shape[1:3]) <= 12
        return jnp.repeat(jnp.repeat(jnp.tanh(x), 4, axis=1), 4, axis=2)

    whole = jnp.repeat(jnp.repeat(jnp.tanh(latents), 4, axis=1), 4, axis=2)
    np.testing.assert_allclose(decode_tiles(decode, latents, 12, 4), whole, atol=1e-6)


@pytest.mark.slow
def test_the_pipeline_decodes_in_tiles_and_one_by_one():
    pipe = tiny_pipeline()
    latents = jax.random.normal(jax.random.key(0), (3, 10, 10, 4))
    whole = pipe.decode(latents)
    np.testing.assert_allclose(pipe.decode(latents, batch=1), whole, atol=1e-5)
    np.testing.assert_allclose(pipe.decode(latents, tile=24), whole, atol=1e-5)
    tiled = pipe.decode(latents[:1], tile=16)
    assert tiled.shape == whole[:1].shape
    assert 1e-3 < np.abs(tiled - whole[:1]).max() < np.abs(whole).max()
    options = {"steps": 1, "size": (20, 20), "guidance": 1.0}
    assert np.any(pipe(["a bag"], tile=16, **options) != pipe(["a bag"], **options))


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


@pytest.mark.parametrize("options", [{"tile": 12}, {"tile": 0}, {"tile": -16}, {"batch": 0}])
def test_impossible_tiles_and_batches_are_refused(options, pipe):
    with pytest.raises(ValueError, match="expected"):
        pipe.decode(jnp.zeros((1, 8, 8, 4)), **options)
    if "tile" in options:
        with pytest.raises(ValueError, match="multiple of 4"):
            decode_tiles(lambda x: x, jnp.zeros((1, 8, 8, 4)), options["tile"] // 2, 2)
