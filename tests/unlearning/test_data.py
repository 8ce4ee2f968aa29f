"""Anchor images: drawn once, kept on disk, checked on reading; and the batches made of them."""

import warnings

import numpy as np
import pytest

from fdiv_jax.pipeline import TextToImagePipeline
from fdiv_jax.unlearning import AnchorImagesConfig, ArrayCache, PromptPair, anchor_latents, prepare_data
from tests.tiny import tiny_pipeline

PROMPTS = ["a shoe, photo style", "a shoe"]
CONFIG = AnchorImagesConfig(number=5, steps=2)


@pytest.fixture
def drawn(monkeypatch):
    """The numbers of images that pipelines were asked to draw."""
    counts = []
    generate = TextToImagePipeline.generate

    def counted(self, prompts, **options):
        counts.append(len(prompts))
        return generate(self, prompts, **options)

    monkeypatch.setattr(TextToImagePipeline, "generate", counted)
    return counts


def test_images_are_the_pipelines_own(pipe):
    latents = anchor_latents(pipe, PROMPTS, CONFIG, ArrayCache(None))
    assert latents.shape == (2, 3, 8, 8, 4)  # 5 over 2 prompts, rounded up
    assert latents.dtype == np.float32
    expected = pipe.generate(
        [PROMPTS[0]] * 3 + [PROMPTS[1]] * 3, seed=0, steps=2, sampler="dpm++", guidance=CONFIG.guidance
    )
    np.testing.assert_allclose(latents.reshape(6, 8, 8, 4), expected, atol=1e-5)


def test_a_second_call_reads_the_first_ones_images(pipe, tmp_path, drawn):
    cache = ArrayCache(tmp_path / "cache")
    first = anchor_latents(pipe, PROMPTS, CONFIG, cache)
    assert sum(drawn) == 6
    second = anchor_latents(pipe, PROMPTS, CONFIG, cache)
    assert sum(drawn) == 6
    np.testing.assert_array_equal(first, second)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".npz"]  # nothing half written


@pytest.mark.parametrize("change", ["model", "prompts", "seed", "steps", "guidance", "sampler", "number"])
def test_whatever_makes_the_images_is_in_the_key(change, pipe, tmp_path, monkeypatch):
    keys = []
    monkeypatch.setattr(
        ArrayCache, "read", lambda self, key, shape: keys.append(key) or np.zeros(shape, "f4")
    )
    cache = ArrayCache(tmp_path)
    anchor_latents(pipe, PROMPTS, CONFIG, cache)
    anchor_latents(pipe, PROMPTS, CONFIG, cache)
    other = {"seed": 1, "steps": 3, "guidance": 1.0, "sampler": "ddim", "number": 9}
    anchor_latents(
        tiny_pipeline(seed=1) if change == "model" else pipe,
        PROMPTS[::-1] if change == "prompts" else PROMPTS,
        AnchorImagesConfig(**{"number": 5, "steps": 2, **{k: v for k, v in other.items() if k == change}}),
        cache,
    )
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize("damage", ["truncated", "garbage", "one bit", "another's"])
def test_a_damaged_cache_is_made_anew_with_a_warning(damage, pipe, tmp_path, drawn):
    cache = ArrayCache(tmp_path)
    good = anchor_latents(pipe, PROMPTS, CONFIG, cache)
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "garbage":
        path.write_bytes(b"not an archive")
    elif damage == "one bit":
        with np.load(path) as stored:
            values, check = stored["values"].copy(), stored["check"]
        values.view(np.uint8).reshape(-1)[1234] ^= 1
        np.savez(path, values=values, check=check)
    else:
        path.unlink()
        cache.write("0" * 64, good)
        (tmp_path / f"{'0' * 64}.npz").rename(path)
    with pytest.warns(UserWarning, match="making it anew"):
        again = anchor_latents(pipe, PROMPTS, CONFIG, cache)
    assert sum(drawn) == 12
    np.testing.assert_array_equal(again, good)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        anchor_latents(pipe, PROMPTS, CONFIG, cache)
    assert sum(drawn) == 12


def test_a_cache_that_cannot_be_written_costs_a_warning_only(pipe, tmp_path):
    place = tmp_path / "file"
    place.write_text("in the way")
    with pytest.warns(UserWarning, match="cannot be written"):
        latents = anchor_latents(pipe, PROMPTS, CONFIG, ArrayCache(place / "below"))
    assert latents.shape == (2, 3, 8, 8, 4)


def test_images_that_are_not_finite_are_refused(pipe, monkeypatch):
    monkeypatch.setattr(
        TextToImagePipeline, "generate", lambda self, prompts, **_: np.full((len(prompts), 8, 8, 4), np.nan)
    )
    with pytest.raises(ValueError, match="not finite at the anchor prompt 'a shoe, photo style'"):
        anchor_latents(pipe, PROMPTS, CONFIG, ArrayCache(None))


@pytest.fixture(scope="module")
def data(pipe):
    pairs = [
        PromptPair("a sneaker, photo style", "a shoe, photo style"),
        PromptPair("a sneaker", "a shoe"),
        PromptPair("one sneaker", "a shoe"),
    ]
    return prepare_data(pipe, pairs, CONFIG, ArrayCache(None))


def test_a_batch_belongs_together(data, pipe):
    pairs, images = data.choose(3, 5, 8)
    batch = data.batch(3, 5, 8)
    text = {
        prompt: pipe.encode_prompts([prompt])[0]
        for pair in data.pairs
        for prompt in (pair.target, pair.anchor)
    }
    anchors = ["a shoe, photo style", "a shoe"]
    for i, (pair, image) in enumerate(zip(pairs, images, strict=True)):
        np.testing.assert_allclose(batch.target_text[i], text[data.pairs[pair].target], atol=1e-5)
        np.testing.assert_allclose(batch.anchor_text[i], text[data.pairs[pair].anchor], atol=1e-5)
        np.testing.assert_array_equal(
            batch.latents[i], data.latents[anchors.index(data.pairs[pair].anchor), image]
        )
    np.testing.assert_array_equal(batch.position, range(8))
    np.testing.assert_array_equal(batch.mask, 1.0)


def test_batches_are_a_function_of_seed_and_step(data):
    assert all(np.array_equal(a, b) for a, b in zip(data.choose(0, 1, 8), data.choose(0, 1, 8), strict=True))
    assert not np.array_equal(data.choose(0, 1, 64), data.choose(0, 2, 64))
    assert not np.array_equal(data.choose(0, 1, 64), data.choose(1, 1, 64))


def test_pairs_share_a_batch_evenly_and_images_are_all_used(data):
    seen = np.zeros((3, 3), int)
    for step in range(60):
        pairs, images = data.choose(0, step, 8)
        counts = np.bincount(pairs, minlength=3)
        assert counts.max() - counts.min() <= 1
        np.add.at(seen, (pairs, images), 1)
    assert seen.min() > 0.6 * seen.mean()
    assert seen.max() < 1.5 * seen.mean()
