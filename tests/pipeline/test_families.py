"""Every family of Stable Diffusion: saved here, drawn by diffusers; and read back bit for bit."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

import fdiv_jax as fj
from fdiv_jax.checkpoints import state_dict
from tests.tiny import tiny_pipeline

# The first family is what test_directory.py and test_text_to_image.py are about.
FAMILIES = [pytest.param("sd1", marks=pytest.mark.slow), "sd2", pytest.param("sdxl", marks=pytest.mark.slow)]
PROMPTS = ["a sneaker, photo style", "a bag"]


@pytest.fixture(scope="module", params=FAMILIES)
def saved(request, tmp_path_factory):
    pipe = tiny_pipeline(3, family=request.param)
    return pipe, pipe.save(tmp_path_factory.mktemp(request.param) / "model")


def networks(pipe):
    return {name: state_dict(network) for name, network in pipe.components.items()}


def test_what_is_saved_loads_bit_for_bit(saved):
    pipe, directory = saved
    again = fj.load_pipeline(directory)
    before, after = networks(pipe), networks(again)
    assert before.keys() == after.keys()
    for name, tensors in before.items():
        assert tensors.keys() == after[name].keys()
        assert all(np.array_equal(value, after[name][key]) for key, value in tensors.items())
    assert again.scheduler_config == pipe.scheduler_config
    assert again.schedule.prediction_type == pipe.schedule.prediction_type


def test_the_classifier_free_call_equals_two_calls(saved):
    pipe, _ = saved
    latents = np.random.default_rng(0).standard_normal((2, *pipe.latent_shape)).astype(np.float32)
    text, none = pipe.encode_prompts(PROMPTS), pipe.encode_prompts([None, None])
    t = jnp.array([500, 20])
    assert pipe.denoise(latents, t, text).shape == latents.shape
    assert np.abs(pipe.denoise(latents, t, text) - pipe.denoise(latents, t, none)).max() > 1e-4


@pytest.mark.slow
def test_half_of_the_precision_in_compute_is_near(saved):
    pipe, directory = saved
    half = fj.load_pipeline(directory, dtype=jnp.bfloat16)
    latents = np.random.default_rng(0).standard_normal((2, *pipe.latent_shape)).astype(np.float32)
    outputs = [p.denoise(latents, jnp.array([300, 300]), p.encode_prompts(PROMPTS)) for p in (pipe, half)]
    assert outputs[1].dtype == jnp.float32
    error = np.sqrt(np.mean((outputs[0] - outputs[1]) ** 2) / np.mean(outputs[0] ** 2))
    assert 1e-6 < error < 5e-2


@pytest.mark.interop
@pytest.mark.parametrize("negative", [pytest.param(None, marks=pytest.mark.slow), "a coat"])
def test_diffusers_draws_the_same_images(saved, negative):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    pipe, directory = saved
    kind = json.loads((directory / "model_index.json").read_text())["_class_name"]
    theirs = getattr(diffusers, kind).from_pretrained(str(directory), local_files_only=True)
    theirs.set_progress_bar_config(disable=True)
    noise = np.random.default_rng(1).standard_normal((2, *pipe.latent_shape)).astype(np.float32)
    expected = theirs(
        PROMPTS,
        latents=torch.tensor(noise.transpose(0, 3, 1, 2)),
        num_inference_steps=5,
        guidance_scale=4.0,
        negative_prompt=None if negative is None else [negative] * 2,
        output_type="np",
    ).images
    found = pipe(PROMPTS, steps=5, guidance=4.0, initial=noise, negative_prompt=negative)
    assert expected.shape == found.shape
    assert np.abs(found / 255.0 - expected).mean() <= 1 / 255
    assert expected.std() > 0.01


@pytest.mark.slow
@pytest.mark.interop
def test_the_text_and_the_network_are_those_of_diffusers_xl(tmp_path):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    pipe = tiny_pipeline(5, family="sdxl")
    theirs = diffusers.StableDiffusionXLPipeline.from_pretrained(str(pipe.save(tmp_path / "xl")))
    hidden, _, pooled, _ = theirs.encode_prompt(PROMPTS, do_classifier_free_guidance=False)
    text = pipe.encode_prompts(PROMPTS)
    for ours, other in ((text.hidden, hidden), (text.pooled, pooled)):
        other = other.detach().numpy()
        np.testing.assert_allclose(ours, other, atol=1e-5 * np.abs(other).max())
    latents = np.random.default_rng(2).standard_normal((2, 6, 10, 4)).astype(np.float32)  # not square
    factor = pipe.vae.config.downsampling
    sizes = torch.tensor([[6.0 * factor, 10.0 * factor, 0, 0, 6.0 * factor, 10.0 * factor]] * 2)
    with torch.no_grad():
        expected = theirs.unet(
            torch.tensor(latents.transpose(0, 3, 1, 2)),
            torch.tensor([10, 700]),
            encoder_hidden_states=hidden.detach(),
            added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes},
        ).sample
    found = pipe.denoise(latents, jnp.array([10, 700]), text)
    expected = expected.numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
def test_seeds_an_image_are_independent_of_the_batch():
    pipe = tiny_pipeline(1)
    options = {"steps": 2, "sampler": "euler_a", "guidance": 3.0}
    both = pipe.generate(PROMPTS, seed=[7, 11], **options)
    alone = pipe.generate(PROMPTS[1:], seed=[11], **options)
    np.testing.assert_allclose(both[1], alone[0], atol=1e-5)
    few, many = (pipe.generate(["a bag"] * n, seed=3, **options) for n in (2, 4))
    np.testing.assert_allclose(few, many[:2], atol=1e-5)
    assert np.abs(many[0] - many[1]).max() > 0.1


@pytest.mark.slow
def test_negative_prompts_and_sizes():
    pipe = tiny_pipeline(1)
    options = {"steps": 2, "guidance": 3.0}
    each = pipe.generate(PROMPTS, negative_prompt=["a coat", "a shoe"], **options)
    coat = pipe.generate(PROMPTS, negative_prompt="a coat", **options)
    np.testing.assert_allclose(each[0], coat[0], atol=1e-5)
    assert np.abs(each[1] - coat[1]).max() > 1e-4
    factor = pipe.vae.config.downsampling
    assert pipe(["a bag"], size=(6 * factor, 4 * factor), steps=1).shape == (1, 6 * factor, 4 * factor, 3)
    for wrong in ({"size": (factor * 4 + 1, 8)}, {"seed": [1]}, {"negative_prompt": ["a"]}):
        with pytest.raises(ValueError, match="expected"):
            pipe.generate(PROMPTS, **wrong)
