"""Curves of a run's figures as SVG that takes on the colours of the page around it."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fdiv_jax.pages import plain_figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Curve", "curves"]

_INK, _LINE, _SKIPPED = "#010203", "#3b7dd8", "#d9534f"
"""Text and axes (written as `currentColor`), the curve, and steps that changed nothing."""
_TITLES = {
    "loss": "loss",
    "m": "m, mean of the batch",
    "weight": "w_f(m), mean of the batch",
    "gradient_norm": "gradient norm",
    "critic_value": "value of the critic",
    "prior_loss": "prior preservation",
}
_OF_THE_MODEL = ("gradient_norm", "prior_loss")
"""Figures that are not computed while the opponent learns alone."""
_POINTS = 800
"""Points that a line has at the most; more steps are drawn as their means and extremes."""
_DECADES = 0.6
"""Powers of ten that positive figures span before their axis is logarithmic."""

Curve = tuple[str, str]
"""Title and SVG."""


def curves(history: Mapping[str, np.ndarray]) -> list[Curve]:
    """A picture for each figure that the history has, over the steps.

    The axis is logarithmic where the figures are positive and far apart; the steps of the opponent alone are
    shaded, those that changed nothing are marked at the bottom.
    """
    return [(title, _draw(name, history)) for name, title in _TITLES.items() if name in history]


def _draw(name: str, history: Mapping[str, np.ndarray]) -> str:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.size": 9,
        **{f"{part}.color": _INK for part in ("text", "xtick", "ytick")},
        **{f"axes.{part}": _INK for part in ("edgecolor", "labelcolor")},
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with plain_figures(style):
        figure = Figure(figsize=(4.8, 2.5), layout="constrained")
        _fill(figure.subplots(), name, history)
        FigureCanvasSVG(figure)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return _inline(buffer.getvalue(), _TITLES[name])


def _fill(axes: Axes, name: str, history: Mapping[str, np.ndarray]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    steps = np.asarray(history["step"])
    values = np.asarray(history[name], np.float64)
    values = np.where(np.isfinite(values), values, np.nan)
    learning = ~np.asarray(history["warmup"], bool)
    if name in _OF_THE_MODEL:
        values = np.where(learning, values, np.nan)
    skipped = np.asarray(history.get("skipped", np.zeros(len(steps))), bool)
    known = values[np.isfinite(values)]
    if known.size and known.min() > 0 and math.log10(known.max() / known.min()) > _DECADES:
        axes.set_yscale("log")
        near = known.max() / known.min() < 100
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if near else (1,), numticks=8))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    width = math.ceil(len(steps) / _POINTS)
    if width > 1:
        centres, mean, low, high = _binned(steps, values, width)
        axes.fill_between(centres, low, high, color=_LINE, alpha=0.2, lw=0)
        axes.plot(centres, mean, color=_LINE, lw=1)
    else:
        span, shown = len(steps) // 40, np.isfinite(values)
        marker = "o" if known.size < 3 else None
        alpha = 0.35 if span else 1
        axes.plot(steps[shown], values[shown], marker=marker, ms=3, color=_LINE, lw=0.8, alpha=alpha)
        if span:
            for part in (~learning, learning):
                if np.any(part):
                    axes.plot(steps[part], _running(values[part], span), color=_LINE, lw=1.6)
    if not np.all(learning):
        axes.axvspan(steps[0] - 0.5, steps[~learning][-1] + 0.5, color=_INK, alpha=0.08, lw=0)
    if np.any(skipped):
        axes.plot(
            steps[skipped],
            np.zeros(np.count_nonzero(skipped)),
            "|",
            color=_SKIPPED,
            ms=8,
            mew=1.2,
            transform=axes.get_xaxis_transform(),
            clip_on=False,
        )
    axes.set_xlim(steps[0] - 0.5, steps[-1] + 0.5)
    axes.set_xlabel("step")


def _running(values: np.ndarray, span: int) -> np.ndarray:
    """Means of those values that are numbers among the `span` before and the `span` after each."""
    known = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    places = np.arange(len(values))
    reach = np.minimum(span, np.minimum(places, places[::-1]))
    first, last = places - reach, places + reach + 1
    number = counts[last] - counts[first]
    return np.where(number > 0, (sums[last] - sums[first]) / np.maximum(number, 1), np.nan)


def _binned(steps: np.ndarray, values: np.ndarray, width: int) -> tuple[np.ndarray, ...]:
    """Middle, mean, least and greatest of every `width` steps."""
    rows = []
    for start in range(0, len(steps), width):
        part = values[start : start + width]
        part = part[np.isfinite(part)]
        middle = float(np.mean(steps[start : start + width]))
        rows.append((middle, *((part.mean(), part.min(), part.max()) if part.size else (np.nan,) * 3)))
    return tuple(np.array(column) for column in zip(*rows, strict=True))


def _inline(svg: str, title: str) -> str:
    """The element alone, with the page's colour, font and width, and names that are only its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # it would be the whole page's
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'\s(xmlns(:\w+)?|version)="[^"]*"', "", svg)
    svg = re.sub(r' d="([^"]*)"', lambda path: f' d="{_short(path[1])}"', svg)
    svg = re.sub(r" font-family:[^;\"]*;?", "", svg)
    svg = svg.replace("xlink:href=", "href=").replace(_INK, "currentColor")
    head, rest = svg.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{title}">{rest}'


def _short(path: str) -> str:
    """A path in hundredths of a point."""
    return " ".join(re.sub(r"(\.\d\d)\d+", r"\1", path).split())
