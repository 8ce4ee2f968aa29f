"""The tables of changed images and lost accuracy, by hand."""

import numpy as np
import pytest

from analysis.image_damage import accuracy_table, image_table
from fdiv_jax.worlds import ITEM_NAMES, STYLE_NAMES

SHOWN = tuple((item, style) for item in ITEM_NAMES[:2] for style in STYLE_NAMES[:2])
CONCEPTS = (ITEM_NAMES[0], STYLE_NAMES[1])


def drawn(pixels, items, styles):
    """Two images at each of the four prompts."""
    images = np.zeros((4, 2, 1, 1, 3), np.uint8) + np.reshape(pixels, (4, 1, 1, 1, 1)).astype(np.uint8)
    return {"images": images, "items": np.array(items), "styles": np.array(styles)}


right = [[0, 0], [0, 0], [1, 1], [1, 1]], [[0, 0], [1, 1], [0, 0], [1, 1]]
FROZEN = drawn([10, 20, 30, 250], *right)


def test_pixels_are_compared_where_the_erased_concept_is_not_shown():
    erased = [drawn([99, 99, 30, 148], *right), drawn([61, 99, 30, 99], *right)]
    table = image_table(FROZEN, erased, CONCEPTS, SHOWN)
    assert table[0, 1] == pytest.approx((102 / 255) ** 2)  # the style, at the other item
    assert table[1, 0] == pytest.approx((51 / 255) ** 2)  # the item, in the other style
    assert np.isnan(table[0, 0])


def test_accuracy_is_that_of_the_concept_hurt():
    lost_style = drawn([0] * 4, right[0], [[0, 0], [0, 0], [0, 0], [1, 0]])
    lost_item = drawn([0] * 4, [[3, 3], [0, 0], [1, 1], [1, 1]], right[1])
    table = accuracy_table(FROZEN, [lost_style, lost_item], CONCEPTS, SHOWN)
    assert table[0, 1] == 0.5
    assert table[1, 0] == 1.0
    same = accuracy_table(FROZEN, [FROZEN, FROZEN], CONCEPTS, SHOWN)
    assert same[0, 1] == same[1, 0] == 0.0
