"""The setting that the frozen model advises against an exhaustive sweep, by steps to the goal."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fdiv_jax import theory
from fdiv_jax.arrays import Parameters
from fdiv_jax.divergences import divergence
from fdiv_jax.files import JsonObject
from fdiv_jax.unlearning import (
    Batch,
    LinearisedRun,
    OptimiserConfig,
    Plan,
    TrainState,
    make_optimiser,
    make_reference,
    make_step,
    share_program,
)
from fdiv_jax.unlearning.advice import DIVERGENCES, advise, steps_to
from fdiv_jax.unlearning.step import References
from fdiv_jax.worlds import ITEM_NAMES

from ..descents import AtVariance
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
        batch, images, held_out: samples per step, images drawn for them, and for m.
        samples, depth: of the advice's look at the frozen model.
    """

    targets: tuple[str, ...] = ITEM_NAMES
    divergences: tuple[str, ...] = DIVERGENCES
    sigmas: tuple[float, ...] = (0.5, 1.0)
    steps: tuple[float, ...] = tuple(0.6 * 1.4**n for n in range(8))
    goal: float = 0.3
    limit: int = 20
    batch: int = 8
    images: int = 20
    held_out: int = 16
    samples: int = 16
    depth: int = 4


FULL = Work()
QUICK = Work(("sneaker",), ("kl", "squared_hellinger"), (1.0,), (1.0, 3.0), 0.8, 6, 4, 5, 4, 4, 2)


class Arena:
    """Runs of one target on the same batches, at any divergence, sigma and learning rate."""

    def __init__(self, laboratory: Laboratory, work: Work, target: str):
        shelf = laboratory.shelf / "anchors"
        config = laboratory.plain(
            target, batch=work.batch, images=work.images, optimiser=OptimiserConfig(name="sgd")
        )
        self.work, self.prepared = work, laboratory.prepare(config)
        self.data = self.prepared.data(shelf)
        cells = [
            laboratory.prepare(replace(config, divergence=name, loss="exact")) for name in work.divergences
        ]
        cells = share_program(cells)
        self._frozen = {cell.config.divergence: cell.frozen for cell in cells}
        self._look, self._step = _programs(cells[0].plan)
        self._root = jax.random.split(jax.random.key(config.seed))[1]
        images = replace(config.images, number=work.held_out, seed=config.images.seed + 1)
        others = laboratory.prepare(replace(config, images=images)).data(shelf)
        held_out = others.batch(config.seed + 1, 0, work.held_out)
        key = jax.random.fold_in(self._root, work.limit)
        self._held_out = LinearisedRun(self.prepared, [held_out], key=key)
        self._seen_by: dict[int, tuple[Batch, jax.Array, References]] = {}
        self.m0 = float(self._held_out.outputs().m.mean())

    def _seen(self, number: int) -> tuple[Batch, jax.Array, References]:
        """The batch of a step, its key, and the frozen model's outputs, which all runs share."""
        if number not in self._seen_by:
            batch = self.data.batch(self.prepared.config.seed, number, self.work.batch)
            key = jax.random.fold_in(self._root, number)
            self._seen_by[number] = batch, key, self._look(self.prepared.frozen, batch, key)
        return self._seen_by[number]

    def run(self, name: str, sigma: float, rate: float, most: float) -> tuple[float, int]:
        """Steps until m on the held-out images is at the goal, infinite where more than `most` are needed;
        and how many steps were taken."""
        frozen, curve, goal = self._frozen[name], [self.m0], self.work.goal * self.m0
        trained = self.prepared.plan.trainable.initial(frozen, jax.random.key(0))
        for number in range(int(min(np.ceil(most), self.work.limit))):
            trained = self._step(trained, frozen, *self._seen(number), sigma**2, rate)
            curve.append(float(self._held_out.outputs(trained).m.mean()))
            if not curve[-1] < 4 * self.m0 or curve[-1] <= goal:
                break
        steps = steps_to(np.array(curve), goal)
        return (steps if steps <= most else np.inf), len(curve) - 1


