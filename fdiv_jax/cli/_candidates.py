"""The models that a command compares with their base: run directories, models, LoRAs and deltas."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fdiv_jax.files import read_json
from fdiv_jax.unlearning import Erasure, UnlearningConfig

if TYPE_CHECKING:
    from fdiv_jax.cli._loading import Loading
    from fdiv_jax.pipeline import TextToImagePipeline

__all__ = ["Candidate", "erasures_of", "find_candidates", "pipeline_directory"]


@dataclass(frozen=True)
class Candidate:
    """A model that was named on the command line.

    Attributes:
        name: what it is called in tables: the end of its path, as much as tells it from the others.
        load: loads it.
        erasures: what was unlearned, where it is a run directory.
    """

    name: str
    load: Callable[[], TextToImagePipeline]
    erasures: tuple[Erasure, ...] = ()


def pipeline_directory(model: str) -> str:
    """The model's directory: of a run directory, the `pipeline` in it."""
    inside = Path(model) / "pipeline"
    return str(inside) if (inside / "model_index.json").is_file() else model


def find_candidates(words: Sequence[str], base: TextToImagePipeline, loading: Loading) -> list[Candidate]:
    """The models in their order; nothing but headers and run configurations is read.

    Args:
        words: run directories, model directories, hub ids, and files: of a model, a LoRA or a delta.
        base: the model before, which LoRAs and deltas change.
        loading: how to load them; its LoRA files are the base's.

    Raises:
        ValueError: the same model twice, or a run directory whose configuration cannot be read.
        FileNotFoundError: a run directory without a model in it.
    """
    places = [os.path.normpath(word) if Path(word).exists() else word for word in words]
    twice = [word for i, word in enumerate(places) if word in places[:i]]
    if twice:
        raise ValueError(f"{twice[0]} is named twice; expected each model once")
    return [
        Candidate(name, _loader(word, base, loading), _erasures(Path(word)))
        for name, word in zip(_names(places), words, strict=True)
    ]


def erasures_of(
    candidates: Sequence[Candidate], target: str | None, anchor: str | None
) -> tuple[Erasure, ...]:
    """What was unlearned: as the options say, otherwise as the run directories say.

    Raises:
        ValueError: an anchor without a target, or run directories that unlearned different things.
    """
    if target is not None:
        return (Erasure(target, anchor or "superclass"),)
    known = [each for each in candidates if each.erasures]
    if not known:
        if anchor is not None:
            raise ValueError(f"--anchor {anchor} without --target; expected both, or a run directory")
        return ()
    first = known[0].erasures
    for other in known[1:]:
        if other.erasures != first:
            said = [
                ", ".join(f"{e.target} -> {e.anchor}" for e in each.erasures) for each in (known[0], other)
            ]
            raise ValueError(
                f"{known[0].name} unlearned {said[0]}, {other.name} {said[1]}; name what to evaluate by "
                "--target and --anchor"
            )
    if anchor is None:
        return first
    return tuple(dataclasses.replace(each, anchor=anchor) for each in first)


def _names(places: Sequence[str]) -> list[str]:
    """The last parts of each path, as many as tell it from the others and from the base."""
    parts = [Path(place).parts or (place,) for place in places]
    parts = [each[:-1] if each[-1] == "pipeline" and len(each) > 1 else each for each in parts]
    names = []
    for i, own in enumerate(parts):
        others = [each for k, each in enumerate(parts) if k != i]
        lengths = range(1, len(own) + 1)
        free = (n for n in lengths if own[-n:] != ("base",) and all(own[-n:] != each[-n:] for each in others))
        names.append("/".join(own[-next(free, len(own)) :]))
    return names


def _loader(word: str, base: TextToImagePipeline, loading: Loading) -> Callable[[], TextToImagePipeline]:
    from fdiv_jax.pipeline.finding import find_model
    from fdiv_jax.pipeline.hub import is_hub_id

    place = Path(word)
    run = place.is_dir() and (place / "config.json").is_file() and not (place / "model_index.json").is_file()
    if run and pipeline_directory(word) == word and not _holds_lora(place):
        raise FileNotFoundError(
            f"{word} is a run directory without pipeline/, so that run is not finished; `fdiv-jax unlearn` "
            "goes on with it by --resume"
        )
    own = dataclasses.replace(loading, lora=(), revision=None if place.exists() else loading.revision)
    if place.is_dir():
        if pipeline_directory(word) == word and _holds_lora(place):
            return lambda: base.with_lora(place)
        own = dataclasses.replace(own, config=None, vae=None, prediction_type=None)
        find_model(pipeline_directory(word))
        if not own.fit(pipeline_directory(word)):
            own = dataclasses.replace(own, variant=None)
        return lambda: own.load(pipeline_directory(word))
    if place.is_file() and place.suffix == ".safetensors":
        return _of_file(place, base, own)
    if place.exists() or not is_hub_id(word):  # said before anything is drawn
        find_model(word)
    return lambda: own.load(word)


def _holds_lora(directory: Path) -> bool:
    from fdiv_jax.checkpoints.weight_files import LORAS

    if (directory / "model_index.json").is_file():
        return False
    return any((directory / f"{stem}.safetensors").is_file() for stem in LORAS)


def _of_file(file: Path, base: TextToImagePipeline, own: Loading) -> Callable[[], TextToImagePipeline]:
    from fdiv_jax.checkpoints import apply_delta
    from fdiv_jax.checkpoints.delta import DELTA
    from fdiv_jax.checkpoints.files import read_header
    from fdiv_jax.checkpoints.original_kinds import is_adapter

    header = read_header(file)
    if DELTA in header.metadata:
        return lambda: base.replace(name=str(file), **apply_delta(file, base.components))
    if is_adapter(header.shapes):
        return lambda: base.with_lora(file)
    return lambda: own.load(str(file))


def _erasures(run: Path) -> tuple[Erasure, ...]:
    """What a run directory says that it unlearned; nothing for a model without a run."""
    file = (run.parent if run.name == "pipeline" else run) / "config.json"
    if not run.is_dir() or not file.is_file():
        return ()
    content = read_json(file)
    if "config" not in content or "resolved" not in content:  # of a component, or another program's
        return ()
    try:
        return UnlearningConfig.from_dict(content["config"]).erasures
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file}: what it unlearned cannot be read: {error}") from error
