"""A diffusers directory, written and read: by us, by diffusers, and when it is damaged."""

import json

import jax
import numpy as np
import pytest
from flax import nnx

from fdiv_jax.pipeline import load_pipeline
from fdiv_jax.unlearning import Network
from tests.tiny import tiny_pipeline


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


@pytest.fixture
def directory(pipe, tmp_path):
    return pipe.save(tmp_path / "model")


def _leaves(pipeline):
    return [
        x
        for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder)
        for x in jax.tree.leaves(nnx.state(part))
    ]


def test_load_of_save_is_bit_exact(pipe, directory, tmp_path):
    again = load_pipeline(directory)
    for a, b in zip(_leaves(pipe), _leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    assert again.schedule == pipe.schedule
    assert again.concepts == pipe.concepts
    prompt = "a sneaker, photo style"
    assert again.tokenizer(prompt)["input_ids"] == pipe.tokenizer(prompt)["input_ids"]
    second = again.save(tmp_path / "second")
    for name in ("unet/diffusion_pytorch_model.safetensors", "vae/config.json", "model_index.json"):
        assert (second / name).read_bytes() == (directory / name).read_bytes()


def test_attention_is_chosen_at_loading(directory):
    blocked = load_pipeline(directory, attention="blocked")
    assert Network(blocked.unet) == Network(load_pipeline(directory).with_attention("blocked").unet)
    with pytest.raises(ValueError, match="attention 'flash', expected one of auto, plain"):
        load_pipeline(directory, attention="flash")


def test_only_the_changed_tensor_changes_in_the_file(pipe, tmp_path):
    from safetensors.numpy import load_file

    graph, state = nnx.split(pipe.unet)
    state["conv_out"]["bias"][...] = state["conv_out"]["bias"][...] + 1
    changed = pipe.replace(unet=nnx.merge(graph, state))
    name = "unet/diffusion_pytorch_model.safetensors"
    before = load_file(tiny_pipeline().save(tmp_path / "a") / name)
    after = load_file(changed.save(tmp_path / "b") / name)
    assert [key for key in before if not np.array_equal(before[key], after[key])] == ["conv_out.bias"]


@pytest.mark.interop
def test_diffusers_draws_the_same(pipe, directory):
    pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    import torch

    other = diffusers.StableDiffusionPipeline.from_pretrained(str(directory))
    other.set_progress_bar_config(disable=True)
    noise = np.asarray(jax.random.normal(jax.random.key(3), (2, *pipe.latent_shape)))
    prompts = ["a sneaker, photo style", "a shirt"]
    ours = pipe(prompts, steps=5, guidance=3.0, initial=noise)
    theirs = other(
        prompts,
        latents=torch.tensor(noise.transpose(0, 3, 1, 2)),
        num_inference_steps=5,
        guidance_scale=3.0,
        output_type="np",
    ).images
    assert np.abs(theirs * 255 - ours).mean() <= 1


def _spoil(directory, path, change):
    file = directory / path
    change(file)
    return directory


@pytest.mark.parametrize(
    ("path", "change", "error", "message"),
    [
        ("model_index.json", lambda f: f.unlink(), FileNotFoundError, "model_index.json"),
        ("model_index.json", lambda f: f.write_text("{"), ValueError, "not JSON"),
        (
            "model_index.json",
            lambda f: f.write_text(json.dumps({"_class_name": "FluxPipeline"})),
            NotImplementedError,
            "FluxPipeline",
        ),
        (
            "unet/config.json",
            lambda f: f.write_text(json.dumps({**json.loads(f.read_text()), "class_embed_type": "timestep"})),
            NotImplementedError,
            "class_embed_type",
        ),
        (
            "unet/config.json",
            lambda f: f.write_text(
                json.dumps({**json.loads(f.read_text()), "down_block_types": ["AttnDownBlock2D"]})
            ),
            NotImplementedError,
            "AttnDownBlock2D",
        ),
        (
            "vae/diffusion_pytorch_model.safetensors",
            lambda f: f.write_bytes(f.read_bytes()[:-10]),
            ValueError,
            "diffusion_pytorch_model.safetensors",
        ),
        ("concepts.json", lambda f: f.write_text('{"x": {"kind": "item"}}'), ValueError, "concepts.json"),
        ("scheduler/scheduler_config.json", lambda f: f.unlink(), FileNotFoundError, "scheduler_config"),
    ],
)
def test_a_damaged_directory_is_named(directory, path, change, error, message):
    with pytest.raises(error, match=message):
        load_pipeline(_spoil(directory, path, change))


def test_no_such_model_and_no_overwriting(pipe, directory, tmp_path):
    with pytest.raises(FileNotFoundError, match="fashion"):
        load_pipeline(tmp_path / "nowhere")
    before = (directory / "model_index.json").read_bytes()
    with pytest.raises(FileExistsError, match="not empty"):
        pipe.save(directory)
    assert (directory / "model_index.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
