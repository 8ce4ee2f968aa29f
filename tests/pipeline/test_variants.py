"""Variants of weights: a component that has none of them is read without, and what is there is named."""

import shutil

import numpy as np
import pytest

from fdiv_jax.checkpoints import state_dict
from fdiv_jax.pipeline import load_pipeline
from tests.tiny import tiny_pipeline


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_pipeline().save(tmp_path_factory.mktemp("variants") / "model")


@pytest.fixture
def directory(model, tmp_path):
    return shutil.copytree(model, tmp_path / "copy")


UNET, TEXT = "unet/diffusion_pytorch_model", "text_encoder/model"


def rename(directory, stem, ending):
    (directory / f"{stem}.safetensors").rename(directory / f"{stem}{ending}")


@pytest.mark.slow
@pytest.mark.interop
def test_a_component_without_the_variant_is_read_without_as_in_diffusers(directory):
    """The UNet has both, with other weights in it; the autoencoder has none; the text encoder only it."""
    diffusers = pytest.importorskip("diffusers")
    other = tiny_pipeline(5).save(directory.parent / "other")
    shutil.copyfile(other / f"{UNET}.safetensors", directory / f"{UNET}.fp16.safetensors")
    rename(directory, TEXT, ".fp16.safetensors")
    pipe = load_pipeline(directory, variant="fp16")
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(str(directory), variant="fp16")
    for name, network in pipe.components.items():
        expected = getattr(theirs, name).state_dict()
        for key, value in state_dict(network).items():
            theirs_too = expected[key if key in expected else key.removeprefix("text_model.")]
            np.testing.assert_array_equal(value, theirs_too)
    assert not np.array_equal(pipe.unet.conv_out.bias[...], load_unet(directory))


def load_unet(directory):
    from safetensors.numpy import load_file

    return load_file(directory / f"{UNET}.safetensors")["conv_out.bias"]


@pytest.mark.parametrize(
    ("files", "variant", "message"),
    [
        ([(UNET, ".non_ema.safetensors")], None, "name the variant that is there: variant='non_ema'$"),
        ([(UNET, ".fp16.safetensors")], None, "variant='fp16'$"),
        ([(UNET, ".fp16.safetensors")], "fp32", "variant='fp16'$"),
        ([(UNET, "-00001-of-00002.safetensors")], None, "shards without their index"),
        ([(UNET, ".fp16-00001-of-00002.safetensors")], None, "variant='fp16'"),
        ([(UNET, "-00001-of-00002.fp16.safetensors")], None, "variant='fp16'"),
        ([(UNET, ".fp16-00001-of-00002.safetensors")], "fp16", "shards without their index"),
        (
            [(UNET, "/../pytorch_lora_weights.safetensors")],
            None,
            "a LoRA changes a model and is not one itself",
        ),
        ([(UNET, "/../sd-v1-4.safetensors")], None, "none of them has the name of a component's weights"),
        ([(UNET, ".bin")], None, "Reading a pickle runs any code"),
        ([(UNET, "/../model.onnx")], None, "as model.onnx only, in the format of ONNX"),
        ([], "fp16", "name no variant$"),
        ([], "non_ema", "no diffusion_pytorch_model.non_ema.safetensors"),
    ],
)
def test_what_is_there_instead_is_named(directory, files, variant, message):
    for stem, ending in files:
        if ending.startswith("/.."):
            (directory / f"{stem}.safetensors").rename((directory / stem).parent / ending[4:])
        else:
            rename(directory, stem, ending)
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        load_pipeline(directory, variant=variant)


@pytest.mark.parametrize("name", ["dtype", "param_dtype"])
@pytest.mark.parametrize("value", ["int8", "float8", "float64", 3, None])
def test_a_precision_that_is_none(model, name, value):
    with pytest.raises(ValueError, match=f"{name} {value!r}, expected one of float32, bfloat16, float16"):
        load_pipeline(model, **{name: value})


def test_a_precision_by_its_name(model):
    pipe = load_pipeline(model, dtype="bfloat16", param_dtype="float16")
    assert pipe.unet.conv_out.bias.dtype == "float16"
    assert pipe.unet.dtype == "bfloat16"
