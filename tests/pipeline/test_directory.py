"""A diffusers directory, written and read: by us, by diffusers, and when it is damaged."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from fdiv_jax.pipeline import load_pipeline
from fdiv_jax.unlearning import Network
from tests.tiny import tiny_pipeline, tiny_tokenizer


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


@pytest.fixture(scope="module")
def saved(pipe, tmp_path_factory):
    return pipe.save(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def directory(saved, tmp_path):
    """A copy, to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


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


def test_without_weights_the_configurations_are_enough(pipe, directory):
    for file in directory.rglob("*.safetensors"):
        file.unlink()
    outline = load_pipeline(directory, weights=False)
    found, expected = Network.parameters(outline.unet), Network.parameters(pipe.unet)
    shapes = {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in expected.items()}
    assert found == shapes
    assert outline.latent_shape == pipe.latent_shape
    assert outline.concepts == pipe.concepts
    with pytest.raises(FileNotFoundError, match="unet"):
        load_pipeline(directory)


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
@pytest.mark.slow
@pytest.mark.parametrize("entries", [{}, {"clip_sample": True, "steps_offset": 0}])
def test_diffusers_draws_the_same(directory, entries):
    """Whatever the file says, diffusers' pipeline clips no latents and begins at an offset of 1."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    _entries(**entries)(directory / SCHEDULER)
    pipe = load_pipeline(directory)
    assert pipe.scheduler_config.items() >= entries.items()
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


@pytest.mark.slow
@pytest.mark.interop
@pytest.mark.parametrize("kind", ["UniPCMultistepScheduler", "LCMScheduler"])
def test_our_samplers_draw_from_files_of_other_schedulers_what_diffusers_draws(directory, kind):
    """Its pipeline with the scheduler swapped, as its users do."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    _entries(_class_name=kind, solver_order=3, timestep_spacing="trailing")(directory / SCHEDULER)
    _entries(scheduler=["diffusers", kind])(directory / INDEX)
    pipe = load_pipeline(directory)
    other = diffusers.StableDiffusionPipeline.from_pretrained(str(directory))
    other.set_progress_bar_config(disable=True)
    noise = np.asarray(jax.random.normal(jax.random.key(3), (1, *pipe.latent_shape)))
    for sampler, swapped in (
        ("ddim", diffusers.DDIMScheduler.from_config(other.scheduler.config)),
        ("dpm++", diffusers.DPMSolverMultistepScheduler.from_config(other.scheduler.config, solver_order=2)),
    ):
        other.scheduler = swapped
        theirs = other(
            ["a shirt"],
            latents=torch.tensor(noise.transpose(0, 3, 1, 2)),
            num_inference_steps=5,
            guidance_scale=3.0,
            output_type="np",
        ).images
        ours = pipe(["a shirt"], steps=5, guidance=3.0, initial=noise, sampler=sampler)
        assert np.abs(theirs * 255 - ours).mean() <= 1


@pytest.mark.interop
@pytest.mark.parametrize(
    ("entries", "size"),
    [
        ({"_diffusers_version": "0.6.0"}, 64),
        ({"_diffusers_version": "0.10.0"}, 8),
        ({"_diffusers_version": "0.6.0", "sample_size": [8, 8]}, [8, 8]),
    ],
)
def test_the_size_of_an_image_is_that_of_diffusers(directory, entries, size, tmp_path):
    pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    _entries(**entries)(directory / UNET)
    pipe = load_pipeline(directory)
    assert np.all(np.equal(pipe.latent_shape[:2], size))
    for saved in (directory, pipe.save(tmp_path / "again")):
        assert diffusers.StableDiffusionPipeline.from_pretrained(str(saved)).unet.config.sample_size == size


@pytest.mark.parametrize(("family", "size"), [("sd2", 64), pytest.param("sdxl", 128, marks=pytest.mark.slow)])
def test_a_network_of_no_size_draws_that_of_its_family(family, size, tmp_path):
    directory = tiny_pipeline(family=family).save(tmp_path / "model")
    _entries(sample_size=None)(directory / UNET)
    assert load_pipeline(directory).latent_shape == (size, size, 4)


def _entries(**changes):
    """Change entries of a JSON file."""
    return lambda file: file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def _text(text):
    return lambda file: file.write_text(text)


def _without_last_bytes(file):
    file.write_bytes(file.read_bytes()[:-10])


