"""The clock of descent: direct minimisation takes one path for every f, and f sets the speed on it.

Gradient flow on D_f is theta' = -(1/2) w_f(m) grad m. A change of f changes the factor w_f(m) and nothing
else, so with tau the time of the kl run (w = 1), d tau = w_f(m) dt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike

from fdiv_jax.theory._inputs import (
    FloatOrFloats,
    Floats,
    as_divergence,
    finite_curvature_of,
    non_negative,
    positive,
)
from fdiv_jax.theory._weights import LOWEST, weight_table

if TYPE_CHECKING:
    from fdiv_jax.divergences import Divergence

__all__ = ["descent_curve", "descent_flow", "descent_time"]


def checked_logs(m: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        return np.log(m)


def descent_time(d: Divergence | str, m0: ArrayLike, m1: ArrayLike, kernel: float = 1.0) -> FloatOrFloats:
    """Time that gradient flow on D_f takes from m0 down to m1 along one mode.

        m' = -2 k w_f(m) m,    T_f(m0 -> m1) = integral over [m1, m0] of dm / (2 k m w_f(m))

    by Gauss's rule in log m. Known in closed form, and so reproduced here:

        kl                   log(m0/m1) / (2 k)
        squared_hellinger    (Ei(m0/8) - Ei(m1/8)) / k: exponential in m0 beyond m = 8
        pearson_chi2         (E1(m1) - E1(m0)) / (4 k): bounded in m0
        total_variation      (2 pi / k) (erfi(sqrt(m0/8)) - erfi(sqrt(m1/8))): finite even for m1 = 0
        f''(1) = 0, w ~ c m  (1/m1 - 1/m0) / (2 k c): algebraic

    Args:
      d: the divergence, or its name or expression.
      m0: squared distance at the start, any shape.
      m1: squared distance at the end, 0 <= m1 <= m0, same shape up to broadcasting.
      kernel: k > 0, the eigenvalue of E[A^T A]/s^2 that belongs to the mode (A: Jacobian of the mean).

    Returns:
      A float, or an array of the broadcast shape. Infinite for m1 = 0, unless f''(1) is (a kink), and where
      float64 does not hold it.

    Raises:
      ValueError: negative or infinite m, m1 > m0, kernel not > 0.
      TypeError: not numbers.

    >>> round(descent_time("kl", 7.0, 0.7), 6)   # log(10) / 2
    1.151293
    >>> [round(descent_time("squared_hellinger", m, 0.1), 1) for m in (8.0, 40.0, 80.0)]
    [5.7, 44.0, 2496.0]
    >>> descent_time("kl", 1.0, 0.0), round(descent_time("total_variation", 1.0, 0.0), 4)
    (inf, 2.6151)
    """
    d = as_divergence(d)
    start, end = np.broadcast_arrays(non_negative("m0", m0), non_negative("m1", m1))
    if (end > start).any():
        raise ValueError(
            f"expected m1 <= m0, got m1 = {end[end > start][0]} above m0 = {start[end > start][0]}"
        )
    k = positive("kernel", kernel)
    table = weight_table(d, float(start.max()))
    logs = checked_logs(start), checked_logs(end)
    x0, x1 = (np.maximum(x, LOWEST) for x in logs)
    low, high = float(x1.min()), float(x0.max())
    with np.errstate(invalid="ignore"):  # inf - inf, between two times that float64 does not hold: inf
        elapsed = table.time_below(logs[1]) - np.where(start > 0, table.time_below(logs[0]), 0.0)
        if high > low:
            clock = table.clock(low, high)
            elapsed = elapsed + (clock(x0) - clock(x1))
    elapsed = np.where(start == end, 0.0, np.where(np.isnan(elapsed), np.inf, elapsed)) / k
    return float(elapsed) if elapsed.ndim == 0 else elapsed


def descent_flow(d: Divergence | str, m0: ArrayLike, time: ArrayLike, kernel: ArrayLike = 1.0) -> Floats:
    """m of many samples at a time of gradient flow, each along a mode of its own.

    Every sample follows m_i' = -2 k_i w_f(m_i) m_i, the inverse of `descent_time`.

    Args:
      d: the divergence, or its name or expression.
      m0: squared distances at the start, any shape.
      time: t >= 0, a number or an array.
      kernel: k_i > 0, a number or one for each sample.

    Returns:
      m, of the shape of `time` followed by the shape of `m0`; 0 below 1e-35.

    Raises:
      ValueError: negative or infinite m0 or time, kernels not > 0 or of another shape.
      TypeError: not numbers.

    >>> descent_flow("kl", [1.0, 4.0], 0.5).round(4)   # m0 exp(-2 t)
    array([0.3679, 1.4715])
    """
    d = as_divergence(d)
    start, times = non_negative("m0", m0), non_negative("time", time)
    kernels = checked_kernels(kernel, start)
    table = weight_table(d, float(start.max()))
    x0 = np.maximum(checked_logs(start), LOWEST)
    clock = table.clock(LOWEST, max(float(x0.max()), LOWEST + 1.0))
    goal = clock(x0) - times[(...,) + (None,) * start.ndim] * kernels
    return np.where(start > 0, np.exp(clock.arrival(goal)), 0.0)


def checked_kernels(kernel: ArrayLike, start: Floats) -> Floats:
    kernels = non_negative("kernel", kernel)
    if (kernels <= 0).any():
        raise ValueError(f"expected kernel > 0, got {kernels.min()}")
    try:
        return np.broadcast_to(kernels, start.shape)
    except ValueError:
        raise ValueError(
            f"expected one kernel or one per sample, {start.shape}; got {kernels.shape}"
        ) from None


def descent_curve(
    d: Divergence | str,
    reference: ArrayLike,
    normalise_curvature: bool = False,
    *,
    clock: Literal["own", "common"] = "own",
    monotone: bool = True,
) -> Floats:
    """m of a run with d, step by step, predicted from the m of one kl run.

    A step with d goes along the path of the kl run as far as w_f(m) steps of that run do,

        tau_0 = 0,    tau_{n+1} = tau_n + w_f(m_kl(tau_n)),    m_f(n) = m_kl(tau_n),

    with m_kl interpolated between its steps (geometrically). This is the clock d tau = w_f(m) dt with the
    steps that gradient descent takes.

    Args:
      d: the divergence, or its name or expression.
      reference: m of the kl run at steps 0, 1, 2, ..., (n_steps,), or (n_steps, n_samples) of many samples.
      normalise_curvature: whether the run with d divides its loss by f''(1), so that w_f(0) is 1.
      clock: for many samples. "own": each has its own mode and its own clock. "common": they move together
        along the path of the kl run, at the speed w = sum_i w_f(m_i) m_i / sum_i m_i (the speed of mean m
        where all samples have kernels of one size).
      monotone: first replace each curve by the closest one that never rises (isotonic regression, by least
        squares): what a batch adds to m by chance then counts neither for the speed nor for the answer. A
        curve that never rises stays as it is.

    Returns:
      Predicted m at the same steps, of the shape of `reference`; nan from the step at which the run with d
      is farther than the kl run ever came: the path there is not known.

    Raises:
      ValueError: fewer than two steps, negative or infinite m, an unknown clock; normalise_curvature where
        f''(1) is 0 or infinite.
      TypeError: not numbers.

    >>> import numpy as np
    >>> reference = 7.0 * np.exp(-0.1 * np.arange(60))
    >>> descent_curve("kl", reference)[10] == reference[10]
    np.True_
    >>> descent_curve("squared_hellinger", reference, normalise_curvature=True)[10].round(3)
    np.float64(4.289)
    """
    d = as_divergence(d)
    path = non_negative("reference", reference)
    if path.ndim not in (1, 2) or path.shape[0] < 2:
        raise ValueError(f"expected reference of shape (n_steps >= 2[, n_samples]), got {path.shape}")
    if clock not in ("own", "common"):
        raise ValueError(f"expected clock to be 'own' or 'common', got {clock!r}")
    scale = finite_curvature_of(d) if normalise_curvature else 1.0
    columns = path.reshape(path.shape[0], -1)
    if monotone:
        columns = np.stack([_falling(column) for column in columns.T], axis=1)
    table = weight_table(d, float(columns.max()))
    last = columns.shape[0] - 1
    tau = np.zeros(1 if clock == "common" else columns.shape[1])
    rows = []
    for _ in range(path.shape[0]):
        rows.append(_between_steps(columns, tau))
        m = np.nan_to_num(rows[-1])
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            speed = np.exp(table.log_weight(checked_logs(m))) / scale
            if clock == "common":
                share = np.where(m > 0, speed * m, 0.0).sum()
                speed = np.array([share / m.sum() if m.sum() > 0 else 0.0])
        tau = np.where(tau <= last, tau + speed, tau)
    return np.array(rows).reshape(path.shape)


def _between_steps(columns: Floats, tau: Floats) -> Floats:
    """Columns at the fractional step tau, geometrically interpolated; nan beyond the last step."""
    last = columns.shape[0] - 1
    tau = np.broadcast_to(tau, columns.shape[1])
    step = np.clip(np.nan_to_num(tau), 0, last - 1).astype(int)
    share = np.clip(tau - step, 0.0, 1.0)
    column = np.arange(columns.shape[1])
    a, b = columns[step, column], columns[step + 1, column]
    both = (a > 0) & (b > 0)
    safe_a, safe_b = np.where(both, a, 1.0), np.where(both, b, 1.0)
    value = np.where(both, safe_a * (safe_b / safe_a) ** share, a + (b - a) * share)
    value = np.where(share == 0, a, np.where(share == 1, b, value))
    return np.where(tau <= last, value, np.nan)


def _falling(values: Floats) -> Floats:
    """The closest sequence that never rises, by least squares (pool adjacent violators)."""
    means: list[float] = []
    sizes: list[int] = []
    for value in values.tolist():
        means.append(value)
        sizes.append(1)
        while len(means) > 1 and means[-2] < means[-1]:
            size = sizes[-2] + sizes[-1]
            means[-2:] = [(means[-2] * sizes[-2] + means[-1] * sizes[-1]) / size]
            sizes[-2:] = [size]
    return np.repeat(means, sizes)
