"""One look for every figure: sizes, colours that colour-blind readers can tell apart, names to print."""

from __future__ import annotations

from typing import Any

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["INK", "label", "line_style", "panel_letters", "panels"]

INK = "#333333"
"""Colour of reference lines and notes."""

_SETTINGS: dict[str, Any] = {
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.06,
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "axes.linewidth": 0.7,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "lines.linewidth": 1.5,
    "pdf.fonttype": 42,
    "mathtext.fontset": "dejavusans",
}

# Okabe and Ito's colours and Tol's for the rest; dashes also tell apart curves that coincide.
_LOOK: dict[str, tuple[str, str, Any, str]] = {
    "kl": ("KL", "#000000", "-", "o"),
    "reverse_kl": ("reverse KL", "#888888", (0, (4, 2)), "s"),
    "jeffreys": ("Jeffreys", "#E69F00", "-", "^"),
    "squared_hellinger": ("squared Hellinger", "#0072B2", "-", "D"),
    "pearson_chi2": ("Pearson χ²", "#D55E00", "-", "v"),
    "neyman_chi2": ("Neyman χ²", "#882255", (0, (4, 2)), "<"),
    "jensen_shannon": ("Jensen–Shannon", "#009E73", (0, (4, 2)), "P"),
    "gan": ("GAN", "#56B4E9", (0, (1, 1.4)), "X"),
    "le_cam": ("Le Cam", "#CC79A7", "-", ">"),
    "total_variation": ("total variation", "#AA4499", (0, (5, 1.5, 1, 1.5)), "h"),
}
_SPARE = ("#44AA99", "#999933", "#6699CC", "#661100", "#332288", "#117733")


def label(name: str) -> str:
    """How a divergence is written in figures."""
    if name in _LOOK:
        return _LOOK[name][0]
    return name.replace("alpha(", "α = ").removesuffix(")") if name.startswith("alpha(") else name


def line_style(name: str) -> dict[str, Any]:
    """Colour, dashes, marker and label of a divergence, the same in every figure."""
    if name in _LOOK:
        text, colour, dashes, marker = _LOOK[name]
        return {"label": text, "color": colour, "linestyle": dashes, "marker": marker}
    spare = sum(name.encode()) % len(_SPARE)
    return {"label": label(name), "color": _SPARE[spare], "linestyle": (0, (3, 1)), "marker": "*"}


def panels(
    rows: int, columns: int, width: float = 10.0, height: float = 3.4, **options: Any
) -> tuple[Figure, Any]:
    """A figure with constrained layout and its axes (squeezed as matplotlib does), in the common style."""
    plt.rcParams.update(_SETTINGS)  # pyright: ignore[reportCallIssue, reportArgumentType]
    figure, axes = plt.subplots(rows, columns, figsize=(width, height), layout="constrained", **options)
    plt.close(figure)  # pyplot need not keep it; saving works all the same
    return figure, axes


def panel_letters(axes: Any) -> None:
    """(a), (b), ... before the titles."""
    flat: list[Axes] = list(getattr(axes, "flat", axes))
    for letter, axis in zip("abcdefghijkl", flat, strict=False):
        axis.set_title(f"({letter}) {axis.get_title(loc='left')}")