@functools.lru_cache(maxsize=2)
def _programs(plan: Plan) -> tuple[Callable[..., References], Callable[..., Parameters]]:
    """The frozen model's outputs, and the training step at any sigma^2 and learning rate; compiled once for
    all targets."""

    def step(trained, frozen, batch, key, reference, variance, rate):
        at = replace(plan, loss=AtVariance(plan.loss.at(frozen.choice), variance))
        state = TrainState(
            jnp.zeros((), jnp.int32), trained, make_optimiser(plan.optimiser, rate).init(trained)
        )
        return make_step(at)(state, frozen, batch, reference, key)[0].trained

    return jax.jit(make_reference(plan)), jax.jit(step)


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
    """Steps of the advised run of one target, and of every run of the sweep."""
    arena = Arena(laboratory, work, target)
    best = advise(
        arena.prepared,
        arena.data,
        goal=work.goal,
        divergences=work.divergences,
        limit=work.limit,
        samples=work.samples,
        depth=work.depth,
    ).best
    advised = (best.divergence, best.sigma, best.learning_rate)
    steps, taken = arena.run(*advised, np.inf)
    rows = [_row(target, "advised", advised, arena.m0, steps)]
    speed, fastest = rows[0]["speed"], steps

    def distance(row: Row) -> float:
        return abs(np.log(row["speed"] / speed))

    # Likely ones first: none needs to go on for longer than the fastest so far.
    sweep = [_row(target, "sweep", setting, arena.m0, np.inf) for setting in _settings(work, arena.m0)]
    for row in sorted(sweep, key=distance):
        row["steps"], more = arena.run(row["divergence"], row["sigma"], row["learning_rate"], fastest)
        fastest, taken = min(fastest, row["steps"]), taken + more
        rows.append(row)
    return {"predicted_steps": best.steps, "steps_taken": taken, "runs": rows}


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
    """The advised run of a target beside the fastest of all."""
    advised, *sweep = found["runs"]
    fastest = min(sweep, key=lambda row: row["steps"])
    fastest = min(advised, fastest, key=lambda row: row["steps"])
    shown = ("divergence", "sigma_over_root_m0", "learning_rate", "speed", "steps")
    return {
        "target": advised["target"],
        "ratio": advised["steps"] / fastest["steps"] if np.isfinite(advised["steps"]) else np.inf,
        "predicted_steps": found["predicted_steps"],
        "advised": {key: advised[key] for key in shown},
        "fastest": {key: fastest[key] for key in shown},
    }


def _figure(work: Work, verdicts: list[Row], cells: list[Row]) -> Figure:
    """Steps over those of the fastest run: the advised one, and the best of the sweep in each divergence."""
    figure, axis = panels(1, 1, width=COLUMN, height=0.9 + 0.24 * len(verdicts))
    for place, (verdict, found) in enumerate(zip(verdicts, cells, strict=True)):
        fastest = verdict["fastest"]["steps"]
        for name in work.divergences:
            own = [row["steps"] for row in found["runs"][1:] if row["divergence"] == name]
            if own and np.isfinite(min(own)):
                look = {**line_style(name), "linestyle": "none", "fillstyle": "none"}
                axis.plot(min(own) / fastest, place, **look, markersize=3.5)
        if np.isfinite(verdict["ratio"]):
            axis.plot(verdict["ratio"], place, "|", color=INK, markersize=11, label="advised")
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
    ratios = [verdict["ratio"] for verdict in verdicts]
    number = len(cells[0]["runs"]) - 1
    context.figure(
        "advice",
        _figure(work, verdicts, cells),
        shows=f"Steps of plain descent until m on held-out images is {work.goal:g} of its first value, over "
        "those of the fastest run: at the divergence, sigma and learning rate that the frozen model advises "
        f"(bar), and the fastest of each divergence in a sweep of {number} settings that knows nothing of "
        "it. Between whole steps by geometric interpolation; a run is given up once it is slower than "
        "the fastest before it, so a divergence without a mark was never the fastest yet. Dotted: 1.15.",
        rows=[
            {**row, "steps": row["steps"] if np.isfinite(row["steps"]) else ""}
            for found in cells
            for row in found["runs"]
        ],
    )
    return {
        "advice_worst_ratio_of_steps": _plain(max(ratios)),
        "advice_targets_within_1.15": int(np.sum(np.array(ratios) <= 1.15)),
        "advice_by_target": [_plain(verdict) for verdict in verdicts],
    }


def _plain(value: Any) -> Any:
    """The value with None for what is infinite: a goal that is not reached."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and not np.isfinite(value) else value
