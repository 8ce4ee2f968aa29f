"""Rank correlations of predicted and measured damage over ordered pairs of concepts, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import mannwhitneyu, spearmanr

__all__ = [
    "Interval",
    "bootstrap",
    "overall",
    "pair_means",
    "pair_table",
    "separation",
    "spearman",
    "within_targets",
]


class Interval(NamedTuple):
    """A statistic and its 95 % interval."""

    value: float
    low: float
    high: float


def pair_table(
    by_prompt: np.ndarray, concepts: Sequence[str], shown: Sequence[tuple[str, str]]
) -> np.ndarray:
    """The damage to concept j of erasing i: the mean over the prompts that show j and not i.

    Args:
        by_prompt: (concepts erased, prompts).
        concepts: their names.
        shown: the item and the style of each prompt.

    Returns:
        (concepts, concepts), rows erased, columns hurt; nan on the diagonal.
    """
    table = np.full((len(concepts), len(concepts)), np.nan)
    for i, erased in enumerate(concepts):
        for j, hurt in enumerate(concepts):
            rows = [n for n, names in enumerate(shown) if hurt in names and erased not in names]
            if i != j and rows:
                table[i, j] = by_prompt[i, rows].mean()
    return table


def pair_means(distance: np.ndarray, concepts: Sequence[str], shown: Sequence[tuple[str, str]]) -> np.ndarray:
    """The mean distance between the prompts that show i and those that show j and not i; as `pair_table`."""
    by_erased = np.stack(
        [distance[[n for n, names in enumerate(shown) if erased in names]].mean(0) for erased in concepts]
    )
    return pair_table(by_erased, concepts, shown)


def within_targets(predicted: np.ndarray, measured: np.ndarray) -> float:
    """The mean over the erased concepts of Spearman over those hurt."""
    return float(np.mean([spearman(p, m) for p, m in zip(predicted, measured, strict=True)]))


def spearman(predicted: np.ndarray, measured: np.ndarray) -> float:
    """Spearman's rank correlation over the places where both are finite."""
    kept = np.isfinite(predicted) & np.isfinite(measured)
    found: Any = spearmanr(predicted[kept], measured[kept])
    return float(found.statistic)


def overall(predicted: np.ndarray, measured: np.ndarray) -> float:
    """Spearman over all ordered pairs."""
    return spearman(predicted.ravel(), measured.ravel())


def separation(predicted: np.ndarray, hurt: np.ndarray) -> float:
    """The area under the curve with which a prediction tells hurt pairs (1) from others (0), nan left out:
    the chance that of one pair of either kind it ranks the hurt one higher. nan where one kind is missing."""
    kept = np.isfinite(predicted) & np.isfinite(hurt)
    yes, no = predicted[kept & (hurt == 1)], predicted[kept & (hurt == 0)]
    if not yes.size or not no.size:
        return float("nan")
    found: Any = mannwhitneyu(yes, no)
    return float(found.statistic) / (yes.size * no.size)


def bootstrap(
    statistic: Callable[[np.ndarray, np.ndarray], float],
    predicted: np.ndarray,
    measured: np.ndarray,
    draws: int = 1000,
) -> Interval:
    """A statistic of two tables and its 95 % interval: whole rows (erased concepts) are drawn again.

    Pairs of one erased concept share its run, so that single pairs would make the interval too narrow.
    """
    rng = np.random.default_rng(0)
    rows = rng.integers(len(predicted), size=(draws, len(predicted)))
    found = [statistic(predicted[chosen], measured[chosen]) for chosen in rows]
    low, high = np.nanpercentile(found, (2.5, 97.5)) if np.isfinite(found).any() else (np.nan, np.nan)
    return Interval(statistic(predicted, measured), float(low), float(high))
