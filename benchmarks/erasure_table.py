"""Every method on the world `fashion`: what is erased, what is kept, mean and spread over seeds.

    python -m benchmarks.erasure_table                   # all tasks; resumes by run
    python -m benchmarks.erasure_table --tasks item      # item, style, three, sequence
    python -m benchmarks.erasure_table --tasks item --only RECE SPEED --output some.json

All methods see the same anchor and retained prompts, draw their images from the same frozen model and are
judged alike; `benchmarks.methods` says what keeps the retained prompts. Writes
benchmarks/results/erasure_table.json and .md; the runs themselves stay in the work directory.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from pathlib import Path
from typing import Literal

from jax.typing import ArrayLike

from fdiv_jax.files import JsonObject

if "XLA_FLAGS" not in os.environ:  # one device per core: JAX reads this when it starts
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={min(os.cpu_count() or 1, 8)}"

import numpy as np
import tyro

import fdiv_jax as fj
from benchmarks.methods import methods
from benchmarks.tables import write_table
from fdiv_jax.unlearning import AnchorImagesConfig, Erasure, UnlearningConfig
from fdiv_jax.unlearning.sequence import unlearn_sequence
from fdiv_jax.unlearning.sweep import Cell, ExecutorName, executor_of, sweep
from fdiv_jax.worlds import ITEM_NAMES, load_judge
from fdiv_jax.worlds.erasure_scores import concept_scores, erasure_scores, targets_of

Task = Literal["item", "style", "three", "sequence"]
TASKS: dict[str, tuple[Erasure, ...]] = {
    "item": (Erasure("sneaker", "near"),),
    "style": (Erasure("sketch", "near"),),
    "three": (Erasure("sneaker", "near"), Erasure("shirt", "near"), Erasure("coat", "near")),
    "sequence": tuple(Erasure(name, "superclass") for name in ITEM_NAMES if name != "bag"),
}
IN_SEQUENCE = (
    "f-DMU closed kl",
    "f-DMU closed squared_hellinger",
    "f-DMU closed pearson_chi2",
    "UCE",
    "RECE",
    "SPEED",
)
FIGURES = ("target_accuracy", "retained_items", "retained_styles")


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Settings of the benchmark."""

    tasks: tuple[Task, ...] = ("item", "style", "three", "sequence")
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 60
    """Steps of every method that takes any."""
    batch: int = 8
    """Samples per step."""
    images: int = 2
    """Images per prompt for the scores."""
    only: tuple[str, ...] = ()
    """Methods to run, by the names in the table; empty: all of them."""
    executor: ExecutorName = "here"
    """Who makes the runs of a task, as for `fdiv-jax sweep`; a sequence is made here."""
    tasks_per_machine: int = 1
    """Tasks on a machine of a Ray cluster at once."""
    work: Path = Path("build/erasure_table")
    output: Path = Path("benchmarks/results/erasure_table.json")


def base_config(task: str, settings: BenchmarkConfig) -> UnlearningConfig:
    """What all methods share, with seed 0."""
    return UnlearningConfig(
        target="",
        concepts=TASKS[task],
        steps=settings.steps,
        batch_size=settings.batch,
        learning_rate=1e-3,
        devices="all",
        images=AnchorImagesConfig(number=153, steps=12, guidance=3.0),
    )


def run_task(task: str, settings: BenchmarkConfig) -> list[JsonObject]:
    """One row per method: mean and standard deviation of each figure over the seeds."""
    pipe, judge = fj.load_pipeline("fashion"), load_judge()

    def score(model: fj.TextToImagePipeline, config: UnlearningConfig) -> dict[str, float]:
        found = erasure_scores(model, judge, targets_of(config), images_per_prompt=settings.images)
        return found._asdict()

    chosen = methods(base_config(task, settings), settings.only)
    named = {name: "_".join(name.split()) for name in chosen}
    cells = [
        Cell(f"{named[name]}-{seed}", dataclasses.replace(config, seed=seed))
        for seed in settings.seeds
        for name, config in chosen.items()
    ]
    executor = executor_of(settings.executor, settings.tasks_per_machine)
    made = sweep(pipe, cells, settings.work / task, score=score, resume=True, executor=executor)
    rows = {row["name"]: row for row in made}
    frozen = score(pipe, next(iter(chosen.values())))
    table: list[JsonObject] = [
        {"task": task, "method": "(frozen)", **{k: {"mean": v, "spread": 0.0} for k, v in frozen.items()}}
    ]
    for name in chosen:
        runs = [rows[f"{named[name]}-{seed}"] for seed in settings.seeds]
        lost = [run["diverged"] for run in runs if "diverged" in run]
        figures = (
            {"diverged": lost[0]} if lost else {k: _over_seeds([run[k] for run in runs]) for k in FIGURES}
        )
        table.append({"task": task, "method": name, **figures})
    return table


