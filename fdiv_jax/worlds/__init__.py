"""The embedded world `fashion`: a small real text-to-image pipeline, its prompts, its judge and its builder.

`fdiv_jax.load_pipeline("fashion")` loads the pipeline; `load_judge()` what its images are judged by.
"""

from fdiv_jax.worlds.captions import (
    CAPTIONS,
    ITEM_NAMES,
    ITEMS,
    STYLE_NAMES,
    SUPERCLASSES,
    Item,
    caption,
    phrase,
)
from fdiv_jax.worlds.data import load_split
from fdiv_jax.worlds.evaluation import evaluate, with_judge
from fdiv_jax.worlds.judge import Judge, Judgement, load_judge
from fdiv_jax.worlds.scores import SamplingSettings, WorldScores, score_world
from fdiv_jax.worlds.styles import STYLES, draw

__all__ = [
    "CAPTIONS",
    "ITEMS",
    "ITEM_NAMES",
    "STYLES",
    "STYLE_NAMES",
    "SUPERCLASSES",
    "Item",
    "Judge",
    "Judgement",
    "SamplingSettings",
    "WorldScores",
    "caption",
    "draw",
    "evaluate",
    "load_judge",
    "load_split",
    "phrase",
    "score_world",
    "with_judge",
]
