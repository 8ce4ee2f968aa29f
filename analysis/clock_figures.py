"""Figures of the clock of descent: curves, errors, maps of where divergences differ, and timesteps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.ticker import LogLocator, NullLocator

from .files import Row
from .style import INK, PAGE, label, legend_below, line_style, panel_letters, panels, series_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

__all__ = ["Contrast", "clock_figure", "contrasts", "timestep_figure"]

Rows = Sequence[Row]
_PREDICTIONS = {
    "own": ("own clocks", "-", INK),
    "common": ("one clock", (0, (4, 1.5)), INK),
    "mean": ("mean m", (0, (1, 1.2)), INK),
    "averaged": ("averaged", "-", INK),
    "kl": ("as KL", "-", "#aaaaaa"),
}
"""How the predictions are written and drawn."""
_MAPPED = ("squared_hellinger", "jensen_shannon", "pearson_chi2", "total_variation")


class Contrast(NamedTuple):
    """How far a divergence is from kl at one step, over the seeds.

    Attributes:
        log_ratio: the mean of log(m/m_kl); nan where the loss of one of the runs was not finite in the end.
        spread: the standard deviation (ddof 1) of log m_kl over the seeds.
    """

    log_ratio: float
    spread: float


def contrasts(rows: Rows, divergence: str, optimiser: str = "sgd") -> dict[tuple[float, int], Contrast]:
    """By sigma^2 and step, for steps after the start."""
    groups: dict[tuple[float, int], list[Row]] = {}
    for row in rows:
        if row["optimiser"] == optimiser and row["divergence"] == divergence and row["step"] > 0:
            groups.setdefault((row["sigma2"], row["step"]), []).append(row)
    lost = {key[0] for key, group in groups.items() if any(row["ended"] for row in group)}
    found = {}
    for key, group in groups.items():
        kl = np.log([row["kl"] for row in group])
        ratio = np.nan if key[0] in lost else float(np.mean(np.log([row["m"] for row in group]) - kl))
        found[key] = Contrast(ratio, float(np.std(kl, ddof=1)) if len(kl) > 1 else np.nan)
    return found


def _start(rows: Rows, sigma2: float) -> float:
    """The mean m before any step, over the seeds."""
    return float(np.mean([row["m"] for row in rows if row["sigma2"] == sigma2 and row["step"] == 0]))


def _number(value: float) -> str:
    return f"{value:.2g}"


def _curves(axis: Axes, rows: Rows, method: str) -> None:
    """Measured points with the spread of the seeds over the predicted line, for every divergence."""
    names = list(dict.fromkeys(row["divergence"] for row in rows))
    lost = {row["divergence"] for row in rows if row["ended"]}
    whole = next((name for name in names if name not in lost), None)  # its rows have every look at kl
    for name in ("kl", *names):
        look = line_style(name)
        if name == "kl" and whole is None:
            continue
        own = [row for row in rows if row["divergence"] == (name if name != "kl" else whole)]
        if name in lost:
            continue
        steps = sorted({row["step"] for row in own})
        measured, predicted = (
            np.array([[row[key] for row in own if row["step"] == step] for step in steps])
            for key in ("m" if name != "kl" else "kl", method if name != "kl" else "kl")
        )
        line = np.exp(np.mean(np.log(predicted), axis=1))
        axis.plot(steps, line, **dict(look, marker="", label=None))
        logs = np.log(measured)
        middle, spread = np.mean(logs, axis=1), np.std(logs, axis=1, ddof=1)
        bars = np.exp(middle) - np.exp(middle - spread), np.exp(middle + spread) - np.exp(middle)
        axis.errorbar(
            steps,
            np.exp(middle),
            bars,
            **dict(look, linestyle="none"),
            markersize=3,
            elinewidth=0.7,
        )
    if lost:
        text = ", ".join(label(name) for name in sorted(lost))
        axis.text(0.03, 0.03, f"{text}\ndiverges", transform=axis.transAxes, fontsize=7, va="bottom")
    axis.set(yscale="log", xlabel="step")
    _few_ticks(axis.yaxis)


def _few_ticks(axis: Axis) -> None:
    """Plain numbers at 1, 2 and 5 times powers of ten."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def _error_curves(axis: Axes, rows: Rows, methods: Sequence[str]) -> None:
    """The share of points whose relative error is at most x, for every kind of prediction."""
    grid = np.geomspace(0.003, 3, 200)
    for method in methods:
        errors = np.array([abs(row[method] / row["m"] - 1) for row in rows])
        text, dashes, colour = _PREDICTIONS[method]
        shares = [np.mean(errors <= x) for x in grid]
        axis.plot(grid, shares, linestyle=dashes, color=colour, label=text)
    axis.legend(loc="upper left", handlelength=1.6, borderaxespad=0.0, borderpad=0.0, fontsize=7)
    axis.axvline(0.25, color=INK, linewidth=0.6, zorder=1)
    axis.set(xscale="log", xlim=(grid[0], grid[-1]), ylim=(0, 1.7), xlabel="relative error at most")
    axis.set(ylabel="share of points", yticks=(0, 0.5, 1))


