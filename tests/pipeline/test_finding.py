"""Places that hold no model, or another kind: the reason is the right one."""

import json
import shutil

import pytest

from fdiv_jax.pipeline import load_pipeline
from tests.tiny import tiny_pipeline


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_pipeline().save(tmp_path_factory.mktemp("finding") / "model")


@pytest.fixture
def directory(model, tmp_path):
    return shutil.copytree(model, tmp_path / "model")


def index(**changes):
    def change(directory):
        file = directory / "model_index.json"
        content = {**json.loads(file.read_text()), **changes}
        file.write_text(json.dumps({key: value for key, value in content.items() if value != "gone"}))

    return change


def only(name):
    """Nothing else than a file."""

    def change(directory):
        shutil.rmtree(directory)
        directory.mkdir()
        (directory / name).write_bytes(b"x")

    return change


def run_directory(directory):
    shutil.move(directory, directory.parent / "moved")
    directory.mkdir()
    shutil.move(directory.parent / "moved", directory / "pipeline")


def flax_weights(directory):
    file = directory / "unet" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_name("diffusion_flax_model.msgpack"))


WRONG = {
    "a component": ("unet", None, "it is a component of the model .*model$"),
    "a file of a component": ("vae/config.json", None, "it is of a component of the model .*model$"),
    "the folder above": ("..", None, "it holds models: model$"),
    "a run directory": ("", run_directory, "its model is .*model/pipeline$"),
    "a LoRA": ("", only("pytorch_lora_weights.safetensors"), "it holds a LoRA"),
    "a folder with a checkpoint": (
        "",
        only("v1-5.safetensors"),
        "to load the file v1-5.safetensors name it$",
    ),
    "a pickle": ("v1-5.ckpt", only("v1-5.ckpt"), "is a file, .*it is pickled"),
    "a text": (
        "notes.txt",
        only("notes.txt"),
        "is a file, expected a diffusers directory, or one file of safetensors$",
    ),
    "no class": ("", index(_class_name="gone"), "names no pipeline"),
    "another pipeline": ("", index(_class_name="FluxPipeline"), "pipeline 'FluxPipeline'; supported: Stable"),
    "a refiner": ("", index(text_encoder=[None, None]), "text_encoder is left out of model_index.json"),
    "XL's refiner": (
        "",
        index(_class_name="StableDiffusionXLImg2ImgPipeline"),
        "as the refiner of Stable Diffusion XL does; what serves is the base, a StableDiffusionXLPipeline",
    ),
    "a depth model": (
        "",
        index(_class_name="StableDiffusionDepth2ImgPipeline"),
        "over a map of depths; what serves is the model that it was made from",
    ),
    "no unet": ("", index(unet="gone"), "unet is left out of model_index.json"),
    "a tiny autoencoder": (
        "",
        index(vae=["diffusers", "AutoencoderTiny"]),
        "vae is .*AutoencoderTiny",
    ),
    "another tokenizer": ("", index(tokenizer=["transformers", "T5Tokenizer"]), "tokenizer is .*T5Tokenizer"),
    "XL's index": ("", index(_class_name="StableDiffusionXLPipeline"), "text_encoder_2 is left out"),
    "Flax weights": ("", flax_weights, "as diffusion_flax_model.msgpack only, in the format of Flax"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_there_instead_is_named(directory, case):
    place, change, message = WRONG[case]
    if change is not None:
        change(directory)
    with pytest.raises((FileNotFoundError, NotADirectoryError, NotImplementedError), match=message):
        load_pipeline((directory / place).resolve())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fashon", "did you mean 'fashion'"),
        ("", "model '': no such directory"),
        (" ", "model ' ': no such directory"),
        ("https://huggingface.co/someone/model/tree/main", "the hub id is someone/model$"),
        ("someone/model/unet", r"or a hub id owner/model$"),
    ],
)
def test_names_that_are_none(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=message):
        load_pipeline(name)


def test_the_fast_tokenizer_is_the_same(directory):
    index(tokenizer=["transformers", "CLIPTokenizerFast"])(directory)
    load_pipeline(directory)
