"""Formulas and numbers as text: as one would type them, or in LaTeX."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import sympy

__all__ = ["Notation", "cases", "interval", "latex", "number", "shown"]

Notation = Callable[[object], str]
"""How a formula is written: `shown` or `latex`."""

_SIGNS = {"Equality": ("=", "="), "StrictLessThan": ("<", "<"), "LessThan": ("<=", r"\le")}


def shown(expr: object) -> str:
    """An expression as one would type it again: exact, or rounded where it is a decimal."""
    return str(_rounded(expr))


def latex(expr: object) -> str:
    """An expression in LaTeX, rounded as `shown` rounds it."""
    return sympy.latex(_rounded(expr))


def _rounded(expr: object) -> object:
    if not isinstance(expr, sympy.Basic):
        return expr
    return expr.xreplace({x: sympy.Float(x, 6) for x in expr.atoms(sympy.Float)})


def cases(expr: sympy.Expr | None, write: Notation = shown) -> list[dict[str, str]]:
    """A Piecewise as a list of formula and condition; one entry without condition for a plain expression."""
    if expr is None:
        return []
    if not isinstance(expr, sympy.Piecewise):
        return [{"formula": write(expr), "where": ""}]
    found = []
    for formula, condition in expr.args:  # pyright: ignore[reportGeneralTypeIssues]
        where = "otherwise" if condition == True else _relation(condition, write)  # noqa: E712
        found.append({"formula": write(formula), "where": where})
    return found


def _relation(condition: Any, write: Notation) -> str:
    signs = _SIGNS.get(type(condition).__name__)
    if signs is None:
        return write(condition)
    return f"{write(condition.lhs)} {signs[write is latex]} {write(condition.rhs)}"


def number(value: float) -> float | str:
    """A float that JSON can hold: infinities by name."""
    return value if math.isfinite(value) else ("oo" if value > 0 else "-oo" if value < 0 else "nan")


def interval(domain: sympy.Interval) -> str:
    """(-oo, 1] and the like."""
    left = "(" if domain.left_open else "["
    right = ")" if domain.right_open else "]"
    return f"{left}{shown(domain.start)}, {shown(domain.end)}{right}"
