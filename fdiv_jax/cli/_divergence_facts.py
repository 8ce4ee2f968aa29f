"""What the commands say about a divergence, as plain data: strings, numbers and lists, ready for JSON."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy

from fdiv_jax.files import JsonObject

if TYPE_CHECKING:
    from fdiv_jax.divergences import Divergence

DAMPING_RATIOS = (0.1, 0.3, 1.0, 3.0, 10.0)


def shown(expr: object) -> str:
    """An expression as one would type it again: exact, or rounded where it is a decimal."""
    if isinstance(expr, sympy.Basic):
        floats = {x: sympy.Float(x, 6) for x in expr.atoms(sympy.Float)}
        expr = expr.xreplace(floats)
    return str(expr)


def cases(expr: sympy.Expr | None) -> list[dict[str, str]]:
    """A Piecewise as a list of formula and condition; one entry without condition for a plain expression."""
    if expr is None:
        return []
    if not isinstance(expr, sympy.Piecewise):
        return [{"formula": shown(expr), "where": ""}]
    found = []
    for formula, condition in expr.args:  # pyright: ignore[reportGeneralTypeIssues]
        where = "otherwise" if condition == True else _relation(condition)  # noqa: E712
        found.append({"formula": shown(formula), "where": where})
    return found


def _relation(condition: Any) -> str:
    sign = {"Equality": "=", "StrictLessThan": "<", "LessThan": "<="}.get(type(condition).__name__)
    return f"{shown(condition.lhs)} {sign} {shown(condition.rhs)}" if sign else shown(condition)


def number(value: float) -> float | str:
    """A float that JSON can hold: infinities by name."""
    return value if math.isfinite(value) else ("oo" if value > 0 else "-oo" if value < 0 else "nan")


def generator_facts(d: Divergence) -> JsonObject:
    """What needs derivatives only."""
    return {
        "name": d.name,
        "description": d.description,
        "f": shown(d.generator),
        "first_derivative": cases(d.first_derivative),
        "second_derivative": cases(d.second_derivative),
        "kinks": [{"t": shown(t), "jump": shown(jump)} for t, jump in d.kinks],
        "curvature": {"exact": shown(d.curvature), "value": number(float(d.curvature))},
        "symmetric": d.is_symmetric,
        "reversed": shown(d.reversed().generator),
    }


def conjugate_facts(d: Divergence) -> JsonObject:
    """Conjugate, its domain, activation and equilibrium."""
    s0, v0 = d.equilibrium
    lowest, _ = d.slopes
    return {
        "conjugate": cases(d.conjugate_expression),
        "conjugate_is_numeric": d.conjugate_expression is None,
        "conjugate_domain": interval(d.conjugate_domain),
        "constant_below": None if lowest == -sympy.oo else shown(lowest),
        "activation": shown(d.activation_expression),
        "s0": number(s0),
        "v0": number(v0),
        "activation_slope": number(d.activation_slope),
    }


def interval(domain: sympy.Interval) -> str:
    """(-oo, 1] and the like."""
    left = "(" if domain.left_open else "["
    right = ")" if domain.right_open else "]"
    return f"{left}{shown(domain.start)}, {shown(domain.end)}{right}"


def game_facts(d: Divergence) -> JsonObject:
    """Predicted rates next to kl, and the place in the phase diagram; says why where there is no linear
    rate."""
    from fdiv_jax import theory
    from fdiv_jax.divergences import catalogue, divergence

    curvature = float(d.curvature)
    try:
        theory.game_rate(d, damping=1.0, coupling=1.0)
    except ValueError as error:
        return {"rates": [], "note": str(error)}
    kl = divergence("kl")
    rows = []
    for ratio in DAMPING_RATIOS:
        row: JsonObject = {"q_over_k": ratio}
        for key, other, activated in (
            ("direct", d, False),
            ("direct_kl", kl, False),
            ("activated", d, True),
            ("activated_kl", kl, True),
        ):
            try:
                row[key] = theory.game_rate(other, damping=ratio, coupling=1.0, activation=activated)
            except ValueError:
                row[key] = None
        rows.append(row)
    if math.isinf(curvature):
        reason = "f''(1) is infinite" if d.is_smooth or all(t != 1 for t, _ in d.kinks) else "a kink at t = 1"
        return {"rates": rows, "note": f"{reason}: the critic's response is undamped, no linear rate"}
    others = [other for other in catalogue().values() if other.is_smooth and other != d]
    grid = np.array([1.0])
    diagram = theory.phase_diagram([d, *others], grid, grid)
    edges = [0.0, *(b.ratio for b in diagram.boundaries), math.inf]
    winners = (
        [diagram.boundaries[0].below, *(b.above for b in diagram.boundaries)] if diagram.boundaries else []
    )
    ranges = [
        {"from": number(a), "to": number(b), "fastest": list(names)}
        for a, b, names in zip(edges[:-1], edges[1:], winners, strict=True)
    ]
    return {
        "rates": rows,
        "critically_damped_at": 2 * curvature,
        "critical_curvature_at_1": theory.critical_curvature(damping=1.0, coupling=1.0),
        "phases": ranges,
        "fastest_here": [r for r in ranges if d.name in r["fastest"]],
    }
