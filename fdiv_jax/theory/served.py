"""Which samples a divergence serves first: the spread of m over samples at equal mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from fdiv_jax.theory._inputs import Floats, as_divergence, non_negative, positive
from fdiv_jax.theory.clock import descent_flow

if TYPE_CHECKING:
    from fdiv_jax.divergences import Divergence

__all__ = ["Served", "served_first"]


@dataclass(frozen=True)
class Served:
    """The distribution of m over samples when their mean has come down to a given value.

    Attributes:
      name: the divergence's name.
      time: when gradient flow reaches the mean.
      m: squared distance of every sample, in the order given.
      median, percentile_90, maximum: statistics of m.
    """

    name: str
    time: float
    m: Floats
    median: float
    percentile_90: float
    maximum: float


def served_first(
    divergences: Sequence[Divergence | str], m0: ArrayLike, mean: float, kernel: ArrayLike = 1.0
) -> tuple[Served, ...]:
    """The distribution of m under each divergence, at equal mean m.

    Each sample follows m_i' = -2 k_i w_f(m_i) m_i. A weight that falls with m (squared_hellinger) attends to
    the bulk and leaves a tail: a smaller median, a larger maximum. One that rises (pearson_chi2) cuts the
    tail first. kl, with w = 1, keeps the ratios of the m_i where all kernels are equal.

    Args:
      divergences: each a Divergence, a name or an expression.
      m0: squared distances at the start, (n_samples,).
      mean: the mean of m at which they are compared, > 0 and at most the mean of m0.
      kernel: k_i > 0, a number or one for each sample.

    Returns:
      One `Served` per divergence, in the order given.

    Raises:
      ValueError: a mean above that of m0, negative m0, kernels not > 0.
      TypeError: not numbers.

    >>> hellinger, kl, chi2 = served_first(["squared_hellinger", "kl", "pearson_chi2"], [1.0, 2.0, 9.0], 2.0)
    >>> hellinger.median < kl.median < chi2.median and hellinger.maximum > kl.maximum > chi2.maximum
    True
    """
    if isinstance(divergences, str):
        raise TypeError(f"expected a sequence of divergences, got the string {divergences!r}")
    start, goal = non_negative("m0", m0), positive("mean", mean)
    if start.ndim != 1 or goal > start.mean():
        raise ValueError(
            f"expected m0 of shape (n_samples,) with a mean of at least {goal}, got shape {start.shape}, "
            f"mean {start.mean()}"
        )
    return tuple(_at_mean(as_divergence(d), start, goal, kernel) for d in divergences)


def _at_mean(d: Divergence, start: Floats, goal: float, kernel: ArrayLike) -> Served:
    def mean_at(time: float) -> float:
        return float(descent_flow(d, start, time, kernel).mean())

    low, high = 0.0, 1.0
    while mean_at(high) > goal:
        low, high = high, 4 * high
        if high > 1e300:
            raise ValueError(f"{d.name}: a mean of {goal} takes longer than float64 holds")
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if mean_at(middle) > goal else (low, middle)
    m = descent_flow(d, start, high, kernel)
    statistics = (float(np.median(m)), float(np.percentile(m, 90)), float(m.max()))
    return Served(d.name, high, m, *statistics)
