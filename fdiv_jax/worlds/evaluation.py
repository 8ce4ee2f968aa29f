"""Evaluation with the judge of the embedded world: what names the items and styles in its models' images."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from fdiv_jax.arrays import StoredImages
from fdiv_jax.assets import asset_directory
from fdiv_jax.checkpoints.digests import files_digest
from fdiv_jax.evaluation import Backbones, Evaluation, Features, Protocol, find_protocol, run_protocol
from fdiv_jax.evaluation.evaluate import Model
from fdiv_jax.pipeline import TextToImagePipeline
from fdiv_jax.unlearning import Erasure
from fdiv_jax.worlds.captions import ITEM_NAMES, STYLE_NAMES, concepts
from fdiv_jax.worlds.judge import Judge, load_judge

__all__ = ["JudgeClassifier", "evaluate", "is_world", "judge_features", "with_judge"]

_NAME = "fashion judge"
_SIDE = 8
"""Latent pixels of a side of the world's images."""


def is_world(pipe: TextToImagePipeline) -> bool:
    """Whether a model is one of the world `fashion`, so that its judge knows what it draws."""
    return set(concepts()) <= set(pipe.concepts) and pipe.latent_shape[0] == _SIDE


class JudgeClassifier:
    """The judge as a classifier of items and styles."""

    def __init__(self, judge: Judge | None = None):
        """Of a judge; by default the one that ships with the package."""
        self.name = _NAME
        self.kinds: Mapping[str, Sequence[str]] = {"item": ITEM_NAMES, "style": STYLE_NAMES}
        self._judge = judge or load_judge()

    def __call__(self, images: StoredImages) -> dict[str, np.ndarray]:
        """Probabilities: n 10 of the items and n 5 of the styles."""
        judged = self._judge(images)
        return {"item": judged.items, "style": judged.styles}


def judge_features(judge: Judge | None = None) -> Features:
    """The 128 features below the judge's heads, for KID and the change of features."""
    return Features(_NAME, (judge or load_judge()).features, 256)


def with_judge(backbones: Backbones, protocol: Protocol, base: TextToImagePipeline) -> Backbones:
    """The backbones with the judge where a protocol asks for it and they have none.

    Raises:
        ValueError: the base is no model of the world; says what can be measured.
    """
    wanted = [kind for kind in ("classifier", "features") if getattr(protocol, kind) == "judge"]
    wanted = [kind for kind in wanted if kind in protocol.needs and getattr(backbones, kind) is None]
    if not wanted:
        return backbones
    if not is_world(base):
        needing = [m for m in protocol.metrics if set(wanted) & set(protocol.backbones_of(m))]
        rest = [m for m in protocol.metrics if m not in needing]
        raise ValueError(
            f"no judge for this model: {base.name or 'the base'!r} is not of the world fashion, and protocol "
            f"{protocol.name!r} needs its judge for {', '.join(needing)}; for any model there are ca-2023, "
            "fdmu-repo and unlearncanvas (CLIP, and Inception for KID), or a protocol file"
            + (f" with {', '.join(rest)}" if rest else "")
        )
    judge = load_judge()
    made = {"classifier": JudgeClassifier(judge), "features": judge_features(judge)}
    digests = {**backbones.weights, **dict.fromkeys(wanted, _judge_digest())}
    return dataclasses.replace(backbones, **{kind: made[kind] for kind in wanted}, weights=digests)


def evaluate(
    base: TextToImagePipeline,
    models: Mapping[str, Model],
    protocol: str | os.PathLike[str] | Protocol,
    *,
    target: str | None = None,
    anchor: str = "superclass",
    erasures: Sequence[Erasure] = (),
    backbones: Backbones | None = None,
    output: str | os.PathLike[str] | None = None,
    images: str | os.PathLike[str] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Evaluation:
    """How much of a concept is gone from each model, and what else changed, against the model before.

    Args:
        base: the model before.
        models: the others, by name: pipelines, or functions that load them, one after the other.
        protocol: a named one (`fdiv_jax.evaluation.NAMED`), the path of a protocol file, or a `Protocol`.
        target: what was unlearned, for a named protocol.
        anchor: what took its place, as in `UnlearningConfig`.
        erasures: several targets, instead of `target` and `anchor`.
        backbones: CLIP, Inception or your own classifier; the judge of `fashion` comes by itself.
        output: directory for `result.json` and the images; None: nothing is written.
        images: directory of the images, which evaluations may share; None: in the output directory.
        progress: called with (what is being done, images done, images in all).

    Raises:
        ValueError: as for `find_protocol`, `with_judge` and `run_protocol`.
        OSError: the disk is full or fails; the images so far are kept.
    """
    asked = [Erasure(target, anchor)] if target is not None else list(erasures)
    found = find_protocol(protocol, base.concepts, asked)
    backbones = with_judge(backbones or Backbones(), found, base)
    return run_protocol(base, models, found, backbones, output=output, images=images, progress=progress)


@functools.cache
def _judge_digest() -> str:
    """SHA-256 of the judge's weights."""
    return files_digest(sorted(asset_directory("fashion_judge").glob("*.safetensors")))
