"""Verdicts from measurements over seeds: decided, drawn, and written down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import exp, isfinite, log
from typing import TYPE_CHECKING

import numpy as np

from fdiv_jax.files import JsonMapping, JsonObject

from .claims import PARTS_OF
from .style import INK, legend_below, log_ticks, panels, series_style
from .verdict_runs import SETTINGS
from .verdicts import Measurement, judge, level_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .runner import Context

__all__ = ["GAME", "Gathered", "difference", "ratio", "tell"]

GAME = "against a critic"
_LOOKS = {name: series_style(place) for place, name in enumerate((GAME, SETTINGS["sum"], SETTINGS["mean"]))}
"""Colour and marker of each setting."""
_EDGE = {"color": series_style(5)["color"], "linewidth": 1.8}
NOTHING: JsonObject = {
    "verdict": "not distinguishable here",
    "evidence": "The runs of fewer than two seeds came far enough to be compared.",
    "effect": None,
    "interval": None,
    "seeds": 0,
}
Cell = JsonMapping


def ratio(one: Cell | None, other: Cell | None, what: str) -> float:
    """The logarithm of one run's figure over the other's; nan where a run did not get as far."""
    return log(one[what] / other[what]) if one and other else np.nan


def difference(one: Cell | None, other: Cell | None, what: str, unit: float = 1.0) -> float:
    """One run's figure minus the other's; nan where a run did not get as far."""
    return unit * (one[what] - other[what]) if one and other else np.nan


class Gathered:
    """Numbers of every seed, by claim, part and setting."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str, str], list[float]] = {}
        self._bounds: set[tuple[str, str, str]] = set()

    def add(self, claim: str, part: str, setting: str, value: float, *, bound: bool = False) -> None:
        """One seed's number; one that is not finite is none. See `Measurement` for `bound`."""
        key = (claim, part, setting)
        if isfinite(value):
            self._values.setdefault(key, []).append(value)
        if bound:
            self._bounds.add(key)

    def measurements(self) -> list[tuple[str, Measurement]]:
        """What at least two seeds have, in the order of the claims."""
        found = []
        for (claim, name, setting), values in sorted(self._values.items()):
            (part,) = (part for part in PARTS_OF[claim] if part.name == name)
            if len(values) > 1:
                bound = (claim, name, setting) in self._bounds
                found.append((claim, Measurement(part, setting, tuple(values), bound)))
        return found


def tell(context: Context, name: str, claims: Sequence[str], gathered: Gathered, shows: str) -> int:
    """Decide the claims and draw what they are decided by; returns the number of measurements."""
    found = gathered.measurements()
    for claim in claims:
        own = [each for name, each in found if name == claim]
        context.claim(claim, **(judge(claim, own) if own else NOTHING))
    count = Counter(claim for claim, _ in found)
    rows = [(claim, each.at(level_of(count[claim]))) for claim, each in found]
    context.figure(
        name,
        _draw(rows),
        shows=f"{shows} Means over the seeds of differences between runs on the same batches, with Student t "
        "intervals that hold together for every claim with 95 %. The claim says that the quantity is on one "
        "side of its threshold; what is measured, and how rows make a verdict, is in `analysis/claims.py`.",
        rows=[
            {
                "claim": claim,
                "part": each.part.name,
                "setting": each.setting,
                "wanted": each.part.wanted,
                "effect": each.printed[0],
                "low": each.printed[1],
                "high": each.printed[2],
                "level": each.level,
                "seeds": len(each.values),
                "deviation_of_the_quantity": float(np.std(each.values, ddof=1)),
                "verdict": each.verdict,
            }
            for claim, each in rows
        ],
        numbers={
            "values": {f"{claim}, {each.part.name}, {each.setting}": each.values for claim, each in rows},
            "quantities": {
                f"{claim}, {part.name}": part.quantity for claim in claims for part in PARTS_OF[claim]
            },
        },
    )
    return len(found)


def _draw(found: Sequence[tuple[str, Measurement]]) -> Figure:
    """One row per measurement: ratios above, differences below, each with its threshold."""
    kinds = {of: [row for row in found if row[1].part.ratio is of] for of in (True, False)}
    kinds = {of: rows for of, rows in kinds.items() if rows}
    heights = [len(rows) + 1 for rows in kinds.values()]
    figure, axes = panels(len(kinds), 1, height=0.15 * len(found) + 1.3, height_ratios=heights, squeeze=False)
    for axis, (ratios, rows) in zip(axes[:, 0], kinds.items(), strict=True):
        names, ends = [], []
        for place, (claim, each) in enumerate(rows):
            mean, low, high = each.printed
            look = _LOOKS[each.setting]
            axis.plot([low, high], [place, place], color=look["color"])
            axis.plot(mean, place, **dict(look, linestyle="none"), markersize=4)
            edge = exp(each.part.threshold) if ratios else each.part.threshold
            axis.plot([edge, edge], [place - 0.45, place + 0.45], **_EDGE, zorder=1)
            beside = {"transform": axis.get_yaxis_transform(), "va": "center", "fontsize": 7}
            axis.text(1.02, place, each.verdict, **beside)
            names.append(f"{claim}  {_short(each.part.name)}")
            ends += [low, high, edge]
        axis.set_yticks(range(len(rows)), names)
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="y", visible=False)
        axis.axvline(1.0 if ratios else 0.0, color=INK, linewidth=0.7, zorder=0)
        axis.set(ylim=(len(rows) - 0.4, -0.6))
        if ratios:
            axis.set(xscale="log", xlim=(min(ends) / 1.2, max(ends) * 1.2), title="ratios")
            log_ticks(axis.xaxis)
            continue
        axis.set(title="differences: gradients (C2), probabilities (C4), KID × 1000 (C6)")
        axis.set_xscale("symlog", linthresh=0.1)
        axis.set_xticks([-10, -1, -0.1, 0, 0.1, 1, 10], ["−10", "−1", "−0.1", "0", "0.1", "1", "10"])
    shown = {each.setting for _, each in found}
    for setting, look in _LOOKS.items():
        if setting in shown:
            axes[0, 0].plot([], [], **dict(look, linestyle="-"), markersize=4, label=setting)
    axes[0, 0].plot([], [], **_EDGE, label="threshold of the claim")
    legend_below(figure, axes, 4)
    return figure


def _short(text: str) -> str:
    for name, short in (("squared_hellinger", "H²"), ("jensen_shannon", "JS"), ("pearson_chi2", "χ²")):
        text = text.replace(name, short)
    return text
