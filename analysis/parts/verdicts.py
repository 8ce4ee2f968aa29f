"""Part 12: the claims of the paper, each decided by paired runs over seeds and a rule stated beforehand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import exp, isfinite, log
from typing import TYPE_CHECKING, Any

import numpy as np

from fdiv_jax.divergences import divergence

from ..claims import PARTS_OF, ClaimPart
from ..style import INK, legend_below, log_ticks, panels, series_style
from ..trials import Laboratory
from ..verdict_runs import FORMULAS, FULL, GAMES, QUICK, SETTINGS, Bench
from ..verdicts import Measurement, judge

if TYPE_CHECKING:
    from ..runner import Context

__all__ = ["run"]

Cell = dict[str, Any]
GAME = "against a critic"
_LOOKS = {name: series_style(place) for place, name in enumerate((GAME, SETTINGS["sum"], SETTINGS["mean"]))}
"""Colour and marker of each setting."""
_EDGE = {"color": series_style(5)["color"], "linewidth": 1.8}
_OTHERS = FORMULAS[1:]
NOTHING: dict[str, Any] = {
    "verdict": "not distinguishable here",
    "evidence": "The runs of fewer than two seeds came far enough to be compared.",
    "effect": None,
    "interval": None,
    "seeds": 0,
}
NOT_RUN: dict[str, Any] = NOTHING | {
    "evidence": "Not run: the world has five styles, not ten, and forty erasures (four styles one after the "
    "other, two divergences, five seeds) did not fit the processor time of this part. "
    "Nine items in sequence, three seeds: no difference in what is judged right (docs/unlearning.md).",
}
"""C9."""


def _part(claim: str, name: str) -> ClaimPart:
    return next(part for part in PARTS_OF[claim] if part.name == name)


def _ratio(one: Cell | None, other: Cell | None, what: str) -> float:
    """The logarithm of one run's figure over the other's; nan where a run did not get as far."""
    return log(one[what] / other[what]) if one and other else np.nan


def _difference(one: Cell | None, other: Cell | None, what: str, unit: float = 1.0) -> float:
    return unit * (one[what] - other[what]) if one and other else np.nan


def _of_formulas(cell: Cell, steps: int) -> dict[tuple[str, str], float]:
    """(claim, part) -> the quantity, for one seed in one setting."""
    m, seen, norms = cell["m"], cell["seen"], cell["norms"]
    (mse, hellinger), (before, chi2) = seen["squared_hellinger"], seen["pearson_chi2"]
    apart = [np.mean(np.abs(np.log(m[name][1:] / m["kl"][1:]))) for name in _OTHERS]
    arrival = {name: min(found, float(steps)) for name, found in cell["arrival"].items()}
    return {
        ("C2", "same optimum"): float(max(cell["apart"][name][-1] for name in _OTHERS)),
        ("C2", "another path"): float(max(apart)),
        ("C3", "hellinger < mse"): float(np.log(norms["kl"] / norms["squared_hellinger"]).min()),
        ("C3", "mse < chi2"): float(np.log(norms["pearson_chi2"] / norms["kl"]).min()),
        ("C4", "disturbance"): _ratio(hellinger, mse, "feature"),
        ("C4", "judge"): _difference(hellinger, mse, "retained"),
        ("C5", "faster"): log(arrival["pearson_chi2"] / arrival["kl"]),
        ("C5", "disturbs more"): _ratio(chi2, before, "feature"),
    }


def _of_games(cell: Cell) -> dict[tuple[str, str], float]:
    mean = {name: float(np.mean(np.log(cell["m"][name][1:]))) for name in GAMES}
    return {
        ("C7", f"{ahead} before {behind}"): mean[ahead] - mean[behind]
        for ahead in ("squared_hellinger", "jensen_shannon")
        for behind in ("kl", "pearson_chi2")
    }


def _measurements(
    formulas: dict[tuple[str, int], Cell],
    anchors: Sequence[Cell],
    games: Sequence[Cell],
    steps: int,
) -> list[tuple[str, Measurement]]:
    """Every part of every claim in every setting, with the seeds that got as far."""
    gathered: dict[tuple[str, str, str], list[float]] = {}
    bounds = set()

    def add(claim: str, part: str, setting: str, value: float) -> None:
        if isfinite(value):
            gathered.setdefault((claim, part, setting), []).append(value)

    for (setting, seed), cell in formulas.items():
        where = SETTINGS[setting]
        for (claim, part), value in _of_formulas(cell, steps).items():
            add(claim, part, where, value)
        if not isfinite(cell["arrival"]["pearson_chi2"]):
            bounds.add(("C5", "faster", where))
        game = games[seed]["seen"]
        add("C6", "higher KID", where, _difference(game, cell["as_game"], "kid", 1000))
    for cell in anchors:
        seen = cell["seen"]
        for anchor in ("superclass", "near"):
            value = _ratio(seen[anchor], seen["empty"], "feature")
            add("C8", f"{anchor} before empty", SETTINGS["mean"], value)
    for cell in games:
        for (claim, part), value in _of_games(cell).items():
            add(claim, part, GAME, value)
    return [
        (claim, Measurement(_part(claim, part), setting, tuple(values), (claim, part, setting) in bounds))
        for (claim, part, setting), values in sorted(gathered.items())
        if len(values) > 1
    ]


def _draw(found: Sequence[tuple[str, Measurement]]) -> Any:
    """One row per measurement: ratios above, differences below, each with its threshold."""
    kinds = [[row for row in found if row[1].part.ratio is ratio] for ratio in (True, False)]
    figure, axes = panels(
        2, 1, height=0.15 * len(found) + 1.3, height_ratios=[len(rows) + 1 for rows in kinds]
    )
    for axis, rows, ratio in zip(axes, kinds, (True, False), strict=True):
        names, ends = [], []
        for place, (claim, each) in enumerate(rows):
            mean, low, high = each.printed
            look = _LOOKS[each.setting]
            axis.plot([low, high], [place, place], color=look["color"])
            axis.plot(mean, place, **look | {"linestyle": "none"}, markersize=4)
            edge = exp(each.part.threshold) if ratio else each.part.threshold
            axis.plot([edge, edge], [place - 0.45, place + 0.45], **_EDGE, zorder=1)
            beside = {"transform": axis.get_yaxis_transform(), "va": "center", "fontsize": 7}
            axis.text(1.02, place, each.verdict, **beside)
            first = place == 0 or (claim, each.part) != (rows[place - 1][0], rows[place - 1][1].part)
            names.append(f"{claim}  {_short(each.part.name)}" if first else "")
            ends += [low, high, edge]
        axis.set_yticks(range(len(rows)), names)
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="y", visible=False)
        axis.axvline(1.0 if ratio else 0.0, color=INK, linewidth=0.7, zorder=0)
        axis.set(ylim=(len(rows) - 0.4, -0.6))
        if ratio and rows:
            axis.set(xscale="log", xlim=(min(ends) / 1.2, max(ends) * 1.2))
            log_ticks(axis.xaxis)
    axes[0].set(title="ratios")
    axes[1].set(title="differences: gradients (C2), probabilities (C4), KID × 1000 (C6)")
    axes[1].set_xscale("symlog", linthresh=0.1)
    axes[1].set_xticks([-10, -1, -0.1, 0, 0.1, 1, 10], ["−10", "−1", "−0.1", "0", "0.1", "1", "10"])
    for setting, look in _LOOKS.items():
        axes[0].plot([], [], **look | {"linestyle": "-"}, markersize=4, label=setting)
    axes[0].plot([], [], **_EDGE, label="threshold of the claim")
    legend_below(figure, axes, 4)
    return figure


def _short(text: str) -> str:
    for name, short in (("squared_hellinger", "H²"), ("jensen_shannon", "JS"), ("pearson_chi2", "χ²")):
        text = text.replace(name, short)
    return text


def run(context: Context) -> dict[str, Any]:
    """Make the runs of every seed, then decide claim after claim."""
    laboratory, work = Laboratory.open(context), QUICK if context.quick else FULL
    bench = Bench(laboratory, work)
    pairs = [(setting, seed) for seed in range(work.seeds) for setting in SETTINGS]
    games = context.cells(range(work.seeds), "against a critic", bench.games)
    formulas = context.cells(pairs, "by formula", lambda pair: bench.formulas(*pair, games[pair[1]]["share"]))
    anchors = context.cells(range(work.seeds), "anchors", bench.anchors)
    found = _measurements(
        dict(zip(pairs, formulas, strict=True)),
        anchors,
        games,
        work.steps,
    )
    for claim in PARTS_OF:
        own = [each for name, each in found if name == claim]
        context.claim(claim, **(judge(claim, own) if own else NOTHING))
    context.claim("C9", **NOT_RUN)
    count = Counter(claim for claim, _ in found)
    rows = [(claim, each.at(1 - 0.05 / count[claim])) for claim, each in found]
    curvature = {name: float(divergence(name).curvature) for name in FORMULAS}
    equal = {
        SETTINGS[setting]: {
            name: float(
                np.mean(
                    [
                        np.mean(np.log(cell["norms"][name] / curvature[name] / cell["norms"]["kl"]))
                        for (place, _), cell in zip(pairs, formulas, strict=True)
                        if place == setting
                    ]
                )
            )
            for name in _OTHERS
        }
        for setting in SETTINGS
    }
    context.figure(
        "verdicts",
        _draw(rows),
        shows=f"The paper's claims C2 to C8, measured: means over {work.seeds} seeds of differences between "
        "runs on the same batches, with Student t intervals that hold together for every claim with 95 %. "
        "The claim says that the quantity is on one side of its threshold; what is measured, and how rows "
        "make a verdict, is in `analysis/claims.py`.",
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
                f"{claim}, {part.name}": part.quantity for claim, some in PARTS_OF.items() for part in some
            },
        },
    )
    return {
        "verdict_measurements": len(found),
        "gradient_norm_over_mse_at_equal_curvature": {
            setting: {name: exp(value) for name, value in some.items()} for setting, some in equal.items()
        },
    }
