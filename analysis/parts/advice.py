"""The setting that the frozen model advises against an exhaustive sweep, by steps to the goal."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from fdiv_jax import theory
from fdiv_jax.divergences import divergence
from fdiv_jax.files import JsonObject
from fdiv_jax.unlearning import LinearisedRun, OptimiserConfig
from fdiv_jax.unlearning.advice import DIVERGENCES, advise
from fdiv_jax.unlearning.first_steps import Course, FirstSteps
from fdiv_jax.worlds import ITEM_NAMES

from ..files import Row
from ..style import COLUMN, INK, legend_below, line_style, panels
from ..trials import Laboratory

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..runner import Context

__all__ = ["run"]


class Work(NamedTuple):
    """How much is done.

    Attributes:
        targets: that are erased.
        divergences: of the sweep and of the advice.
        sigmas: in units of the root of the first m.
        steps: learning rate x w_f(m0 / sigma^2) / sigma^2, what a kl run of sigma 1 would have as rate.
        goal: the share of the first m that is to be left.
        limit: the most steps of any run.
        batch, images: samples per step, and images drawn for them.
        held_out, part: images that tell m, and how many at a time.
        samples, depth: of the advice's look at the frozen model; as many samples tell m in its race.
        runs: of the race.
    """

    targets: tuple[str, ...] = ITEM_NAMES
    divergences: tuple[str, ...] = DIVERGENCES
    sigmas: tuple[float, ...] = (0.5, 1.0)
    steps: tuple[float, ...] = tuple(0.6 * 1.4**n for n in range(8))
    goal: float = 0.3
    limit: int = 20
    batch: int = 8
    images: int = 20
    held_out: int = 80
    part: int = 16
    samples: int = 48
    depth: int = 6
    runs: int = 28


FULL = Work()
QUICK = Work(("sneaker",), ("kl", "squared_hellinger"), (1.0,), (1.0, 3.0), 0.8, 6, 4, 5, 5, 5, 4, 2, 4)


class Arena:
    """Runs of one target on the same batches, at any divergence, sigma and learning rate; m is that of images
    which neither the runs nor the advice see."""

    def __init__(self, laboratory: Laboratory, work: Work, target: str):
        shelf = laboratory.shelf / "anchors"
        config = laboratory.plain(
            target, batch=work.batch, images=work.images, optimiser=OptimiserConfig(name="sgd")
        )
        self.work, self.prepared = work, laboratory.prepare(config)
        self.data = self.prepared.data(shelf)
        images = replace(config.images, number=work.held_out, seed=config.images.seed + 1)
        others = laboratory.prepare(replace(config, images=images)).data(shelf)
        batches, pairs = others.everything(work.part)
        held_out = LinearisedRun(self.prepared, batches, config.seed + 2)
        self._first_steps = FirstSteps(
            self.prepared,
            self.data,
            work.divergences,
            lambda trained: held_out.outputs(trained).m[pairs >= 0].mean(keepdims=True),
        )
        self.m0 = self._first_steps.start

    def run(self, name: str, sigma: float, rate: float, most: float) -> tuple[float, int]:
        """Steps until m on the held-out images is at the goal, infinite where more than `most` are needed;
        and how many steps were taken."""
        start = np.array([self.m0])
        setting = Course(name, sigma, rate, np.inf, start, start)
        found, _ = self._first_steps.run(setting, self.work.goal * self.m0, min(most, self.work.limit))
        return found.steps, len(found.m) - 1


def _settings(work: Work, m0: float) -> list[tuple[str, float, float]]:
    """Divergence, sigma and learning rate of every run of the sweep.

    Where w_f(m) is constant, all sigmas and all such f give the same runs; they are made once.
    """
    found: dict[tuple[object, ...], tuple[str, float, float]] = {}
    constant = {name for name in work.divergences if theory.weight_distance("kl", name) < 1e-9}
    for name, width, step in product(work.divergences, work.sigmas, work.steps):
        sigma = width * m0**0.5
        weight = float(divergence(name).gaussian_weight(jnp.float32(m0 / sigma**2)))
        run = ("kl", step) if name in constant else (name, width, step)
        found.setdefault(run, (name, sigma, step * sigma**2 / weight))
    return list(found.values())


def _measure(laboratory: Laboratory, work: Work, target: str) -> JsonObject:
    """Steps of the advised run of one target, of the run that the tangent alone advises, and of every run of
    the sweep."""
    arena = Arena(laboratory, work, target)
    advice = advise(
        arena.prepared,
        arena.data,
        goal=work.goal,
        divergences=work.divergences,
        limit=work.limit,
        samples=work.samples,
        depth=work.depth,
        runs=work.runs,
        cache=laboratory.shelf / "anchors",
    )
    rows, taken, fastest = [], 0, np.inf
    for kind, course in (("advised", advice.best), ("predicted", advice.predicted[0])):
        setting = (course.divergence, course.sigma, course.learning_rate)
        steps, _ = arena.run(*setting, np.inf)
        rows.append(_row(target, kind, setting, arena.m0, steps))
        fastest = min(fastest, steps)
    speed = rows[0]["speed"]

    def distance(row: Row) -> float:
        return abs(np.log(row["speed"] / speed))

    # Likely ones first: none needs to go on for longer than the fastest so far.
    sweep = [_row(target, "sweep", setting, arena.m0, np.inf) for setting in _settings(work, arena.m0)]
    for row in sorted(sweep, key=distance):
        row["steps"], more = arena.run(row["divergence"], row["sigma"], row["learning_rate"], fastest)
        fastest, taken = min(fastest, row["steps"]), taken + more
        rows.append(row)
    return {
        "predicted_steps": advice.predicted[0].steps,
        "tried_steps": advice.best.steps,
        "steps_of_the_race": sum(len(each.m) - 1 for each in advice.tried),
        "steps_of_the_sweep": taken,
        "runs": rows,
    }


def _row(target: str, kind: str, setting: tuple[str, float, float], m0: float, steps: float) -> JsonObject:
    """A run; its speed is the learning rate of the kl run of sigma 1 that begins in the same way."""
    name, sigma, rate = setting
    weight = float(divergence(name).gaussian_weight(jnp.float32(m0 / sigma**2)))
    return {
        "target": target,
        "kind": kind,
        "divergence": name,
        "sigma_over_root_m0": sigma / m0**0.5,
        "sigma": sigma,
        "learning_rate": rate,
        "speed": rate * weight / sigma**2,
        "steps": steps,
    }


def _verdict(found: JsonObject) -> JsonObject:
    """The advised runs of a target beside the fastest of all."""
    advised, predicted, *_ = found["runs"]
    fastest = min(found["runs"], key=lambda row: row["steps"])
    shown = ("divergence", "sigma_over_root_m0", "learning_rate", "speed", "steps")
    counts = ("predicted_steps", "tried_steps", "steps_of_the_race", "steps_of_the_sweep")
    return {
        "target": advised["target"],
        "ratio": _over(advised, fastest),
        "ratio_as_predicted": _over(predicted, fastest),
        **{key: found[key] for key in counts},
        "advised": {key: advised[key] for key in shown},
        "predicted": {key: predicted[key] for key in shown},
        "fastest": {key: fastest[key] for key in shown},
    }


def _over(row: Row, fastest: Row) -> float:
    return row["steps"] / fastest["steps"] if np.isfinite(row["steps"]) else np.inf


def _figure(work: Work, verdicts: list[Row], cells: list[Row]) -> Figure:
    """Steps over those of the fastest run: the advised one, and the best of the sweep in each divergence."""
    figure, axis = panels(1, 1, width=COLUMN, height=0.9 + 0.24 * len(verdicts))
    for place, (verdict, found) in enumerate(zip(verdicts, cells, strict=True)):
        fastest = verdict["fastest"]["steps"]
        for name in work.divergences:
            own = [row["steps"] for row in found["runs"][2:] if row["divergence"] == name]
            if own and np.isfinite(min(own)):
                look = {**line_style(name), "linestyle": "none", "fillstyle": "none"}
                axis.plot(min(own) / fastest, place, **look, markersize=3.5)
        for ratio, mark, label in (
            (verdict["ratio"], "|", "advised"),
            (verdict["ratio_as_predicted"], "x", "by the tangent alone"),
        ):
            if np.isfinite(ratio):
                size = 11 if mark == "|" else 5
                axis.plot(ratio, place, mark, color=INK, markersize=size, label=label)
    axis.axvline(1.15, color=INK, linewidth=0.7, linestyle=":")
    axis.set(xlabel="steps, over those of the fastest run", yticks=range(len(verdicts)))
    axis.set_yticklabels([verdict["target"] for verdict in verdicts])
    axis.set_ylim(len(verdicts) - 0.4, -0.6)
    legend_below(figure, np.array([axis]), columns=2)
    return figure


def run(context: Context) -> JsonObject:
    """Ask for advice on every target, follow it, and try everything else."""
    laboratory, work = Laboratory.open(context), QUICK if context.quick else FULL
    cells = context.cells(work.targets, "targets", lambda target: _measure(laboratory, work, target))
    verdicts = [_verdict(found) for found in cells]
    ratios, predicted = (
        np.array([verdict[key] for verdict in verdicts]) for key in ("ratio", "ratio_as_predicted")
    )
    number = len(cells[0]["runs"]) - 2
    context.figure(
        "advice",
        _figure(work, verdicts, cells),
        shows=f"Steps of plain descent until m on held-out images is {work.goal:g} of its first value, over "
        "those of the fastest run: at the divergence, sigma and learning rate that is advised (bar: after a "
        f"race of at most {work.runs} runs that see other images; cross: by the tangent at the frozen model "
        f"alone), and the fastest of each divergence in a sweep of {number} settings that knows nothing of "
        "it. Between whole steps by geometric interpolation; a run is given up once it is slower than the "
        "fastest before it, so a divergence without a mark was never the fastest yet. Dotted: 1.15.",
        rows=[
            {**row, "steps": row["steps"] if np.isfinite(row["steps"]) else ""}
            for found in cells
            for row in found["runs"]
        ],
    )
    return {
        "advice_worst_ratio_of_steps": _plain(float(ratios.max())),
        "advice_targets_within_1.15": int(np.sum(ratios <= 1.15)),
        "advice_by_tangent_worst_ratio_of_steps": _plain(float(predicted.max())),
        "advice_by_tangent_targets_within_1.15": int(np.sum(predicted <= 1.15)),
        "advice_by_target": [_plain(verdict) for verdict in verdicts],
    }


def _plain(value: Any) -> Any:
    """The value with None for what is infinite: a goal that is not reached."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and not np.isfinite(value) else value
