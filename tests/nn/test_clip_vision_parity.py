"""CLIP's vision tower, the pair of towers and the preprocessing against transformers'."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from fdiv_jax.checkpoints import load_component, save_component
from fdiv_jax.nn import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPVisionModelWithProjection
from tests.nn.helpers import TOLERANCE, assert_same_tensors, call, randomised, relative_error, torch_image

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.interop

VISION = {
    "vit-b-32-in-small": {
        "hidden_size": 24,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 16,
        "patch_size": 8,
        "projection_dim": 10,
    },
    "vit-l-14-in-small": {
        "hidden_size": 16,
        "intermediate_size": 20,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 20,
        "patch_size": 6,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-3,
        "projection_dim": 7,
    },
}
TEXT = {
    "vocab_size": 60,
    "hidden_size": 12,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 9,
    "bos_token_id": 58,
    "eos_token_id": 59,
    "pad_token_id": 59,
}


def images(config, n=3):
    size = config["image_size"]
    return np.random.default_rng(0).standard_normal((n, size, size, 3)).astype(np.float32)


def tokens():
    ids = np.random.default_rng(1).integers(1, 58, (2, 9))
    ids[0, 4:], ids[1, 8] = 59, 59
    return ids


@pytest.mark.parametrize("name", VISION)
def test_the_vision_tower_is_theirs(name, tmp_path):
    config = transformers.CLIPVisionConfig(**VISION[name])
    theirs = randomised(transformers.CLIPVisionModelWithProjection(config), seed=1)
    theirs.save_pretrained(tmp_path / "theirs")
    loaded = load_component(tmp_path / "theirs", CLIPVisionModelWithProjection)
    pixels = images(VISION[name])
    features = call(loaded.model.features, pixels)
    with torch.no_grad():
        expected = theirs(torch_image(pixels), output_hidden_states=True)
    for ours, other in zip(features.hidden, expected.hidden_states, strict=True):
        assert relative_error(ours, other.numpy()) <= TOLERANCE
    assert relative_error(features.last, expected.last_hidden_state.numpy()) <= TOLERANCE
    assert relative_error(features.pooled, expected.image_embeds.numpy()) <= TOLERANCE
    with pytest.raises(ValueError, match=r"expected \(n, \d+, \d+, 3\)"):
        loaded.model(jnp.asarray(pixels[:, 1:]))

    save_component(tmp_path / "ours", loaded.model, stored_dtypes=loaded.stored_dtypes)
    again, report = transformers.CLIPVisionModelWithProjection.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(report.values()), report
    assert_same_tensors(again.state_dict(), theirs.state_dict())


def test_both_towers_are_theirs(tmp_path):
    vision = VISION["vit-b-32-in-small"]
    config = transformers.CLIPConfig(text_config=TEXT, vision_config=vision, projection_dim=6)
    theirs = randomised(transformers.CLIPModel(config), seed=2)
    with torch.no_grad():
        theirs.logit_scale.fill_(2.5)
    theirs.save_pretrained(tmp_path / "theirs")
    loaded = load_component(tmp_path / "theirs", CLIPModel)
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor(tokens()), pixel_values=torch_image(images(vision)))
    ours = call(loaded.model.__call__, tokens(), images(vision))
    assert relative_error(ours, expected.logits_per_text.numpy()) <= TOLERANCE
    embedded = call(loaded.model.embed_images, images(vision))
    assert relative_error(embedded, expected.image_embeds.numpy()) <= TOLERANCE
    embedded = call(loaded.model.embed_texts, tokens())
    assert relative_error(embedded, expected.text_embeds.numpy()) <= TOLERANCE

    save_component(tmp_path / "ours", loaded.model, stored_dtypes=loaded.stored_dtypes)
    again, report = transformers.CLIPModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values()), report
    assert_same_tensors(again.state_dict(), theirs.state_dict())


def test_a_configuration_of_2022_is_read_as_they_read_it():
    """ViT-L/14's file: settings twice, where the second ones count, and generation's defaults everywhere."""
    generation = {"temperature": 1.0, "top_k": 50, "max_length": 20, "num_beams": 1, "torchscript": False}
    stored = {
        "architectures": ["CLIPModel"],
        "initializer_factor": 1.0,
        "logit_scale_init_value": 2.6592,
        "model_type": "clip",
        "projection_dim": 768,
        "text_config": {
            "hidden_size": 768,
            "eos_token_id": 2,
            "num_attention_heads": 12,
            "dropout": 0.0,
            **generation,
        },
        "text_config_dict": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
        "vision_config": {"hidden_size": 1024, "num_attention_heads": 16, "patch_size": 14, **generation},
        "vision_config_dict": None,
        "torch_dtype": "float32",
        "transformers_version": None,
    }
    ours, theirs = CLIPConfig.from_dict(stored), transformers.CLIPConfig(**json.loads(json.dumps(stored)))
    for name in ("text_config", "vision_config"):
        tower = getattr(ours, name).to_dict()
        other = getattr(theirs, name).to_dict()
        assert {key: other[key] for key in tower} == tower
    assert (ours.text_config.eos_token_id, ours.projection_dim) == (49407, 768)
    assert CLIPConfig.from_dict(ours.to_dict()) == ours


PREPROCESSORS = {
    "2022": {"size": 28, "crop_size": 28, "resample": 3, "do_resize": True, "image_mean": [0.4, 0.5, 0.6]},
    "now": {"size": {"shortest_edge": 30}, "crop_size": {"height": 20, "width": 25}},
    "whole": {"size": {"height": 24, "width": 20}, "do_center_crop": False, "resample": 2},
    "bare": {"size": 28, "crop_size": 28, "do_rescale": False, "do_normalize": False},
    "unresized": {"do_resize": False, "crop_size": 17},
}


@pytest.mark.parametrize("name", PREPROCESSORS)
@pytest.mark.parametrize("shape", [(40, 61, 3), (61, 40, 3), (21, 26, 3), (512, 512, 3)])
def test_the_preprocessing_is_theirs(name, shape, tmp_path):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PREPROCESSORS[name]))
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    expected = CLIPImageProcessorPil(**PREPROCESSORS[name])(Image.fromarray(image), return_tensors="np")
    ours = CLIPImageProcessor.from_directory(tmp_path)(image[None])
    expected = expected["pixel_values"].transpose(0, 2, 3, 1)
    assert ours.shape == expected.shape
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, expected, atol=1e-5 * np.abs(expected).max())


def test_images_of_several_kinds_and_bad_ones(tmp_path):
    process = CLIPImageProcessor(size=8, crop=(8, 8))
    pixels = np.random.default_rng(0).integers(0, 256, (10, 12, 3)).astype(np.uint8)
    both = process([pixels, Image.fromarray(pixels)])
    np.testing.assert_array_equal(both[0], both[1])
    for wrong, error, message in (
        ([], ValueError, "at least one"),
        ([pixels / 255], TypeError, "uint8"),
        ([pixels[..., 0]], ValueError, r"\(h, w, 3\)"),
    ):
        with pytest.raises(error, match=message):
            process(wrong)
    with pytest.raises(ValueError, match="at least 11 x 11"):
        CLIPImageProcessor(size=None, crop=(11, 11))([pixels])
    with pytest.raises(NotImplementedError, match="longest_edge"):
        CLIPImageProcessor.from_dict({"size": {"longest_edge": 3}})
    with pytest.raises(FileNotFoundError, match="preprocessor_config"):
        CLIPImageProcessor.from_directory(tmp_path)
