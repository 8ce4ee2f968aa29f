"""Anchor images: drawn once, kept on disk, checked on reading; and the batches made of them."""

import dataclasses
import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from fdiv_jax.checkpoints import model_digest
from fdiv_jax.diffusion import NoiseSchedule
from fdiv_jax.nn import UNet2DConditionModel
from fdiv_jax.pipeline import TextToImagePipeline
from fdiv_jax.unlearning import (
    AnchorData,
    AnchorImagesConfig,
    ArrayCache,
    Batches,
    Frozen,
    Plan,
    PromptPair,
    Weights,
    anchor_latents,
    initial_state,
    make_loss,
    make_reference,
    make_step,
    prepare_data,
    timesteps_of,
)
from tests.tiny import SCHEDULER, tiny_pipeline

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


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_heads_of_the_attentions_are_in_the_key(pipe, tmp_path, drawn):
    """The same parameters with another number of heads draw other images."""
    heads = dataclasses.replace(pipe.unet.config, attention_head_dim=1)
    unet = UNet2DConditionModel(heads, rngs=nnx.Rngs(0))
    nnx.update(unet, nnx.state(pipe.unet, nnx.Param))
    other = pipe.replace(unet=unet)
    assert model_digest(other.components) == model_digest(pipe.components)
    cache = ArrayCache(tmp_path)
    first = anchor_latents(pipe, PROMPTS, CONFIG, cache)
    second = anchor_latents(other, PROMPTS, CONFIG, cache)
    assert sum(drawn) == 12
    assert not np.array_equal(first, second)


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
    for i, (pair, image) in enumerate(zip(pairs, images, strict=True)):
        np.testing.assert_allclose(batch.target_text[i], text[data.pairs[pair].target], atol=1e-5)
        np.testing.assert_allclose(batch.anchor_text[i], text[data.pairs[pair].anchor], atol=1e-5)
        assert image in data.images_of[pair]
        np.testing.assert_array_equal(batch.latents[i], data.latents[image])
    np.testing.assert_array_equal(batch.position, range(8))
    np.testing.assert_array_equal(batch.mask, 1.0)


def test_batches_are_a_function_of_seed_and_step(data):
    assert all(np.array_equal(a, b) for a, b in zip(data.choose(0, 1, 8), data.choose(0, 1, 8), strict=True))
    assert not np.array_equal(data.choose(0, 1, 64), data.choose(0, 2, 64))
    assert not np.array_equal(data.choose(0, 1, 64), data.choose(1, 1, 64))


def test_pairs_share_a_batch_evenly_and_images_are_all_used(data):
    seen = np.zeros((3, len(data.latents)), int)
    for step in range(60):
        pairs, images = data.choose(0, step, 8)
        counts = np.bincount(pairs, minlength=3)
        assert counts.max() - counts.min() <= 1
        np.add.at(seen, (pairs, images), 1)
    assert [set(np.flatnonzero(row)) for row in seen] == [set(places) for places in data.images_of]
    seen = seen[seen > 0]
    assert seen.min() > 0.6 * seen.mean()
    assert seen.max() < 1.5 * seen.mean()


PAIRS = [
    PromptPair("a sneaker, photo style", "a shoe, photo style"),
    PromptPair("a sneaker", "a shoe"),
]
RETAINED = ("", "a shirt")


def text_of(pipe, prompt):
    return np.asarray(pipe.encode_prompts([prompt])[0])


def test_retained_prompts_have_their_share_and_leave_one_sample_to_the_targets(pipe, monkeypatch):
    blank = lambda self, prompts, **_: np.zeros((len(prompts), 8, 8, 4), np.float32)  # noqa: E731
    monkeypatch.setattr(TextToImagePipeline, "generate", blank)  # which image is chosen is the point
    data = prepare_data(pipe, PAIRS, CONFIG, ArrayCache(None), retained=RETAINED, retained_share=0.5)
    assert data.pairs[2:] == (PromptPair("", ""), PromptPair("a shirt", "a shirt"))
    seen = np.zeros(4, int)
    for step in range(20):
        counts = np.bincount(data.choose(0, step, 8)[0], minlength=4)
        assert counts[:2].sum() == counts[2:].sum() == 4
        seen += counts
    assert seen.max() - seen.min() <= 1 + 20 // 2
    for share in (0.6, 0.99):
        most = prepare_data(pipe, PAIRS, CONFIG, ArrayCache(None), retained=RETAINED, retained_share=share)
        assert all(most.choose(0, step, 1)[0][0] < 2 for step in range(10))
        assert sum(pair < 2 for pair in most.choose(0, 0, 4)[0]) >= 1


def test_prior_preservation_at_the_anchors_is_on_the_batchs_own_images(pipe):
    data = prepare_data(pipe, PAIRS, CONFIG, ArrayCache(None), prior="anchor")
    batch = data.batch(0, 0, 6)
    np.testing.assert_array_equal(batch.prior.latents, batch.latents)
    np.testing.assert_array_equal(batch.prior.text, batch.anchor_text)
    assert batch.prior.tokens == ()


