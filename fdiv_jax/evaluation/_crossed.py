"""The mean of a table of prompts and seeds, and the variance of that mean."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["Moments", "moments", "table"]


class Moments(NamedTuple):
    """Means of resampled tables and what is known of their errors; one number per draw."""

    mean: np.ndarray
    variance: np.ndarray
    """Of the mean, over new prompts and new seeds."""
    freedom: np.ndarray
    """Degrees of freedom of that variance (Satterthwaite)."""
    count: np.ndarray
    """Numbers that are not missing."""


def table(values: object, name: str = "values") -> np.ndarray:
    """Values as a table of prompts times seeds, float64, nan where missing; a list is one seed per prompt.

    Prompts and seeds without any value are left out.

    Raises:
        ValueError: no numbers, infinite ones, or more than two axes.
    """
    try:
        found = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected numbers, one row per prompt and one column per seed") from error
    if found.ndim not in (1, 2):
        raise ValueError(f"{name} of shape {found.shape}, expected (prompts,) or (prompts, seeds)")
    if np.isinf(found).any():
        raise ValueError(
            f"{name}: {int(np.isinf(found).sum())} infinite numbers, expected finite ones or nan"
        )
    found = found[:, None] if found.ndim == 1 else found
    seen = ~np.isnan(found)
    if not seen.any():
        raise ValueError(f"{name} of shape {found.shape} without a number, expected at least one")
    return found[seen.any(1)][:, seen.any(0)]


def moments(
    values: np.ndarray, prompts: np.ndarray | None = None, seeds: np.ndarray | None = None
) -> Moments:
    """Mean, variance and degrees of freedom, for tables in which prompts and seeds occur several times.

    With prompt effects a, seed effects b and the rest e, y_ps = mu + a_p + b_s + e_ps, all independent,

        Var(mean) = var_a / P + var_b / S + var_e / (P S)
                  = (MS_prompts + MS_seeds - MS_rest) / (P S) in expectation,

    the mean squares of the analysis of variance of two crossed random effects. The estimate is not let below
    either of the first two alone.

    Args:
        values: a `table` of P prompts times S seeds; nan where missing.
        prompts: draws P, how often each prompt occurs; None: once.
        seeds: draws S, how often each seed occurs; None: once.
    """
    p, s = values.shape
    prompts = np.ones((1, p)) if prompts is None else prompts
    seeds = np.ones((1, s)) if seeds is None else seeds
    seen = (~np.isnan(values)).astype(np.float64)
    centre = float(np.nanmean(values))
    y = np.where(seen > 0, values - centre, 0.0)

    in_row, in_column = seeds @ seen.T, prompts @ seen
    count = np.maximum((prompts * in_row).sum(1), 1.0)
    row_sums, column_sums = seeds @ y.T, prompts @ y
    mean = (prompts * row_sums).sum(1) / count
    rows = row_sums - mean[:, None] * in_row
    columns = column_sums - mean[:, None] * in_column

    by_prompt = (prompts * rows**2).sum(1) / count**2 * (p / max(p - 1, 1))
    by_seed = (seeds * columns**2).sum(1) / count**2 * (s / max(s - 1, 1))
    if s == 1:
        freedom = np.full_like(mean, max(p - 1, 1))
        return Moments(mean + centre, by_prompt, freedom, count)
    if p == 1:
        freedom = np.full_like(mean, max(s - 1, 1))
        return Moments(mean + centre, by_seed, freedom, count)

    total = ((prompts @ y**2) * seeds).sum(1) - count * mean**2
    of_rows = (prompts * rows**2 / np.maximum(in_row, 1)).sum(1)
    of_columns = (seeds * columns**2 / np.maximum(in_column, 1)).sum(1)
    left = np.maximum(count - p - s + 1, 1.0)
    rest = np.maximum(total - of_rows - of_columns, 0.0) / left / count
    variance = np.maximum(np.maximum(by_prompt, by_seed), by_prompt + by_seed - rest)
    spread = by_prompt**2 / (p - 1) + by_seed**2 / (s - 1) + rest**2 / left
    with np.errstate(invalid="ignore", divide="ignore"):
        freedom = np.where(spread > 0, variance**2 / spread, p - 1)
    return Moments(mean + centre, variance, np.clip(freedom, min(p, s) - 1, count - 1), count)
