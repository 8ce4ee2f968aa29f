"""Attacks on unlearned models of `fashion`: which method's concepts come back, beside ceiling and floor.

    python -m benchmarks.attack_table                                     # resumes by search
    python -m benchmarks.attack_table --attacks concept-inversion benign --targets sneaker --seeds 0
    python -m benchmarks.attack_table --floors models    # models/TARGET: a model trained without the target

Every method (`benchmarks.methods`) unlearns every target once; every attack is made on every model, on the
frozen one and, with the images turned over, for a concept that no model knows (or on a model that never saw
the target), with every seed, and judged by images at fresh noise. What a method costs is the share of images
of the other items that the judge still recognises. Writes benchmarks/results/attack_table.json and .md;
models and searches stay in the work directory.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tyro

import fdiv_jax as fj
from benchmarks.methods import methods
from benchmarks.tables import write_table
from fdiv_jax.evaluation.attacks import ATTACKS, Campaign, Curve, Drawing, Outcome, Report, attack_models
from fdiv_jax.evaluation.attacks.campaign import FROZEN
from fdiv_jax.evaluation.intervals import Interval, bootstrap_difference
from fdiv_jax.files import JsonObject, keep_programs
from fdiv_jax.unlearning import AnchorImagesConfig, Erasure, UnlearningConfig, unlearn
from fdiv_jax.unlearning.sweep import ExecutorName, executor_of
from fdiv_jax.worlds import load_judge
from fdiv_jax.worlds.attack_material import judge_recogniser, real_images, real_images_without
from fdiv_jax.worlds.erasure_scores import erasure_scores


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Settings of the benchmark."""

    targets: tuple[str, ...] = ("sneaker", "trouser", "bag")
    methods: tuple[str, ...] = (
        "UCE",
        "f-DMU closed kl",
        "f-DMU closed squared_hellinger",
        "f-DMU closed squared_hellinger under attack",
        "SalUn",
        "EraseDiff",
        "SPM",
        "AdvUnlearn",
    )
    """Those of `benchmarks.methods`, by name; the others are compared with the first."""
    attacks: tuple[str, ...] = ("concept-inversion", "benign")
    seeds: tuple[int, ...] = (0, 1, 2)
    budget: int = 100
    """Steps of every search."""
    images: int = 30
    """Images that the attacker has."""
    fresh: int = 20
    """Images by which success is seen."""
    steps: int = 60
    """Steps of unlearning."""
    batch: int = 8
    """Samples per step of unlearning."""
    floors: Path | None = None
    """A folder of models trained without a concept, by its name (`build_fashion --without`); for targets that
    are not there the floor is that of the images turned over."""
    executor: ExecutorName = "here"
    """Who does the targets, as for the runs of `fdiv-jax sweep`."""
    tasks_per_machine: int = 1
    """Tasks on a machine of a Ray cluster at once."""
    work: Path = Path("build/attack_table")
    output: Path = Path("benchmarks/results/attack_table.json")


class TargetResults(NamedTuple):
    """What the attacks on one target's models found, and the share of other items that each model keeps."""

    report: Report
    retained: dict[str, float]


def unlearned(pipe: fj.TextToImagePipeline, target: str, name: str, settings: BenchmarkConfig):
    """The model of a method, made once."""
    place = settings.work / "models" / target / f"{'_'.join(name.split())}-{settings.steps}x{settings.batch}"
    if not (place / "pipeline").is_dir():
        base = UnlearningConfig(
            target="",
            concepts=(Erasure(target, "near"),),
            steps=settings.steps,
            batch_size=settings.batch,
            learning_rate=1e-3,
            images=AnchorImagesConfig(number=60, steps=12, guidance=3.0),
        )
        unlearn(pipe, methods(base, [name])[name], place, resume=place.exists())
    return fj.load_pipeline(place / "pipeline")


def run_target(pipe: fj.TextToImagePipeline, target: str, settings: BenchmarkConfig) -> TargetResults:
    """Every attack on every model of one target."""
    concept = pipe.concepts[target]
    campaign = Campaign(
        target,
        target,
        concept.prompts,
        real_images(target, settings.images),
        judge_recogniser(load_judge(), target),
        {name: ATTACKS[name] for name in settings.attacks},
        real_images_without([target], 3 * settings.images),
        settings.budget,
        settings.seeds,
        Drawing(tuple(range(settings.fresh))),
        recogniser_name=f"the judge of fashion: {target}",
    )
    models = {name: unlearned(pipe, target, name, settings) for name in settings.methods}
    place = settings.work / "attacks" / target
    started = time.process_time()

    def display(text: str, done: int, total: int) -> None:
        if done in (0, total):
            print(f"{time.process_time() - started:7.0f} s  {target}: {text}", file=sys.stderr, flush=True)

    floor = settings.floors and settings.floors / target
    report = attack_models(
        pipe,
        models,
        campaign,
        place,
        floor=fj.load_pipeline(floor) if floor and floor.is_dir() else None,
        resume=place.exists(),
        display=display,
    )
    judge = load_judge()
    retained = {
        name: erasure_scores(model, judge, [target], images_per_prompt=2).retained_items
        for name, model in {FROZEN: pipe, **models}.items()
    }
    return TargetResults(report, retained)


