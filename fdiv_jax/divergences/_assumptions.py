"""SymPy's answer to "which sign has this sum?", in bounded work.

SymPy asks that of every sum that it differentiates, takes a power of, or puts into abs, max or sign. Where
one symbol is in it, it isolates the roots of a polynomial to find out, which takes minutes at degree 40. For
sums in the symbols of formulas (see `ours`) of more than `_MAX_DEGREE` the answer here is "not known", as it
nearly always is in the end: what is known of a sum in a positive symbol follows from the signs of its terms.
"""

from __future__ import annotations

from typing import Any

import sympy
from sympy.core import exprtools

from fdiv_jax.divergences._names import Formula

__all__ = ["ours"]

_MAX_DEGREE = 8
_OURS: set[Formula] = set()
_sign: Any = exprtools._monotonic_sign


def ours(symbol: sympy.Symbol) -> sympy.Symbol:
    """The symbol, of whose sums the signs are asked for in bounded work from now on."""
    _OURS.add(symbol)
    return symbol


def _bounded_sign(expr: Formula) -> Formula | None:
    """A number or symbol with the sign of a formula, as SymPy finds it; None: not known."""
    symbols = expr.free_symbols
    if len(symbols) == 1 and symbols <= _OURS and sum(_degrees(expr)) > _MAX_DEGREE:
        return None
    return _sign(expr)


def _degrees(expr: Formula) -> tuple[int, int]:
    """Bounds of the degrees of numerator and denominator; of what else there is, 1 and 0."""
    if not expr.free_symbols:
        return 0, 0
    if isinstance(expr, sympy.Pow) and expr.exp.is_Integer:
        above, below = (abs(int(expr.exp)) * size for size in _degrees(expr.base))
        return (above, below) if expr.exp > 0 else (below, above)
    if isinstance(expr, sympy.Mul):
        sizes = [_degrees(part) for part in expr.args]
        return sum(size[0] for size in sizes), sum(size[1] for size in sizes)
    if isinstance(expr, sympy.Add):
        sizes = [_degrees(part) for part in expr.args]
        common = sum(size[1] for size in sizes)
        return max(above + common - below for above, below in sizes), common
    return 1, 0


exprtools._monotonic_sign = _bounded_sign
