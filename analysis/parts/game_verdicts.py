"""The min-max game over seeds: the claims about it, and the order of nine divergences, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import exp
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from fdiv_jax.divergences import divergence
from fdiv_jax.files import JsonMapping, JsonObject

from ..claims import PARTS_OF
from ..rank_correlations import spearman
from ..style import INK, label, legend_below, line_style, log_ticks, panel_letters, panels
from ..trials import TARGET, Laboratory
from ..verdict_page import GAME, Gathered, difference, tell
from ..verdict_runs import FULL, QUICK, SETTINGS, Bench
from ..verdicts import interval, level_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..runner import Context

__all__ = ["run"]

Heights = Mapping[str, np.ndarray]
"""Divergence -> the mean of log m over a game, held out; one value for every seed."""


def run(context: Context) -> JsonObject:
    """Play the games of every seed, then decide."""
    laboratory, work = Laboratory.open(context), QUICK if context.quick else FULL
    bench = Bench(laboratory, work)
    cells = context.cells(range(work.game_seeds), "games", bench.games)
    names = [*cells[0]["m"]]
    heights: Heights = {
        name: np.array([np.mean(np.log(cell["m"][name][1:])) for cell in cells]) for name in names
    }
    gathered = Gathered()
    for part in PARTS_OF["C7"]:
        ahead, behind = part.name.split(" before ")
        for value in heights[ahead] - heights[behind]:
            gathered.add("C7", part.name, GAME, value)
    for cell in cells:
        for setting, formula in cell["formula"].items():
            value = difference(cell["seen"], formula, "kid", 1000)
            gathered.add("C6", "higher KID", SETTINGS[setting], value)
    shows = f"The paper's claims about the game (C6, C7), {work.game_seeds} seeds of {work.game_steps} steps."
    count = tell(context, "game_verdicts", ("C6", "C7"), gathered, shows)
    ranks = stats.rankdata([*heights.values()], axis=0).mean(axis=1)
    return {
        "game_verdict_measurements": count,
        "game_mean_rank": dict(zip(names, ranks.tolist(), strict=True)),
        "game_share_of_m_left": [cell["share"] for cell in cells],
    } | _order(context, cells, heights)


def _order(context: Context, cells: Sequence[JsonMapping], heights: Heights) -> JsonObject:
    """What the seeds say of the order of all divergences, drawn; entries for the summary."""
    beside = [name for name in heights if name != "kl"]
    to_kl = {name: _ahead(heights, name, "kl", level_of(len(beside))) for name in beside}
    to_kl["kl"] = (0.0, 0.0, 0.0)
    ranked = sorted(heights, key=lambda name: to_kl[name][0])
    pairs = list(combinations(ranked, 2))
    apart = [
        f"{ahead} before {behind}"
        for ahead, behind in pairs
        if _ahead(heights, ahead, behind, level_of(len(pairs)))[2] < 0
    ]
    curvature = np.array([float(divergence(name).curvature) for name in heights])
    each = [spearman(curvature, column) for column in np.array([*heights.values()]).T]
    correlation = np.clip(interval(each), -1.0, 1.0).tolist()
    steps = np.asarray(cells[0]["steps"])
    curves = {name: _geometric_mean([cell["m"][name] for cell in cells]) for name in ranked}
    twins = ""
    if {"jensen_shannon", "gan"} <= set(heights):
        spread = float(np.std(heights["gan"] - heights["jensen_shannon"], ddof=1))
        twins = (
            " Jensen–Shannon and GAN play one game, as their T differ by log 2 alone: that theirs are "
            f"{exp(spread):.2f} times apart from seed to seed (one standard deviation) is rounding."
        )
    context.figure(
        "game_order",
        _draw(steps, curves, to_kl, ranked),
        shows=f"The game against the critic over {len(cells)} seeds, all divergences on the same batches "
        f"({TARGET}). (a) Held-out m over its start, geometric means over the seeds. (b) The mean of log m "
        "over the game, minus kl's, as a ratio, with Student t intervals that hold together with 95 %. "
        f"{len(apart)} of the {len(pairs)} pairs are told apart, all comparisons counted.{twins} Rank "
        "correlation of f''(1) with the mean of log m: "
        f"{correlation[0]:.2f} [{correlation[1]:.2f}, {correlation[2]:.2f}].",
        rows=[
            {"divergence": name, "ratio_to_kl": exp(mean), "low": exp(low), "high": exp(high)}
            | {f"seed_{seed}": value for seed, value in enumerate(heights[name])}
            for name in ranked
            for mean, low, high in (to_kl[name],)
        ],
        numbers={"steps": steps, "m_over_start": curves, "told_apart": apart},
    )
    return {
        "game_order": ranked,
        "game_ratio_to_kl": {name: [exp(value) for value in to_kl[name]] for name in ranked},
        "game_pairs_told_apart": apart,
        "game_pairs": len(pairs),
        "game_spearman_with_curvature": correlation,
    }


def _ahead(heights: Heights, one: str, other: str, level: float) -> tuple[float, float, float]:
    """The mean of log m of one divergence minus another's, and its interval over the seeds."""
    return interval((heights[one] - heights[other]).tolist(), level)


def _geometric_mean(paths: Sequence[Sequence[float]]) -> np.ndarray:
    """Of m over its start, look by look."""
    logarithms = np.log(np.asarray(paths))
    return np.exp((logarithms - logarithms[:, :1]).mean(axis=0))


def _draw(
    steps: np.ndarray,
    curves: Mapping[str, np.ndarray],
    to_kl: Mapping[str, tuple[float, float, float]],
    ranked: Sequence[str],
) -> Figure:
    """Curves on the left; the order with its intervals on the right."""
    figure, axes = panels(1, 2, height=2.7)
    for name in curves:
        axes[0].plot(steps, curves[name], **line_style(name), markersize=3, markevery=2)
    axes[0].set(yscale="log", xlabel="step of the model", ylabel="held-out m over its start")
    axes[0].set_title("geometric means over the seeds")
    log_ticks(axes[0].yaxis)
    for place, name in enumerate(ranked):
        mean, low, high = np.exp(to_kl[name])
        look = dict(line_style(name), linestyle="none", label="")
        axes[1].plot([low, high], [place, place], color=look["color"])
        axes[1].plot(mean, place, **look, markersize=4)
    axes[1].axvline(1.0, color=INK, linewidth=0.7, zorder=0)
    axes[1].set_yticks(range(len(ranked)), [label(name) for name in ranked])
    axes[1].tick_params(axis="y", length=0)
    axes[1].grid(axis="y", visible=False)
    axes[1].set(xscale="log", ylim=(len(ranked) - 0.4, -0.6), xlabel="geometric mean of m over kl's")
    axes[1].set_title("with intervals over the seeds")
    log_ticks(axes[1].xaxis)
    panel_letters(axes)
    legend_below(figure, axes, columns=5)
    return figure
