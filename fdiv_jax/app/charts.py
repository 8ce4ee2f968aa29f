"""Pictures as SVG inside the page, in the colours of its theme, light or dark."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import threading
from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from fdiv_jax.explore.pictures import PANELS, Colours, Subject, logarithmic, style
from fdiv_jax.pages import plain_figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fdiv_jax.divergences import Divergence

__all__ = ["descent_chart", "panels"]

_THEMED = {
    "#000101": "--fx-first",
    "#000102": "--fx-second",
    "#000103": "--fx-others",
    "#000104": "--fx-alarm",
    "#000105": "--fx-on-first",
    "#000106": "--fx-ink",
    "#000107": "--fx-muted",
}
"""Colours that matplotlib is given, and the variables of the style sheet that take their places."""
_FIRST, _SECOND, _OTHERS, _ALARM, _ON_FIRST, _INK, _MUTED = _THEMED
_COLOURS = Colours(_FIRST, _SECOND, _OTHERS, _ALARM, _ON_FIRST)
_LOCK = threading.Lock()
"""matplotlib's settings are those of the whole process."""


def panels(d: Divergence, second: Divergence | None = None) -> dict[str, str]:
    """Each of `fdiv_jax.explore.pictures.PANELS` as an SVG element, by its name."""
    subject = Subject(d, second, _COLOURS)
    with _drawing():
        return {name: _panel(name, subject) for name in PANELS}


def _panel(name: str, subject: Subject) -> str:
    axis = _axes(name)
    _emptied(axis)
    PANELS[name](subject, axis)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc="upper center", bbox_to_anchor=(0.46, -0.2), ncols=2, borderpad=0)
    return _svg(axis, name)


@functools.cache
def _axes(name: str) -> Axes:
    """The axes of a panel, kept: to make them and their ticks takes as long as to draw what they hold."""
    axis = _new_axes((4.0, 3.2), 0.3)
    # Else the text of every tick is measured once more for the place of the label.
    axis.xaxis.set_label_coords(0.5, -0.135)
    axis.yaxis.set_label_coords(-0.125, 0.5)
    return axis


def _emptied(axis: Axes) -> None:
    """Nothing that was drawn before is left; scales and ticks are, which each panel sets itself."""
    for artist in (*axis.lines, *axis.patches, *axis.collections, *axis.texts):
        artist.remove()
    if (legend := axis.get_legend()) is not None:
        legend.remove()
    axis.relim()
    axis.autoscale(True)


def descent_chart(m: Sequence[float], total: int) -> str:
    """m of the steps so far as an SVG element; total: all steps of the run."""

    values = np.asarray(m, float)
    steps = np.arange(1, len(values) + 1)
    with _drawing():
        axis = _new_axes((5.6, 2.6), 0.2)
        axis.plot(steps, values, color=_FIRST, lw=1, alpha=0.45)
        if len(values) >= 5:
            smooth = np.convolve(np.pad(values, (2, 2), "edge"), np.ones(5) / 5, "valid")
            axis.plot(steps, smooth, color=_FIRST, lw=2)
        positive = values[np.isfinite(values) & (values > 0)]
        axis.set(xlim=(0.5, max(total, 2) + 0.5), xlabel="step", title="squared distance m to the anchor")
        if positive.size:
            logarithmic(axis, "y")
            axis.set_ylim(positive.min() / 1.5, positive.max() * 1.5)
        return _svg(axis, "descent")


@contextlib.contextmanager
def _drawing() -> Iterator[None]:
    """One chart at a time, under the settings of them all."""
    settings = style(
        **{
            "svg.fonttype": "none",
            "font.family": "sans-serif",
            "text.color": _INK,
            "axes.labelcolor": _MUTED,
            "axes.edgecolor": _OTHERS,
            "xtick.color": _MUTED,
            "ytick.color": _MUTED,
            "legend.labelcolor": _MUTED,
            "legend.fontsize": 7.5,
            "axes.titleweight": "bold",
            "axes.titley": 1.0,  # no search for a free place, which is a tenth of the time
        }
    )
    with _LOCK, plain_figures(settings):
        yield


def _new_axes(size: tuple[float, float], low: float) -> Axes:
    """Axes alone in a figure of this size in inches, with this share of its height below them."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=size)
    FigureCanvasSVG(figure)
    axis = figure.add_axes((0.145, low, 0.815, 0.9 - low))
    axis.patch.set_alpha(0)
    return axis


def _svg(axis: Axes, name: str) -> str:
    """The figure of the axes as an element; name: what its ids are made from."""
    import matplotlib

    matplotlib.rcParams["svg.hashsalt"] = name
    written = io.StringIO()
    figure: Any = axis.figure
    figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(written.getvalue(), axis.get_title("left"))


def _inline(text: str, title: str) -> str:
    """The SVG element alone, as wide as its place, with the theme's colours and font."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    for colour, variable in _THEMED.items():
        text = text.replace(colour, f"var({variable})")
    text = re.sub(r"(?<=font: )[\w. ]*?([\d.]+px)[^;\"]*", r"\1 var(--fx-font)", text)
    text = re.sub(r"font-family: [^;\"]*", "font-family: var(--fx-font)", text)
    box = re.search(r'viewBox="[^"]*"', text)
    opening = f'<svg class="fx-chart" role="img" aria-label="{escape(title)}" {box[0] if box else ""}>'
    return re.sub(r"<svg[^>]*>", lambda _: opening, text, count=1)
