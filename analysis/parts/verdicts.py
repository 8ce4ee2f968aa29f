"""The claims about losses with a formula and about anchors, decided by paired runs over seeds."""

from __future__ import annotations

from math import exp, isfinite, log
from typing import TYPE_CHECKING

import numpy as np

from fdiv_jax.divergences import divergence
from fdiv_jax.files import JsonObject

from ..trials import Laboratory
from ..verdict_page import NOTHING, Gathered, difference, ratio, tell
from ..verdict_runs import FORMULAS, FULL, QUICK, SETTINGS, Bench

if TYPE_CHECKING:
    from ..runner import Context

__all__ = ["run"]

_OTHERS = FORMULAS[1:]
NOT_RUN: JsonObject = NOTHING | {
    "evidence": "Not run: the world has five styles, not ten, and forty erasures (four styles one after the "
    "other, two divergences, five seeds) did not fit the processor time of this part. Nine items in "
    "sequence, three seeds: no difference in what is judged right (docs/unlearning.md).",
}
"""C9."""


def _add(gathered: Gathered, setting: str, cell: JsonObject, steps: int) -> None:
    """One seed of the runs by formula."""
    m, seen, norms = cell["m"], cell["seen"], cell["norms"]
    (mse, hellinger), (before, chi2) = seen["squared_hellinger"], seen["pearson_chi2"]
    apart = [np.mean(np.abs(np.log(m[name][1:] / m["kl"][1:]))) for name in _OTHERS]
    arrival = {name: min(found, float(steps)) for name, found in cell["arrival"].items()}
    for claim, part, value in (
        ("C2", "same optimum", float(max(cell["apart"][name][-1] for name in _OTHERS))),
        ("C2", "another path", float(max(apart))),
        ("C3", "hellinger < mse", float(np.log(norms["kl"] / norms["squared_hellinger"]).min())),
        ("C3", "mse < chi2", float(np.log(norms["pearson_chi2"] / norms["kl"]).min())),
        ("C4", "disturbance", ratio(hellinger, mse, "feature")),
        ("C4", "judge", difference(hellinger, mse, "retained")),
        ("C5", "disturbs more", ratio(chi2, before, "feature")),
    ):
        gathered.add(claim, part, setting, value)
    late = not isfinite(cell["arrival"]["pearson_chi2"])
    gathered.add("C5", "faster", setting, log(arrival["pearson_chi2"] / arrival["kl"]), bound=late)


def run(context: Context) -> JsonObject:
    """Make the runs of every seed, then decide claim after claim."""
    laboratory, work = Laboratory.open(context), QUICK if context.quick else FULL
    bench = Bench(laboratory, work)
    pairs = [(setting, seed) for seed in range(work.seeds) for setting in SETTINGS]
    cells = context.cells(pairs, "by formula", lambda pair: bench.formulas(*pair))
    gathered = Gathered()
    for (setting, _), cell in zip(pairs, cells, strict=True):
        _add(gathered, SETTINGS[setting], cell, work.steps)
    for cell in context.cells(range(work.anchor_seeds), "anchors", bench.anchors):
        seen = cell["seen"]
        for anchor in ("superclass", "near"):
            value = ratio(seen[anchor], seen["empty"], "feature")
            gathered.add("C8", f"{anchor} before empty", SETTINGS["mean"], value)
    seeds = f"C2 to C5, {work.seeds} seeds) and anchors (C8, {work.anchor_seeds})."
    shows = f"The paper's claims about formulas ({seeds}"
    count = tell(context, "verdicts", ("C2", "C3", "C4", "C5", "C8"), gathered, shows)
    context.claim("C9", **NOT_RUN)
    curvature = {name: float(divergence(name).curvature) for name in FORMULAS}
    equal = {
        place: {
            name: float(
                np.mean(
                    [
                        np.log(cell["norms"][name] / curvature[name] / cell["norms"]["kl"]).mean()
                        for (setting, _), cell in zip(pairs, cells, strict=True)
                        if setting == key
                    ]
                )
            )
            for name in _OTHERS
        }
        for key, place in SETTINGS.items()
    }
    return {
        "verdict_measurements": count,
        "gradient_norm_over_mse_at_equal_curvature": {
            place: {name: exp(value) for name, value in some.items()} for place, some in equal.items()
        },
    }
