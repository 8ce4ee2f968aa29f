"""A pipeline with LoRA files: diffusers draws the same, files add up, and what is saved has them in it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fdiv_jax as fj
from fdiv_jax.checkpoints import save_lora, state_dict
from tests.checkpoints.test_lora_files import drawn_lora
from tests.tiny import tiny_pipeline

PROMPTS = ["a sneaker, photo style", "a bag"]
PARTS = (".attn1.", ".attn2.", ".conv1", "_proj")


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline(3)


def written(path, pipe, seed=0, layout="kohya", parts=PARTS):
    loras = {
        name: drawn_lora(pipe.components[name], 2, 1.0, seed, containing=parts)
        for name in pipe.components
        if name != "vae"
    }
    return save_lora(path, loras, layout=layout, unet_config=pipe.unet.config)


def weights(pipe):
    return {f"{c}.{n}": v for c, m in pipe.components.items() for n, v in state_dict(m).items()}


@pytest.mark.slow
@pytest.mark.interop
@pytest.mark.parametrize(("family", "layout"), [("sd1", "kohya"), ("sdxl", "diffusers")])
def test_diffusers_draws_the_same_images(family, layout, tmp_path):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    pytest.importorskip("peft")
    pipe = tiny_pipeline(3, family=family)
    file = written(tmp_path / "lora.safetensors", pipe, layout=layout)
    theirs = diffusers.DiffusionPipeline.from_pretrained(str(pipe.save(tmp_path / "model")))
    theirs.set_progress_bar_config(disable=True)
    noise = np.random.default_rng(1).standard_normal((2, *pipe.latent_shape)).astype(np.float32)
    options = {"num_inference_steps": 3, "guidance_scale": 4.0, "output_type": "np"}
    latents = torch.tensor(noise.transpose(0, 3, 1, 2))
    plain = theirs(PROMPTS, latents=latents.clone(), **options).images
    theirs.load_lora_weights(str(file))
    theirs.fuse_lora(components=[name for name in pipe.components if name != "vae"], lora_scale=0.7)
    expected = theirs(PROMPTS, latents=latents.clone(), **options).images
    found = pipe.with_lora(file, 0.7)(PROMPTS, steps=3, guidance=4.0, initial=noise)
    assert np.abs(plain - expected).mean() > 0.02
    assert np.abs(found / 255.0 - expected).mean() <= 1 / 255


@pytest.mark.slow
def test_files_add_up_and_a_negative_strength_takes_one_out(pipe, tmp_path):
    one = written(tmp_path / "one.safetensors", pipe, 1)
    two = written(tmp_path / "two.safetensors", pipe, 2)
    before = weights(pipe)
    both = pipe.with_lora(one, 0.5).with_lora(two)
    other = pipe.with_lora(two).with_lora(str(one), np.float32(0.5))
    assert both.loras == ((str(one), 0.5), (str(two), 1.0))
    changes = [{n: v - before[n] for n, v in weights(pipe.with_lora(file)).items()} for file in (one, two)]
    differing = 0
    found = weights(both)
    for name, value in found.items():
        expected = before[name] + 0.5 * changes[0][name] + changes[1][name]
        np.testing.assert_allclose(value, expected, atol=2e-6)
        differing += not np.array_equal(value, before[name])
    assert differing == len(
        [n for n in before if n.endswith("weight") and n[:3] != "vae" and any(p in n for p in PARTS)]
    )
    for name, value in weights(other).items():
        np.testing.assert_allclose(value, found[name], atol=2e-6)
    for name, value in weights(both.with_lora(one, -0.5).with_lora(two, -1.0)).items():
        np.testing.assert_allclose(value, before[name], atol=2e-6)
    assert all(np.array_equal(v, before[n]) for n, v in weights(pipe).items())
    assert all(np.array_equal(v, before[n]) for n, v in weights(pipe.with_lora(one, 0)).items())
    assert both.vae is pipe.vae


def test_what_is_saved_has_the_change_in_it(pipe, tmp_path):
    changed = pipe.with_lora(written(tmp_path / "lora.safetensors", pipe), 0.8)
    again = fj.load_pipeline(changed.save(tmp_path / "model"))
    assert again.loras == ()
    known = weights(changed)
    assert all(np.array_equal(value, known[name]) for name, value in weights(again).items())


@pytest.mark.slow
def test_parameters_keep_their_precision(pipe, tmp_path):
    file = written(tmp_path / "lora.safetensors", pipe)
    directory = pipe.save(tmp_path / "model")
    half = fj.load_pipeline(directory, param_dtype=jnp.float16)
    changed = weights(half.with_lora(file))
    assert {value.dtype for value in changed.values()} == {np.dtype(np.float16)}
    exact = weights(pipe.with_lora(file))
    for name, value in changed.items():
        np.testing.assert_allclose(value, exact[name], atol=2e-3 * np.abs(exact[name]).max())
    with pytest.raises(ValueError, match=r"at strength 1e\+06: \w+ .*kernel is not finite in float16"):
        half.with_lora(file, 1e6)


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), True, "1", None, jax.numpy.ones(2)])
def test_a_strength_is_a_finite_number(strength, pipe, tmp_path):
    with pytest.raises(ValueError, match=r"strength .*, expected a finite number"):
        pipe.with_lora(tmp_path / "lora.safetensors", strength)
    with pytest.raises(FileNotFoundError, match="no file"):
        pipe.with_lora(tmp_path / "lora.safetensors")
