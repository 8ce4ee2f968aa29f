"""The curves of the pictures, in NumPy: for a few hundred points compiling takes far longer."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy

from fdiv_jax.explore.gaussian import divergence_values, gaussian_weights

if TYPE_CHECKING:
    from fdiv_jax.divergences import Divergence

__all__ = ["DISTANCES", "conjugate_curve", "divergence_curve", "generator_curves", "weight_curve"]

DISTANCES = np.geomspace(1e-2, 30, 100)
"""Squared distances m at which curves between Gaussians are drawn."""
_FUNCTIONS: Any = [
    {name: np.vectorize(getattr(math, name), otypes=[float]) for name in ("erf", "erfc")},
    "numpy",
]


def generator_curves(d: Divergence, t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """f, f' and f'' at t > 0, in float64 as the formulas give them; not finite where they overflow."""
    with np.errstate(all="ignore"):
        f, first, second = (
            np.broadcast_to(np.asarray(function(t), float), t.shape) for function in _generator_functions(d)
        )
    return f, first, second


@functools.lru_cache(maxsize=64)
def _generator_functions(d: Divergence) -> list[Callable[[np.ndarray], Any]]:
    formulas = (d.generator, d.first_derivative, d.second_derivative)
    (symbol,) = set().union(*(formula.free_symbols for formula in formulas)) or {sympy.Symbol("t")}
    return [sympy.lambdify(symbol, formula, _FUNCTIONS) for formula in formulas]


def conjugate_curve(d: Divergence, left: float, right: float) -> tuple[np.ndarray, np.ndarray]:
    """Points (s, f*(s)) in order, from `left` to `right` or the end of f*'s domain.

    They are s = f'(t), f*(s) = s t - f(t) for many t; f* is straight between the two slopes at a kink, and
    constant below f'(0+).
    """
    t = np.unique(np.concatenate([np.geomspace(1e-9, 1e9, 1200), np.linspace(0.02, 6, 300)]))
    for cut, _ in d.kinks:
        t = np.unique(np.append(t, float(cut) * np.array([1 - 1e-12, 1 + 1e-12])))
    f, s, _ = generator_curves(d, t)
    with np.errstate(all="ignore"):
        values = s * t - f
    kept = np.isfinite(s) & np.isfinite(values) & (s >= left) & (s <= right)
    s, values = s[kept], values[kept]
    lowest, floor = float(d.slopes[0]), -float(d.value_at_zero)
    if math.isfinite(lowest) and lowest > left:
        s, values = np.append([left, lowest], s), np.append([floor, floor], values)
    order = np.argsort(s, kind="stable")
    return s[order], values[order]


@functools.lru_cache(maxsize=64)
def weight_curve(d: Divergence) -> np.ndarray:
    """w_f at `DISTANCES`.

    Raises:
        NotImplementedError: f'' oscillates too fast for a quadrature.
    """
    return gaussian_weights(d, DISTANCES)


def divergence_curve(d: Divergence) -> np.ndarray:
    """D_f between Gaussians at `DISTANCES`, to the thickness of a line: the integral of w_f(m)/2 by
    trapezoids in log m.

    Raises:
        NotImplementedError: f'' oscillates too fast for a quadrature.
    """
    rate = weight_curve(d) * DISTANCES / 2
    with np.errstate(over="ignore"):
        parts = (rate[1:] + rate[:-1]) / 2 * np.diff(np.log(DISTANCES))
    start = divergence_values(d, np.array([0.0, DISTANCES[0]]))[1]
    return start + np.append(0.0, np.cumsum(parts))
