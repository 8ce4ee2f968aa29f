"""f on one smooth piece as a JAX function whose derivatives keep their digits as well."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import sympy

from fdiv_jax.divergences._curve_functions import curve_functions
from fdiv_jax.divergences._evaluate import mp_context, mp_function, numpy_function
from fdiv_jax.divergences._jax_function import jax_function
from fdiv_jax.divergences._legendre import slope_at, stable_form
from fdiv_jax.divergences._parse import T
from fdiv_jax.divergences._pieces import Piece

Function = Callable[[jax.Array], jax.Array]
_HALF = np.array([1e-3, 0.1, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 55.0, 69.0])
_LOGS = np.concatenate([-_HALF[::-1], _HALF])


def piece_function(piece: Piece, stable: sympy.Expr | None = None) -> Function:
    """f from its formula where that keeps the digits of f, f' and f'', otherwise from the table.

    stable: a form of the formula that is known to keep them.
    """
    if stable is not None:
        value = jax_function(stable, T)
        slope = _with_derivative(
            lambda t: jax.jvp(value, (t,), (jnp.ones_like(t),))[1], lambda: _of_order(piece, 2)
        )
        return _with_derivative(value, lambda: slope)
    if piece.second != 0 and not _keep_digits(piece, tuple(map(piece.derivative, range(3)))):
        curve = curve_functions(piece, slope_at(piece, piece.lower, "+"), slope_at(piece, piece.upper, "-"))
        if curve is not None:
            return curve.derivative(0)
    return _of_order(piece, 0)


def _of_order(piece: Piece, order: int) -> Function:
    """f at order 0, f' at 1 and so on, each from its own formula: JAX's derivative of a formula may be
    0/0 where t is small."""
    formula = piece.derivative(order)
    return _with_derivative(
        jax_function(formula if order < 3 else stable_form(formula), T), lambda: _of_order(piece, order + 1)
    )


def _with_derivative(function: Function, derivative: Callable[[], Function]) -> Function:
    own = jax.custom_jvp(function)
    own.defjvp(lambda at, by: (own(*at), derivative()(*at) * by[0]))
    return own


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