def _another_shape(file):
    from safetensors.numpy import load_file, save_file

    save_file({**load_file(file), "conv_out.bias": np.zeros(7, np.float32)}, file)


def _only_pickled(file):
    file.rename(file.with_suffix(".bin"))


def _broken_files(directory):
    for file in directory.iterdir():
        file.write_text("{")


UNET, SCHEDULER, INDEX = "unet/config.json", "scheduler/scheduler_config.json", "model_index.json"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
DAMAGE = {
    "no index": (INDEX, Path.unlink, FileNotFoundError, "model_index.json"),
    "half an index": (INDEX, _text("{"), ValueError, "not JSON"),
    "an index that is a list": (INDEX, _text("[]"), ValueError, r"expected a JSON object, got \[\]"),
    "an index too deep": (INDEX, _text("[" * 100_000), ValueError, "nested more than 64 deep"),
    "a pipeline of no name": (INDEX, _entries(_class_name=["x"]), NotImplementedError, r"pipeline \['x'\]"),
    "a network of no name": (INDEX, _entries(unet=[]), NotImplementedError, r"unet is \[\], expected"),
    "a configuration too deep": (UNET, _text("[" * 100_000), ValueError, "nested more than 64 deep"),
    "another pipeline": (INDEX, _entries(_class_name="FluxPipeline"), NotImplementedError, "'FluxPipeline'"),
    "another network": (
        INDEX,
        _entries(unet=["diffusers", "UNet3DConditionModel"]),
        NotImplementedError,
        "unet is .*UNet3DConditionModel.*UNet2DConditionModel",
    ),
    "no network": (INDEX, _entries(vae=None), NotImplementedError, "vae is left out of model_index.json"),
    "a class embedding": (UNET, _entries(class_embed_type="timestep"), NotImplementedError, "'timestep'"),
    "an unknown block": (
        UNET,
        _entries(down_block_types=["AttnDownBlock2D"]),
        NotImplementedError,
        "UNet block type 'AttnDownBlock2D'; supported: CrossAttnDownBlock2D, DownBlock2D",
    ),
    "an unknown activation": (UNET, _entries(act_fn="snake"), NotImplementedError, "activation 'snake'"),
    "channels in words": (UNET, _entries(block_out_channels="8"), ValueError, "block_out_channels='8'"),
    "half a channel": (UNET, _entries(block_out_channels=[8.5]), ValueError, r"expected tuple\[int"),
    "negative channels": (UNET, _entries(block_out_channels=[-8]), ValueError, r"block_out_channels=-8"),
    "heads that do not divide": (UNET, _entries(attention_head_dim=3), ValueError, "3 attention heads"),
    "no heads": (UNET, _entries(attention_head_dim=0), ValueError, "attention_head_dim=0"),
    "no groups": (UNET, _entries(norm_num_groups=0), ValueError, "norm_num_groups=0"),
    "more channels": (UNET, _entries(in_channels=9), ValueError, r"conv_in.weight: got \(8, 4, 3, 3\)"),
    "no scaling": ("vae/config.json", _entries(scaling_factor=None), ValueError, "scaling_factor=None"),
    "scaling by 0": ("vae/config.json", _entries(scaling_factor=0), ValueError, "scaling_factor=0"),
    "another text tower": (
        "text_encoder/config.json",
        _entries(model_type="t5"),
        NotImplementedError,
        "model_type='t5'",
    ),
    "truncated weights": (WEIGHTS, _without_last_bytes, ValueError, "truncated"),
    "a pointer for weights": (
        WEIGHTS,
        _text("version https://git-lfs"),
        ValueError,
        "pointer of Git LFS",
    ),
    "a tensor of another shape": (
        WEIGHTS,
        _another_shape,
        ValueError,
        r"conv_out.bias: got \(7,\), expected \(4,\)",
    ),
    "pickled weights": (WEIGHTS, _only_pickled, ValueError, "diffusion_pytorch_model.bin. Reading a pickle"),
    "no autoencoder": ("vae", shutil.rmtree, FileNotFoundError, "config.json"),
    "no tokenizer": ("tokenizer", shutil.rmtree, FileNotFoundError, "tokenizer"),
    "no vocabulary": ("tokenizer/tokenizer.json", Path.unlink, FileNotFoundError, "no tokenizer.json"),
    "a length that is text": (
        "tokenizer/tokenizer_config.json",
        _entries(model_max_length="x"),
        ValueError,
        "model_max_length 'x', expected a whole number",
    ),
    "a length below nothing": (
        "tokenizer/tokenizer_config.json",
        _entries(model_max_length=-1),
        ValueError,
        "model_max_length -1",
    ),
    "no padding": ("tokenizer/tokenizer_config.json", _entries(pad_token=None), ValueError, "no pad_token"),
    "no image": (UNET, _entries(sample_size=0), ValueError, "sample_size=0, expected a number from 1"),
    "no words": ("text_encoder/config.json", _entries(vocab_size=0), ValueError, "vocab_size"),
    "half a tokenizer": ("tokenizer", _broken_files, ValueError, "not a CLIP tokenizer"),
    "no scheduler": (SCHEDULER, Path.unlink, FileNotFoundError, "scheduler_config.json"),
    "a flow": (
        SCHEDULER,
        _entries(_class_name="FlowMatchEulerDiscreteScheduler"),
        NotImplementedError,
        "FlowMatchEulerDiscreteScheduler",
    ),
    "a negative beta": (SCHEDULER, _entries(beta_start=-1), ValueError, "beta_start -1.0"),
    "half a concept": ("concepts.json", _text('{"x": {"kind": "item"}}'), ValueError, "concepts.json"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_directory_is_one_error_that_names_the_place(case, directory):
    path, damage, error, message = DAMAGE[case]
    (directory / "tokenizer" / "vocab.json").unlink()
    damage(directory / path)
    with pytest.raises(error, match=message) as found:
        load_pipeline(directory)
    named = directory if path == INDEX else directory / path.split("/")[0]
    assert str(named) in str(found.value)


def test_a_variant_that_is_not_there_is_named(directory):
    with pytest.raises(FileNotFoundError, match=r"no .*\.fp16\.safetensors .*name no variant"):
        load_pipeline(directory, variant="fp16")
    for file in directory.rglob("*.safetensors"):
        file.rename(file.with_suffix(".fp16.safetensors"))
    with pytest.raises(FileNotFoundError, match="name the variant that is there: variant='fp16'"):
        load_pipeline(directory)
    load_pipeline(directory, variant="fp16")


def test_a_file_is_no_directory(directory):
    with pytest.raises(NotADirectoryError, match=r"model.safetensors' is a file, .*of a component"):
        load_pipeline(directory / "unet" / "diffusion_pytorch_model.safetensors")


def test_a_failing_disk_is_an_error_of_the_system_and_leaves_nothing(pipe, tmp_path):
    """A limit on the size of files stands in for the disk; the smallest stops at the first configuration."""
    directory = pipe.save(tmp_path / "model")
    before = {file: file.read_bytes() for file in directory.rglob("*") if file.is_file()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        for limit in (100, 20_000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            for name in ("model", "new"):
                with pytest.raises(OSError, match="File too large"):
                    pipe.save(tmp_path / name, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert {file: file.read_bytes() for file in directory.rglob("*") if file.is_file()} == before


@pytest.mark.slow
def test_the_files_are_utf_8_whatever_the_locale(tmp_path):
    """In a process of its own, whose default encoding is ASCII."""
    code = "import sys; from tests.tiny import tiny_pipeline; tiny_pipeline().save(sys.argv[1])"
    settings = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    command = [sys.executable, "-c", code, str(tmp_path / "model")]
    subprocess.run(command, check=True, env=os.environ | settings, capture_output=True)
    words = json.loads((tmp_path / "model" / "tokenizer" / "vocab.json").read_text(encoding="utf-8"))
    assert words == load_pipeline(tmp_path / "model").tokenizer.get_vocab()


def test_a_vocabulary_beyond_the_embedding_is_refused(pipe, tmp_path):
    """Such a token would read another one's embedding without a word."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["sneaker"])
    directory = pipe.replace(tokenizer=tokenizer).save(tmp_path / "larger")
    with pytest.raises(ValueError, match=r"tokenizer: a vocabulary of 515 tokens for a text encoder of 514"):
        load_pipeline(directory)


def test_no_such_model_and_no_overwriting(pipe, directory, tmp_path):
    with pytest.raises(FileNotFoundError, match="fashion"):
        load_pipeline(tmp_path / "nowhere")
    before = (directory / "model_index.json").read_bytes()
    with pytest.raises(FileExistsError, match="not empty"):
        pipe.save(directory)
    assert (directory / "model_index.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
