"""Evaluate models against their base under a protocol: draw, look, compare."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from fdiv_jax.checkpoints import check_place
from fdiv_jax.evaluation.evaluation import RESULT, Evaluated, Evaluation, UnlikeError, read_evaluation
from fdiv_jax.evaluation.figures import figures_of
from fdiv_jax.evaluation.images import ImageStore, drawing_digest, pipeline_digest
from fdiv_jax.evaluation.protocol import Protocol
from fdiv_jax.evaluation.views import Backbones, look
from fdiv_jax.files import check_no_links
from fdiv_jax.pipeline import TextToImagePipeline
from fdiv_jax.pipeline.loras import origin
from fdiv_jax.unlearning.result import versions

__all__ = ["IMAGES", "Model", "check_output", "run_protocol"]

IMAGES = "images"
"""The drawn images, in the output directory."""

Model = TextToImagePipeline | Callable[[], TextToImagePipeline]
"""A model, or what loads it: of several such, one is in memory at a time."""
Progress = Callable[[str, int, int], None]


def run_protocol(
    base: TextToImagePipeline,
    models: Mapping[str, Model],
    protocol: Protocol,
    backbones: Backbones | None = None,
    *,
    output: str | os.PathLike[str] | None = None,
    images: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Draw a protocol's images with every model, from the same noise, and compare each with the base.

    Images are drawn once: those that are in the directory already are taken from there, so that after a kill,
    or with a further model, the work goes on where it ended. Models of an earlier evaluation in the same
    output directory stay in its result.

    Args:
        base: the model before.
        models: the others, by name.
        protocol: what is drawn and measured.
        backbones: what looks at the images.
        output: directory for `result.json` and the images; None: nothing is written.
        images: directory of the images, which evaluations may share; None: in the output directory.
        progress: called with (what is being done, images done, images in all).

    Raises:
        ValueError: no models, a backbone that is missing or another one than the protocol names, a classifier
            that does not know a concept, a sampler that the model's schedule does not allow.
        UnlikeError: the output directory holds figures that these cannot stand beside.
        OSError: the disk is full or fails; the images so far are kept.
    """
    if not models:
        raise ValueError("no model to evaluate; expected at least one beside the base")
    backbones = (backbones or Backbones()).for_protocol(protocol)
    names = backbones.names(protocol)
    _check_classifier(protocol, backbones)
    protocol.check_sampler(base.schedule)
    directory = None if output is None else check_output(output)
    store = ImageStore(_place(directory, images))
    sha256 = pipeline_digest(base)
    folder = drawing_digest(sha256, protocol.drawing)
    shell = Evaluation(protocol, Evaluated(origin(base), sha256, folder, ()), {}, names, versions())
    earlier = _earlier(directory, shell)

    def counting(what: str) -> Callable[[int, int], None]:
        return lambda done, total: None if progress is None else progress(what, done, total)

    store.draw(folder, base, protocol, counting("drawing with the base"))
    seen = look(store, folder, folder, protocol, backbones, counting("looking at the base"))
    texts = _texts(protocol, backbones)
    found: dict[str, Evaluated] = {}
    for name, model in models.items():
        pipe = model if isinstance(model, TextToImagePipeline) else model()
        own = pipeline_digest(pipe)
        place = drawing_digest(own, protocol.drawing)
        store.draw(place, pipe, protocol, counting(f"drawing with {name}"))
        about = origin(pipe)
        del pipe
        views = look(store, place, folder, protocol, backbones, counting(f"looking at {name}"))
        found[name] = Evaluated(about, own, place, figures_of(protocol, views, seen, texts))
    own_figures = figures_of(protocol, seen, None, texts)
    result = Evaluation(
        protocol, Evaluated(origin(base), sha256, folder, own_figures), found, names, shell.versions
    ).with_models(earlier)
    if directory is not None:
        result.save(directory)
    return result


def check_output(output: str | os.PathLike[str]) -> Path:
    """The output directory, where an evaluation may write it: new, empty, or of an evaluation.

    Raises:
        FileExistsError: it holds something else.
        NotADirectoryError: it, or what it would be in, is a file.
        PermissionError: it cannot be written.
        ValueError: it holds links.
    """
    path = Path(output)
    if path.is_dir():
        there = {each.name for each in path.iterdir() if not each.name.startswith(".")}
        if there and not there & {RESULT, IMAGES}:
            raise FileExistsError(
                f"output {path} holds something else than an evaluation; expected a new directory, or "
                "that of an earlier evaluation"
            )
        check_no_links(path)
    elif path.exists():
        raise NotADirectoryError(f"output {path} is a file; expected a directory")
    check_place(path)
    return path


def _place(directory: Path | None, images: str | os.PathLike[str] | None) -> Path | None:
    if images is not None:
        check_place(images)
        return Path(images)
    return None if directory is None else directory / IMAGES


def _earlier(directory: Path | None, own: Evaluation) -> Mapping[str, Evaluated]:
    """The models of the evaluation that the output directory holds."""
    if directory is None or not (directory / RESULT).exists():
        return {}
    other = read_evaluation(directory / RESULT)
    try:
        own.check_alike(other, f"output {directory}")
    except UnlikeError as error:
        raise UnlikeError(f"{error}; expected another --output") from None
    return other.models


def _check_classifier(protocol: Protocol, backbones: Backbones) -> None:
    network = backbones.classifier
    if network is None or "classifier" not in protocol.needs:
        return
    for each in protocol.sets:
        if each.role == "anchor":
            continue
        known = network.kinds.get(each.kind)
        if known is None:
            raise ValueError(
                f"classifier {network.name!r} knows {', '.join(network.kinds)}; the {each.role} "
                f"{each.concept!r} is of the kind {each.kind!r}"
            )
        if each.concept not in known:
            raise ValueError(
                f"classifier {network.name!r} does not know the {each.kind} {each.concept!r}; it knows "
                f"{', '.join(known)}"
            )


def _texts(protocol: Protocol, backbones: Backbones) -> dict[str, np.ndarray]:
    """The embeddings of the captions, where CLIP scores are asked for."""
    if backbones.clip is None or not {"clip_score", "clip_accuracy"} & set(protocol.metrics):
        return {}
    every = list(dict.fromkeys(t for each in protocol.sets for t in (each.caption, each.against) if t))
    return dict(zip(every, backbones.clip.embed_texts(every), strict=True))
