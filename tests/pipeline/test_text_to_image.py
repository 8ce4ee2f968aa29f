"""The pipeline on random weights: shapes, seeds, guidance, devices, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fdiv_jax.diffusion import sampling_plan
from fdiv_jax.nn import CLIPTextConfig, CLIPTextModel, abstract_module
from fdiv_jax.pipeline import to_uint8
from tests.tiny import tiny_pipeline

PROMPTS = ["a sneaker, photo style", "a sandal, photo style", "a shirt", ""]


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


def test_shapes_and_kinds(pipe):
    h, w, c = pipe.latent_shape
    text = pipe.encode_prompts(PROMPTS)
    assert text.shape == (4, pipe.text_length, 8)
    latents = jax.random.normal(jax.random.key(0), (4, h, w, c))
    assert pipe.denoise(latents, jnp.arange(4), text).shape == latents.shape
    np.testing.assert_array_equal(pipe.denoise(latents, 7, text), pipe.denoise(latents, jnp.full(4, 7), text))
    images = pipe.decode(latents)
    assert images.shape == (4, 2 * h, 2 * w, 3)
    assert images.dtype == jnp.float32
    assert pipe.encode_images(images).shape == latents.shape


def test_images_of_uint8_and_of_float_are_encoded_alike(pipe):
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    as_float = images.astype(np.float32) / 127.5 - 1
    np.testing.assert_allclose(pipe.encode_images(images), pipe.encode_images(as_float), atol=1e-5)
    np.testing.assert_array_equal(to_uint8(jnp.asarray(as_float)), images)


@pytest.mark.slow
def test_guidance_is_the_affine_combination(pipe):
    """One step of the sampler, with the two outputs computed apart."""
    noise = jax.random.normal(jax.random.key(1), (4, *pipe.latent_shape))
    plan = sampling_plan(pipe.schedule, 1)
    t = jnp.full(4, plan.timesteps[0], jnp.int32)
    c = pipe.denoise(noise, t, pipe.encode_prompts(PROMPTS))
    u = pipe.denoise(noise, t, pipe.encode_prompts(["a bag"] * 4))
    output = u + 2.5 * (c - u)
    x0 = plan.x0_of_x[0] * noise + plan.x0_of_output[0] * output
    expected = plan.data[0] * x0 + plan.direction[0] * (
        plan.eps_of_x[0] * noise + plan.eps_of_output[0] * output
    )
    found = pipe.generate(PROMPTS, steps=1, guidance=2.5, initial=noise, negative_prompt="a bag")
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)


@pytest.mark.slow
def test_an_image_depends_on_its_seed_and_place_alone(pipe):
    one = pipe.generate(PROMPTS[:1], seed=3, steps=2)
    many = pipe.generate(PROMPTS, seed=3, steps=2)
    np.testing.assert_allclose(one[0], many[0], atol=1e-4)
    assert np.abs(np.asarray(pipe.generate(PROMPTS[:1], seed=4, steps=2) - one)).max() > 0.01


@pytest.mark.slow
def test_a_batch_cut_over_devices_gives_the_same(pipe):
    assert len(jax.local_devices()) == 4
    even = pipe.generate(PROMPTS, seed=0, steps=2)  # 4 images, one a device
    odd = pipe.generate(PROMPTS[:3], seed=0, steps=2)  # 3 images, all on one
    np.testing.assert_allclose(even[:3], odd, atol=1e-4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p: p.encode_prompts("a sneaker"), TypeError, "list of strings"),
        (lambda p: p.encode_prompts([]), ValueError, "at least one"),
        (lambda p: p.encode_prompts(["a", 3]), TypeError, "list of strings"),
        (lambda p: p.encode_prompts(None), TypeError, "prompts None, expected a list of strings"),
        (lambda p: p.encode_prompts(word for word in "ab"), TypeError, "generator.*list of strings"),
        (lambda p: p.encode_prompts(["a", "\udcff"]), ValueError, r"prompt '\\udcff' is not text"),
        (lambda p: p(["a"], seed=2**32), ValueError, "seed 4294967296, expected 0 to 4294967295"),
        (lambda p: p(["a"], seed=-1), ValueError, "seed -1, expected 0 to"),
        (lambda p: p(["a"], seed=1.5), TypeError, "seed 1.5, expected a whole number"),
        (lambda p: p(["a"], seed=[None]), TypeError, "seed None, expected a whole number"),
        (lambda p: p(["a"], progress=3), TypeError, "progress 3, expected a function"),
        (lambda p: p(["a"], size=16), ValueError, "size 16, expected"),
        (lambda p: p(["a"], size=(16.0, 16)), ValueError, r"size \(16.0, 16\), expected"),
        (lambda p: p(["a"], guidance="6"), TypeError, "guidance '6', expected a number"),
        (lambda p: p(["a"], negative_prompt=3), TypeError, "prompts 3, expected a list of strings"),
        (lambda p: p(["a"], initial=np.zeros((1, 0, 8, 4))), ValueError, r"\(1, 0, 8, 4\)"),
        (lambda p: p.decode(jnp.zeros((0, 8, 8, 4))), ValueError, r"\(0, 8, 8, 4\)"),
        (
            lambda p: p.encode_images(np.full((1, 16, 16, 3), 200.0)),
            ValueError,
            "reach 200, expected -1 to 1",
        ),
        (
            lambda p: p.denoise(jnp.zeros((1, 0, 8, 4)), 1, jnp.zeros((1, 5, 8))),
            ValueError,
            r"\(1, 0, 8, 4\)",
        ),
        (lambda p: p.encode_images(np.zeros((1, 16, 16, 3), int)), TypeError, "int32, expected uint8"),
        (
            lambda p: p.denoise(jnp.zeros((1, 8, 8, 4)), 1, jnp.zeros((1, 5, 9))),
            ValueError,
            r"text of shape \(1, 5, 9\), expected \(1, l, 8\)",
        ),
        (lambda p: p(["a"], sampler="heun3"), ValueError, "heun3"),
        (lambda p: p(["a"], steps=0), ValueError, "steps"),
        (lambda p: p(["a"], guidance=float("nan")), ValueError, "finite"),
        (lambda p: p(["a"], initial=np.zeros((2, 8, 8, 4))), ValueError, r"\(2, 8, 8, 4\)"),
        (lambda p: p.decode(jnp.zeros((1, 8, 8, 3))), ValueError, r"\(1, 8, 8, 3\)"),
        (lambda p: p.encode_images(np.zeros((1, 15, 16, 3))), ValueError, "multiples of 2"),
        (lambda p: p.encode_images(np.zeros((16, 16, 3))), ValueError, r"expected \(n, h, w, 3\)"),
        (
            lambda p: p.denoise(jnp.zeros((1, 8, 8, 4)), jnp.zeros(1), p.encode_prompts(["a"])),
            TypeError,
            "integers",
        ),
        (
            lambda p: p.denoise(jnp.zeros((2, 8, 8, 4)), jnp.zeros(2, int), p.encode_prompts(["a"])),
            ValueError,
            "text of shape",
        ),
    ],
)
def test_bad_input_is_named(pipe, call, error, message):
    with pytest.raises(error, match=message):
        call(pipe)


@pytest.mark.parametrize("family", ["sd1", pytest.param("sdxl", marks=pytest.mark.slow)])
def test_what_is_cut_off_a_prompt_is_told(family):
    model = tiny_pipeline(family=family)
    with pytest.warns(UserWarning, match="1 of 2 prompts are cut to 24 tokens: 'a .*' loses 'ker'"):
        model.encode_prompts(["a very, very, very old sneaker", "a very old sneaker", "a very old sneaker"])


def test_a_tile_that_does_not_serve_is_refused_before_drawing(pipe):
    told = []
    with pytest.raises(ValueError, match="tile of 3 px, expected a positive multiple of 8"):
        pipe(["a"], steps=1, tile=3, progress=lambda *done: told.append(done))
    assert not told


def test_images_that_are_not_finite_are_an_error_and_no_picture(pipe):
    noise = np.zeros((2, *pipe.latent_shape), np.float32)
    noise[1, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="1 of 2 images are not finite: 1"):
        pipe(["a", "b"], steps=1, initial=noise)


def test_parts_that_do_not_fit_are_refused(pipe):
    wide = CLIPTextConfig(
        vocab_size=10, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    other = abstract_module(lambda rngs: CLIPTextModel(wide, rngs=rngs))
    with pytest.raises(ValueError, match="cross_attention_dim"):
        pipe.replace(text_encoder=other)
