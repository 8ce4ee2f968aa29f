"""What attacks on `fashion` are given: real photographs by their labels, a judge, a model without an item."""

from pathlib import Path

import numpy as np
import pytest

from fdiv_jax.worlds import ITEM_NAMES, load_judge, load_split
from fdiv_jax.worlds.attack_material import judge_recogniser, real_images, real_images_without
from fdiv_jax.worlds.build_fashion import BuildConfig
from fdiv_jax.worlds.build_without import build_without, without_items


@pytest.mark.data
@pytest.mark.slow
def test_real_images_show_what_their_captions_say():
    images = real_images("ankle boot", 10)
    assert images.captions[:2] == ("an ankle boot, photo style", "an ankle boot, sketch style")
    assert len(set(images.captions)) == 5
    assert len({picture.tobytes() for picture in images.pixels}) == 10
    judge = load_judge()
    assert judge_recogniser(judge, "ankle boot")(images.pixels).mean() >= 0.8
    assert judge_recogniser(judge, "sketch")(images.pixels).tolist() == [False, True, False, False, False] * 2
    again = real_images("ankle boot", 5)
    np.testing.assert_array_equal(again.pixels, images.pixels[:5])


@pytest.mark.data
def test_images_of_the_others_show_no_target():
    captions = real_images_without(["sneaker", "sketch"], 36).captions
    assert len(set(captions)) == 9 * 4
    assert not any("sneaker" in caption or "sketch" in caption for caption in captions)
    with pytest.raises(ValueError, match="nothing is left"):
        real_images_without(ITEM_NAMES, 3)


@pytest.mark.data
def test_no_photograph_of_an_item_that_is_left_out_is_kept():
    images, labels = load_split("test")
    kept, names = without_items(images, labels, ["sneaker", "bag"])
    assert {ITEM_NAMES[k] for k in np.unique(names)} == set(ITEM_NAMES) - {"sneaker", "bag"}
    assert len(kept) == len(names) == 8000
    np.testing.assert_array_equal(kept, images[~np.isin(labels, (7, 8))])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"without": ("sneeker",), "output": Path("x")}, "without 'sneeker'"),
        ({"without": ITEM_NAMES, "output": Path("x")}, "nothing is left"),
        ({"without": ("sneaker",)}, "without and output come together"),
        ({"output": Path("x")}, "without and output come together"),
    ],
)
def test_what_the_builder_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        BuildConfig(**options)


def test_a_directory_in_use_is_refused_before_any_work(tmp_path):
    (tmp_path / "there").write_text("")
    with pytest.raises(FileExistsError, match="expected a new directory"):
        build_without(BuildConfig(without=("sneaker",), output=tmp_path, work=tmp_path / "work"))
    assert not (tmp_path / "work").exists()


def test_an_unknown_target_is_refused():
    with pytest.raises(ValueError, match="'boot' is no item or style"):
        judge_recogniser(load_judge(), "boot")
