"""What the clock of descent says of a run before it is made, from the kl run with the same seed alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fdiv_jax.divergences import divergence, gaussian_log_moment
from fdiv_jax.theory import descent_curve, descent_fate

from .descents import Curves

__all__ = ["adam_clock", "drive", "every_step", "fate", "kind_of", "predictions"]

KEPT = 0.5
"""A run counts as converging where m comes below this share of m0 and stays there."""


def every_step(steps: np.ndarray, m: np.ndarray) -> np.ndarray:
    """Curves at every step up to the last look, geometrically interpolated: (looks, ...) -> (steps, ...)."""
    at = np.arange(steps[-1] + 1)
    place = np.clip(np.searchsorted(steps, at, side="right") - 1, 0, len(steps) - 2)
    share = (at - steps[place]) / (steps[place + 1] - steps[place])
    share = share.reshape(-1, *[1] * (m.ndim - 1))
    return m[place] ** (1 - share) * m[place + 1] ** share


def predictions(name: str, kl: Curves, unit: float, steps: Sequence[int]) -> dict[str, np.ndarray]:
    """Mean m of the held-out samples at the given steps, from those of the kl run; nan beyond its end.

        mean      the clock at the mean m, as if all samples were alike
        common    all samples move along the path of the kl run, at the speed sum w_f(m_i) m_i / sum m_i
        own       each sample has a mode and a clock of its own

    Args:
        name: the divergence; at equal curvature where f''(1) is finite.
        kl: the kl run.
        unit: its m is multiplied by this: sigma^2 of the kl run over that of the other.
        steps: after which m is wanted.
    """
    path = every_step(kl.steps, kl.m) * unit
    equal = np.isfinite(float(divergence(name).curvature))
    at = np.asarray(steps)
    mean = descent_curve(name, path.mean(1), equal)
    common = descent_curve(name, path, equal, clock="common")
    own = descent_curve(name, path, equal, clock="own")
    return {"mean": mean[at], "common": common.mean(1)[at], "own": own.mean(1)[at]}


def fate(name: str, kl: Curves, unit: float, steps: int) -> str:
    """One of "converges", "stalls" and "diverges", see `DescentFate`.

    Where the exact map leads from the mean m, with the kernel of the kl run's first step; where that
    converges, whether the clocks of the samples get as far, which know that the kl run becomes slower.
    """
    start, after = kl.m[:2].mean(1)
    moved = 1 - (after / start) ** (0.5 / kl.steps[1])  # h k: a step of kl leaves (1 - h k)^2 of m
    d = divergence(name)
    if np.isfinite(float(d.curvature)):
        moved /= float(d.curvature)
    kind = descent_fate(d, float(start * unit), float(moved), steps=steps, reduction=KEPT).kind
    if kind == "converges" and predictions(name, kl, unit, [steps])["own"][0] > KEPT * start * unit:
        return "stalls"
    return kind


def kind_of(run: Curves) -> str:
    """The same three words for a run that was made."""
    mean = run.m.mean(1)
    if run.diverged or mean[-1] > mean[0]:
        return "diverges"
    return "converges" if mean[-1] <= KEPT * mean[0] else "stalls"


def drive(name: str, m: np.ndarray) -> np.ndarray:
    """The share of each sample in the speed at which the mean m falls: w_f(m_i) m_i over the sum, (samples,).

    It is that of equal kernels.
    """
    logs = gaussian_log_moment(divergence(name), m) + np.log(np.maximum(m, 1e-300))
    shares = np.exp(logs - logs.max())
    return shares / shares.sum()


def adam_clock(name: str, kl: Curves, unit: float, steps: Sequence[int], b1: float, b2: float) -> np.ndarray:
    """Mean m under Adam at the given steps, from the Adam run of kl: the weight goes through both averages.

    Along the path of the kl run the gradient is w_t times that of kl, w_t = sum w_f(m_i) m_i / sum m_i. With
    a gradient of kl that keeps its size, a step is a_t / sqrt(v_t) times as long as that of kl, a being the
    average of w by b1 and v that of w^2 by b2. A constant factor drops out; nan beyond the kl run's end.
    """
    path = every_step(kl.steps, kl.m) * unit
    tau, first, second, unit_weight = 0.0, 0.0, 0.0, None
    found = []
    for step in range(1, int(max(steps)) + 2):
        here = _at(path, tau)
        found.append(here.mean() if tau <= len(path) - 1 else np.nan)
        log_weight = _log_speed(name, here)
        unit_weight = log_weight if unit_weight is None else unit_weight
        w = np.exp(np.clip(log_weight - unit_weight, -300, 300))
        first, second = b1 * first + (1 - b1) * w, b2 * second + (1 - b2) * w * w
        tau += first / (1 - b1**step) / np.sqrt(second / (1 - b2**step))
    return np.array(found)[np.asarray(steps)]


def _log_speed(name: str, m: np.ndarray) -> float:
    """log of sum w_f(m_i) m_i / sum m_i."""
    logs = gaussian_log_moment(divergence(name), m)
    top = logs.max()
    return float(top + np.log(np.sum(np.exp(logs - top) * m) / m.sum()))


def _at(path: np.ndarray, tau: float) -> np.ndarray:
    """A curve at a fractional step, geometrically interpolated."""
    tau = min(tau, len(path) - 1.0)
    place = min(int(tau), len(path) - 2)
    return path[place] ** (1 - tau + place) * path[place + 1] ** (tau - place)
