"""Plain gradient descent with a finite step along one mode: the exact map, and where it leads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike

from fdiv_jax.theory._inputs import Floats, as_divergence, non_negative, positive, positive_integer
from fdiv_jax.theory._weights import FARTHEST, weight_table
from fdiv_jax.theory.clock import checked_kernels, checked_logs

if TYPE_CHECKING:
    from fdiv_jax.divergences import Divergence

__all__ = ["DescentFate", "descent_fate", "descent_orbit"]


def descent_orbit(
    d: Divergence | str, m0: ArrayLike, step: float, steps: int, kernel: ArrayLike = 1.0
) -> Floats:
    """m at every step of gradient descent on D_f with step h, each sample along a mode of its own.

        e -> e - h k w_f(e^2) e,    so    m -> m (1 - h k w_f(m))^2,

    exactly: no linearisation and no flow.

    Args:
      d: the divergence, or its name or expression.
      m0: squared distances at the start, any shape.
      step: h > 0.
      steps: number of steps, >= 1.
      kernel: k > 0, a number or one for each sample.

    Returns:
      m, of shape (steps + 1,) followed by the shape of m0; infinite from where it exceeds 1e8.

    Raises:
      ValueError: negative or infinite m0, step or kernel not > 0, steps < 1.
      TypeError: not numbers.

    >>> descent_orbit("kl", 4.0, 0.5, 2)   # m (1 - 1/2)^2
    array([4.  , 1.  , 0.25])
    """
    d = as_divergence(d)
    start, h = non_negative("m0", m0), positive("step", step)
    table = weight_table(d, max(float(start.max()), 1e8))
    log_step = np.log(h * checked_kernels(kernel, start))
    x = checked_logs(start)
    rows = [start]
    for _ in range(positive_integer("steps", steps)):
        y = log_step + table.log_weight(x)
        with np.errstate(divide="ignore"):  # log |1 - e^y|
            factor = np.where(y > 40, y, np.log(np.abs(np.expm1(np.minimum(y, 40)))))
        moved = x + 2 * np.where(np.isinf(x), 0.0, factor)
        x = np.where(moved > FARTHEST, np.inf, moved)
        rows.append(np.exp(x))
    return np.array(rows)


@dataclass(frozen=True)
class DescentFate:
    """Where a run of plain gradient descent leads.

    Attributes:
      kind: "converges": m comes below the target and stays there. "diverges": m ends above its start, without
        bound or thrown out to where the weight has all but vanished. "stalls": neither; m stays on a plateau,
        circles about the equilibrium (too large a step, a kink) or is still on its way.
      steps: the step from which on m stays below the target; None where it does not.
      m: squared distance after the last step.
      largest: the largest m of the run.
    """

    kind: Literal["converges", "stalls", "diverges"]
    steps: int | None
    m: float
    largest: float


def descent_fate(
    d: Divergence | str,
    m0: float,
    step: float,
    kernel: float = 1.0,
    *,
    steps: int = 1000,
    reduction: float = 1e-3,
) -> DescentFate:
    """Whether gradient descent on D_f with step h from m0 converges, stalls or diverges.

    `descent_orbit` is followed for a number of steps.

    Args:
      d: the divergence, or its name or expression.
      m0: squared distance at the start, > 0.
      step: h > 0.
      kernel: k > 0.
      steps: how many steps the run has, >= 1.
      reduction: the run converges where m comes below reduction * m0, in (0, 1).

    Raises:
      ValueError: arguments not finite or not > 0, reduction not < 1.
      TypeError: not numbers.

    >>> descent_fate("pearson_chi2", 7.0, 0.02).kind, descent_fate("kl", 7.0, 0.02).kind
    ('diverges', 'converges')
    >>> descent_fate("squared_hellinger", 60.0, 0.02).kind   # e^(-60/8)/2 of the kl step
    'stalls'
    """
    start, share = positive("m0", m0), positive("reduction", reduction)
    if share >= 1:
        raise ValueError(f"expected reduction < 1, got {share}")
    orbit = descent_orbit(d, start, step, steps, positive("kernel", kernel))
    above = np.flatnonzero(orbit > share * start)
    since = int(above[-1]) + 1 if above.size else 0
    last = float(orbit[-1])
    if since < orbit.size:
        kind = "converges"
    else:
        kind = "diverges" if np.max(orbit[-2:]) > start else "stalls"
    return DescentFate(kind, since if since < orbit.size else None, last, float(orbit.max()))
