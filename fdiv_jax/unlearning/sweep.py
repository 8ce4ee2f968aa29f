"""Many runs in one call: divergences, anchors and seeds, side by side on the same batches.

Runs that share anchor and seed see the same batches, and the frozen model's outputs on a batch are computed
once for all of them. Runs that differ in their divergence alone share one compiled step. Every run is the one
that `unlearn` would make alone.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from fdiv_jax.checkpoints import atomic_file, clean_leftovers, model_digest
from fdiv_jax.files import check_no_links, read_text, refuse_links
from fdiv_jax.pipeline import TextToImagePipeline, load_pipeline
from fdiv_jax.unlearning._metrics import metrics_row
from fdiv_jax.unlearning._scores import kept_scores
from fdiv_jax.unlearning.config import UnlearningConfig
from fdiv_jax.unlearning.loop import train
from fdiv_jax.unlearning.losses import LossFamily
from fdiv_jax.unlearning.memory import check_memory
from fdiv_jax.unlearning.outcome import outcome_of
from fdiv_jax.unlearning.prepare import Cache, prepare, share_program
from fdiv_jax.unlearning.result import DivergedError, Row, check_output
from fdiv_jax.unlearning.run_directory import RunDirectory

__all__ = ["Cell", "Score", "cells_of", "sweep"]

Score = Callable[[TextToImagePipeline, UnlearningConfig], Mapping[str, float]]
"""Figures of an unlearned model, for the table."""

_SPAN = 10


@dataclass(frozen=True)
class Cell:
    """One run of a sweep: its name, which is its directory's, and its configuration."""

    name: str
    config: UnlearningConfig


def cells_of(
    base: UnlearningConfig,
    divergences: Sequence[str],
    *,
    anchors: Sequence[str] = (),
    seeds: Sequence[int] = (),
) -> tuple[Cell, ...]:
    """The runs of a sweep, divergences fastest.

    Args:
        base: what all share.
        divergences: each a name or a generator, with its loss in front of a colon where that is not the
            base's: `kl`, `exact:le_cam`, `variational:jensen_shannon`.
        anchors: by default the base's.
        seeds: by default the base's.

    Raises:
        ValueError: no divergence, the same run twice, or a configuration that is not valid.
    """
    if not divergences:
        raise ValueError("a sweep without divergences, expected at least one")
    cells = []
    for anchor in anchors or (base.anchor,):
        for seed in seeds or (base.seed,):
            for spec in divergences:
                family, _, name = spec.rpartition(":")
                config = dataclasses.replace(
                    base,
                    divergence=name,
                    loss=cast(LossFamily, family or base.loss),
                    anchor=anchor,
                    seed=seed,
                )
                cells.append(Cell(_name(config), config))
    configs = [cell.config for cell in cells]
    for cell in cells:
        if configs.count(cell.config) > 1:
            raise ValueError(
                f"the run {cell.name} is there twice; expected distinct divergences, anchors and seeds"
            )
    names = [cell.name for cell in cells]
    return tuple(
        Cell(f"{cell.name}-{_short_digest(cell.config)}", cell.config) if names.count(cell.name) > 1 else cell
        for cell in cells
    )


def _name(config: UnlearningConfig) -> str:
    words = [config.loss, config.divergence, _anchors(config), str(config.seed)]
    return "-".join(re.sub(r"[^\w.+]+", "_", word)[:40] for word in words)


def _anchors(config: UnlearningConfig) -> str:
    return "+".join(dict.fromkeys(each.anchor for each in config.erasures))


def _short_digest(config: UnlearningConfig) -> str:
    """Tells apart runs whose names differ only in characters that file names cannot have."""
    return hashlib.sha256(json.dumps([config.divergence, _anchors(config)]).encode()).hexdigest()[:8]