def _scatter(axis: Axes, rows: Rows, method: str) -> None:
    """Measured against predicted, both over m0: every point of every run."""
    for name in dict.fromkeys(row["divergence"] for row in rows):
        own = [row for row in rows if row["divergence"] == name]
        starts = [row["m0"] for row in own]
        look = dict(line_style(name), linestyle="none", label=None)
        said = np.array([row[method] for row in own]) / starts
        axis.plot(said, np.array([row["m"] for row in own]) / starts, **look, markersize=2)
    ends = axis.get_xlim()
    axis.plot(ends, ends, color=INK, linewidth=0.6, zorder=1)
    axis.set(xscale="log", yscale="log", title="descent, all points")
    _few_ticks(axis.xaxis)
    _few_ticks(axis.yaxis)
    axis.set(xlabel="predicted $m/m_0$", ylabel="measured")


def _map(axis: Axes, rows: Rows, name: str, units: Sequence[float]) -> AxesImage:
    """log2(m/m_kl) by m0 and step; crossed out where it is below the spread of the seeds."""
    found = contrasts(rows, name)
    steps = sorted({row["step"] for row in rows if row["optimiser"] == "sgd" and row["step"] > 0})
    table = np.full((len(units), len(steps)), np.nan)
    for (sigma2, step), contrast in found.items():
        i, j = units.index(sigma2), steps.index(step)
        table[i, j] = contrast.log_ratio / np.log(2)
        if np.isfinite(contrast.log_ratio) and abs(contrast.log_ratio) <= contrast.spread:
            axis.plot(j, i, "x", color=INK, markersize=3.5, markeredgewidth=0.7)
    axis.set_facecolor("#bbbbbb")
    image = axis.imshow(table, cmap="PuOr_r", vmin=-2, vmax=2, aspect="auto", origin="lower")
    axis.grid(visible=False)
    for i in range(len(units)):
        if not np.isfinite(table[i]).any():
            text = "diverges" if any(key[0] == units[i] for key in found) else "not run"
            axis.text((len(steps) - 1) / 2, i, text, ha="center", va="center", fontsize=7)
    ticks = range(1, len(steps), 3)
    axis.set(title=label(name), xlabel="step", xticks=list(ticks))
    axis.set_xticklabels([str(steps[j]) for j in ticks])
    axis.set(yticks=range(len(units)), yticklabels=[_number(_start(rows, unit)) for unit in units])
    return image


