"""Pictures as SVG inside the page, in the colours of its theme, light or dark."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from fdiv_jax.explore.pictures import PANELS, Colours, Subject, logarithmic, style
from fdiv_jax.pages import plain_figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fdiv_jax.divergences import Divergence

__all__ = ["descent_chart", "panel"]

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
_SIZE = (4.0, 3.2)
_LOCK = threading.Lock()
"""matplotlib's settings are those of the whole process."""


def panel(name: str, d: Divergence, second: Divergence | None = None) -> str:
    """One of `fdiv_jax.explore.pictures.PANELS` as an SVG element."""
    return _svg(lambda axis: PANELS[name](Subject(d, second, _COLOURS), axis), name, legend=True)


def descent_chart(m: Sequence[float], total: int) -> str:
    """m of the steps so far as an SVG element; total: all steps of the run."""

    def draw(axis: Axes) -> None:
        values = np.asarray(m, float)
        steps = np.arange(1, len(values) + 1)
        axis.plot(steps, values, color=_FIRST, lw=1, alpha=0.45)
        if len(values) >= 5:
            smooth = np.convolve(np.pad(values, (2, 2), "edge"), np.ones(5) / 5, "valid")
            axis.plot(steps, smooth, color=_FIRST, lw=2)
        positive = values[np.isfinite(values) & (values > 0)]
        axis.set(xlim=(0.5, max(total, 2) + 0.5), xlabel="step", title="squared distance m to the anchor")
        if positive.size:
            logarithmic(axis, "y")
            axis.set_ylim(positive.min() / 1.5, positive.max() * 1.5)

    return _svg(draw, "descent", legend=False, size=(5.6, 2.6))


def _svg(draw: Callable[[Axes], None], name: str, *, legend: bool, size: tuple[float, float] = _SIZE) -> str:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    settings = style(
        **{
            "svg.fonttype": "none",
            "svg.hashsalt": name,
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
    written = io.StringIO()
    with _LOCK, plain_figures(settings):
        figure = Figure(figsize=size)
        FigureCanvasSVG(figure)
        low = 0.3 if legend else 0.2
        axis = figure.add_axes((0.145, low, 0.815, 0.9 - low))
        axis.patch.set_alpha(0)
        draw(axis)
        if legend and axis.get_legend_handles_labels()[0]:
            axis.legend(loc="upper center", bbox_to_anchor=(0.46, -0.2), ncols=2, borderpad=0)
        title = axis.get_title("left")
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(written.getvalue(), title)


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
