"""What follows from f between Gaussians, as plain data; in NumPy, with nothing compiled."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import sympy

from fdiv_jax.explore.notation import Notation, number, shown
from fdiv_jax.files import JsonObject

if TYPE_CHECKING:
    from fdiv_jax.divergences import Divergence

__all__ = ["START", "distance_facts", "divergence_values", "gaussian_facts", "gaussian_weights"]

SQUARED_DISTANCES = (0.0, 0.01, 0.1, 0.5, 1.0, 2.0, 4.0, 9.0, 16.0, 36.0)
START = 9.0  # m0 of the step that is stable on the whole way
_M = sympy.Symbol("m", nonnegative=True)
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)


def gaussian_facts(d: Divergence, write: Notation = shown) -> JsonObject:
    """Closed forms, a table of D_f(m), w_f(m) and the noise of the variational gradient, tails, steps, and
    the nearest named divergences; says why where quadrature cannot have them."""
    facts: JsonObject = {"closed_form": None, "weight_form": None}
    if d.closed_form is not None:
        facts["closed_form"] = write(d.closed_form)
        facts["weight_form"] = write(sympy.expand(2 * sympy.diff(d.closed_form, _M)))
    try:
        return {
            **facts,
            "table": _table(d),
            "tails": _tails(d),
            "step": _step(d),
            "nearest": _nearest(d),
        }
    except NotImplementedError as error:
        return {**facts, "table": [], "note": str(error)}


def distance_facts(d: Divergence, other: Divergence) -> JsonObject:
    """How far two divergences differ at equal curvature, or why that is not told."""
    from fdiv_jax.theory import weight_distance

    try:
        return {"weight_distance": weight_distance(d, other)}
    except (ValueError, NotImplementedError) as error:
        return {"weight_distance": None, "note": str(error)}


def gaussian_weights(d: Divergence, m: np.ndarray) -> np.ndarray:
    """w_f(m) at m > 0."""
    from fdiv_jax.divergences import gaussian_log_moment

    with np.errstate(over="ignore"):
        return np.exp(gaussian_log_moment(d, m))


def _table(d: Divergence) -> list[JsonObject]:
    from fdiv_jax.theory import gradient_noise

    m = np.array(SQUARED_DISTANCES)
    weights = np.append(float(d.curvature), gaussian_weights(d, m[1:]))
    noises = [gradient_noise(d, m, moved=side) for side in ("P", "Q")]
    rows = zip(m, divergence_values(d, m), weights, *noises, strict=True)
    return [
        {
            "m": float(a),
            "divergence": number(float(b)),
            "weight": number(float(w)),
            "noise_p": number(float(p)),
            "noise_q": number(float(q)),
        }
        for a, b, w, p, q in rows
    ]


def divergence_values(d: Divergence, m: np.ndarray) -> np.ndarray:
    """D_f at rising squared distances from 0 on: the integral of w_f(u^2) u over u = sqrt(m)."""
    inner = np.sqrt(m)
    edges = np.union1d(inner, np.arange(2.0, inner[-1], 0.5))  # far out w_f may rise steeply
    if math.isinf(float(d.curvature)):  # a power of u at 0
        edges = np.unique(np.concatenate([edges, edges[1] * 4.0 ** -np.arange(26.0)]))
    half = np.diff(edges)[:, None] / 2
    u = edges[:-1, None] + half * (1 + _NODES)
    with np.errstate(over="ignore"):
        parts = np.sum(gaussian_weights(d, u**2) * u * half * _WEIGHTS, axis=1)
    return np.append(0.0, np.cumsum(parts))[np.searchsorted(edges, inner)]


def _tails(d: Divergence) -> JsonObject:
    at_zero, slope = d.value_at_zero, d.slopes[1]
    bound = at_zero + slope
    low, high = d.tail_exponents
    rate = _growth(low, high)
    peak = _peak(d)
    return {
        "value_at_zero": shown(at_zero),
        "slope_at_infinity": shown(slope),
        "bounded_by": shown(bound) if bound.is_finite else None,
        "exponents": [number(low), number(high)],
        "growth_rate": number(rate),
        "largest_pull": peak,
        "class": "tail-seeking" if peak is None and rate > 0 else "neutral" if peak is None else "robust",
    }


def _growth(low: float, high: float) -> float:
    """lim log w_f(m) / m for t^2 f'' ~ t^low at 0 and t^high at oo, as E_Q[r^c] = e^(c (c - 1) m/2)."""
    if -low == math.inf or high == math.inf:
        return math.inf
    rates = [c * (c - 1) / 2 for c, outer in ((low, low < 0.5), (high, high > 0.5)) if outer]
    return max([-0.125, *rates]) + 0.0  # no -0


def _peak(d: Divergence) -> JsonObject | None:
    """Where the pull w_f(m) sqrt(m) on a sample is largest, and its value; None where it grows to m = 1e6."""
    from fdiv_jax.divergences import gaussian_log_moment

    logs = np.linspace(math.log(1e-9), math.log(1e6), 61)
    for _ in range(10):
        pulls = gaussian_log_moment(d, np.exp(logs)) + logs / 2
        best = int(np.argmax(pulls))
        if best == logs.size - 1 and logs[-1] == math.log(1e6):
            return None
        if logs[best] == math.log(1e-9):
            return {"m": 0.0, "pull": float(np.exp(pulls[best]))}
        logs = np.linspace(logs[max(best - 1, 0)], logs[min(best + 1, logs.size - 1)], 9)
    return {"m": float(np.exp(logs[4])), "pull": float(np.exp(np.max(pulls)))}


def _step(d: Divergence) -> JsonObject:
    """The largest stable step of direct descent times k_max, at the minimum and on the whole way from m0."""
    from fdiv_jax.theory import descent_step_limit

    curvature = float(d.curvature)
    return {
        "at_minimum": number(math.inf if curvature == 0 else 2 / curvature),
        "from_m": START,
        "on_the_way": number(descent_step_limit(d, [1.0], START)),
    }


def _nearest(d: Divergence) -> list[JsonObject]:
    from fdiv_jax.divergences import catalogue
    from fdiv_jax.theory import nearest

    if not 0 < float(d.curvature) < math.inf:
        return []
    others = [other for other in catalogue().values() if other != d]
    return [{"name": near.name, "distance": near.distance} for near in nearest(d, others)]
