"""CLIP score and accuracy against transformers' CLIP in PyTorch, with random weights."""

import json

import numpy as np
import pytest
from PIL import Image

from fdiv_jax.evaluation import ClipScorer, concept_text
from fdiv_jax.worlds.vocabulary import TEXT_LENGTH, build_tokenizer
from tests.nn.helpers import randomised

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.interop

TEXT = {
    "vocab_size": 596,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": TEXT_LENGTH,
    "bos_token_id": 594,
    "eos_token_id": 595,
    "pad_token_id": 595,
}
VISION = {
    "hidden_size": 12,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 32,
    "patch_size": 8,
}
PREPROCESSOR = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, "resample": 3}
TEXTS = [
    "a sneaker",
    "a coat, sketch style",
    "a very " + "long " * 90,
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    place = tmp_path_factory.mktemp("clip") / "clip-in-small"
    config = transformers.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=6)
    theirs = randomised(transformers.CLIPModel(config), seed=0)
    theirs.save_pretrained(place)
    build_tokenizer().save_pretrained(place)
    (place / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return place, theirs


@pytest.fixture(scope="module")
def scorer(model):
    return ClipScorer.load(model[0])


def images(n=5, height=50, width=41):
    return np.random.default_rng(0).integers(0, 256, (n, height, width, 3)).astype(np.uint8)


def their_cosines(place, theirs, pixels, texts):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(**PREPROCESSOR)
    values = processor([Image.fromarray(each) for each in pixels], return_tensors="pt")["pixel_values"]
    tokenizer = transformers.CLIPTokenizer.from_pretrained(place)
    ids = tokenizer(texts, padding="max_length", truncation=True, max_length=TEXT_LENGTH, return_tensors="pt")
    with torch.no_grad():
        found = theirs(input_ids=ids["input_ids"], pixel_values=values)
    return (found.image_embeds @ found.text_embeds.T).numpy()


def test_scores_are_those_of_transformers(model, scorer):
    pixels = images()
    expected = their_cosines(*model, pixels, TEXTS)
    np.testing.assert_allclose(scorer.similarities(pixels, TEXTS), expected, atol=4e-6)
    for k, text in enumerate(TEXTS):
        np.testing.assert_allclose(scorer.score(pixels, text), 2.5 * np.maximum(expected[:, k], 0), atol=1e-5)
    own = scorer.score(pixels, [TEXTS[k % 2] for k in range(5)])
    np.testing.assert_allclose(own, 2.5 * np.maximum(expected[np.arange(5), np.arange(5) % 2], 0), atol=1e-5)
    np.testing.assert_array_equal(scorer.prefers(pixels, *TEXTS[:2]), expected[:, 0] > expected[:, 1])
    features = scorer.features()
    assert features.name == "clip-in-small"
    np.testing.assert_array_equal(features(pixels), scorer.embed_images(pixels))
    np.testing.assert_allclose(np.linalg.norm(features(pixels), axis=1), 1, rtol=1e-6)


def test_batches_give_what_all_images_give_at_once(scorer, monkeypatch):
    once = scorer.embed_images(images())
    monkeypatch.setattr(scorer, "_batch", 2)
    np.testing.assert_allclose(scorer.embed_images(images()), once, atol=1e-6)


def test_texts_of_concepts():
    assert concept_text("a sneaker") == "A photo depicts a sneaker"
    assert concept_text("van gogh", style=True) == "A photo depicts van gogh style"
    assert concept_text("painting", style=True) == "A photo depicts painting"


def rewritten(model, tmp_path, name, change):
    place, _ = model
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in place.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    content = json.loads((copy / name).read_text())
    change(content)
    (copy / name).write_text(json.dumps(content))
    return copy


@pytest.mark.parametrize(
    ("name", "change", "error", "message"),
    [
        (
            "config.json",
            lambda c: c["vision_config"].update(hidden_size=24),
            ValueError,
            r"got \(12,\), expected \(24,\)",
        ),
        ("config.json", lambda c: c.update(projection_dim=7), ValueError, "expected \\(7, "),
        (
            "config.json",
            lambda c: c["text_config"].update(vocab_size=700),
            ValueError,
            "expected \\(700, 8\\)",
        ),
        (
            "config.json",
            lambda c: c.update(model_type="clip_text_model"),
            NotImplementedError,
            "clip_text_model",
        ),
        (
            "preprocessor_config.json",
            lambda c: c["crop_size"].update(height=40, width=40),
            ValueError,
            "40 x 40, and the model takes 32 x 32",
        ),
    ],
)
def test_a_model_that_does_not_fit_is_one_line(model, tmp_path, name, change, error, message):
    copy = rewritten(model, tmp_path, name, change)
    with pytest.raises(error, match=message) as caught:
        ClipScorer.load(copy)
    assert "\n" not in str(caught.value)


def test_missing_parts_are_one_line(model, tmp_path):
    from safetensors.numpy import load_file, save_file

    copy = rewritten(model, tmp_path, "config.json", lambda c: None)
    tensors = load_file(copy / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if k != "text_projection.weight"}, copy / "model.safetensors")
    with pytest.raises(ValueError, match=r"1 missing: text_projection\.weight"):
        ClipScorer.load(copy)
    for name, message in (
        ("tokenizer.json", "tokenizer"),
        ("preprocessor_config.json", "preprocessor_config"),
    ):
        partial = tmp_path / name
        partial.mkdir()
        for file in model[0].iterdir():
            if file.name != name:
                (partial / file.name).write_bytes(file.read_bytes())
        with pytest.raises(FileNotFoundError, match=message):
            ClipScorer.load(partial)
    with pytest.raises(FileNotFoundError, match="no directory"):
        ClipScorer.load(tmp_path / "nowhere")


def test_bad_images_and_texts(scorer):
    with pytest.raises(ValueError, match="2 texts for 5 images"):
        scorer.score(images(), TEXTS[:2])
    with pytest.raises(ValueError, match="list of one or more"):
        scorer.embed_texts("one string")
    with pytest.raises(TypeError, match="uint8"):
        scorer.embed_images(images() / 255)


@pytest.mark.parametrize(
    ("vision", "text", "projection"),
    [
        ({}, {}, 512),
        (
            {
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "num_attention_heads": 16,
                "patch_size": 14,
            },
            {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
            768,
        ),
    ],
    ids=["ViT-B/32", "ViT-L/14"],
)
def test_the_published_shapes_have_the_tensors_of_transformers(vision, text, projection):
    """Names and shapes of OpenAI's two models, two layers of each; nothing is allocated."""
    from fdiv_jax.checkpoints.state_dicts import tensor_names
    from fdiv_jax.nn import CLIPModel, abstract_network

    text, vision = ({**each, "num_hidden_layers": 2} for each in (text, vision))  # all are alike
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=projection)
    with torch.device("meta"):
        theirs = transformers.CLIPModel(config)
    expected = {name: tuple(value.shape) for name, value in theirs.named_parameters()}
    assert tensor_names(abstract_network(CLIPModel, config.to_dict())) == expected
