"""Latent consistency and turbo models; inpainting models and InstructPix2Pix, drawn from text alone."""

import json

import jax
import numpy as np
import pytest

import fdiv_jax as fj
from fdiv_jax.checkpoints import save_single_file, state_dict
from fdiv_jax.pipeline.drawing_defaults import DrawingDefaults
from fdiv_jax.unlearning import AnchorImagesConfig, PreservationConfig
from tests.tiny import tiny_pipeline

PROMPTS = ["a sneaker, photo style", "a bag"]
LCM = {
    "_class_name": "LCMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "original_inference_steps": 50,
}
# kind -> (entries of the UNet's configuration, the scheduler's, what its pipeline is called)
KINDS = {
    "lcm": ({"time_cond_proj_dim": 16}, LCM, "LatentConsistencyModel"),
    "inpainting": ({"in_channels": 9}, {}, "StableDiffusionInpaint"),
    "pix2pix": ({"in_channels": 8}, {}, "StableDiffusionInstructPix2Pix"),
}
CASES = [
    pytest.param(
        (kind, family), marks=[pytest.mark.slow] * (f"{kind}-{family}" != "lcm-sd1"), id=f"{kind}-{family}"
    )
    for kind, family in (
        ("lcm", "sd1"),
        ("lcm", "sdxl"),
        ("inpainting", "sd1"),
        ("pix2pix", "sd1"),
    )
]


@pytest.fixture(scope="module", params=CASES)
def model(request, tmp_path_factory):
    """(kind, the pipeline, its directory)."""
    kind, family = request.param
    unet, scheduler, _ = KINDS[kind]
    pipe = tiny_pipeline(6, family=family, unet=unet, scheduler=scheduler)
    return kind, pipe, pipe.save(tmp_path_factory.mktemp("kinds") / "model")


def class_of(kind, pipe):
    name = KINDS[kind][2]
    if pipe.text_encoder_2 is not None:
        name = "StableDiffusion" if kind == "lcm" else name
        name = name.replace("StableDiffusion", "StableDiffusionXL")
    return f"{name}Pipeline"


def test_what_is_saved_loads_bit_for_bit_under_its_name(model, capsys):
    kind, pipe, directory = model
    named = json.loads((directory / "model_index.json").read_text())["_class_name"]
    assert named == class_of(kind, pipe)
    again = fj.load_pipeline(directory)
    assert (f"{directory} draws with lcm, 4 steps, guidance 8.5" in capsys.readouterr().err) == (
        kind == "lcm"
    )
    for name, network in pipe.components.items():
        tensors = state_dict(again.components[name])
        assert all(np.array_equal(value, tensors[key]) for key, value in state_dict(network).items())