@pytest.mark.slow
def test_prior_preservation_at_the_retained_prompts_is_on_theirs(pipe):
    data = prepare_data(
        pipe, PAIRS, CONFIG, ArrayCache(None), retained=RETAINED, prior="retained", tokens=True
    )
    prompts = [*(pair.anchor for pair in PAIRS), *RETAINED]
    table = anchor_latents(pipe, prompts, CONFIG, ArrayCache(None))
    texts = {prompt: text_of(pipe, prompt) for prompt in RETAINED}
    ids = dict(zip(RETAINED, np.asarray(pipe.tokenize(RETAINED)[0]), strict=True))
    batch, seen = data.batch(0, 3, 6), []
    pairs, _ = data.choose(0, 3, 6)
    assert max(pairs) < 2  # a share of 0: the batch itself is the targets'
    for latents, text, tokens in zip(
        batch.prior.latents, batch.prior.text, batch.prior.tokens[0], strict=True
    ):
        (prompt,) = (p for p in RETAINED if np.allclose(text, texts[p], atol=1e-5))
        np.testing.assert_array_equal(tokens, ids[prompt])
        own = table[prompts.index(prompt)]
        assert any(np.allclose(latents, image, atol=1e-5) for image in own)
        seen.append(prompt)
    assert sorted(seen) == sorted(RETAINED * 3)
    with pytest.raises(ValueError, match="there are no retained prompts"):
        prepare_data(pipe, PAIRS, CONFIG, ArrayCache(None), prior="retained")


def test_images_at_the_target_prompts(pipe):
    config = AnchorImagesConfig(number=4, steps=2, at="target")
    data = prepare_data(pipe, PAIRS, config, ArrayCache(None), retained=RETAINED[1:], retained_share=0.5)
    expected = anchor_latents(pipe, [*(pair.target for pair in PAIRS), "a shirt"], config, ArrayCache(None))
    for places, images in zip(data.images_of, expected, strict=True):
        np.testing.assert_array_equal(data.latents[places], images)


def mirrored(pipe, latents):
    """The latents of the images from right to left."""
    return np.asarray(pipe.encode_images(pipe.decode(jnp.asarray(latents))[:, :, ::-1]))


@pytest.mark.slow
def test_mirror_images(pipe, tmp_path, drawn):
    plain = anchor_latents(pipe, PROMPTS, CONFIG, ArrayCache(tmp_path))
    config = AnchorImagesConfig(number=5, steps=2, mirror=True)
    both = anchor_latents(pipe, PROMPTS, config, ArrayCache(tmp_path))
    assert sum(drawn) == 6  # they are made of the ones that are there
    assert both.shape == (2, 6, 8, 8, 4)
    np.testing.assert_array_equal(both[:, :3], plain)
    for prompt in range(2):
        np.testing.assert_allclose(both[prompt, 3:], mirrored(pipe, plain[prompt]), atol=1e-5)
    again = anchor_latents(pipe, PROMPTS, config, ArrayCache(tmp_path))
    np.testing.assert_array_equal(again, both)


