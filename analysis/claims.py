"""The claims of the paper (Novello et al., arXiv 2509.21167) that the analysis tests, and how each is judged.

The rules below were written before the runs that they judge, but for the number of seeds by formula and of
games: five were looked at, which left C5 and C7 open, and three more were added. The levels allow for two
looks.
A pilot of one seed came before them, after which the share of m that counts as equal, the steps, batch and
images, and the setting of C8 were chosen.

* A claim has one part or several; each part is a quantity, measured for every seed in one setting or several.
* Runs of one seed share their batches, so that quantities are differences within a seed; the mean over the
  seeds is the effect, with a Student t interval (`analysis.verdicts.interval`).
* Equal m is the smallest share of m at the start that all runs compared come down to, at least a tenth.
* The intervals of a claim hold together with probability 95 %: that of each has the level 1 - 0.05 / (2 looks
  x number of measurements of the claim).
* A measurement `holds` where the interval is wholly on the side of the threshold that the claim says, `fails`
  where it is wholly on the other side, and is `not distinguishable here` where it has the threshold in it.
* A part that must hold in every setting fails where it fails in one; it holds where it holds in one and fails
  in none. A part that says that something exists (`somewhere`) holds where it holds in one setting, and fails
  where it fails in all.
* A claim fails where one of its parts fails, and holds where all of them hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log
from typing import Literal

__all__ = ["CLAIMS", "PARTS_OF", "VERDICTS", "ClaimPart", "Verdict"]

Verdict = Literal["holds", "fails", "not distinguishable here"]
VERDICTS: tuple[Verdict, ...] = ("holds", "fails", "not distinguishable here")

CLAIMS = {
    "C1": "The mean squared error is the kl member of the family.",
    "C2": "The optimum is the same for every f, the path is not.",
    "C3": "Gradient norms all along training: squared_hellinger < mse < chi2.",
    "C4": "At equal erasure closed-form squared_hellinger preserves retained concepts no worse than mse.",
    "C5": "chi2 erases faster and disturbs more.",
    "C6": "Variational losses erase aggressively, with a higher KID.",
    "C7": "jensen_shannon and squared_hellinger converge fastest in the min-max game, f''(1) being smallest.",
    "C8": "Superclass and near anchors preserve better than the empty anchor.",
    "C9": "squared_hellinger keeps KID lower when ten styles are erased one after the other.",
}
"""Claim -> what it says."""


@dataclass(frozen=True)
class ClaimPart:
    """One thing that a claim says, as a number and the side of a threshold on which it should be.

    Attributes:
        name: what `analysis.parts.verdicts` calls it.
        quantity: what is measured for every seed.
        side: above or below the threshold, or within it, |quantity| < threshold.
        threshold: in the quantity's unit.
        somewhere: whether the part says that something exists, so that one setting is enough.
        ratio: whether the quantity is a natural logarithm, printed as a ratio.
    """

    name: str
    quantity: str
    side: Literal["above", "below", "within"]
    threshold: float = 0.0
    somewhere: bool = False
    ratio: bool = False

    @property
    def wanted(self) -> str:
        """What the claim says of the quantity, such as "below 1"."""
        edge = exp(self.threshold) if self.ratio else self.threshold
        return f"{self.side} {edge:.3g}"


PARTS_OF: dict[str, tuple[ClaimPart, ...]] = {
    "C2": (
        ClaimPart(
            "same optimum",
            "where the mse run ends, the largest difference between another divergence's gradient, divided "
            "by f''(1), and that of mse on the same batch, over the norm of mse's gradient at the first step",
            "below",
            0.05,
        ),
        ClaimPart(
            "another path",
            "the largest mean |log(m of another divergence / m of mse)| over a run, held out, at equal "
            "numbers of steps",
            "above",
            log(1.05),
            somewhere=True,
            ratio=True,
        ),
    ),
    "C3": (
        ClaimPart(
            "hellinger < mse",
            "the smallest norm of mse's gradient over that of squared_hellinger, at the same parameters and "
            "batch, along the mse run",
            "above",
            ratio=True,
        ),
        ClaimPart(
            "mse < chi2",
            "the smallest norm of chi2's gradient over that of mse, at the same parameters and batch, along "
            "the mse run",
            "above",
            ratio=True,
        ),
    ),
    "C4": (
        ClaimPart(
            "disturbance",
            "squared distance of retained images from the frozen model's in the judge's embedding, "
            "squared_hellinger over mse, at equal m; no worse is less than 5 % more",
            "below",
            log(1.05),
            ratio=True,
        ),
        ClaimPart(
            "judge",
            "mean probability, for the judge, that a retained image shows item and style as prompted, "
            "squared_hellinger minus mse, there; no worse is less than 0.02 less",
            "above",
            -0.02,
        ),
    ),
    "C5": (
        ClaimPart("faster", "steps until m is half of what it was, chi2 over mse", "below", ratio=True),
        ClaimPart(
            "disturbs more",
            "squared distance of retained images from the frozen model's in the judge's embedding, chi2 over "
            "mse, at equal m",
            "above",
            ratio=True,
        ),
    ),
    "C6": (
        ClaimPart(
            "higher KID",
            "KID of retained images against the frozen model's, in the judge's embedding, times 1000, "
            "squared_hellinger against a critic minus its formula, at equal m",
            "above",
        ),
    ),
    "C7": tuple(
        ClaimPart(
            f"{ahead} before {behind}",
            f"the mean of log m over the game, held out, {ahead} minus {behind}",
            "below",
            ratio=True,
        )
        for ahead in ("squared_hellinger", "jensen_shannon")
        for behind in ("kl", "pearson_chi2")
    ),
    "C8": tuple(
        ClaimPart(
            f"{anchor} before empty",
            "squared distance of retained images from the frozen model's in the judge's embedding, where m "
            f"to its own anchor is the same share of what it was, {anchor} over empty",
            "below",
            ratio=True,
        )
        for anchor in ("superclass", "near")
    ),
}
"""Claim -> its parts. C1 has none: it is an identity, which the part `weights` checks. C9 is not run."""
