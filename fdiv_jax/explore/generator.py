"""What follows from f by derivatives and by its conjugate, as plain data: strings, numbers and lists."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sympy

from fdiv_jax.explore.notation import Notation, cases, interval, number, shown
from fdiv_jax.files import JsonObject

if TYPE_CHECKING:
    from fdiv_jax.divergences import Divergence

__all__ = ["conjugate_facts", "generator_facts"]


def generator_facts(d: Divergence, write: Notation = shown) -> JsonObject:
    """What needs derivatives only; formulas are written by `write`."""
    return {
        "name": d.name,
        "description": d.description,
        "f": write(d.generator),
        "first_derivative": cases(d.first_derivative, write),
        "second_derivative": cases(d.second_derivative, write),
        "kinks": [{"t": shown(t), "jump": shown(jump)} for t, jump in d.kinks],
        "curvature": {"exact": shown(d.curvature), "value": number(float(d.curvature))},
        "symmetric": d.is_symmetric,
        "reversed": write(d.reversed().generator),
    }


def conjugate_facts(d: Divergence, write: Notation = shown) -> JsonObject:
    """Conjugate, its domain, activation and equilibrium; formulas are written by `write`."""
    s0, v0 = d.equilibrium
    lowest, _ = d.slopes
    return {
        "conjugate": cases(d.conjugate_expression, write),
        "conjugate_is_numeric": d.conjugate_expression is None,
        "conjugate_domain": interval(d.conjugate_domain),
        "constant_below": None if lowest == -sympy.oo else shown(lowest),
        "activation": write(d.activation_expression),
        "s0": number(s0),
        "v0": number(v0),
        "activation_slope": number(d.activation_slope),
    }
