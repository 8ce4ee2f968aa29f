"""What an erasure does to the images at every prompt of the world: the same noise before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from fdiv_jax.pipeline import TextToImagePipeline
from fdiv_jax.worlds import ITEM_NAMES, STYLE_NAMES, Judge, SamplingSettings, caption

from .rank_correlations import pair_table

__all__ = ["Drawn", "accuracy_table", "draw", "image_table"]

Drawn = dict[str, np.ndarray]
"""`images` (prompts, n, 32, 32, 3) uint8, and what the judge takes each of them for: `items` and `styles`
(prompts, n), places in `ITEM_NAMES` and `STYLE_NAMES`."""


def draw(
    pipe: TextToImagePipeline,
    judge: Judge,
    shown: Sequence[tuple[str, str]],
    images: int,
    settings: SamplingSettings,
) -> Drawn:
    """Images at each prompt, from noise that depends on the prompt's place and the settings alone."""
    prompts = [caption(item, style) for item, style in shown for _ in range(images)]
    found = pipe(prompts, **asdict(settings))
    judged = judge(found)
    shape = (len(shown), images)
    return {
        "images": found.reshape(*shape, *found.shape[1:]),
        "items": judged.items.argmax(-1).reshape(shape),
        "styles": judged.styles.argmax(-1).reshape(shape),
    }


def image_table(
    frozen: Drawn, erased: Sequence[Drawn], concepts: Sequence[str], shown: Sequence[tuple[str, str]]
) -> np.ndarray:
    """The mean squared change of the pixels, 0 to 1, at concept j by erasing i; see `pair_table`."""
    before = frozen["images"].astype(np.float64)
    change = [((each["images"] - before) / 255) ** 2 for each in erased]
    by_prompt = np.stack([each.reshape(len(shown), -1).mean(1) for each in change])
    return pair_table(by_prompt, concepts, shown)


def accuracy_table(
    frozen: Drawn, erased: Sequence[Drawn], concepts: Sequence[str], shown: Sequence[tuple[str, str]]
) -> np.ndarray:
    """The share of images that the judge no longer takes for concept j after erasing i: before minus after,
    over the prompts that show j and not i; see `pair_table`."""

    def right(drawn: Drawn) -> dict[str, np.ndarray]:
        items = np.array([ITEM_NAMES.index(item) for item, _ in shown])[:, None]
        styles = np.array([STYLE_NAMES.index(style) for _, style in shown])[:, None]
        return {"item": (drawn["items"] == items).mean(1), "style": (drawn["styles"] == styles).mean(1)}

    before = right(frozen)
    after = [right(each) for each in erased]
    tables = {
        kind: pair_table(np.stack([before[kind] - each[kind] for each in after]), concepts, shown)
        for kind in before
    }
    is_item = np.array([name in ITEM_NAMES for name in concepts])
    return np.where(is_item[None, :], tables["item"], tables["style"])