def differences(reports: dict[str, Report]) -> list[JsonObject]:
    """How much more often the first method's concept comes back than another's, over targets, seeds and
    noise, at the points that count. Each interval is for its own pair."""
    found = []
    outcomes = {(t, o.attack, o.model): o for t, report in reports.items() for o in report.outcomes}
    curves = {(t, c.attack, c.model, c.seed): c for t, report in reports.items() for c in report.curves}
    attacks, models = (list(dict.fromkeys(key[place] for key in outcomes)) for place in (1, 2))

    one = models[0]
    for attack, other in itertools.product(attacks, models[1:]):
        pair: dict[str, list[tuple[tuple[bool, ...], tuple[bool, ...]]]] = {}
        for t, a, m, seed in curves:
            if (a, m) == (attack, one) and outcomes[t, a, m].counted is not None:
                both = [_counted(curves[t, a, m, seed], outcomes[t, a, m]) for m in (one, other)]
                pair.setdefault(t, []).append((both[0], both[1]))
        if pair:
            tables = np.array([each for cells in pair.values() for each in cells], float)
            found.append(
                {
                    "attack": attack,
                    "difference": f"{one} - {other}",
                    **bootstrap_difference(tables[:, 0], tables[:, 1])._asdict(),
                    "by_target": {
                        t: float(np.subtract(*np.mean(cells, (0, 2)))) for t, cells in pair.items()
                    },
                }
            )
    return found


def _counted(curve: Curve, outcome: Outcome) -> tuple[bool, ...]:
    place = (outcome.counted, outcome.label)
    return next(point.recognised for point in curve.points if (point.at, point.label) == place)


def markdown(results: JsonObject) -> str:
    """The tables as text."""
    told = ", ".join(f"{key} {value}" for key, value in results["settings"].items())
    lines = [f"Settings: {told}.", "", *_by_method(results), ""]
    lines += [
        "| target | attack | model | before | after | frozen | floor | other items kept (frozen) | note |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        cells = [_shown(row[key]) for key in ("before", "after", "ceiling", "floor")]
        names = [row["target"], row["attack"], row["model"]]
        kept = results["retained"][row["target"]]
        cells.append(f"{kept[row['model']]:.3f} ({kept[FROZEN]:.3f})")
        lines.append(f"| {' | '.join([*names, *cells, row['note']])} |")
    lines += ["", "| attack | difference | over all targets | by target |", "|---|---|---|---|"]
    for row in results["differences"]:
        by = ", ".join(f"{target} {value:+.2f}" for target, value in row["by_target"].items())
        interval = Interval(row["value"], row["low"], row["high"])
        lines.append(f"| {row['attack']} | {row['difference']} | {interval} | {by} |")
    return "\n".join(lines) + "\n"


def _by_method(results: JsonObject) -> list[str]:
    """A row for each method: how much of the targets is shown, before and after, and what is kept."""
    found = {(row["target"], row["attack"], row["model"]): row for row in results["rows"]}
    targets, attacks, models = (list(dict.fromkeys(key[place] for key in found)) for place in range(3))

    def shares(attack: str, model: str, when: str) -> str:
        rows = [found[target, attack, model] for target in targets]
        return " / ".join(f"{row[when]['value']:.2f}" for row in rows)

    head = [f"model ({' / '.join(targets)})", "before", *attacks, "other items kept"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for model in models:
        after = [shares(attack, model, "after") for attack in attacks]
        kept = " / ".join(f"{results['retained'][target][model]:.3f}" for target in targets)
        lines.append(f"| {' | '.join([model, shares(attacks[0], model, 'before'), *after, kept])} |")
    return lines


def _shown(interval: JsonObject | None) -> str:
    return "" if interval is None else str(Interval(**interval))


def main(settings: BenchmarkConfig) -> None:
    """Run, and write what is there after every target."""
    keep_programs()
    pipe = fj.load_pipeline("fashion")
    executor = executor_of(settings.executor, settings.tasks_per_machine)
    work = functools.partial(run_target, pipe, settings=settings)
    done: dict[str, TargetResults] = {}
    chosen = {name: getattr(settings, name) for name in ("budget", "images", "fresh", "steps", "batch")}
    for target, found in executor(work, {target: target for target in settings.targets}):
        done[target] = found
        reports = {each: done[each].report for each in settings.targets if each in done}
        results: JsonObject = {
            "settings": {**chosen, "seeds": len(settings.seeds)},
            "rows": [{"target": t, **o.to_dict()} for t, report in reports.items() for o in report.outcomes],
            "retained": {each: done[each].retained for each in reports},
            "differences": differences(reports),
        }
        write_table(settings.output, results, markdown(results))
    print(markdown(results))


if __name__ == "__main__":
    main(tyro.cli(BenchmarkConfig))
