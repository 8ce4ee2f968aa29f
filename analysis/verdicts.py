"""From numbers of every seed to a verdict: intervals, and the rules of `analysis.claims`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, inf

import numpy as np
from scipy import stats

from fdiv_jax.files import JsonObject

from .claims import PARTS_OF, ClaimPart, Verdict

__all__ = ["Measurement", "combine", "decide", "interval", "judge", "level_of"]

UNSURE: Verdict = "not distinguishable here"
_LOOKS = 2
"""Five seeds were run, and looked at; then three more."""


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """The mean and its Student t interval, from the standard deviation with n - 1 in the denominator.

    Where one is worth considering: a bootstrap of five values draws from too few different ones; its 95 %
    interval covers about 84 % for Gaussian data (percentile; BCa no better), that of t covers 95 %.

    Args:
        values: one for every seed, independent of each other; a difference where runs are paired.
        level: of confidence.

    Returns:
        mean, low, high.

    Raises:
        ValueError: fewer than two values, or one that is not finite.

    Source: Student, The probable error of a mean, 1908.
    """
    found = np.asarray(values, np.float64)
    if found.ndim != 1 or len(found) < 2 or not np.isfinite(found).all():
        raise ValueError(f"expected at least two finite values, one for every seed; got {values!r}")
    mean, error = float(found.mean()), float(found.std(ddof=1) / np.sqrt(len(found)))
    half = float(stats.t.ppf((1 + level) / 2, len(found) - 1)) * error
    return mean, mean - half, mean + half


@dataclass(frozen=True)
class Measurement:
    """One part of a claim in one setting.

    Attributes:
        part: what was measured.
        setting: where.
        values: one for every seed that has one.
        bound: some runs ended before the quantity was known, and their values are nearer to what the claim
            says than the quantity is: such a measurement can fail, and cannot hold.
        level: of confidence of the interval.
    """

    part: ClaimPart
    setting: str
    values: tuple[float, ...]
    bound: bool = False
    level: float = 0.95

    def at(self, level: float) -> Measurement:
        """The same with an interval of another level."""
        return replace(self, level=level)

    @property
    def interval(self) -> tuple[float, float, float]:
        """The mean over the seeds, and its interval."""
        return interval(self.values, self.level)

    @property
    def verdict(self) -> Verdict:
        """What the interval says."""
        found = decide(self.part, *self.interval[1:])
        return UNSURE if self.bound and found == "holds" else found

    @property
    def clearance(self) -> float:
        """How far the mean is from the threshold, in half-widths of the interval; beyond 1 it is decided."""
        mean, low, high = self.interval
        edge, half = self.part.threshold, (high - low) / 2
        away = abs(abs(mean) - edge) if self.part.side == "within" else abs(mean - edge)
        return away / half if half else inf

    @property
    def printed(self) -> tuple[float, float, float]:
        """The interval in the unit that is printed: a ratio, where the quantity is the logarithm of one."""
        if not self.part.ratio:
            return self.interval
        mean, low, high = (exp(min(value, 700.0)) for value in self.interval)
        return mean, low, high

    @property
    def says(self) -> str:
        """The measurement in words."""
        mean, low, high = self.printed
        text = (
            f"{self.setting}: {'at least ' if self.bound else ''}{mean:.3g} [{low:.3g}, {high:.3g}], "
            f"{len(self.values)} seeds, {self.verdict}"
        )
        if self.verdict != UNSURE:
            return text
        half = (self.interval[2] - self.interval[1]) / 2
        seen = f"{100 * np.expm1(min(half, 700.0)):.2g} %" if self.part.ratio else f"{half:.2g}"
        return f"{text} ({seen} from the threshold would have been seen)"


def level_of(count: int) -> float:
    """The level at which each of `count` intervals of a claim holds; see `analysis.claims`."""
    return 1 - 0.05 / (_LOOKS * count)


def decide(part: ClaimPart, low: float, high: float) -> Verdict:
    """What an interval says of a part; see `analysis.claims`."""
    edge = part.threshold
    if part.side == "within":
        if -edge < low and high < edge:
            return "holds"
        return "fails" if low > edge or high < -edge else UNSURE
    if part.side == "above":
        return "holds" if low > edge else "fails" if high < edge else UNSURE
    return "holds" if high < edge else "fails" if low > edge else UNSURE


def combine(parts: Mapping[ClaimPart, Sequence[Verdict]]) -> Verdict:
    """The verdict on a claim from those of every part in every setting; see `analysis.claims`."""
    each = [_of_settings(part, verdicts) for part, verdicts in parts.items()]
    if "fails" in each:
        return "fails"
    return "holds" if each and all(verdict == "holds" for verdict in each) else UNSURE


def _of_settings(part: ClaimPart, verdicts: Sequence[Verdict]) -> Verdict:
    if part.somewhere:
        if "holds" in verdicts:
            return "holds"
        return "fails" if verdicts and all(verdict == "fails" for verdict in verdicts) else UNSURE
    if "fails" in verdicts:
        return "fails"
    return "holds" if "holds" in verdicts else UNSURE


def judge(claim: str, measurements: Sequence[Measurement]) -> JsonObject:
    """The verdict on a claim, for `Context.claim`.

    The effect is that of the measurement that decides: where the claim fails the clearest that fails, where
    it holds the least clear that holds, and else the least clear one that is not distinguishable.

    Args:
        claim: its name in `CLAIMS`.
        measurements: of its parts, in every setting.

    Returns:
        verdict, evidence, effect, interval and seeds.

    Raises:
        ValueError: no measurement, or one of another claim.
    """
    parts = PARTS_OF[claim]
    if not measurements or any(each.part not in parts for each in measurements):
        raise ValueError(f"expected measurements of {claim}, got {[each.part.name for each in measurements]}")
    level = level_of(len(measurements))
    found = [replace(each, level=level) for each in measurements]
    by_part = {part: [each for each in found if each.part == part] for part in parts}
    verdict = combine({part: [each.verdict for each in some] for part, some in by_part.items()})
    deciding = [each for each in found if each.verdict == verdict]
    chosen = (max if verdict == "fails" else min)(deciding or found, key=lambda each: each.clearance)
    mean, low, high = chosen.printed
    sentences = [
        f"{part.name} ({part.wanted}): {'; '.join(each.says for each in some)}."
        for part, some in by_part.items()
        if some
    ]
    return {
        "verdict": verdict,
        "evidence": " ".join(sentences),
        "effect": mean,
        "interval": [low, high],
        "seeds": len(chosen.values),
    }
