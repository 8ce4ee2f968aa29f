"""What the curvature says of the min-max game: predicted rates, and the place in the phase diagram."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fdiv_jax.explore.notation import number
from fdiv_jax.files import JsonObject

if TYPE_CHECKING:
    from fdiv_jax.divergences import Divergence

__all__ = ["DAMPING_RATIOS", "game_facts", "no_rate", "phases"]

DAMPING_RATIOS = (0.1, 0.3, 1.0, 3.0, 10.0)


def _refusal(d: Divergence) -> str | None:
    """What `theory.game_rate` says where the game has no linearisation."""
    from fdiv_jax import theory

    try:
        theory.game_rate(d, damping=1.0, coupling=1.0)
    except ValueError as error:
        return str(error)
    return None


def no_rate(d: Divergence) -> str | None:
    """Why the game has no linear rate; None where it has one."""
    refusal = _refusal(d)
    if refusal is None and math.isinf(float(d.curvature)):
        at_one = any(t == 1 for t, _ in d.kinks)
        reason = "a kink at t = 1" if at_one else "f''(1) is infinite"
        return f"{reason}: the critic's response is undamped, no linear rate"
    return refusal


def phases(divergences: Sequence[Divergence], activation: bool = False) -> list[JsonObject]:
    """Which of them is fastest, by (q/k) sqrt(b/a): ranges `from`, `to` with the names of the `fastest`."""
    from fdiv_jax import theory

    one = np.array([1.0])
    diagram = theory.phase_diagram(divergences, one, one, activation)
    if not diagram.boundaries:
        return []
    edges = [0.0, *(boundary.ratio for boundary in diagram.boundaries), math.inf]
    winners = [diagram.boundaries[0].below, *(boundary.above for boundary in diagram.boundaries)]
    return [
        {"from": number(a), "to": number(b), "fastest": list(names)}
        for a, b, names in zip(edges[:-1], edges[1:], winners, strict=True)
    ]


def game_facts(d: Divergence) -> JsonObject:
    """Predicted rates next to kl, and the place in the phase diagram; says why where there is no linear
    rate."""
    from fdiv_jax import theory
    from fdiv_jax.divergences import catalogue, divergence

    refusal = _refusal(d)
    if refusal is not None:
        return {"rates": [], "note": refusal}
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
    note = no_rate(d)
    if note is not None:
        return {"rates": rows, "note": note}
    others = [other for other in catalogue().values() if other.is_smooth and other != d]
    ranges = phases([d, *others])
    return {
        "rates": rows,
        "critically_damped_at": 2 * float(d.curvature),
        "critical_curvature_at_1": theory.critical_curvature(damping=1.0, coupling=1.0),
        "phases": ranges,
        "fastest_here": [r for r in ranges if d.name in r["fastest"]],
    }