def clock_figure(rows: Rows, judged: Mapping[str, Rows], methods: Mapping[str, Sequence[str]]) -> Figure:
    """Curves under gradient descent and under AdamW, errors, and maps of where divergences differ.

    Args:
        rows: every point of every run, with its predictions by name.
        judged: by optimiser, the rows whose errors count.
        methods: by optimiser, the predictions to compare, the one that is drawn first.
    """
    units = {
        optimiser: sorted({row["sigma2"] for row in rows if row["optimiser"] == optimiser}, reverse=True)
        for optimiser in ("sgd", "adamw")
    }
    figure, axes = panels(3, 4, width=PAGE, height=6.3)
    for axis, sigma2 in zip(axes[0], units["sgd"], strict=False):
        _curves(axis, _of(rows, "sgd", sigma2), methods["sgd"][0])
        axis.set(title=f"descent, $m_0$ = {_number(_start(rows, sigma2))}")
    adam = units["adamw"][0]
    _curves(axes[1, 0], _of(rows, "adamw", adam), methods["adamw"][0])
    axes[1, 0].set(title=f"AdamW, $m_0$ = {_number(_start(rows, adam))}")
    _scatter(axes[1, 1], judged["sgd"], methods["sgd"][0])
    for axis, optimiser, title in zip(axes[1, 2:], ("sgd", "adamw"), ("descent", "AdamW"), strict=True):
        _error_curves(axis, judged[optimiser], methods[optimiser])
        axis.set(title=f"errors, {title}")
    mapped = [name for name in _MAPPED if any(row["divergence"] == name for row in rows)]
    images = [_map(axis, rows, name, units["sgd"]) for axis, name in zip(axes[2], mapped, strict=False)]
    for axis in (axes[0, 0], axes[1, 0]):
        axis.set(ylabel="held-out m")
    axes[2, 0].set(ylabel="$m_0$")
    bar = figure.colorbar(images[0], ax=list(axes[2]), fraction=0.03, pad=0.01, ticks=[-2, 0, 2])
    bar.ax.set_yticklabels(["1/4", "1", "4"])
    bar.set_label("m over that of KL")
    for axis in axes.flat:
        if not axis.has_data():
            axis.set_axis_off()
    panel_letters(axes)
    legend_below(figure, axes[0], columns=6)
    return figure


def _of(rows: Rows, optimiser: str, sigma2: float) -> list[Row]:
    return [row for row in rows if row["optimiser"] == optimiser and row["sigma2"] == sigma2]


def timestep_figure(rows: Rows) -> Figure:
    """m by window of timesteps, the window that each divergence drives, and the same under `schedule`.

    Args:
        rows: with step, window, divergence, m, drive, drive_schedule and the middle of the window, t.
    """
    figure, axes = panels(1, 3, width=PAGE, height=2.4)
    windows = list(dict.fromkeys(row["window"] for row in rows))
    names = list(dict.fromkeys(row["divergence"] for row in rows))
    steps = sorted({row["step"] for row in rows})

    def values(name: str, key: str, window: str) -> list[float]:
        kept = (row for row in rows if row["divergence"] == name and row["window"] == window)
        return [row[key] for row in sorted(kept, key=lambda row: row["step"])]

    for place, window in enumerate(windows):
        look = dict(series_style(place), linestyle="-")
        axes[0].plot(steps, values("kl", "m", window), **look, markersize=3, label=window)
    axes[0].set(yscale="log", xlabel="step", ylabel="held-out m", title="m by timestep, KL")
    _few_ticks(axes[0].yaxis)
    axes[0].set(ylim=(axes[0].get_ylim()[0] / 4, None))
    axes[0].legend(loc="lower left", ncols=2, columnspacing=0.8, fontsize=7)
    middles = np.array([next(row["t"] for row in rows if row["window"] == window) for window in windows])
    for axis, key, title in (
        (axes[1], "drive", "timestep driven"),
        (axes[2], "drive_schedule", "the same, scale schedule"),
    ):
        for name in names:
            shares = np.array([values(name, key, window) for window in windows])
            axis.plot(steps, middles @ shares, **line_style(name), markersize=3)
        axis.set(xlabel="step", ylabel="mean t of the drive", title=title)
    panel_letters(axes)
    legend_below(figure, axes[1:], columns=6)
    return figure
