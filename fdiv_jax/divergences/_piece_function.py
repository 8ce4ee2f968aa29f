"""f on one smooth piece as a JAX function whose first two derivatives keep their digits as well."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
import sympy

from fdiv_jax.divergences._curve_functions import curve_functions
from fdiv_jax.divergences._evaluate import jax_function, mp_context, mp_function, numpy_function
from fdiv_jax.divergences._parse import T
from fdiv_jax.divergences._pieces import Piece

Function = Callable[[jax.Array], jax.Array]
_HALF = np.array([1e-3, 0.1, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 55.0, 69.0])
_LOGS = np.concatenate([-_HALF[::-1], _HALF])


def piece_function(piece: Piece, lower: sympy.Expr, upper: sympy.Expr) -> Function:
    """f from its formula where that keeps the digits of f, f' and f'', otherwise from the table.

    lower, upper: f' at the ends of the piece.
    """
    formulas = (piece.expression, piece.first, piece.second)
    if piece.second == 0:
        return jax_function(piece.expression, T)
    if not _keep_digits(piece, formulas):
        curve = curve_functions(piece, lower, upper)
        if curve is not None:
            return curve.f
    return _with_derivatives([jax_function(formula, T) for formula in formulas])


def _with_derivatives(functions: list[Function]) -> Function:
    if len(functions) == 1:
        return functions[0]
    function, derivative = jax.custom_jvp(functions[0]), _with_derivatives(functions[1:])
    function.defjvp(lambda primals, tangents: (function(*primals), derivative(*primals) * tangents[0]))
    return function


def _keep_digits(piece: Piece, formulas: tuple[sympy.Expr, ...]) -> bool:
    """Whether NumPy takes the formulas without losing digits, or overflowing before the value does, in either
    precision and for every t that float32 holds."""
    low, high = (
        float(sympy.log(end)) if end not in (0, sympy.oo) else 99.0 for end in (piece.lower, piece.upper)
    )
    low = -99.0 if low == 99.0 else low
    logs = _LOGS[(low < _LOGS) & (high > _LOGS)]
    points = np.exp(logs).astype(np.float32)
    if points.size == 0:
        points = np.array([np.exp((max(low, -40) + min(high, 40)) / 2)], np.float32)
    context = mp_context(300)
    truths = []
    try:
        for formula in (*formulas, sympy.diff(formulas[-1], T)):
            function = mp_function(formula, T, context)
            truths.append([context.re(function(context.mpf(float(t)))) for t in points])
    except (ZeroDivisionError, OverflowError, ValueError):
        return False
    for formula, exact, derivative in zip(formulas, truths, truths[1:], strict=False):
        for dtype in (np.float32, np.float64):
            info = np.finfo(dtype)
            found = numpy_function(formula, T)(points.astype(dtype))
            for t, value, slope, got in zip(points, exact, derivative, found, strict=True):
                if abs(value) > float(info.max):
                    continue
                slack = 64 * float(info.eps) * (abs(value) + abs(slope * float(t))) + float(info.tiny)
                if not np.isfinite(got) or abs(value - float(got)) > slack:
                    return False
    return True