def sweep(
    pipe: TextToImagePipeline,
    cells: Sequence[Cell],
    output: str | os.PathLike[str],
    *,
    score: Score | None = None,
    progress: bool = True,
    cache: Cache = None,
    resume: bool = False,
) -> list[Row]:
    """Make the runs of a sweep that are not made yet, and write table.csv and table.json.

    Args:
        pipe: the model.
        cells: the runs; see `cells_of`.
        output: a directory, with a run directory for each cell, written whole or not at all.
        score: figures of every unlearned model for the table, kept as scores.json in its directory.
        progress: show a progress bar.
        cache: of the anchor images, as for `unlearn`.
        resume: go on with a sweep that is there; finished cells stay as they are.

    Returns:
        One row per cell: its name, divergence, loss, anchor and seed, the mean loss and m of the last steps,
        and
        its scores; `warning` where m did not fall; or `diverged`, why it was stopped (it is tried again when
        the sweep is resumed).

    Raises:
        ValueError: what does not fit the model, before any work; or a finished cell of another configuration.
        FileExistsError: the output is in use, and not to be resumed.
        NotADirectoryError: it, or what it would be in, is a file.
    """
    place = Path(output)
    model = model_digest(pipe.components)
    prepared = {cell.name: prepare(pipe, cell.config, model=model) for cell in cells}
    check_output(place, resume=resume)
    check_no_links(place)
    clean_leftovers(place)
    made = {cell.name for cell in cells if (place / cell.name / "pipeline").is_dir()}
    for cell in cells:
        if cell.name in made:
            with RunDirectory.open(place / cell.name, prepared[cell.name].description(), resume=True):
                pass  # refuses another configuration
    diverged: dict[str, str] = {}
    groups: dict[tuple[object, ...], list[Cell]] = {}
    for cell in cells:
        if cell.name not in made:
            alike = dataclasses.replace(
                cell.config, divergence="kl", loss="closed", normalise_curvature=False
            )
            groups.setdefault((alike, cell.config.method), []).append(cell)
    shared = [share_program([prepared[cell.name] for cell in group]) for group in groups.values()]
    for runs in shared:
        check_memory(runs)
    for group, runs in zip(groups.values(), shared, strict=True):
        none = [None] * len(group)
        lost: dict[int, DivergedError] = {}
        results = iter(train(runs, none, [() for _ in group], progress, cache, diverged=lost))
        for number, cell in enumerate(group):
            if number in lost:
                diverged[cell.name] = str(lost[number])
            else:
                next(results).save(place / cell.name)
    rows = [
        {**_settings(cell), "diverged": diverged[cell.name]}
        if cell.name in diverged
        else _row(cell, place / cell.name, score)
        for cell in cells
    ]
    _write_table(rows, place)
    return rows


def _row(cell: Cell, place: Path, score: Score | None) -> Row:
    metrics = place / "metrics.jsonl"
    lines = list(enumerate(read_text(metrics, limit=1 << 30).splitlines(), 1))
    every = [metrics_row(line, f"{metrics}, line {number}") for number, line in lines]
    last = every[-_SPAN:]
    row: Row = {
        **_settings(cell),
        "final_loss": float(np.mean([each["loss"] for each in last])) if last else None,
        "final_m": float(np.mean([each["m"] for each in last])) if last else None,
    }
    columns = {name: np.array([each[name] for each in every]) for name in ("m", "warmup", "skipped")}
    outcome = outcome_of(columns, cell.config.learning_rate)
    if outcome is not None and outcome.warning:
        row["warning"] = outcome.warning
    if score is None:
        return row

    def make() -> Mapping[str, float]:
        return score(load_pipeline(place / "pipeline"), cell.config)

    return {**row, **kept_scores(place, make, within=place.parent)}


def _settings(cell: Cell) -> Row:
    config = cell.config
    return {
        "name": cell.name,
        "divergence": config.divergence,
        "loss": config.loss,
        "anchor": _anchors(config),
        "seed": config.seed,
    }


def _write_table(rows: Sequence[Row], place: Path) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    for file, content in (("table.csv", text.getvalue()), ("table.json", json.dumps(rows, indent=2) + "\n")):
        refuse_links(place / file, place)
        with atomic_file(place / file, overwrite=True) as temporary:
            temporary.write_text(content)
