"""The filters against scipy, the captions against what they say, the tokenizer against the captions."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from fdiv_jax.worlds import CAPTIONS, ITEM_NAMES, ITEMS, STYLE_NAMES, SUPERCLASSES, draw, phrase
from fdiv_jax.worlds import styles as module
from fdiv_jax.worlds.captions import concepts, draw_captions
from fdiv_jax.worlds.vocabulary import TEXT_LENGTH, build_tokenizer


@pytest.fixture(scope="module")
def photograph():
    x = np.zeros((2, 32, 32), np.float32)
    x[0, 8:24, 6:20] = np.linspace(0.2, 1, 14)
    x[1, 4:12, 10:30] = 0.7
    return x


def test_edges_are_sobel_magnitudes(photograph):
    found = np.asarray(module._edges(jnp.asarray(photograph)))
    for x, y in zip(photograph, found, strict=True):
        down, right = (ndimage.sobel(x, axis, mode="nearest") / 4 for axis in (0, 1))
        np.testing.assert_allclose(y, np.sqrt(down**2 + right**2 + 1e-8), atol=2e-6)


def test_blur_is_binomial(photograph):
    kernel = np.outer([1, 2, 1], [1, 2, 1]) / 16
    found = np.asarray(module._blur(jnp.asarray(photograph)))
    for x, y in zip(photograph, found, strict=True):
        np.testing.assert_allclose(y, ndimage.convolve(x, kernel, mode="nearest"), atol=2e-6)


@pytest.mark.parametrize("size", [28, 32])
def test_draw_gives_images_of_distinct_styles(size):
    grey = np.random.default_rng(0).integers(0, 256, (1, size, size)).astype(np.uint8)
    images = np.asarray(draw(np.repeat(grey, len(STYLE_NAMES), 0), np.arange(len(STYLE_NAMES))))
    assert images.shape == (len(STYLE_NAMES), 32, 32, 3)
    assert images.dtype == np.float32
    assert images.min() >= -1 - 1e-6
    assert images.max() <= 1 + 1e-6
    for i in range(len(STYLE_NAMES)):
        for j in range(i):
            assert np.abs(images[i] - images[j]).mean() > 0.1


def test_captions_are_true_of_their_images():
    rng = np.random.default_rng(0)
    items, styles = rng.integers(10, size=4000), rng.integers(len(STYLE_NAMES), size=4000)
    chosen = [CAPTIONS[i] for i in draw_captions(rng, items, styles)]
    kinds = {"empty": 0, "item": 0, "superclass": 0, "style": 0}
    for text, item, style in zip(chosen, items, styles, strict=True):
        if not text:
            kinds["empty"] += 1
            continue
        noun = text.partition(",")[0].split(" ", 1)[1]
        name = ITEM_NAMES[item]
        assert noun == name or name in SUPERCLASSES[noun]
        assert "," not in text or text.endswith(f", {STYLE_NAMES[style]} style")
        kinds["item" if noun == name else "superclass"] += 1
        kinds["style"] += "," in text
    share = {kind: count / 4000 for kind, count in kinds.items()}
    for kind, expected in {"empty": 0.12, "item": 0.74, "superclass": 0.14, "style": 0.80}.items():
        assert abs(share[kind] - expected) < 0.03, share


def test_every_item_has_a_superclass_and_a_neighbour():
    for item in ITEMS:
        assert item.name in SUPERCLASSES[item.superclass]
        assert item.near in ITEM_NAMES
        assert item.near != item.name
    for name, entry in concepts().items():
        assert len(set(entry["prompts"])) == len(entry["prompts"])
        assert all(entry["phrase"] in prompt for prompt in entry["prompts"])
        assert {"superclass", "near"} <= set(entry), name
    assert phrase("ankle boot") == "an ankle boot"


def test_tokenizer_knows_every_word_and_fits_every_caption():
    tokenizer = build_tokenizer()
    for text in CAPTIONS:
        ids = tokenizer(text)["input_ids"]
        assert len(ids) <= TEXT_LENGTH
        words = text.replace(",", " ,").replace("t-shirt", "t - shirt").split()
        assert len(ids) == len(words) + 2
    assert len({tuple(tokenizer(text)["input_ids"]) for text in CAPTIONS}) == len(CAPTIONS)
