"""What the commands `unlearn` and `sweep` share: presets, concept files, and scores in the embedded world."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fdiv_jax.pipeline.concepts import read_concepts
from fdiv_jax.unlearning import UnlearningConfig
from fdiv_jax.unlearning.concept_file import read_concept_file
from fdiv_jax.unlearning.library import library_concepts
from fdiv_jax.unlearning.presets import preset

if TYPE_CHECKING:
    from fdiv_jax.pipeline import TextToImagePipeline
    from fdiv_jax.worlds.erasure_scores import ErasureCounts

__all__ = ["concept_score", "configured", "erasure_count", "erasure_score", "is_world", "option_of"]


def option_of(arguments: Sequence[str], name: str) -> str | None:
    """The value of `--name VALUE` or `--name=VALUE` among arguments that are not parsed yet; the last one."""
    value = None
    for place, word in enumerate(arguments):
        if word.replace("_", "-") == f"--{name}" and place + 1 < len(arguments):
            value = arguments[place + 1]
        elif word.partition("=")[0].replace("_", "-") == f"--{name}" and "=" in word:
            value = word.partition("=")[2]
    return value


def configured(arguments: Sequence[str]) -> UnlearningConfig | None:
    """The configuration that options start from: of `--preset`, or with the concepts of `--concept-file`.

    None where neither is given.

    Raises:
        ValueError: both name what to unlearn, an unknown preset, or a concept file that is not valid.
    """
    named, file = option_of(arguments, "preset"), option_of(arguments, "concept-file")
    if named is not None and file is not None:
        raise ValueError(f"--preset {named} and --concept-file {file} both say what to unlearn; expected one")
    if named is not None:
        return preset(named, _known_names(arguments))
    if file is None:
        return None
    content = read_concept_file(file)
    return UnlearningConfig(concepts=content.erasures, defined=content.concepts, retained=content.retained)


def _known_names(arguments: Sequence[str]) -> list[str]:
    """Names of the concepts of the models that the arguments can mean, and of the library."""
    names: list[str] = []
    for word in arguments:
        if word == "fashion":
            from fdiv_jax.worlds.captions import concepts

            names += concepts()
        elif not word.startswith("-") and Path(word).is_dir():
            names += read_concepts(Path(word) / "concepts.json")
    return [*names, *library_concepts()]


def is_world(pipe: TextToImagePipeline) -> bool:
    """Whether the judge of the embedded world knows what the model draws."""
    from fdiv_jax.worlds.captions import concepts

    return set(concepts()) <= set(pipe.concepts) and pipe.latent_shape[0] == 8


def erasure_score(
    pipe: TextToImagePipeline, images: int = 2
) -> Callable[[TextToImagePipeline, UnlearningConfig], Mapping[str, float]] | None:
    """The judge's figures for a table of runs, for models of the embedded world; None for others."""
    if not is_world(pipe):
        return None
    from fdiv_jax.worlds import load_judge
    from fdiv_jax.worlds.erasure_scores import erasure_scores, targets_of

    judge = load_judge()

    def score(model: TextToImagePipeline, config: UnlearningConfig) -> dict[str, float]:
        return erasure_scores(model, judge, targets_of(config), images_per_prompt=images)._asdict()

    return score


def erasure_count(
    pipe: TextToImagePipeline, config: UnlearningConfig
) -> Callable[[TextToImagePipeline], ErasureCounts] | None:
    """The judge's counts for models of the embedded world and targets that it knows; None for others."""
    if not is_world(pipe):
        return None
    from fdiv_jax.worlds import load_judge
    from fdiv_jax.worlds.erasure_scores import erasure_counts, targets_of

    try:
        targets = targets_of(config)
    except ValueError:
        return None
    judge = load_judge()
    return lambda model: erasure_counts(model, judge, targets)


def concept_score(
    pipe: TextToImagePipeline, images: int = 2
) -> Callable[[TextToImagePipeline], Mapping[str, float]] | None:
    """The judge's figure for every concept, for models of the embedded world; None for others."""
    if not is_world(pipe):
        return None
    from fdiv_jax.worlds import load_judge
    from fdiv_jax.worlds.erasure_scores import concept_scores

    return functools.partial(concept_scores, judge=load_judge(), images_per_prompt=images)
