"""What the judge says of an unlearned model of `fashion`: is the concept gone, is the rest there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fdiv_jax.pipeline import Concept, TextToImagePipeline
from fdiv_jax.unlearning import UnlearningConfig
from fdiv_jax.unlearning.library import known_concepts
from fdiv_jax.worlds.captions import ITEM_NAMES, STYLE_NAMES, caption, concepts
from fdiv_jax.worlds.judge import Judge
from fdiv_jax.worlds.scores import SamplingSettings, WorldScores, score_world

__all__ = [
    "ErasureCounts",
    "ErasureScores",
    "concept_scores",
    "erasure_counts",
    "erasure_scores",
    "targets_of",
]


class ErasureScores(NamedTuple):
    """Shares of images, as the judge sees them.

    Attributes:
        target_accuracy: images at the targets' prompts judged to show what is named; lower is better.
        retained_items: images at the other items' prompts (in styles that are not targets) judged as named.
        retained_styles: images in the other styles (of items that are not targets) judged as named.
    """

    target_accuracy: float
    retained_items: float
    retained_styles: float


class ErasureCounts(NamedTuple):
    """Numbers of images, as the judge sees them.

    Attributes:
        target_shown: images at the targets' prompts that show the target.
        target_images: images at the targets' prompts.
        retained_right: images at prompts without a target that show the item and the style that are named.
        retained_images: images at such prompts.
    """

    target_shown: int
    target_images: int
    retained_right: int
    retained_images: int


def erasure_counts(
    pipeline: TextToImagePipeline,
    judge: Judge,
    targets: Sequence[str],
    *,
    target_images: int = 20,
    settings: SamplingSettings | None = None,
) -> ErasureCounts:
    """Draw about `target_images` images at the targets' prompts and one at every other prompt, and count.

    Raises:
        ValueError: a target that is no item or style, or fewer than one image.
    """
    for target in targets:
        if target not in (*ITEM_NAMES, *STYLE_NAMES):
            raise ValueError(f"target {target!r} is no item or style of the world fashion")
    if target_images < 1:
        raise ValueError(f"target_images={target_images}, expected at least 1")
    every = [(item, style) for item in ITEM_NAMES for style in STYLE_NAMES]
    erased = [pair for pair in every if set(pair) & set(targets)]
    repeated = erased * -(-target_images // len(erased)) if erased else []
    drawn = [*repeated, *(pair for pair in every if pair not in erased)]
    prompts = [caption(item, style) for item, style in drawn]
    judged = judge(pipeline(prompts, **dataclasses.asdict(settings or SamplingSettings())))
    items = [ITEM_NAMES[i] for i in judged.items.argmax(-1)]
    styles = [STYLE_NAMES[i] for i in judged.styles.argmax(-1)]
    shown = right = 0
    for number, (asked, seen) in enumerate(zip(drawn, zip(items, styles, strict=True), strict=True)):
        if number < len(repeated):
            shown += any(a in targets and a == s for a, s in zip(asked, seen, strict=True))
        else:
            right += asked == seen
    return ErasureCounts(shown, len(repeated), right, len(drawn) - len(repeated))


def targets_of(config: UnlearningConfig) -> tuple[str, ...]:
    """The names of the items and styles that a configuration erases, by whichever of their names it says so.

    Raises:
        ValueError: one that the world does not have.
    """
    known = known_concepts({name: Concept.from_dict(name, entry) for name, entry in concepts().items()})
    names = []
    for each in config.erasures:
        concept = known.find(each.target)
        if concept is None:
            raise ValueError(f"target {each.target!r} is no item or style of the world fashion")
        names.append(concept.name)
    return tuple(names)


def erasure_scores(
    pipeline: TextToImagePipeline,
    judge: Judge,
    targets: Sequence[str],
    *,
    images_per_prompt: int = 4,
    settings: SamplingSettings | None = None,
) -> ErasureScores:
    """Draw every item in every style, and judge."""
    scores = score_world(pipeline, judge, images_per_prompt=images_per_prompt, settings=settings)
    by_concept = _accuracies(scores, judge)
    items = [name for name in ITEM_NAMES if name not in targets]
    styles = [name for name in STYLE_NAMES if name not in targets]
    kept_items = [by_concept.items[ITEM_NAMES.index(i), STYLE_NAMES.index(s)] for i in items for s in styles]
    kept_styles = [
        by_concept.styles[ITEM_NAMES.index(i), STYLE_NAMES.index(s)] for i in items for s in styles
    ]
    gone = [_one(by_concept, name) for name in targets]
    return ErasureScores(float(np.mean(gone)), float(np.mean(kept_items)), float(np.mean(kept_styles)))


def concept_scores(
    pipeline: TextToImagePipeline,
    judge: Judge,
    *,
    images_per_prompt: int = 4,
    settings: SamplingSettings | None = None,
) -> Mapping[str, float]:
    """For every item and style the share of the images at its prompts that are judged to show it."""
    scores = score_world(pipeline, judge, images_per_prompt=images_per_prompt, settings=settings)
    by_concept = _accuracies(scores, judge)
    return {name: _one(by_concept, name) for name in (*ITEM_NAMES, *STYLE_NAMES)}


class _Accuracies(NamedTuple):
    """items, styles: 10 5, the share of images at (item, style) judged to be the item, and the style."""

    items: np.ndarray
    styles: np.ndarray


def _accuracies(scores: WorldScores, judge: Judge) -> _Accuracies:
    images = scores.images
    judged = judge(images.reshape(-1, *images.shape[-3:]))
    shape = images.shape[:3]
    items = judged.items.argmax(-1).reshape(shape) == np.arange(shape[0])[:, None, None]
    styles = judged.styles.argmax(-1).reshape(shape) == np.arange(shape[1])[None, :, None]
    return _Accuracies(items.mean(-1), styles.mean(-1))


def _one(accuracies: _Accuracies, name: str) -> float:
    if name in ITEM_NAMES:
        return float(accuracies.items[ITEM_NAMES.index(name)].mean())
    return float(accuracies.styles[:, STYLE_NAMES.index(name)].mean())
