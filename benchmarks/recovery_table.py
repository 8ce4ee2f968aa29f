"""How far benign fine-tuning brings concepts of `fashion` back, predicted and measured, by method and target.

    python -m benchmarks.recovery_table        # takes the models of benchmarks.attack_table where they are

Predicted from products at the unlearned model alone (`fdiv_jax.evaluation.attacks.predict_recovery`), and
measured by the same fine-tuning with several seeds; the distance is that to the frozen model at the concept's
prompts. Writes benchmarks/results/recovery_table.json and .md; the models and every row, as it is finished,
stay in the work directory.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import tyro
from scipy.stats import spearmanr

import fdiv_jax as fj
from benchmarks.attack_table import BenchmarkConfig as AttackConfig
from benchmarks.attack_table import unlearned
from benchmarks.tables import write_table
from fdiv_jax.evaluation.attacks import Case, Recovery, measure_recovery, predict_recovery
from fdiv_jax.files import JsonObject, keep_programs
from fdiv_jax.unlearning import AnchorImagesConfig
from fdiv_jax.worlds import load_judge
from fdiv_jax.worlds.attack_material import judge_recogniser, real_images, real_images_without

LEVELS = (0.9, 0.75)
"""The shares of the initial distance to which the steps are counted."""


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig(AttackConfig):
    """Settings of the benchmark."""

    at: tuple[int, ...] = (5, 10, 20, 40, 70, 100)
    """The numbers of steps after which the models are compared."""
    batches: int = 300
    """Of which the gradient is averaged."""
    drawn: int = 48
    """Images at the concept's prompts at which the predictions are compared."""
    output: Path = Path("benchmarks/results/recovery_table.json")


def row(pipe: fj.TextToImagePipeline, target: str, name: str, settings: BenchmarkConfig) -> JsonObject:
    """One model, predicted and measured; kept in the work directory."""
    kept = settings.work / "recovery" / f"{target}-{'_'.join(name.split())}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    case = Case(
        unlearned(pipe, target, name, settings),
        target,
        pipe.concepts[target].prompts,
        real_images(target, settings.images),
        judge_recogniser(load_judge(), target),
        real_images_without([target], 3 * settings.images),
    )
    drawn = AnchorImagesConfig(number=settings.drawn, steps=12, guidance=3.0, seed=1)
    predicted = predict_recovery(pipe, case, at=settings.at, batches=settings.batches, images=drawn)
    runs = [
        measure_recovery(pipe, dataclasses.replace(case, seed=seed), at=settings.at, images=drawn)
        for seed in settings.seeds
    ]
    found = {
        "target": target,
        "method": name,
        "at": list(settings.at),
        "start": predicted.m[0],
        "predicted": list(predicted.left),
        "measured": [list(run.left) for run in runs],
    }
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(found))
    return found


def mean_recovery(found: JsonObject) -> Recovery:
    """The mean over the seeds, as shares."""
    return Recovery((0, *found["at"]), tuple(np.mean(found["measured"], 0).tolist()))


def with_steps(found: JsonObject) -> JsonObject:
    """A row with the steps to each level; None: after more steps than were looked at."""
    predicted = Recovery((0, *found["at"]), tuple(found["predicted"]))
    measured = mean_recovery(found)
    steps = {str(level): [each.steps_to(level) for each in (predicted, measured)] for level in LEVELS}
    return {**found, "steps_to": steps}


def summary(rows: list[JsonObject]) -> JsonObject:
    """How many of the steps are predicted: within 25 %, or rightly as more than were looked at."""
    found: JsonObject = {}
    for level in map(str, LEVELS):
        pairs = [each["steps_to"][level] for each in rows]
        both = [(a, b) for a, b in pairs if a is not None and b is not None]
        found[level] = {
            "pairs": len(pairs),
            "both_within": len(both),
            "within_25_percent": sum(abs(a / b - 1) <= 0.25 for a, b in both),
            "both_beyond": sum(a is None and b is None for a, b in pairs),
        }
    ends = [(each["predicted"][-1], mean_recovery(each).m[-1]) for each in rows]
    found["end_largest_difference"] = max(abs(a - b) for a, b in ends)
    found["end_rank_correlation"] = float(spearmanr(ends).statistic) if len(ends) > 2 else None
    return found


def markdown(results: JsonObject) -> str:
    """The table as text."""
    told = ", ".join(f"{key} {value}" for key, value in results["settings"].items())
    last = results["settings"]["at"][-1]
    head = ["target", "method", "initial m", f"left after {last} steps: predicted", "measured (spread)"]
    for level in LEVELS:
        head += [f"steps to {level}: predicted", "measured"]
    lines = [f"Settings: {told}.", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for each in results["rows"]:
        ends = [run[-1] for run in each["measured"]]
        spread = np.std(ends, ddof=1) if len(ends) > 1 else 0.0
        cells = [each["target"], each["method"], f"{each['start']:.3f}", f"{each['predicted'][-1]:.2f}"]
        cells.append(f"{np.mean(ends):.2f} ({spread:.2f})")
        for level in LEVELS:
            cells += [f"> {last}" if n is None else f"{n:.0f}" for n in each["steps_to"][str(level)]]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    for level in map(str, LEVELS):
        s = results["summary"][level]
        near, both = s["within_25_percent"], s["both_within"]
        lines.append(
            f"Steps to {level}: {near} of {both} within 25 %; {s['both_beyond']} of {s['pairs']} rightly "
            f"predicted to take more than {last}."
        )
    rank, largest = (results["summary"][f"end_{name}"] for name in ("rank_correlation", "largest_difference"))
    ranked = "" if rank is None else f"rank correlation {rank:.2f}, "
    lines.append(f"Left after {last} steps: {ranked}largest difference {largest:.2f}.")
    return "\n".join(lines) + "\n"


def main(settings: BenchmarkConfig) -> None:
    """Run, and write what is there after every row."""
    keep_programs()
    pipe = fj.load_pipeline("fashion")
    chosen = {name: getattr(settings, name) for name in ("at", "batches", "drawn", "steps", "batch")}
    rows: list[JsonObject] = []
    for target in settings.targets:
        for name in settings.methods:
            rows.append(with_steps(row(pipe, target, name, settings)))
            results: JsonObject = {
                "settings": {**chosen, "seeds": len(settings.seeds)},
                "rows": rows,
                "summary": summary(rows),
            }
            write_table(settings.output, results, markdown(results))
    print(markdown(results))


if __name__ == "__main__":
    main(tyro.cli(BenchmarkConfig))
