"""The world that ships with the package: its files, its judge, its pictures, and diffusers' view of it."""

import jax
import numpy as np
import pytest

import fdiv_jax as fj
from fdiv_jax.assets import asset_directory
from fdiv_jax.pipeline import to_uint8
from fdiv_jax.worlds import ITEM_NAMES, STYLE_NAMES, draw, load_judge, load_split, score_world
from fdiv_jax.worlds.data import find_fashion_mnist


@pytest.fixture(scope="module")
def fashion():
    return fj.load_pipeline("fashion")


@pytest.fixture(scope="module")
def judge():
    return load_judge()


def test_the_world_is_small():
    files = [path for path in asset_directory("fashion").parent.rglob("fashion*/**/*") if path.is_file()]
    assert 0 < sum(path.stat().st_size for path in files) <= 16 * 2**20


@pytest.mark.slow
def test_autoencoder_returns_what_it_was_given(fashion):
    images = fashion(["a bag, photo style", "a dress, poster style"], seed=1, steps=6, sampler="dpm++")
    again = to_uint8(fashion.decode(fashion.encode_images(images)))
    assert np.abs(again.astype(float) - images).mean() < 12


@pytest.mark.slow
def test_judge_sees_the_items_it_was_asked_for(fashion, judge):
    names = ("trouser", "bag", "ankle boot")
    scores = score_world(fashion, judge, nouns=names, styles=("photo", "neon"), images_per_prompt=2)
    assert scores.item_accuracy() >= 0.75
    assert scores.rate("bag", "bag") >= 0.5
    similarity = judge.clip_similarity(scores.images[1, 0], ["a bag", "a trouser"])
    assert (similarity[:, 0] > similarity[:, 1]).all()


def test_judge_refuses_other_shapes(judge):
    with pytest.raises(ValueError, match=r"expected \(n, 32, 32, 3\)"):
        judge(np.zeros((2, 28, 28), np.uint8))


@pytest.mark.slow
@pytest.mark.interop
def test_diffusers_draws_the_same_images(fashion):
    pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    import torch

    other = diffusers.StableDiffusionPipeline.from_pretrained(str(asset_directory("fashion")))
    other.set_progress_bar_config(disable=True)
    prompts = ["a sneaker, sketch style", "an ankle boot, cyanotype style", "a top", "a bag, neon style"]
    noise = np.asarray(jax.random.normal(jax.random.key(3), (4, *fashion.latent_shape)))
    ours = fashion(prompts, steps=10, guidance=3.0, initial=noise)
    theirs = other(
        prompts,
        latents=torch.tensor(noise.transpose(0, 3, 1, 2)),
        num_inference_steps=10,
        guidance_scale=3.0,
        output_type="np",
    ).images
    assert np.abs(theirs * 255 - ours).mean() <= 1


def _real_test_images():
    try:
        find_fashion_mnist()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    return load_split("test")


@pytest.mark.slow
def test_judge_on_real_test_images(judge):
    images, labels = _real_test_images()
    right_item, right_style = [], []
    for k in range(len(STYLE_NAMES)):
        for i in range(0, len(images), 1000):
            judged = judge(np.asarray(draw(images[i : i + 1000], np.full(1000, k))))
            right_item.append(judged.items.argmax(-1) == labels[i : i + 1000])
            right_style.append(judged.styles.argmax(-1) == k)
    assert np.mean(right_item) >= 0.88
    assert np.mean(right_style) >= 0.98
    assert np.mean(right_item) == pytest.approx(judge.report["item"], abs=1e-3)


@pytest.mark.slow
def test_fashion_draws_what_it_is_asked_for(fashion, judge):
    scores = score_world(fashion, judge, images_per_prompt=8)
    assert scores.item_accuracy() >= 0.90
    assert scores.style_accuracy() >= 0.98
    assert min(scores.rate(name, name) for name in ITEM_NAMES) >= 0.7
