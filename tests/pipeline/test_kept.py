"""Components that are not run: kept byte for byte, and loaded by diffusers from what is saved."""

import json
import shutil

import numpy as np
import pytest

from fdiv_jax.pipeline import load_pipeline
from tests.tiny import tiny_pipeline

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.interop

SIZES = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model with a safety checker, a feature extractor and an image encoder, as diffusers writes it."""
    pytest.importorskip("torch")
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

    vision = {**SIZES, "image_size": 32, "patch_size": 16}
    config = transformers.CLIPConfig(text_config=SIZES, vision_config=vision, projection_dim=8)
    place = tmp_path_factory.mktemp("kept")
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(str(tiny_pipeline().save(place / "plain")))
    pipe.register_modules(
        safety_checker=StableDiffusionSafetyChecker(config),
        feature_extractor=transformers.CLIPImageProcessorPil(size=32, crop_size=32),
        image_encoder=transformers.CLIPVisionModelWithProjection(
            transformers.CLIPVisionConfig(**vision, projection_dim=8)
        ),
    )
    pipe.register_to_config(requires_safety_checker=True)
    pipe.save_pretrained(str(place / "model"))
    return place / "model"


NAMES = ("feature_extractor", "image_encoder", "safety_checker")


def files(directory):
    return {
        f"{name}/{file.name}": file.read_bytes() for name in NAMES for file in (directory / name).iterdir()
    }


@pytest.mark.slow
def test_they_are_kept_byte_for_byte_and_diffusers_loads_them(model, tmp_path):
    before = files(model)
    pipe = load_pipeline(model)
    saved = pipe.replace(name="other").save(tmp_path / "first")
    again = load_pipeline(saved).save(tmp_path / "second")
    load_pipeline(again).save(again, overwrite=True)  # in its own place
    indices = [json.loads((place / "model_index.json").read_text()) for place in (model, saved, again)]
    for place, index in zip((saved, again), indices[1:], strict=True):
        assert files(place) == before
        assert index["requires_safety_checker"] is True
        assert {name: index[name] for name in NAMES} == {name: indices[0][name] for name in NAMES}
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(str(again), local_files_only=True)
    original = diffusers.StableDiffusionPipeline.from_pretrained(str(model), local_files_only=True)
    for name in ("safety_checker", "image_encoder"):
        one, other = (getattr(each, name).state_dict() for each in (theirs, original))
        assert one.keys() == other.keys()
        assert all(np.array_equal(value, other[key]) for key, value in one.items())
    assert theirs.feature_extractor.to_dict() == original.feature_extractor.to_dict()
    images = np.zeros((1, 16, 16, 3), np.float32)
    assert theirs.run_safety_checker(images, "cpu", None)[1] is not None


def test_weights_of_a_variant_and_in_shards_are_kept_under_the_plain_name(model, tmp_path):
    from safetensors.numpy import load_file

    pipe = diffusers.StableDiffusionPipeline.from_pretrained(str(model))
    pipe.save_pretrained(str(tmp_path / "fp16"), variant="fp16", max_shard_size="2KB")
    assert len(list((tmp_path / "fp16" / "safety_checker").glob("*.safetensors"))) > 1
    saved = load_pipeline(tmp_path / "fp16", variant="fp16").save(tmp_path / "saved")
    assert not [file for file in saved.rglob("*") if "fp16" in file.name]
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(str(saved), local_files_only=True)
    expected = load_file(model / "safety_checker" / "model.safetensors")
    found = theirs.safety_checker.state_dict()
    assert all(np.array_equal(found[key], value) for key, value in expected.items() if key in found)
    assert set(expected) <= set(found)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (shutil.rmtree, "No such file"),
        (lambda place: (place / "model.safetensors").unlink(), "no weights"),
        (lambda place: (place / "model.safetensors").rename(place / "pytorch_model.bin"), "pickle"),
        (lambda place: (place / "config.json").write_text("ssh-rsa"), "config.json"),
        (lambda place: (place / "model.safetensors").write_text("root:x:0"), "safetensors"),
        (lambda place: (place / "config.json").unlink(), "no configuration"),
    ],
)
def test_one_that_cannot_be_kept_costs_no_model(model, tmp_path, damage, reason):
    directory = shutil.copytree(model, tmp_path / "model")
    pipe = load_pipeline(directory)
    damage(directory / "safety_checker")
    with pytest.warns(UserWarning, match=f"safety_checker of .* is not kept: .*{reason}"):
        saved = pipe.save(tmp_path / "saved")
    index = json.loads((saved / "model_index.json").read_text())
    assert index["safety_checker"] == [None, None]
    assert index["requires_safety_checker"] is False
    assert not (saved / "safety_checker").exists()
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(str(saved), local_files_only=True)
    assert theirs.safety_checker is None


def test_code_of_the_model_itself_is_not_taken_along(model, tmp_path):
    directory = shutil.copytree(model, tmp_path / "model")
    index = json.loads((directory / "model_index.json").read_text())
    index |= {"mine": ["my_code", "MyClass"], "../x": ["diffusers", "X"], "gone": ["diffusers", "X"]}
    (directory / "model_index.json").write_text(json.dumps(index))
    (directory / "mine").mkdir()
    (directory / "mine" / "my_code.py").write_text("raise SystemExit")
    assert set(load_pipeline(directory).kept) == set(NAMES)


@pytest.mark.parametrize("placed", [[1], {"a": ["x"]}, {"a": "elsewhere.safetensors"}, None])
def test_an_index_beside_whole_weights_is_not_read(model, tmp_path, placed):
    directory = shutil.copytree(model, tmp_path / "model")
    index = directory / "safety_checker" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": placed}))
    saved = load_pipeline(directory).save(tmp_path / "saved")
    assert files(saved) == files(model)
