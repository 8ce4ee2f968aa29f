"""Scores of a model of the world `fashion`: does it draw what the prompts ask for, as the judge sees it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from fdiv_jax.pipeline import TextToImagePipeline
from fdiv_jax.worlds.captions import ITEM_NAMES, STYLE_NAMES, caption
from fdiv_jax.worlds.judge import Judge


@dataclasses.dataclass(frozen=True)
class SamplingSettings:
    """How images are drawn for a score; the defaults are those of every figure in this repository."""

    steps: int = 12
    guidance: float = 3.0
    sampler: str = "dpmsolver++"
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class WorldScores:
    """What the judge saw at the prompts "a {noun}, {style} style".

    Attributes:
        nouns: the nouns prompted, rows of `items` and `images`.
        items: nouns 10, the share of each noun's images judged to be each item.
        styles: 5 5, the share of each prompted style's images judged to be in each style.
        images: nouns styles k 32 32 3, uint8: what was drawn.
    """

    nouns: tuple[str, ...]
    items: np.ndarray
    styles: np.ndarray
    images: np.ndarray = dataclasses.field(repr=False)

    def rate(self, noun: str, judged: str) -> float:
        """The share of the images at prompts with `noun` that are judged to show the item `judged`."""
        return float(self.items[self.nouns.index(noun), ITEM_NAMES.index(judged)])

    def item_accuracy(self, leave_out: Sequence[str] = ()) -> float:
        """Mean share of items judged as prompted, over the items prompted but those left out."""
        kept = [noun for noun in self.nouns if noun in ITEM_NAMES and noun not in leave_out]
        return float(np.mean([self.rate(noun, noun) for noun in kept]))

    def style_accuracy(self, leave_out: Sequence[str] = ()) -> float:
        """Mean share of images judged to be in the prompted style."""
        kept = [k for k, style in enumerate(STYLE_NAMES) if style not in leave_out]
        return float(np.mean([self.styles[k, k] for k in kept]))


def score_world(
    pipeline: TextToImagePipeline,
    judge: Judge,
    *,
    nouns: Sequence[str] = ITEM_NAMES,
    styles: Sequence[str] = STYLE_NAMES,
    images_per_prompt: int = 8,
    settings: SamplingSettings | None = None,
) -> WorldScores:
    """Draw `images_per_prompt` images at every "a {noun}, {style} style" and judge them.

    Raises:
        ValueError: an unknown style, or no images.
    """
    settings = settings or SamplingSettings()
    for style in styles:
        if style not in STYLE_NAMES:
            raise ValueError(f"style {style!r}, expected one of {', '.join(STYLE_NAMES)}")
    if images_per_prompt < 1:
        raise ValueError(f"images_per_prompt={images_per_prompt}, expected at least 1")
    prompts = [caption(noun, style) for noun in nouns for style in styles for _ in range(images_per_prompt)]
    images = pipeline(prompts, **dataclasses.asdict(settings))
    judged = judge(images)
    shape = (len(nouns), len(styles), images_per_prompt)
    item = np.eye(len(ITEM_NAMES))[judged.items.argmax(-1)].reshape(*shape, -1)
    style = np.eye(len(STYLE_NAMES))[judged.styles.argmax(-1)].reshape(*shape, -1)
    by_style = np.zeros((len(STYLE_NAMES), len(STYLE_NAMES)))
    for row, name in enumerate(styles):
        by_style[STYLE_NAMES.index(name)] = style[:, row].mean((0, 1))
    return WorldScores(tuple(nouns), item.mean((1, 2)), by_style, images.reshape(*shape, *images.shape[1:]))
