"""What an attack on a model of `fashion` needs: real photographs of a concept and of the others, a judge."""

from __future__ import annotations

import os
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from fdiv_jax.arrays import StoredImages
from fdiv_jax.evaluation.attacks import ConceptImages, Recogniser
from fdiv_jax.pipeline import to_uint8
from fdiv_jax.worlds.captions import ITEM_NAMES, STYLE_NAMES, caption
from fdiv_jax.worlds.data import load_split
from fdiv_jax.worlds.judge import Judge
from fdiv_jax.worlds.styles import draw

__all__ = ["judge_recogniser", "real_images", "real_images_without"]


def judge_recogniser(judge: Judge, target: str) -> Recogniser:
    """Which images the judge says to show an item, or to be in a style.

    Raises:
        ValueError: neither an item nor a style.
    """
    _check(target)

    def recognise(images: StoredImages) -> np.ndarray:
        judged = judge(images)
        if target in ITEM_NAMES:
            return judged.items.argmax(-1) == ITEM_NAMES.index(target)
        return judged.styles.argmax(-1) == STYLE_NAMES.index(target)

    return recognise


def real_images(
    target: str, number: int, *, seed: int = 0, directory: str | os.PathLike[str] | None = None
) -> ConceptImages:
    """Training photographs of Fashion-MNIST that show a concept, with their captions.

    Photographs of an item are drawn in all styles in turn; those of a style are of all items in turn.

    Raises:
        ValueError: neither an item nor a style, or fewer than one image.
        FileNotFoundError: the data set is not there.
    """
    _check(target)
    styles = range(len(STYLE_NAMES)) if target in ITEM_NAMES else (STYLE_NAMES.index(target),)
    items = range(len(ITEM_NAMES)) if target not in ITEM_NAMES else (ITEM_NAMES.index(target),)
    return _images([(item, style) for item in items for style in styles], number, seed, directory)


def real_images_without(
    targets: Sequence[str], number: int, *, seed: int = 0, directory: str | os.PathLike[str] | None = None
) -> ConceptImages:
    """Training photographs that show none of some concepts, over all other items and styles in turn.

    Raises:
        ValueError: a target that is neither an item nor a style, nothing is left, or fewer than one image.
        FileNotFoundError: the data set is not there.
    """
    for target in targets:
        _check(target)
    pairs = [
        (item, style)
        for style, style_name in enumerate(STYLE_NAMES)
        for item, item_name in enumerate(ITEM_NAMES)
        if item_name not in targets and style_name not in targets
    ]
    if not pairs:
        raise ValueError(f"nothing is left of the world without {', '.join(targets)}")
    return _images(pairs, number, seed, directory)


def _images(
    pairs: Sequence[tuple[int, int]], number: int, seed: int, directory: str | os.PathLike[str] | None
) -> ConceptImages:
    if number < 1:
        raise ValueError(f"{number} images, expected at least 1")
    grey, labels = load_split("train", directory)
    rng = np.random.default_rng(seed)
    of_item = {item: rng.permutation(np.flatnonzero(labels == item)) for item, _ in pairs}
    asked = [pairs[k % len(pairs)] for k in range(number)]
    taken = dict.fromkeys(of_item, 0)
    chosen = []
    for item, _ in asked:
        chosen.append(of_item[item][taken[item] % len(of_item[item])])
        taken[item] += 1
    styles = jnp.asarray([style for _, style in asked], jnp.int32)
    pixels = to_uint8(draw(jnp.asarray(grey[np.array(chosen)]), styles))
    captions = tuple(caption(ITEM_NAMES[item], STYLE_NAMES[style]) for item, style in asked)
    return ConceptImages(np.asarray(pixels), captions)


def _check(target: str) -> None:
    if target not in (*ITEM_NAMES, *STYLE_NAMES):
        raise ValueError(f"target {target!r} is no item or style of the world fashion")
