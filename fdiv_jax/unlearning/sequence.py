"""Concepts erased one after the other, each from the last result, and what is left of all of them."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
from flax import nnx

from fdiv_jax.checkpoints import atomic_file
from fdiv_jax.files import check_no_links, refuse_links
from fdiv_jax.pipeline import TextToImagePipeline, load_pipeline
from fdiv_jax.unlearning._scores import kept_scores
from fdiv_jax.unlearning.concepts import resolve_retained
from fdiv_jax.unlearning.config import UnlearningConfig
from fdiv_jax.unlearning.library import known_concepts
from fdiv_jax.unlearning.loop import unlearn
from fdiv_jax.unlearning.observer import Observer
from fdiv_jax.unlearning.prepare import Cache, prepare
from fdiv_jax.unlearning.result import check_output
from fdiv_jax.unlearning.run_directory import RunDirectory

__all__ = ["RetentionMatrix", "unlearn_sequence"]

ConceptScores = Callable[[TextToImagePipeline], Mapping[str, float]]
"""How well a model still draws each concept: a figure by concept."""

Watching = Callable[[TextToImagePipeline, UnlearningConfig], Callable[[Path], Sequence[Observer]]]
"""Who watches the run of a model and a configuration."""


@dataclass(frozen=True)
class RetentionMatrix:
    """Every concept's score after every erasure.

    Attributes:
        erased: the concepts in the order of their erasure; row 0 of `scores` is before the first.
        concepts: the columns.
        scores: rows of erasures (and one more) by concepts.
    """

    erased: tuple[str, ...]
    concepts: tuple[str, ...]
    scores: tuple[tuple[float, ...], ...]

    def to_csv(self) -> str:
        """One line per stage: what was erased, then every concept's score."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["erased", *self.concepts])
        for name, row in zip(("(frozen)", *self.erased), self.scores, strict=True):
            writer.writerow([name, *row])
        return text.getvalue()


def unlearn_sequence(
    pipe: TextToImagePipeline,
    config: UnlearningConfig,
    output: str | os.PathLike[str],
    score: ConceptScores | None,
    *,
    progress: bool = True,
    cache: Cache = None,
    resume: bool = False,
    checkpoint_every: int = 100,
    observers: Watching | None = None,
    allow_changes: bool = False,
    takeover: bool = False,
) -> tuple[TextToImagePipeline, RetentionMatrix]:
    """Erase the concepts of a configuration one after the other.

    Every stage is a run of `unlearn` on the result of the one before; what was erased earlier is no longer
    among the retained prompts.

    Args:
        pipe: the model.
        config: of all stages; its `erasures` are the stages.
        output: a directory: 01-NAME, 02-NAME, ..., each a run directory, and retention.csv.
        score: every concept's figure for a model; kept as scores.json in a stage's directory. None: no
            scores.
        progress, cache, checkpoint_every, allow_changes, takeover: as for `unlearn`, of every stage.
        resume: go on with a sequence that is there.
        observers: given a stage's model and configuration, what `unlearn` takes as `observers`.

    Returns:
        The last model, and the matrix.

    Raises:
        ValueError: what does not fit the model, of any stage, before any work; or a finished stage of another
            configuration or model.
        FileExistsError: the output is in use, and not to be resumed.
        NotADirectoryError: it, or what it would be in, is a file.
    """
    place, current = Path(output), pipe
    concepts = known_concepts(pipe.concepts, config.defined)
    names = [each.target for each in config.erasures]
    stages = []
    for k, each in enumerate(config.erasures):
        gone = names[: k + 1]
        retained = resolve_retained(concepts, gone, config.retained)
        stage = dataclasses.replace(
            config,
            target=each.target,
            anchor=each.anchor,
            prompts=each.prompts,
            concepts=(),
            retained=retained,
            retained_share=config.retained_share if config.reference == "frozen" else 0.0,
            seed=config.seed + k,
        )
        prepare(pipe, stage, model="")
        if observers is not None:
            observers(pipe, stage)  # what it refuses, it refuses before any work
        stages.append(stage)
    check_output(place, resume=resume)
    check_no_links(place)
    rows = [_scores(place / "00-frozen", lambda: pipe, score)]
    for k, stage in enumerate(stages):
        word = re.sub(r"[^\w.+]+", "_", stage.target)[:40]
        directory = place / f"{k + 1:02d}-{word}"
        if (directory / "pipeline").is_dir():
            asked = prepare(current, stage).description()
            with RunDirectory.open(
                directory, asked, resume=True, takeover=takeover, allow_changes=allow_changes
            ):
                pass  # refuses another configuration or model
            current = _with_networks(pipe, directory / "pipeline")
        else:
            current = unlearn(
                current,
                stage,
                directory,
                progress=progress,
                cache=cache,
                resume=resume and directory.exists(),
                checkpoint_every=checkpoint_every,
                observers=None if observers is None else observers(current, stage),
                allow_changes=allow_changes,
                takeover=takeover,
            ).pipeline
        model = current
        rows.append(_scores(directory, lambda model=model: model, score))
    columns = tuple(rows[0])
    for name, row in zip(names, rows[1:], strict=True):
        if set(row) != set(columns):
            raise ValueError(
                f"output {place}: the scores of the stage {name!r} are of {', '.join(row)}, those of the "
                f"frozen model of {', '.join(columns)}; remove the scores.json that was changed"
            )
    matrix = RetentionMatrix(tuple(names), columns, tuple(tuple(row[c] for c in columns) for row in rows))
    refuse_links(place / "retention.csv", place)
    with atomic_file(place / "retention.csv", overwrite=True) as temporary:
        temporary.write_text(matrix.to_csv())
    return current, matrix


def _scores(
    directory: Path, model: Callable[[], TextToImagePipeline], score: ConceptScores | None
) -> dict[str, float]:
    return {} if score is None else kept_scores(directory, lambda: score(model()), within=directory.parent)


def _with_networks(pipe: TextToImagePipeline, directory: Path) -> TextToImagePipeline:
    """The pipeline with the parameters that a stage wrote. All else is the object's own, as if the stage had
    just ended: a tokenizer that was written and read is written otherwise than before."""
    stored = load_pipeline(directory)
    networks = {}
    for name, network in pipe.components.items():
        graph, own = nnx.split(network)
        read = nnx.state(stored.components[name])
        networks[name] = nnx.merge(graph, jax.tree.map(lambda a, b: b.astype(a.dtype), own, read))
    return pipe.replace(**networks)
