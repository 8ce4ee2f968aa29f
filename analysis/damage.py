"""Damage to concepts, predicted and measured over ordered pairs, and its picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fdiv_jax.worlds import ITEM_NAMES

from .rank_correlations import Interval, bootstrap, overall, separation, within_targets
from .style import INK, panel_letters, panels, series_style

__all__ = ["LOST", "NAMES", "Damage", "draw_damage"]

NAMES = {"sgd": "gradient descent", "adamw": "AdamW"}
"""The optimisers, and how they are written."""
LOST = 0.1
"""A concept counts as hurt when the judge loses it in more than this share of the images."""
_KINDS = (("item", "item"), ("item", "style"), ("style", "item"), ("style", "style"))
"""What is erased, and what is hurt."""


class Damage(NamedTuple):
    """The damage to concept j of erasing i under one optimiser, each (concepts, concepts), nan at i = j.

    Attributes:
        predicted: m, before any training.
        measured: m on held-out images.
        images: mean squared change of what is drawn from the same noise, pixels 0 to 1.
        lost: the share of images that the judge no longer takes for the concept.
    """

    predicted: np.ndarray
    measured: np.ndarray
    images: np.ndarray
    lost: np.ndarray

    def ranks(self) -> dict[str, Interval]:
        """Rank correlations of the prediction with m, over all pairs and within targets; of either m with
        the change of images; and the area under the curve with which either tells the pairs that lose
        accuracy."""
        hurt = np.where(np.isfinite(self.lost), self.lost > LOST, np.nan)
        return {
            "m": bootstrap(overall, self.predicted, self.measured),
            "m, within": bootstrap(within_targets, self.predicted, self.measured),
            "images": bootstrap(overall, self.predicted, self.images),
            "images by measured": bootstrap(overall, self.measured, self.images),
            "lost by predicted": bootstrap(separation, self.predicted, hurt),
            "lost by measured": bootstrap(separation, self.measured, hurt),
        }

    @property
    def log_ratio(self) -> np.ndarray:
        """log of measured over predicted m."""
        return np.log(self.measured / self.predicted)

    def by_kind(self, concepts: Sequence[str], against: np.ndarray) -> dict[str, float]:
        """The prediction's rank correlation with another table, for each kind of pair."""
        return {
            f"{erased} hurts {hurt}": overall(
                np.where(_of_kind(concepts, erased, hurt), self.predicted, np.nan), against
            )
            for erased, hurt in _KINDS
        }


def _of_kind(concepts: Sequence[str], erased: str, hurt: str) -> np.ndarray:
    """Which pairs are of these kinds, (concepts, concepts)."""
    kinds = ["item" if name in ITEM_NAMES else "style" for name in concepts]
    return np.array([[a == erased and b == hurt for b in kinds] for a in kinds])


def draw_damage(
    found: Mapping[str, Damage],
    ranks: Mapping[str, Mapping[str, Interval]],
    naive: Mapping[str, Mapping[str, float]],
    concepts: Sequence[str],
) -> Figure:
    """Damage against its prediction, as m above and as changed images below, with how well it ranks."""
    figure, axes = panels(2, 3, width=6.75, height=4.9, width_ratios=(1, 1, 0.8))
    every = [table for each in found.values() for table in (each.predicted, each.measured)]
    ends = min(map(np.nanmin, every)) / 1.4, 1.4 * max(map(np.nanmax, every))
    for column, name in enumerate(NAMES):
        above, below, each = axes[0, column], axes[1, column], found[name]
        _scatter(above, each, each.measured, concepts, filled=False)
        above.plot(ends, ends, color=INK, linewidth=0.7, zorder=1)
        above.set(xscale="log", yscale="log", xlim=ends, ylim=ends, xlabel="predicted m", ylabel="measured m")
        above.set(title=NAMES[name], box_aspect=1)
        _scatter(below, each, each.images, concepts, filled=True)
        below.set(xscale="log", yscale="log", xlim=ends, xlabel="predicted m", ylabel="change of images")
        below.set(title=NAMES[name], box_aspect=1)
        for axis, rank in ((above, ranks[name]["m"]), (below, ranks[name]["images"])):
            text = f"Spearman {rank.value:.2f}\n[{rank.low:.2f}, {rank.high:.2f}]"
            axis.text(0.97, 0.04, text, transform=axis.transAxes, ha="right", fontsize=7.5)
    correlations = {
        name: [ranks[name]["m"], *(Interval(value, value, value) for value in naive[name].values())]
        for name in NAMES
    }
    _bars(axes[0, 2], ["Jacobian", *next(iter(naive.values()))], correlations, 0.0)
    axes[0, 2].set(xlabel="Spearman", title="rank of m")
    areas = {name: [ranks[name]["lost by predicted"], ranks[name]["lost by measured"]] for name in NAMES}
    _bars(axes[1, 2], ["predicted m", "measured m"], areas, 0.5)
    axes[1, 2].set(xlabel="area under the curve", title="accuracy is lost")
    panel_letters(axes)
    handles, texts = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=4, handletextpad=0.2, columnspacing=1.2)
    return figure


def _scatter(axis: Axes, each: Damage, against: np.ndarray, concepts: Sequence[str], *, filled: bool) -> None:
    """One mark for each pair, by its kind; filled where accuracy is lost."""
    for place, (erased, hurt) in enumerate(_KINDS):
        look = series_style(place)
        kind = _of_kind(concepts, erased, hurt) & np.isfinite(against)
        for full in (False, True):
            chosen = kind & ((each.lost > LOST) == full) if filled else kind & (not full)
            axis.plot(
                each.predicted[chosen],
                against[chosen],
                look["marker"],
                color=look["color"],
                markersize=3.2,
                markeredgewidth=0.7,
                fillstyle="full" if full else "none",
                label=None if full else f"{erased} hurts {hurt}",
            )


def _bars(axis: Axes, rows: list[str], found: Mapping[str, list[Interval]], chance: float) -> None:
    """Statistics with their intervals, one row each and one mark for each optimiser."""
    for place, name in enumerate(NAMES):
        look = series_style(1 + place)
        heights = np.arange(len(rows)) + 0.18 * (2 * place - 1)
        values = [each.value for each in found[name]]
        axis.plot(values, heights, look["marker"], color=look["color"], markersize=4.5, label=NAMES[name])
        for each, height in zip(found[name], heights, strict=True):
            axis.plot([each.low, each.high], [height, height], color=look["color"])
    low = min(chance - 0.1, axis.get_xlim()[0])
    axis.set(yticks=range(len(rows)), ylim=(len(rows) - 0.5, -1.0), xlim=(low, 1.05))
    axis.set_yticklabels([text.replace(" ", "\n") for text in rows])
    axis.axvline(chance, color=INK, linewidth=0.7)
    legend = axis.legend(loc="upper left", handletextpad=0.1, borderpad=0.1, labelspacing=0.2, frameon=True)
    legend.get_frame().set(facecolor="white", edgecolor="none", alpha=1)
