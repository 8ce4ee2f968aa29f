"""The published models' own configuration files, data/*.json, give networks of the published sizes.

The files are those of the models' hub repositories: facts, among them the keys that differ from version to
version. Only shapes are computed.
"""

import functools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from fdiv_jax.checkpoints.state_dicts import tensor_names
from fdiv_jax.diffusion import NoiseSchedule, sampling_plan
from fdiv_jax.nn import (
    AutoencoderKL,
    CLIPModel,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    UNet2DConditionModel,
    abstract_network,
)
from fdiv_jax.pipeline.one_file import describe_file
from tests.pipeline.original_files import original_shapes, write_header

DATA = Path(__file__).parent / "data"
CLASSES = {
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
    "model": CLIPModel,
}
SD1 = {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}
SD2 = {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840}
PARAMETERS = {
    "stable-diffusion-1-4": SD1,
    "stable-diffusion-1-5": SD1,
    "stable-diffusion-2": SD2,
    "stable-diffusion-2-1": SD2,
    "stable-diffusion-xl-base-1-0": {
        "unet": 2_567_463_684,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
    },
    "clip-vit-base-patch32": {"model": 151_277_313},
    "clip-vit-large-patch14": {"model": 427_616_513},
}
DIFFUSION = [name for name in PARAMETERS if name.startswith("stable")]


def read(name):
    return json.loads((DATA / f"{name}.json").read_text())


@functools.cache
def built(name, part):
    """The abstract network of one configuration file."""
    return abstract_network(CLASSES[part], read(name)[part])


LATER = ("stable-diffusion-1-5", "stable-diffusion-2", "stable-diffusion-xl-base-1-0")


@pytest.mark.parametrize(
    ("name", "part"),
    [
        pytest.param(name, part, marks=[pytest.mark.slow] * (name in LATER and part != "text_encoder_2"))
        for name, parts in PARAMETERS.items()
        for part in parts
    ],
)
def test_the_configuration_gives_a_network_of_the_published_size(name, part):
    module = built(name, part)
    shapes = tensor_names(module)
    assert sum(math.prod(shape) for shape in shapes.values()) == PARAMETERS[name][part]
    assert type(module.config).from_dict(module.config.to_dict()) == module.config


@pytest.mark.parametrize("name", DIFFUSION)
def test_the_scheduler_is_read(name):
    schedule = NoiseSchedule.from_config(read(name)["scheduler"])
    assert schedule.num_train_timesteps == 1000
    assert schedule.prediction_type == ("v_prediction" if "diffusion-2" in name else "epsilon")
    assert schedule.clip_sample_range is None
    # beta_t = (sqrt(beta_0) + t / 999 (sqrt(beta_999) - sqrt(beta_0)))^2
    roots = np.linspace(0.00085**0.5, 0.012**0.5, 1000)
    np.testing.assert_allclose(schedule.betas, roots**2, rtol=1e-5)
    assert sampling_plan(schedule, 50).timesteps[0] == 981  # leading spacing, offset 1


FAMILY = {
    "stable-diffusion-1-5": "sd1",
    "stable-diffusion-2-1": "sd2",
    "stable-diffusion-xl-base-1-0": "sdxl",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILY)
def test_one_file_of_the_published_shapes_has_the_published_configuration(name, tmp_path):
    """From the header alone: the file is sparse and has no bytes but that."""
    modules = {part: built(name, part) for part in PARAMETERS[name]}
    shapes = original_shapes(modules)
    if FAMILY[name] == "sd2":  # with the layer of OpenCLIP ViT-H that the model does not use, and its step
        tower = "cond_stage_model.model.transformer.resblocks."
        last = {key: shape for key, shape in shapes.items() if key.startswith(f"{tower}22.")}
        shapes |= {key.replace("blocks.22.", "blocks.23."): shape for key, shape in last.items()}
    metadata = {"modelspec.prediction_type": read(name)["scheduler"].get("prediction_type", "epsilon")}
    found = describe_file(write_header(tmp_path / "model.safetensors", shapes, metadata=metadata))
    assert found.family == FAMILY[name]
    for part, module in modules.items():
        assert type(module.config).from_dict(found.configs[part]) == module.config, part
    ours, theirs = (NoiseSchedule.from_config(each) for each in (found.scheduler, read(name)["scheduler"]))
    assert repr(ours) == repr(theirs)


@pytest.mark.slow
@pytest.mark.interop
@pytest.mark.parametrize("name", DIFFUSION)
def test_diffusers_builds_the_same_from_these_files(name):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    for part in ("unet", "vae"):
        config = read(name)[part]
        with torch.device("meta"):
            theirs = getattr(diffusers, config["_class_name"]).from_config(config)
        expected = {key: tuple(value.shape) for key, value in theirs.state_dict().items()}
        assert tensor_names(built(name, part)) == expected
