"""Every method on the world `fashion`: what is erased, what is kept, mean and spread over seeds.

    python -m benchmarks.erasure_table                   # all tasks; resumes by run
    python -m benchmarks.erasure_table --tasks item      # item, style, three, sequence
    python -m benchmarks.erasure_table --tasks item --only RECE SPEED --output some.json

All methods see the same anchor and retained prompts, draw their images from the same frozen model and are
judged alike. What keeps the retained prompts: for formulas and ESD a share of each batch; for concept
ablation, AdvUnlearn and everything with a critic a squared error there (a critic that sees predictions in
bulk hardly tells which prompt has moved); for SalUn and EraseDiff the noise's error there; for SPM an error
at random text features; for UCE and RECE their preservation weight, for SPEED its constraint. Writes
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
from fdiv_jax.unlearning import (
    AdversaryConfig,
    AnchorImagesConfig,
    CriticConfig,
    EditConfig,
    Erasure,
    LoraConfig,
    OptimiserConfig,
    PreservationConfig,
    SaliencyConfig,
    UnlearningConfig,
)
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


def methods(task: str, settings: BenchmarkConfig) -> dict[str, UnlearningConfig]:
    """Every method's configuration, by name, with seed 0."""
    base = UnlearningConfig(
        target="",
        concepts=TASKS[task],
        steps=settings.steps,
        batch_size=settings.batch,
        learning_rate=1e-3,
        devices="all",
        images=AnchorImagesConfig(number=153, steps=12, guidance=3.0),
    )
    held = {"retained_share": 0.0, "preservation": PreservationConfig(weight=10.0, at="retained")}
    critic = CriticConfig(learning_rate=1e-3, warmup=settings.steps, steps=3)
    game = {"loss": "variational", "critic": critic, **held}
    negative = tuple(dataclasses.replace(each, anchor="negative") for each in TASKS[task])
    rows: dict[str, JsonObject] = {
        **{
            f"f-DMU closed {name}": {"divergence": name}
            for name in ("kl", "squared_hellinger", "pearson_chi2", "jeffreys")
        },
        **{
            f"f-DMU exact {name}": {"divergence": name, "loss": "exact"}
            for name in ("jensen_shannon", "le_cam", "total_variation")
        },
        **{
            f"f-DMU variational {name}": {"divergence": name, **game}
            for name in ("kl", "squared_hellinger", "jensen_shannon", "pearson_chi2")
        },
        "concept ablation": {"divergence": "kl", "reference": "current", **held},
        "ESD-x": {"divergence": "kl", "concepts": negative, "trainable": r"\.attn2\.", **_at_target(base)},
        "ESD-u": {
            "divergence": "kl",
            "concepts": negative,
            "trainable": r"^(?!.*\.attn2\.)",
            "learning_rate": 1e-4,
            **_at_target(base),
        },
        "DoCo": {
            "divergence": "jensen_shannon",
            **game,
            "critic": dataclasses.replace(critic, sees="x0", generator="non-saturating"),
            "optimiser": OptimiserConfig(clip_norm=1.0),
        },
        "UCE": {"method": "edit"},
        "RECE": {"method": "edit", "edit": EditConfig("rece")},
        "SPEED": {"method": "edit", "trainable": r"\.attn2\.to_v\.", "edit": EditConfig("speed", ridge=1.0)},
        "refinement": {"method": "edit", "edit": EditConfig("refinement")},
        "SalUn": {
            **_pseudo_label(base),
            "trainable": "full",
            "saliency": SaliencyConfig(share=0.5),
            "preservation": PreservationConfig(1.0, "retained", "noise", surgery=False),
        },
        "EraseDiff": {
            **_pseudo_label(base),
            "trainable": r"^(?!.*(\.attn2\.|time_embedding|conv_norm_out|conv_out))",
            "preservation": PreservationConfig(1.0, "retained", "noise", surgery=False, balance=0.1),
        },
        "SPM": {
            "divergence": "kl",
            "concepts": negative,
            "trainable": r"\.attentions\.\d+\.",
            "lora": LoraConfig(rank=1, alpha=1.0),
            "preservation": PreservationConfig(10.0, "random", surgery=False),
            "retained_share": 0.0,
            **_at_target(base),
        },
        "AdvUnlearn": {
            "divergence": "kl",
            "concepts": negative,
            "trainable": r"\.attn2\.",
            "adversary": AdversaryConfig(5, "token", radius=3.0, after=settings.steps // 5),
            "preservation": PreservationConfig(10.0, "retained", surgery=False),
            "retained_share": 0.0,
            **_at_target(base),
        },
        "f-DMU closed squared_hellinger under attack": {"adversary": AdversaryConfig(5)},
    }
    unknown = sorted(set(settings.only) - set(rows))
    if unknown:
        raise ValueError(f"only {', '.join(unknown)}: no such method; expected some of {', '.join(rows)}")
    rows = {name: changes for name, changes in rows.items() if not settings.only or name in settings.only}
    return {name: dataclasses.replace(base, **changes) for name, changes in rows.items()}


def _pseudo_label(base: UnlearningConfig) -> JsonObject:
    """The current model at the anchor prompt is the label of images of the target; all weights may learn."""
    label = {"divergence": "kl", "reference": "current", "retained_share": 0.0, "learning_rate": 1e-4}
    return {**label, **_at_target(base)}


def _at_target(base: UnlearningConfig) -> JsonObject:
    return {"images": dataclasses.replace(base.images, at="target")}


def run_task(task: str, settings: BenchmarkConfig) -> list[JsonObject]:
    """One row per method: mean and standard deviation of each figure over the seeds."""
    pipe, judge = fj.load_pipeline("fashion"), load_judge()

    def score(model: fj.TextToImagePipeline, config: UnlearningConfig) -> dict[str, float]:
        found = erasure_scores(model, judge, targets_of(config), images_per_prompt=settings.images)
        return found._asdict()

    chosen = methods(task, settings)
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
    rows, chosen = [], methods("sequence", settings)
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
        settings.output.parent.mkdir(parents=True, exist_ok=True)
        settings.output.write_text(json.dumps(results, indent=2) + "\n")
        settings.output.with_suffix(".md").write_text(markdown(results))
        print(markdown({task: results[task]}))


if __name__ == "__main__":
    main(tyro.cli(BenchmarkConfig))
