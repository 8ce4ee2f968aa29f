"""The curves of a report as one picture: a panel for each attack."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fdiv_jax.checkpoints import atomic_file
from fdiv_jax.evaluation.attacks.campaign import FLOOR_NAME, FROZEN, Report
from fdiv_jax.evaluation.attacks.curves import Curve, Point, pooled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["save_curves"]

_COLUMNS = 3
_DASHES = {FROZEN: "--", FLOOR_NAME: ":"}


def save_curves(report: Report, path: str | os.PathLike[str]) -> None:
    """Success against budget, from no attack on, with intervals; frozen model dashed, floor dotted."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    attacks = list(dict.fromkeys(curve.attack for curve in report.curves))
    columns = min(_COLUMNS, len(attacks))
    rows = -(-len(attacks) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.2 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axis in axes.flat[len(attacks) :]:
        axis.set_visible(False)
    for axis, attack in zip(axes.flat, attacks, strict=False):
        curves = [curve for curve in report.curves if curve.attack == attack]
        for model in dict.fromkeys(curve.model for curve in curves):
            _draw(axis, [curve for curve in curves if curve.model == model], model)
        axis.set_title(attack)
        axis.set_xlabel(curves[0].axis)
        axis.set_ylim(-0.03, 1.03)
        axis.legend(fontsize="small")
    for row in axes:
        row[0].set_ylabel("images that show it")
    with atomic_file(path, overwrite=True) as temporary:
        FigureCanvasAgg(figure).print_png(temporary)


def _draw(axis: Axes, curves: Sequence[Curve], model: str) -> None:
    groups: list[list[Point]] = [[curve.before for curve in curves]]
    groups += [list(points) for points in zip(*(curve.points for curve in curves), strict=True)]
    places = [0.0, *(points[0].at for points in groups[1:])]
    rates = [pooled(points) for points in groups]
    middle = np.array([rate.value for rate in rates])
    reach = np.array([[r.value - r.low for r in rates], [r.high - r.value for r in rates]]).clip(0)
    axis.errorbar(
        places, middle, reach, label=model, linestyle=_DASHES.get(model, "-"), marker="o", capsize=2
    )
