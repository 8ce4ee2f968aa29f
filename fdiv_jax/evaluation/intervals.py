"""Intervals of scores over prompts and seeds, of differences between two models, and of many comparisons.

Images of one prompt resemble each other, and so may images of one seed, whose starting noise is the same. An
interval is asked to hold at new prompts and new seeds, so both count as drawn at random, and the number of
prompts matters more than the number of images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from fdiv_jax.evaluation._crossed import Moments, moments, table
from fdiv_jax.evaluation._quantiles import normal_quantile, rate_bounds, student_quantile

__all__ = [
    "Interval",
    "bootstrap_difference",
    "bootstrap_mean",
    "holm",
    "jackknife_statistic",
    "jackknife_variance",
    "rate_interval",
    "simultaneous_level",
    "student_interval",
]

_FEW_PROMPTS = 5
"""Below so many prompts or seeds a bootstrap draws from too few different tables; Student's t is used."""


class Interval(NamedTuple):
    """A value and the interval around it.

    Printed as `0.42 [0.31, 0.53]`, in the format given: `f"{interval:.3f}"`.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return format(self, ".2f")

    def __format__(self, spec: str) -> str:
        spec = spec or ".2f"
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"

    def holds(self, value: float) -> bool:
        """Whether the interval contains a value."""
        return self.low <= value <= self.high


def rate_interval(successes: float, n: float, level: float = 0.95) -> Interval:
    """The interval of a rate from independent trials: `successes` of `n`.

    The mid-P bounds. At n = 20 they cover between 93 and 100 % at every rate, 96 % on average; Wilson's
    interval covers 84 % at rates below 1 / n. 0 of 20 gives [0, 0.139].

    Args:
        successes: how many; may be a fraction where it stands for an effective number.
        n: of how many; positive.
        level: of confidence, between 0 and 1.

    Raises:
        ValueError: successes outside 0 to n, or another level.

    Source: Lancaster, Significance tests in discrete distributions, 1961.
    """
    _check_level(level)
    if not (math.isfinite(n) and n > 0 and 0 <= successes <= n):
        raise ValueError(f"{successes} successes of {n}, expected 0 <= successes <= n and n > 0")
    low, high = rate_bounds(float(successes), float(n), level)
    return Interval(successes / n, low, high)


def bootstrap_mean(values: object, *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval:
    """The mean of a score over prompts and seeds, with an interval for new prompts and new seeds.

    Scores that are all 0 or 1 have the interval of a rate (`rate_interval`), with as many images as would be
    worth as much if they were independent: 20 of 20 keeps a lower end below 1, and images of one prompt that
    are alike count little. Other scores have a bootstrap of the studentised mean over prompts and seeds, both
    drawn with repetition; with fewer than 5 prompts Student's t. Percentiles of such a bootstrap cover
    90 % at 10 prompts in place of 95.

    Args:
        values: (prompts, seeds), where a column has the same starting noise in all rows; (prompts,) for one
            image each. nan where an image is missing. With one prompt the interval is for new seeds of it.
        level: of confidence, between 0 and 1.
        resamples: tables drawn.
        seed: of the draws.

    Raises:
        ValueError: no numbers, infinite ones, a single number that is not 0 or 1, or another level.
    """
    _check(level, resamples)
    found = table(values)
    if _binary(found):
        return _rate(found, level)
    return _studentised(found, level, resamples, seed)


def bootstrap_difference(
    a: object, b: object, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """The mean of a - b over the same prompts and seeds, with an interval for new ones.

    As `bootstrap_mean` of the differences; where a and b are all 0 or 1, by the rates at which only a, and
    only b, is 1, so that two models that agree everywhere keep an interval around 0.

    Args:
        a, b: (prompts, seeds) or (prompts,), scores of images from the same prompts and the same noise; nan
            where one is missing leaves out the pair.
        level: of confidence, between 0 and 1.
        resamples: tables drawn.
        seed: of the draws.

    Raises:
        ValueError: tables of different shapes, or as for `bootstrap_mean`.
    """
    _check(level, resamples)
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape:
        raise ValueError(f"a of shape {first.shape} and b of shape {second.shape}, expected the same, paired")
    found = table(first - second, "a - b")
    if _binary(first) and _binary(second):
        return _rate_difference(found, level)
    return _studentised(found, level, resamples, seed)


def jackknife_statistic(
    fn: Callable[..., float],
    *samples: np.ndarray,
    paired: bool = True,
    groups: object = None,
    level: float = 0.95,
    left_out: int = 100,
) -> Interval:
    """A statistic of sets of images, such as KID, FID or CMMD, with an interval for new prompts.

        fn(samples) -+ t s,   s^2 = (G - 1) / G  sum_g (fn without prompt g - their mean)^2

    with the quantile of Student's t for G - 1 degrees of freedom; samples that are not paired add their s^2.
    A bootstrap would draw images twice, and the pairs of an image with itself, which KID leaves out, count as
    a distance: at 10 prompts its percentiles held a KID of 1 in 60 to 70 % of simulations and a KID of 0 in
    none, this interval in 93 % and 98 %.

    The interval is for the expectation of the statistic at this number of images. For KID, which is unbiased,
    that is the distance of the distributions. FID's and CMMD's expectations are above it and fall as images
    are added: their intervals compare models at equal numbers of images, and do not hold the distance itself
    (FID's held it in 15 % of simulations of 50 images with 16 features).

    Args:
        fn: from arrays like `samples`, with fewer rows, to a number.
        samples: one row per image.
        paired: row i of all samples is of one prompt and noise, and they are left out together.
        groups: the prompt of each row, whose images are left out together; None: each row is of its own. With
            paired=False one sequence for each sample.
        level: of confidence, between 0 and 1.
        left_out: how often at the most something is left out; of more prompts several at a time.

    Raises:
        ValueError: samples of different lengths where paired, fewer than two prompts, or another level.

    Source: Efron and Stein, The jackknife estimate of variance, 1981.
    """
    _check_level(level)
    arrays = [np.asarray(sample) for sample in samples]
    if not arrays or any(not array.ndim or len(array) < 2 for array in arrays):
        shapes = [array.shape for array in arrays]
        raise ValueError(f"samples of shape {shapes}, expected at least two rows in each")
    if paired and len({len(array) for array in arrays}) > 1:
        raise ValueError(f"samples of {[len(a) for a in arrays]} rows, expected as many in each, paired")
    every = [range(len(arrays))] if paired else [[k] for k in range(len(arrays))]
    given = [groups] if paired or groups is None else groups
    labels = [None] * len(every) if groups is None else list(given)  # type: ignore[call-overload]
    if len(labels) != len(every):
        raise ValueError(f"{len(labels)} sequences of groups, expected one for each of {len(every)} samples")
    parts = []
    for together, names in zip(every, labels, strict=True):
        blocks = _blocks(len(arrays[together[0]]), names, left_out)
        parts.append(
            jackknife_variance(
                fn(*(np.delete(a, rows, axis=0) if k in together else a for k, a in enumerate(arrays)))
                for rows in blocks
            )
        )
    value, total = float(fn(*arrays)), sum(variance for variance, _ in parts)
    if total == 0.0:
        return Interval(value, value, value)
    freedom = total**2 / sum(variance**2 / each for variance, each in parts)
    return student_interval(value, total, freedom, level)


def jackknife_variance(without: Iterable[float]) -> tuple[float, int]:
    """The variance of a statistic and its degrees of freedom, from its values without each of G parts.

        (G - 1) / G  sum_g (theta(-g) - mean_g theta(-g))^2   and   G - 1

    Source: Efron and Stein, The jackknife estimate of variance, 1981; for U-statistics Arvesen 1969.
    """
    values = list(without)
    return (len(values) - 1) * float(np.var(values)), len(values) - 1


def student_interval(value: float, variance: float, freedom: float, level: float) -> Interval:
    """value -+ t sqrt(variance), with the quantile of Student's t for that many degrees of freedom."""
    half = student_quantile((1 + level) / 2, freedom) * math.sqrt(variance)
    return Interval(value, value - half, value + half)


def _blocks(n: int, names: object, most: int) -> list[np.ndarray]:
    """The rows that are left out together: one prompt, or several where there are more than `most`."""
    labels = np.arange(n) if names is None else np.asarray(names)
    if labels.shape != (n,):
        raise ValueError(f"groups of shape {labels.shape} for {n} rows, expected one label per row")
    order = np.unique(labels, return_inverse=True)[1]
    count = int(order.max()) + 1
    if count < 2 or most < 2:
        raise ValueError(f"{count} prompts left out in {most} parts, expected at least two of both")
    shuffled = np.random.default_rng(0).permutation(count)
    return [np.flatnonzero(np.isin(order, part)) for part in np.array_split(shuffled, min(most, count))]


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for as many comparisons as there are: one below alpha is significant at alpha.

    The k-th smallest of n is multiplied by n - k + 1 and raised to those before it, at most 1. The chance of
    one or more false findings is at most alpha, whatever the dependence.

    Raises:
        ValueError: a number outside 0 to 1.

    Source: Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    p = np.asarray(p_values, np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p-values {p_values!r}, expected a list of numbers from 0 to 1")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return adjusted.tolist()


def simultaneous_level(level: float, comparisons: int) -> float:
    """The level of each of several intervals at which all of them hold together with probability `level`.

        1 - (1 - level) / comparisons   (Bonferroni)

    Raises:
        ValueError: another level, or no comparisons.
    """
    _check_level(level)
    if comparisons < 1:
        raise ValueError(f"comparisons={comparisons}, expected at least 1")
    return 1.0 - (1.0 - level) / comparisons


def _binary(values: np.ndarray) -> bool:
    seen = values[~np.isnan(values)]
    return bool(((seen == 0) | (seen == 1)).all())


def _effective(found: Moments, variance_of_one: float, level: float) -> float:
    """The number of independent images that are worth as much as the table, for intervals of rates.

        n_eff = n / d (z / t)^2   with d = Var(mean) n / variance_of_one, where d > 1; n otherwise

    and the quantiles of the normal and of Student's t with the variance's degrees of freedom.

    Source: Korn and Graubard 1998, Confidence intervals for proportions with small expected number of
    positive counts estimated from survey data.
    """
    n, freedom = float(found.count[0]), float(found.freedom[0])
    if variance_of_one <= 0:
        return n
    inflated = float(found.variance[0]) * n / variance_of_one
    if inflated <= 1:
        return n
    tail = (1 + level) / 2
    return n / inflated * (normal_quantile(tail) / student_quantile(tail, freedom)) ** 2


def _rate(values: np.ndarray, level: float) -> Interval:
    found = moments(values)
    p = float(found.mean[0])
    n = _effective(found, p * (1 - p), level)
    return rate_interval(p * n, n, level)._replace(value=p)


def _rate_difference(values: np.ndarray, level: float) -> Interval:
    """a - b of two rates on the same images: of the shares of pairs where only a, and only b, is 1.

    d = p - q with square-and-add bounds from the two intervals, whose correlation is that of a multinomial.

    Source: Newcombe 1998, Improved confidence intervals for the difference between binomial proportions based
    on paired data; Tang et al. 2010.
    """
    found = moments(values)
    d = float(found.mean[0])
    seen = values[~np.isnan(values)]
    only_a, only_b = float((seen == 1).mean()), float((seen == -1).mean())
    n = _effective(found, only_a + only_b - d**2, level)
    low_a, high_a = rate_bounds(only_a * n, n, level)
    low_b, high_b = rate_bounds(only_b * n, n, level)
    odds = only_a * only_b / max((1 - only_a) * (1 - only_b), 1e-300)
    correlation = -math.sqrt(min(odds, 1.0))

    def width(x: float, y: float) -> float:
        return math.sqrt(max(x * x - 2 * correlation * x * y + y * y, 0.0))

    low = d - width(only_a - low_a, high_b - only_b)
    high = d + width(high_a - only_a, only_b - low_b)
    return Interval(d, max(low, -1.0), min(high, 1.0))


def _studentised(values: np.ndarray, level: float, resamples: int, seed: int) -> Interval:
    """Student's t, or the bootstrap of it over prompts and seeds where there are enough of them."""
    if values.size < 2:
        raise ValueError("one number has no interval; expected at least two prompts or two seeds")
    found = moments(values)
    mean, error = float(found.mean[0]), math.sqrt(max(float(found.variance[0]), 0.0))
    if error == 0.0:
        return Interval(mean, mean, mean)
    tail = (1 + level) / 2
    p, s = values.shape
    if (p if p > 1 else s) < _FEW_PROMPTS:
        return student_interval(mean, error**2, float(found.freedom[0]), level)
    rng = np.random.default_rng(seed)
    prompts = rng.multinomial(p, np.full(p, 1 / p), resamples).astype(np.float64)
    seeds = rng.multinomial(s, np.full(s, 1 / s), resamples).astype(np.float64)
    drawn = moments(values, prompts, seeds)
    spread = np.sqrt(np.maximum(drawn.variance, (1e-3 * error) ** 2))
    low, high = np.quantile((drawn.mean - mean) / spread, [1 - tail, tail])
    return Interval(mean, mean - float(high) * error, mean - float(low) * error)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level={level}, expected a number between 0 and 1")


def _check(level: float, resamples: int) -> None:
    _check_level(level)
    if resamples < 100:
        raise ValueError(f"resamples={resamples}, expected at least 100")
