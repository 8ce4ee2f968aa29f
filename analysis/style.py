"""One look for every figure: print sizes, colours for every kind of colour vision, names to print."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from typing import TYPE_CHECKING, Any

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, LogFormatterMathtext, MaxNLocator, NullFormatter

if TYPE_CHECKING:
    from matplotlib.artist import Artist

__all__ = [
    "COLUMN",
    "INK",
    "PAGE",
    "curve_style",
    "figure_faults",
    "label",
    "legend_below",
    "line_style",
    "log_ticks",
    "panel_letters",
    "panels",
    "series_style",
]

COLUMN, PAGE = 3.25, 6.75
"""Widths in print, inches: one column of a two-column paper, and the whole page."""

SMALLEST = 7.0
"""Points of the smallest text in print. Indices and exponents in formulas are smaller than their line."""

INK = "#333333"
"""Colour of reference lines and notes."""

Style = dict[str, Any]
"""Keyword arguments of matplotlib, each of a type of its own."""
Panels = Any
"""What `plt.subplots` gives: one Axes, or an array of them."""

_SETTINGS: Style = {
    "figure.dpi": 100,
    "savefig.dpi": 300,
    "savefig.bbox": "standard",  # "tight" would change the width
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.titlepad": 4,
    "axes.labelsize": 8,
    "axes.labelpad": 2,
    "axes.linewidth": 0.6,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.pad": 2,
    "ytick.major.pad": 2,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "legend.columnspacing": 1.4,
    "legend.labelspacing": 0.3,
    "legend.borderaxespad": 0.2,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.6,
    "figure.constrained_layout.w_pad": 0.03,
    "figure.constrained_layout.h_pad": 0.03,
    "pdf.fonttype": 42,
    "mathtext.fontset": "dejavusans",
}

# Near Okabe and Ito's colours, moved until any two are at least 20 apart in CIELAB for protanopes,
# deuteranopes, tritanopes and everybody else (tests/analysis/test_style.py measures it). Dashes and markers
# besides: they tell apart curves that coincide.
_LOOK: dict[str, tuple[str, str, str | tuple[float, tuple[float, ...]], str]] = {
    "kl": ("KL", "#000000", "-", "o"),
    "reverse_kl": ("reverse KL", "#6D7572", (0, (4, 2)), "s"),
    "jeffreys": ("Jeffreys", "#E7AB1D", (0, (2, 1)), "^"),
    "squared_hellinger": ("squared Hellinger", "#004EA3", "-", "D"),
    "pearson_chi2": ("Pearson χ²", "#CD5702", "-", "v"),
    "neyman_chi2": ("Neyman χ²", "#68153B", (0, (4, 2)), "<"),
    "jensen_shannon": ("Jensen–Shannon", "#369358", "-", "P"),
    "gan": ("GAN", "#64C4F5", (0, (4, 2)), "X"),
    "le_cam": ("Le Cam", "#EF7AAE", "-", ">"),
    "total_variation": ("total variation", "#A370E3", (0, (5, 1.5, 1, 1.5)), "h"),
    "alpha(-0.5)": ("α = −0.5", "#A3C266", (0, (3, 1)), "p"),
    "alpha(0.3)": ("α = 0.3", "#473300", (0, (3, 1)), "*"),
    "alpha(3)": ("α = 3", "#00007A", (0, (3, 1)), "d"),
}
_SERIES = (
    "kl",
    "squared_hellinger",
    "pearson_chi2",
    "gan",
    "jensen_shannon",
    "le_cam",
    "jeffreys",
    "neyman_chi2",
)


def label(name: str) -> str:
    """How a divergence is written in figures.

    >>> label("pearson_chi2"), label("alpha(-0.5)")
    ('Pearson χ²', 'α = −0.5')
    """
    if name in _LOOK:
        return _LOOK[name][0]
    if name.startswith("alpha("):
        return name.replace("alpha(", "α = ").removesuffix(")").replace("-", "−")
    return name


def line_style(name: str) -> Style:
    """Colour, dashes, marker and label of a divergence, the same in every figure.

    Divergences without a place of their own are drawn alike.
    """
    if name in _LOOK:
        text, colour, dashes, marker = _LOOK[name]
        return {"label": text, "color": colour, "linestyle": dashes, "marker": marker}
    return {"label": label(name), "color": "#6200B8", "linestyle": (0, (3, 1)), "marker": "1"}


def curve_style(name: str, every: float = 0.2) -> Style:
    """`line_style` for a curve of many points: a marker now and then, elsewhere for each divergence.

    Curves that coincide show by turns whose they are. `every` is the distance of two markers of a curve, as a
    share of the panel's diagonal.
    """
    place = list(_LOOK).index(name) if name in _LOOK else len(_LOOK)
    return dict(line_style(name), markersize=3.0, markevery=(every * (place * 0.37 % 1), every))


def series_style(place: int) -> Style:
    """Colour, dashes and marker of the series at `place` (0 to 7) of things that are not divergences.

    Raises:
      ValueError: a place beyond the last: eight series are more than one panel can hold.
    """
    if not 0 <= place < len(_SERIES):
        raise ValueError(f"expected a place from 0 to {len(_SERIES) - 1}, got {place}")
    return {key: value for key, value in line_style(_SERIES[place]).items() if key != "label"}


def panels(
    rows: int, columns: int, width: float = PAGE, height: float = 2.4, **options: Any
) -> tuple[Figure, Panels]:
    """A figure at its size in print, with its axes (squeezed as matplotlib does), in the common style.

    `width` is PAGE, or COLUMN for a single panel.
    """
    plt.rcParams.update(_SETTINGS)  # pyright: ignore[reportCallIssue, reportArgumentType]
    figure, axes = plt.subplots(rows, columns, figsize=(width, height), layout="constrained", **options)
    plt.close(figure)  # pyplot need not keep it; saving works all the same
    return figure, axes


def panel_letters(axes: Panels) -> None:
    """(a), (b), ... before the titles."""
    flat: list[Axes] = list(getattr(axes, "flat", axes))
    for letter, axis in zip("abcdefghijkl", flat, strict=False):
        axis.set_title(f"({letter}) {axis.get_title(loc='left')}")


def legend_below(figure: Figure, axes: Panels, columns: int = 5) -> None:
    """One legend under all panels: everything that is labelled in one of `axes`, each text once."""
    flat: Iterable[Axes] = getattr(axes, "flat", axes)
    found: dict[str, Artist] = {}
    for axis in flat:
        for handle, text in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(text, handle)
    figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=columns)


def log_ticks(*axes: Axis, least: int = 3) -> None:
    """Labelled ticks on logarithmic axes whose limits are set: at least `least`, at round numbers.

    Whole powers of ten where the view holds enough of them, then 1, 3, 10, then 1, 2, 5, 10, and so on. A
    narrower view gets what the linear rule gives.
    """
    for axis in axes:
        low, high = sorted(axis.get_view_interval())
        decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
        ticks: list[float] = []
        for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
            ticks = [digit * 10.0**power for power in decades for digit in digits]
            ticks = [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
            if len(ticks) >= least:
                break
        else:
            found = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high)
            ticks = [float(tick) for tick in found if low <= tick <= high]
        stride = -(-len(ticks) // 7)  # every second power, or third, where there are many
        ticks = [tick for place, tick in enumerate(reversed(ticks)) if place % stride == 0][::-1]
        plain = all(1e-3 <= tick < 1e4 for tick in ticks)
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.6g}") if plain else LogFormatterMathtext())
        axis.set_minor_formatter(NullFormatter())


def figure_faults(figure: Figure) -> list[str]:
    """What a printer would send back: one line per fault, none where the figure is fit for print.

    Looked at are the width, text that is too small, leaves the page or covers other text, and axes with a
    single labelled tick.
    """
    figure.draw_without_rendering()
    faults = []
    if figure.get_figwidth() not in (COLUMN, PAGE):
        faults.append(f"is {figure.get_figwidth():g} inches wide, expected {COLUMN} or {PAGE}")
    shown = _visible_text(figure)
    for text in shown:
        if (points := float(text.get_fontsize())) < SMALLEST:
            faults.append(f"has {text.get_text()!r} in {points:g} pt, expected {SMALLEST:g}")
    boxes = [(text, text.get_window_extent()) for text in shown]
    for text, box in boxes:
        page = figure.bbox
        if min(box.x0 - page.x0, box.y0 - page.y0, page.x1 - box.x1, page.y1 - box.y1) < -0.5:
            faults.append(f"has {text.get_text()!r} beyond its edge")
    straight = [(text, box) for text, box in boxes if text.get_rotation() % 90 == 0]
    for (one, a), (other, b) in combinations(straight, 2):
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1:
            faults.append(f"has {one.get_text()!r} over {other.get_text()!r}")
    for axes in figure.axes:
        for direction, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
            if axes.axison and axis.get_visible() and len(found := _tick_labels(axis)) == 1:
                title = axes.get_title(loc="left")
                faults.append(f"has one tick on the {direction} axis of {title!r}: {found[0].get_text()!r}")
    return faults


def _tick_labels(axis: Axis) -> list[Text]:
    """The labels of the ticks that are in view."""
    low, high = sorted(axis.get_view_interval())
    slack = 1e-9 * (abs(low) + abs(high))
    ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
    inside = [tick for tick in ticks if low - slack <= tick.get_loc() <= high + slack]
    labels = [text for tick in inside for text in (tick.label1, tick.label2)]
    return [text for text in labels if text.get_visible() and text.get_text()]


def _visible_text(figure: Figure) -> list[Text]:
    """Every text that is drawn; of the tick labels those in view."""
    ticks: set[Text] = set()
    drawn: set[Text] = set()
    hidden: set[Text] = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                ticks |= {tick.label1, tick.label2}
            if axes.axison and axes.get_visible() and axis.get_visible():
                drawn |= set(_tick_labels(axis))
            else:
                hidden |= {axis.label, axis.offsetText}
    return [
        text
        for text in figure.findobj(Text)
        if isinstance(text, Text)
        and text.get_visible()
        and text.get_text().strip()
        and text not in hidden
        and (text in drawn or text not in ticks)
    ]
