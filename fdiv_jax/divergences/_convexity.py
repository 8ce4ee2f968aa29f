"""Where a smooth piece is concave: a search that no narrow dip escapes, and often a proof.

(e^-30, e^30) is covered by some thousand cells. Interval arithmetic encloses f'' on each: where the
enclosure is not negative, f is convex. The other cells are halved, again and again; f'' is evaluated in their
middles, and a negative value that 300 digits confirm refuses f. What is left when the cells are as narrow as
float64 can tell, or when there are more of them than are followed (those that may be lowest are), has been
searched and not proved: the formula is one in which rounding hides the sign of f''.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import sympy

from fdiv_jax.divergences._evaluate import mp_context, mp_function, numpy_function
from fdiv_jax.divergences._intervals import enclosure
from fdiv_jax.divergences._parse import T
from fdiv_jax.divergences._pieces import Piece
from fdiv_jax.divergences._rewrite import forms

_MAX_CELLS = 2048
_MAX_ROUNDS = 44
_CONFIRMED_EACH_ROUND = 3
_LAST_CELLS = 12
_WIDTH = 4e-14


def confirmed(expression: sympy.Expr, t: float) -> float:
    """Value in 300 digits, as a float: at t = e^30 a few orders of 1/t may cancel."""
    return confirming(expression)(t)


def confirming(expression: sympy.Expr) -> Callable[[float], float]:
    """`confirmed` at many t; for one thread."""
    context = mp_context(300)
    function = mp_function(expression, T, context)
    return lambda t: float(context.re(function(context.mpf(t))))


def concave_place(piece: Piece, logs: np.ndarray) -> tuple[float | None, Sequence[float]]:
    """(t with f''(t) < 0 or None, middles of the cells that were left undecided), within the cells between
    neighbours of `logs`."""
    second = piece.second
    ways = [enclosure(form, T) for form in forms(second, T)[:4]]
    value, exact = numpy_function(second, T), confirming(second)
    low, high = logs[:-1], logs[1:]
    for _ in range(_MAX_ROUNDS):
        with np.errstate(all="ignore"):
            ends = np.exp(low) * (1 - 1e-15), np.exp(high) * (1 + 1e-15)
            lowest = np.full_like(low, -np.inf)
            for way in ways:  # the cells that the ways before it left open
                open_ = lowest < 0
                lowest[open_] = np.maximum(lowest[open_], way(*(end[open_] for end in ends)).low)
        open_ = lowest < 0
        if not np.any(open_):
            return None, ()
        low, high, lowest = (x[open_] for x in (low, high, lowest))
        middle = np.exp((low + high) / 2)
        curvature = value(middle)
        scaled = np.where(np.isfinite(curvature), curvature * middle**2, np.inf)
        for i in np.argsort(scaled, kind="stable")[:_CONFIRMED_EACH_ROUND]:
            if scaled[i] < 0 and exact(float(middle[i])) < 0:
                return float(middle[i]), ()
        wide = high - low > _WIDTH
        if not np.any(wide):
            break
        if np.sum(wide) > _MAX_CELLS // 2:
            with np.errstate(all="ignore"):
                depth = np.where(np.isfinite(curvature), lowest / (np.abs(curvature) + 1e-300), -np.inf)
            depth = np.where(wide, depth, np.inf)
            kept = np.sort(np.argsort(depth, kind="stable")[: _MAX_CELLS // 2])
        else:
            kept = np.flatnonzero(wide | (lowest < 0))
        low, high = low[kept], high[kept]
        centre = (low + high) / 2
        low, high = np.stack([low, centre], 1).reshape(-1), np.stack([centre, high], 1).reshape(-1)
    order = np.argsort(lowest, kind="stable")[:_LAST_CELLS]
    return None, [float(t) for t in middle[order]]


def jumps_up(piece: Piece, t: float) -> bool:
    """Whether f near t is higher than on both sides of it, as it is at a narrow pole: a convex f is not."""
    context = mp_context(60)
    f = mp_function(piece.expression, T, context)
    here = context.mpf(t)
    heights = [
        context.re(f(here * (1 + sign * context.mpf(10) ** -power))) for power in (6, 40) for sign in (1, -1)
    ]
    if any(context.isnan(h) for h in heights):
        return False
    outside = max(heights[:2])
    return max(heights[2:]) > outside + 1e-9 * abs(outside)