def own_folder(path, *, masks):
    """Three images of 16 x 16, two of the first anchor prompt and one of both; the pixels and the masks."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    grey = np.zeros((3, 16, 16), np.uint8)
    for i in range(3):
        grey[i, : 4 * i + 4, : 6 + 2 * i] = 255
    captions = [PAIRS[0].anchor, None, PAIRS[0].anchor]
    lines = []
    for i, caption in enumerate(captions):
        Image.fromarray(pixels[i]).save(path / f"{i}.png")
        line = {"file_name": f"{i}.png", "text": caption}
        if masks and i:
            Image.fromarray(grey[i]).save(path / f"mask{i}.png")
            line["mask_file_name"] = f"mask{i}.png"
        lines.append(json.dumps(line))
    (path / "metadata.jsonl").write_text("\n".join(lines))
    grey[0] = 255
    return pixels, grey.reshape(3, 8, 2, 8, 2).mean((2, 4)) / 255


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.slow
def test_the_users_own_images_and_masks(mirror, pipe, tmp_path, drawn):
    pixels, masks = own_folder(tmp_path, masks=True)
    config = AnchorImagesConfig(folder=str(tmp_path), number=2, steps=2, mirror=mirror)
    data = prepare_data(pipe, PAIRS, config, ArrayCache(None), retained=RETAINED[1:], retained_share=0.5)
    assert sum(drawn) == 2  # for the retained prompt alone
    first = 4 if mirror else 2
    expected = np.asarray(pipe.encode_images(jnp.asarray(pixels)))
    if mirror:
        expected = np.concatenate([expected, np.asarray(pipe.encode_images(jnp.asarray(pixels[:, :, ::-1])))])
        masks = np.concatenate([masks, masks[:, :, ::-1]])
    np.testing.assert_allclose(data.latents[first:], expected, atol=1e-5)
    np.testing.assert_array_equal(data.masks[:first], 1.0)
    np.testing.assert_allclose(data.masks[first:], masks, atol=1e-6)
    own = [[0, 1, 2], [1]]
    for places, images in zip(data.images_of, own, strict=False):
        assert places.tolist() == [
            first + i + shift for shift in ((0, 3) if mirror else (0,)) for i in images
        ]
    assert data.images_of[2].tolist() == list(range(first))
    batch, (_, images) = data.batch(0, 0, 16), data.choose(0, 0, 16)
    np.testing.assert_array_equal(batch.mask, data.masks[images])
    assert 0 < batch.mask.mean() < 1


def test_a_folder_without_captions_is_of_every_prompt(pipe, tmp_path):
    pixels, _ = own_folder(tmp_path, masks=False)
    (tmp_path / "metadata.jsonl").unlink()
    data = prepare_data(pipe, PAIRS, AnchorImagesConfig(folder=str(tmp_path)), ArrayCache(None))
    assert data.masks is None
    np.testing.assert_allclose(data.latents, pipe.encode_images(jnp.asarray(pixels)), atol=1e-5)
    assert [places.tolist() for places in data.images_of] == [[0, 1, 2]] * 2


def test_images_that_are_of_no_prompt_and_prompts_that_have_no_image(pipe, tmp_path):
    own_folder(tmp_path, masks=False)
    config = AnchorImagesConfig(folder=str(tmp_path))
    with pytest.raises(
        ValueError, match="'a shoe, photo style' is no anchor prompt; expected one of 'a shoe'"
    ):
        prepare_data(pipe, PAIRS[1:], config, ArrayCache(None))
    (tmp_path / "1.png").unlink()
    lines = (tmp_path / "metadata.jsonl").read_text().splitlines()
    (tmp_path / "metadata.jsonl").write_text("\n".join([lines[0], lines[2]]))
    with pytest.raises(ValueError, match="has no image for the prompt 'a shoe'"):
        prepare_data(pipe, PAIRS, config, ArrayCache(None))


@pytest.mark.slow
def test_masks_reach_the_loss(toy):
    """m of a step on a batch of the data, written out; a change of the text has no bearing on the mask."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    masks = (rng.random((3, 8, 8)) < 0.3).astype(np.float32)
    data = AnchorData(
        (PAIRS[0],), draw(3, 8, 8, 4), (np.arange(3),), draw(1, 5, 6), draw(1, 5, 6), masks=masks
    )
    schedule, key = NoiseSchedule.from_config(SCHEDULER), jax.random.key(0)
    loss = make_loss("kl", "closed", schedule=schedule, latent_shape=(8, 8, 4))
    plan = Plan(toy, Weights(("attn2.to_k.kernel",)), loss, schedule, timesteps_of(schedule))
    frozen, batch = Frozen(toy.parameters()), data.batch(0, 0, 6)
    reference = make_reference(plan)(frozen, batch, key)
    state = initial_state(plan, frozen, 1e-3, key)
    _, metrics = jax.jit(make_step(plan))(state, frozen, batch, reference, key)
    t = metrics["timesteps"]
    noise = jax.vmap(lambda i: jax.random.normal(jax.random.split(jax.random.fold_in(key, i))[1], (8, 8, 4)))(
        jnp.arange(6)
    )
    x_t = schedule.add_noise(batch.latents, noise, t)
    error = np.sum((toy(frozen.unet, x_t, t, batch.target_text) - reference) ** 2, -1)
    mask = masks[data.choose(0, 0, 6)[1]]
    np.testing.assert_allclose(metrics["m"], (error * mask).sum((1, 2)) / mask.sum((1, 2)), rtol=1e-4)
    assert not np.allclose(metrics["m"], error.mean((1, 2)), rtol=1e-2)


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_batches_go_on_from_a_position(data):
    whole = list(Batches(data, 3, 4, 9))
    assert len(whole) == 9
    assert all(same(batch, data.batch(3, step, 4)) for step, batch in enumerate(whole))
    halves = zip(Batches(data, 3, 4, 9, slice(0, 2)), Batches(data, 3, 4, 9, slice(2, 4)), strict=True)
    joined = [jax.tree.map(lambda a, b: np.concatenate([a, b]), *pair) for pair in halves]
    assert all(same(batch, both) for batch, both in zip(whole, joined, strict=True))
    for done in (0, 1, 4, 9):
        batches = Batches(data, 3, 4, 9)
        for _ in range(done):
            next(batches)
        position = json.loads(json.dumps(batches.position()))  # what is made ahead does not count
        other = Batches(data, 3, 4, 9)
        other.restore(position)
        rest = list(other)
        assert len(rest) == 9 - done
        assert all(same(a, b) for a, b in zip(rest, whole[done:], strict=True))
        further = Batches(data, 3, 4, 12)  # a run that is resumed with more steps
        further.restore(position)
        assert len(list(further)) == 12 - done