def run_sequence(settings: BenchmarkConfig) -> list[JsonObject]:
    """Nine items erased one after the other, by method: the retention matrix, and the figures at its end."""
    pipe, judge = fj.load_pipeline("fashion"), load_judge()
    score = functools.partial(concept_scores, judge=judge, images_per_prompt=settings.images)
    rows, chosen = [], methods(base_config("sequence", settings), settings.only)
    erased = [each.target for each in TASKS["sequence"]]
    for name in (name for name in IN_SEQUENCE if name in chosen):
        matrices = []
        for seed in settings.seeds:
            place = settings.work / "sequence" / f"{'_'.join(name.split())}-{seed}"
            stages = dataclasses.replace(chosen[name], seed=seed)
            matrices.append(unlearn_sequence(pipe, stages, place, score, resume=place.exists())[1])
        concepts = list(matrices[0].concepts)
        scores = np.array([matrix.scores for matrix in matrices])  # seed, stage, concept
        parts = (
            erased,
            [item for item in ITEM_NAMES if item not in erased],
            [each for each in concepts if each not in ITEM_NAMES],
        )
        figures = {
            figure: scores[:, :, [concepts.index(each) for each in part]].mean(2)  # seed, stage
            for figure, part in zip(FIGURES, parts, strict=True)
        }
        if not rows:
            rows.append({"method": "(frozen)", **{k: _over_seeds(v[:, 0]) for k, v in figures.items()}})
        rows.append(
            {
                "method": name,
                **{k: _over_seeds(v[:, -1]) for k, v in figures.items()},
                "erased": erased,
                "concepts": concepts,
                "scores": _over_seeds(scores),
            }
        )
    return rows


def _over_seeds(values: ArrayLike) -> JsonObject:
    """Mean and spread, the standard deviation with n - 1 in the denominator (0 for a single seed)."""
    values = np.asarray(values)
    spread = values.std(0, ddof=1) if len(values) > 1 else np.zeros_like(values[0])
    return {"mean": values.mean(0).tolist(), "spread": spread.tolist()}


def markdown(results: JsonObject) -> str:
    """The tables as text."""
    lines = []
    for task, result in results.items():
        told = ", ".join(f"{key} {value}" for key, value in result["settings"].items())
        pairs = ", ".join(f"{each.target} -> {each.anchor}" for each in TASKS[task])
        lines += [f"## {task}: {pairs}", "", f"{told}", ""]
        lines += ["| method | target | retained items | retained styles |", "|---|---|---|---|"]
        for row in result["rows"]:
            if "diverged" in row:
                lines.append(f"| {row['method']} | diverged: {row['diverged']} | | |")
                continue
            cells = [f"{row[key]['mean']:.3f} ± {row[key]['spread']:.3f}" for key in FIGURES]
            lines.append(f"| {row['method']} | {' | '.join(cells)} |")
        lines.append("")
        for row in result["rows"]:
            if "scores" not in row:
                continue
            lines += [f"### After each erasure: {row['method']} (means)", ""]
            lines += ["| after erasing | " + " | ".join(row["concepts"]) + " |"]
            lines += ["|---" * (len(row["concepts"]) + 1) + "|"]
            for stage, scores in zip(("(frozen)", *row["erased"]), row["scores"]["mean"], strict=True):
                lines.append(f"| {stage} | " + " | ".join(f"{value:.2f}" for value in scores) + " |")
            lines.append("")
    return "\n".join(lines)


def main(settings: BenchmarkConfig) -> None:
    """Run, and write what is there after every task."""
    results: JsonObject = {}
    if settings.output.exists():
        results = json.loads(settings.output.read_text())
    chosen = {name: getattr(settings, name) for name in ("seeds", "steps", "batch", "images")}
    for task in settings.tasks:
        rows = run_sequence(settings) if task == "sequence" else run_task(task, settings)
        results[task] = {"settings": {**chosen, "seeds": len(settings.seeds)}, "rows": rows}
        write_table(settings.output, results, markdown(results))
        print(markdown({task: results[task]}))


if __name__ == "__main__":
    main(tyro.cli(BenchmarkConfig))