@pytest.mark.interop
def test_diffusers_draws_the_same_latents(model, monkeypatch):
    """Through its own pipelines: told that all of the image is masked, or that there is none."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    kind, pipe, directory = model
    theirs = getattr(diffusers, class_of(kind, pipe)).from_pretrained(str(directory), local_files_only=True)
    theirs.set_progress_bar_config(disable=True)
    noise = np.random.default_rng(1).standard_normal((2, *pipe.latent_shape)).astype(np.float32)
    options = {"num_inference_steps": 4, "output_type": "latent", "latents": nchw(torch, noise)}
    side = pipe.latent_shape[0] * pipe.vae.config.downsampling
    if kind == "lcm":
        options["guidance_scale"] = 8.5
        if pipe.text_encoder_2 is not None:
            options |= {"height": side, "width": side}
        keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(jax.random.key(0), i), 0))(
            np.arange(2)
        )
        steps = iter(range(4))
        monkeypatch.setattr(
            "diffusers.schedulers.scheduling_lcm.randn_tensor",
            lambda *_, **__: nchw(torch, fresh(keys, next(steps), pipe.latent_shape)),
        )
        found = pipe.generate(PROMPTS, initial=noise)
    else:
        options["guidance_scale"] = 4.0
        grey = torch.zeros(2, 3, side, side)
        if kind == "inpainting":
            encoded = theirs.vae.encode(grey).latent_dist.mode() * theirs.vae.config.scaling_factor
            options |= {"image": grey, "mask_image": torch.ones(2, 1, side, side), "strength": 1.0}
            options |= {"masked_image_latents": encoded.detach(), "height": side, "width": side}
        else:
            options |= {"image": torch.zeros(2, 4, *pipe.latent_shape[:2]), "image_guidance_scale": 1.5}
        found = pipe.generate(PROMPTS, steps=4, guidance=4.0, initial=noise)
    expected = theirs(PROMPTS, **options).images.numpy().transpose(0, 2, 3, 1)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    assert np.abs(found[0] - found[1]).max() > 0.1


def nchw(torch, array):
    return torch.tensor(np.asarray(array).transpose(0, 3, 1, 2).copy())


def fresh(keys, step, shape):
    return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, step), shape))(keys)


@pytest.mark.slow
def test_concepts_are_unlearned(tmp_path):
    """In a model that takes both a guidance and channels beside the latents."""
    pipe = tiny_pipeline(6, unet={"time_cond_proj_dim": 16, "in_channels": 9}, scheduler=LCM)
    config = fj.UnlearningConfig(
        target="sneaker",
        steps=12,
        batch_size=4,
        learning_rate=3e-3,
        retained=(),
        preservation=PreservationConfig(weight=0.1, at="random"),
        images=AnchorImagesConfig(number=4, steps=2),
    )
    result = fj.unlearn(pipe, config, tmp_path / "run", progress=False, cache=False)
    m = result.history["m"]
    assert np.all(np.isfinite(m))
    assert m[-4:].mean() < m[:4].mean()
    saved = tmp_path / "run" / "pipeline"
    before, after = state_dict(pipe.unet), state_dict(fj.load_pipeline(saved).unet)
    assert {name for name in before if not np.array_equal(before[name], after[name])} == {
        name for name in before if ".attn2.to_k." in name or ".attn2.to_v." in name
    }
    named = json.loads((saved / "model_index.json").read_text())["_class_name"]
    assert named == "StableDiffusionInpaintPipeline"


@pytest.mark.slow
def test_a_latent_consistency_model_takes_the_guidance_and_no_negative_prompt():
    pipe = tiny_pipeline(6, unet={"time_cond_proj_dim": 16}, scheduler=LCM)
    noise = np.random.default_rng(2).standard_normal((1, *pipe.latent_shape)).astype(np.float32)
    own = pipe.generate(PROMPTS[:1], initial=noise)
    given = pipe.generate(PROMPTS[:1], initial=noise, steps=4, guidance=8.5, sampler="lcm")
    np.testing.assert_array_equal(own, given)
    assert np.abs(pipe.generate(PROMPTS[:1], initial=noise, guidance=1.0) - own).max() > 1e-4
    with pytest.raises(ValueError, match="a negative prompt for a latent consistency model"):
        pipe.generate(PROMPTS[:1], negative_prompt="a coat")
    with pytest.raises(NotImplementedError, match="expected a diffusers directory"):
        save_single_file("model.safetensors", pipe.components)


EULER = {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"}
# The scheduler files of published models, and how they draw.
TURBO = {
    "sd-turbo": (EULER, ("euler", 4, 0.0)),
    "sdxl-turbo": (EULER | {"_class_name": "EulerAncestralDiscreteScheduler"}, ("euler_a", 4, 0.0)),
    "an LCM-LoRA merged": (LCM, ("lcm", 4, 1.0)),
    "XL": (EULER | {"timestep_spacing": "leading"}, ("ddim", 25, 6.0)),
    "zero terminal SNR": (
        EULER | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
        ("ddim", 25, 6.0),
    ),
    "DDIM": (EULER | {"_class_name": "DDIMScheduler"}, ("ddim", 25, 6.0)),
}


@pytest.mark.parametrize("name", TURBO)
def test_distilled_models_draw_in_their_own_way(name):
    scheduler, expected = TURBO[name]
    pipe = tiny_pipeline(1, scheduler=scheduler)
    found = pipe.drawing_defaults
    assert found[:3] == expected
    images = AnchorImagesConfig()
    assert images.drawing(pipe)[:3] == (expected if found.reason else ("dpm++", 25, 6.0))
    given = AnchorImagesConfig(steps=9, guidance=2.5, sampler="ddim")
    assert given.drawing(pipe)[:3] == ("ddim", 9, 2.5)
    assert bool(found.reason) == (found != DrawingDefaults())


@pytest.mark.slow
@pytest.mark.interop
@pytest.mark.parametrize("name", ["sdxl-turbo"])
def test_a_turbo_model_draws_what_diffusers_draws_without_guidance(name, tmp_path, capsys, monkeypatch):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    pipe = tiny_pipeline(2, scheduler=TURBO[name][0])
    directory = pipe.save(tmp_path / "model")
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(str(directory), local_files_only=True)
    theirs.set_progress_bar_config(disable=True)
    noise = np.random.default_rng(1).standard_normal((2, *pipe.latent_shape)).astype(np.float32)
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(jax.random.key(0), i), 0))(np.arange(2))
    steps = iter(range(4))
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_euler_ancestral_discrete.randn_tensor",
        lambda *_, **__: nchw(torch, fresh(keys, next(steps), pipe.latent_shape)),
    )
    start = nchw(torch, noise)
    options = {"num_inference_steps": 4, "guidance_scale": 0.0, "output_type": "latent", "latents": start}
    expected = theirs(PROMPTS, **options).images.numpy().transpose(0, 2, 3, 1)
    loaded = fj.load_pipeline(directory)
    told = capsys.readouterr().err
    assert f"{directory} draws with {TURBO[name][1][0]}, 4 steps, guidance 0 (its scheduler" in told
    found = loaded.generate(PROMPTS, initial=noise)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
