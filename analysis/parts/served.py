"""Who is served first: the distribution of m over held-out samples, at equal mean m."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import LogLocator, NullLocator
from scipy.optimize import brentq

from fdiv_jax.files import JsonObject
from fdiv_jax.theory import served_first
from fdiv_jax.unlearning import OptimiserConfig, UnlearningConfig

from ..descents import Curves, Descents
from ..files import Row
from ..style import INK, PAGE, legend_below, line_style, panel_letters, panels
from ..trials import Laboratory

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..runner import Context

__all__ = ["run"]

NAMES = ("squared_hellinger", "kl", "pearson_chi2")
RATE = 0.04
CLIP = 1.0
"""The learning rate in units of sigma^2, and the largest norm of the gradient in units of 1/sigma."""
STATISTICS = {"median": "median", "percentile_90": "90th percentile", "maximum": "maximum"}
ORDERS = {
    "median": NAMES,
    "percentile_90": ("pearson_chi2", "kl"),
    "maximum": ("pearson_chi2", "kl", "squared_hellinger"),
}
"""The statistics, and in which order theory expects them, from the smallest."""
LEVEL = 0.5
"""The share of m0 at which the runs are compared."""


@dataclass(frozen=True)
class Work:
    """How much is done.

    Attributes:
        targets, seeds: of the runs.
        start: the mean m before any step; sigma^2 is chosen for it.
        steps, looks: of a run, and when m is measured.
        batch, images, held_out: samples of a step, images drawn for training, and samples held out.
    """

    targets: tuple[str, ...] = ("sneaker", "dress", "bag")
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    start: float = 4.0
    steps: int = 12
    looks: tuple[int, ...] = (0, 3, 5, 7, 9, 12)
    batch: int = 8
    images: int = 60
    held_out: int = 24


FULL = Work()
QUICK = Work(("sneaker",), (0, 1), steps=3, looks=(0, 1, 2, 3), batch=4, images=5, held_out=8)


def made(descents: Descents, work: Work, target: str, seed: int) -> dict[str, Curves]:
    """The runs of the three divergences on the same batches.

    All steps have one length (the gradient is scaled down to a small norm): only directions differ, and
    pearson_chi2, whose gradient is e^m times as large on the farthest samples, can be run at all.
    """

    def config(name: str, sigma2: float) -> UnlearningConfig:
        return descents.config(
            name,
            sigma2=sigma2,
            rate=RATE,
            steps=work.steps,
            seed=seed,
            target=target,
            optimiser=OptimiserConfig(name="sgd", clip_norm=CLIP / float(np.sqrt(sigma2))),
        )

    sigma2 = round(float(descents.start(config("kl", 1.0)).mean()) / work.start, 3)
    configs = [config(name, sigma2) for name in NAMES]
    return dict(zip(NAMES, descents.together(configs, work.looks), strict=True))


def at_mean(run: Curves, mean: float) -> np.ndarray | None:
    """m of every sample where their mean first comes down to a value, (samples,); None where it never does.

    Between two looks m is interpolated geometrically.
    """
    means = run.m.mean(1)
    below = np.flatnonzero(means <= mean)
    if run.diverged or not below.size:
        return None
    after = int(below[0])
    if after == 0:
        return run.m[0]
    before, end = np.log(run.m[after - 1]), np.log(run.m[after])

    def at(share: float) -> np.ndarray:
        return np.exp(before + share * (end - before))

    share: Any = brentq(lambda share: float(at(share).mean()) - mean, 0.0, 1.0, xtol=1e-12)
    return at(share)


def statistics(m: np.ndarray) -> dict[str, float]:
    """Median, 90th percentile and maximum."""
    return {
        "median": float(np.median(m)),
        "percentile_90": float(np.percentile(m, 90)),
        "maximum": float(m.max()),
    }


def _compared(runs: dict[str, Curves], target: str, seed: int) -> list[Row]:
    """The statistics of each run at equal mean m, and those that the theory says; none for a run that never
    comes down to it."""
    start = runs["kl"].m[0]
    mean = LEVEL * float(start.mean())
    rows = []
    for name, said in zip(NAMES, served_first(NAMES, start, mean), strict=True):
        found = at_mean(runs[name], mean)
        row: Row = {"target": target, "seed": seed, "divergence": name, "m0": float(start.mean())}
        row |= {f"predicted_{key}": value for key, value in statistics(said.m).items()}
        row |= {key: np.nan if found is None else statistics(found)[key] for key in STATISTICS}
        rows.append(row)
    return rows


def _share(rows: list[Row], key: str, order: tuple[str, ...], among: str = "") -> float:
    """The share of runs in which a statistic is in this order; nan, of a run that did not arrive, is not."""
    runs: dict[tuple[str, int], dict[str, float]] = {}
    for row in rows:
        if among in ("", row["target"]):
            runs.setdefault((row["target"], row["seed"]), {})[row["divergence"]] = row[key]
    return float(np.mean([all(run[a] < run[b] for a, b in pairwise(order)) for run in runs.values()]))


def _figure(rows: list[Row]) -> Figure:
    """Each statistic over that of kl: measured, a mark for each seed, and predicted, a bar."""
    figure, axes = panels(1, 3, width=PAGE, height=2.5)
    targets = list(dict.fromkeys(row["target"] for row in rows))
    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    values = {(row["target"], row["seed"], row["divergence"]): row for row in rows}
    for axis, key in zip(axes, STATISTICS, strict=True):
        for side, name in ((-0.2, "squared_hellinger"), (0.2, "pearson_chi2")):
            look = dict(line_style(name), linestyle="none")
            for place, target in enumerate(targets):
                spread = side + 0.12 * np.linspace(-1, 1, len(seeds)) if len(seeds) > 1 else np.array([side])
                ratios = {
                    kind: [
                        values[target, seed, name][kind] / values[target, seed, "kl"][kind] for seed in seeds
                    ]
                    for kind in (key, f"predicted_{key}")
                }
                axis.plot(place + spread, ratios[key], **dict(look, label=None if place else look["label"]))
                ends = [place + side - 0.17, place + side + 0.17]
                axis.plot(ends, [ratios[f"predicted_{key}"][0]] * 2, color=look["color"])
        axis.axhline(1.0, color=INK, linewidth=0.6, zorder=1)
        axis.set(yscale="log", title=STATISTICS[key], xticks=range(len(targets)), xticklabels=targets)
        axis.set(xlim=(-0.5, len(targets) - 0.5))
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_locator(NullLocator())
    axes[0].set(ylabel="over that of KL")
    panel_letters(axes)
    legend_below(figure, axes)
    return figure


def run(context: Context) -> JsonObject:
    """Make the runs, and compare the distributions of m where their mean is the same."""
    laboratory, work = Laboratory.open(context), QUICK if context.quick else FULL
    descents = Descents(laboratory, images=work.images, held_out=work.held_out, batch=work.batch)
    listed = [(target, seed) for target in work.targets for seed in work.seeds]
    rows = [
        row
        for target, seed in context.progress(listed, "runs of three divergences")
        for row in _compared(made(descents, work, target, seed), target, seed)
    ]
    measured = {key: _share(rows, key, order) for key, order in ORDERS.items()}
    predicted = {key: _share(rows, f"predicted_{key}", order) for key, order in ORDERS.items()}
    starts = [row["m0"] for row in rows]
    context.figure(
        "served",
        _figure(rows),
        shows=f"Who is served first: statistics of m over {work.held_out} held-out samples where their mean "
        f"has come down to {LEVEL:g} m0, m0 = {min(starts):.2g} to {max(starts):.2g}, over those of kl. A "
        "mark for each seed; bars: what `served_first` says from the m of the frozen model, with equal "
        f"kernels. Median squared_hellinger < kl < chi2 in {measured['median']:.0%} of {len(listed)} runs, "
        f"90th percentile chi2 < kl in {measured['percentile_90']:.0%}, maximum chi2 < kl < hellinger in "
        f"{measured['maximum']:.0%}. All steps have one length (clipped gradient), as pearson_chi2 has no "
        "stable step here.",
        rows=[{key: "" if value != value else value for key, value in row.items()} for row in rows],
    )
    return {
        "served_median_order_share": measured["median"],
        "served_percentile_order_share": measured["percentile_90"],
        "served_maximum_order_share": measured["maximum"],
        "served_predicted_shares": predicted,
        "served_by_target": {
            target: {key: _share(rows, key, order, target) for key, order in ORDERS.items()}
            for target in work.targets
        },
        "served_runs": len(listed),
        "served_not_arrived": sum(row["median"] != row["median"] for row in rows),
    }
