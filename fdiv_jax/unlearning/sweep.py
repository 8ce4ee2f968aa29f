"""Many runs in one call: divergences, anchors and seeds, side by side on the same batches.

Runs that share anchor and seed see the same batches, and the frozen model's outputs on a batch are computed
once for all of them. Runs that differ in their divergence alone share one compiled step. Every run is the one
that `unlearn` would make alone.
"""

from __future__ import annotations

import contextlib
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
from typing import Literal, cast

import numpy as np

from fdiv_jax.checkpoints import atomic_file, clean_leftovers, model_digest
from fdiv_jax.distributed.tasks import Executor, RayExecutor, here
from fdiv_jax.files import check_no_links, read_text, refuse_links
from fdiv_jax.pipeline import TextToImagePipeline, load_pipeline
from fdiv_jax.terminal import Console
from fdiv_jax.unlearning._metrics import metrics_row
from fdiv_jax.unlearning._scores import kept_scores
from fdiv_jax.unlearning.config import UnlearningConfig
from fdiv_jax.unlearning.loop import train
from fdiv_jax.unlearning.losses import LossFamily
from fdiv_jax.unlearning.memory import check_memory
from fdiv_jax.unlearning.outcome import outcome_of
from fdiv_jax.unlearning.preemption import Preempted
from fdiv_jax.unlearning.prepare import Cache, prepare, share_program
from fdiv_jax.unlearning.result import DivergedError, Row, check_output
from fdiv_jax.unlearning.run_directory import RunDirectory

__all__ = ["Cell", "ExecutorName", "Score", "cells_of", "executor_of", "sweep"]

Score = Callable[[TextToImagePipeline, UnlearningConfig], Mapping[str, float]]
"""Figures of an unlearned model, for the table."""

ExecutorName = Literal["here", "ray"]

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


def executor_of(name: ExecutorName, tasks_per_machine: int = 1) -> Executor:
    """What makes runs: this process, or a Ray cluster, see `RayExecutor`; a worker that is asked to end, as
    SIGTERM does, hands its runs to another."""
    return here if name == "here" else RayExecutor(tasks_per_machine, again=(Preempted,))


def sweep(
    pipe: TextToImagePipeline,
    cells: Sequence[Cell],
    output: str | os.PathLike[str],
    *,
    score: Score | None = None,
    progress: bool = True,
    cache: Cache = None,
    resume: bool = False,
    executor: Executor = here,
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
        executor: how the runs are made; those of one anchor and seed, which share their batches, together.
            With `RayExecutor` by the machines of a cluster, which must all see `output`.

    Returns:
        One row per cell: its name, divergence, loss, anchor and seed, the mean loss and m of the last steps,
        its scores, and `warning` where m did not fall; or `diverged`, why it was stopped (it is tried again
        when the sweep is resumed).

    Raises:
        ValueError: what does not fit the model, before any work; or a finished cell of another configuration.
        FileExistsError: the output is in use, and not to be resumed.
        NotADirectoryError: it, or what it would be in, is a file.
        FileNotFoundError: the executor's machines do not see the output.
    """
    place = Path(output)
    model = model_digest(pipe.components)
    prepared = {cell.name: prepare(pipe, cell.config, model=model) for cell in cells}
    check_output(place, resume=resume)
    check_no_links(place)
    clean_leftovers(place)
    left = []
    for cell in cells:
        if not _is_made(cell, place):
            left.append(cell)
        else:
            with RunDirectory.open(place / cell.name, prepared[cell.name].description(), resume=True):
                pass  # refuses another configuration
    kept = cache if cache in (None, False) else Path(cache).absolute()
    elsewhere = executor is not here
    work = _Work(pipe, model, place.absolute(), score, progress and not elsewhere, kept, elsewhere)
    groups = _groups(left)
    if not elsewhere:  # before any work; other machines have memory of their own
        for group in groups.values():
            check_memory(share_program([prepared[cell.name] for cell in group]))
    diverged: dict[str, str] = {}
    done = 0
    waiting = contextlib.nullcontext(lambda _: None)  # runs that are made here show their own steps
    if progress and elsewhere:
        waiting = Console(stderr=True).waiting(f"0 of {len(left)} runs done")
    with waiting as tell:
        for name, lost in executor(work, groups):
            diverged |= lost
            done += len(groups[name])
            tell(f"{done} of {len(left)} runs done")
    clean_leftovers(place)
    for cell in left:
        if cell.name not in diverged and not _is_made(cell, place):
            raise FileNotFoundError(
                f"{cell.name} is made, but not in {place}; expected an output that all machines see"
            )
    rows = [
        {**_settings(cell), "diverged": diverged[cell.name]}
        if cell.name in diverged
        else _row(cell, place / cell.name, score)
        for cell in cells
    ]
    _write_table(rows, place)
    return rows


def _is_made(cell: Cell, place: Path) -> bool:
    return (place / cell.name / "pipeline").is_dir()


def _groups(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """The cells that see the same batches, by the name of the first."""
    groups: dict[tuple[object, ...], list[Cell]] = {}
    for cell in cells:
        alike = dataclasses.replace(cell.config, divergence="kl", loss="closed", normalise_curvature=False)
        groups.setdefault((alike, cell.config.method), []).append(cell)
    return {group[0].name: group for group in groups.values()}


@dataclass(frozen=True)
class _Work:
    """What is done with cells that see the same batches: their runs, and their scores.

    Whoever does it may have died and left some of the cells finished; these stay.
    """

    pipe: TextToImagePipeline
    model: str
    place: Path
    score: Score | None
    progress: bool
    cache: Cache
    checks_memory: bool

    def __call__(self, cells: Sequence[Cell]) -> dict[str, str]:
        """Why runs diverged, by the names of their cells."""
        left = [cell for cell in cells if not _is_made(cell, self.place)]
        lost: dict[int, DivergedError] = {}
        if left:
            runs = share_program([prepare(self.pipe, cell.config, model=self.model) for cell in left])
            if self.checks_memory:
                check_memory(runs)
            none = [None] * len(left)
            results = iter(train(runs, none, [() for _ in left], self.progress, self.cache, diverged=lost))
            for number, cell in enumerate(left):
                if number not in lost:
                    next(results).save(self.place / cell.name)
        diverged = {left[number].name: str(error) for number, error in lost.items()}
        for cell in cells:
            if self.score is not None and cell.name not in diverged:
                _row(cell, self.place / cell.name, self.score)  # which keeps the scores
        return diverged


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
