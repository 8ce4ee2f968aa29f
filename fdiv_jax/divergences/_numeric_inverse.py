"""The inverse of f' on a smooth piece by Newton's method, for slopes that no table resolves."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import sympy

from fdiv_jax.divergences._evaluate import numpy_function
from fdiv_jax.divergences._jax_function import jax_function
from fdiv_jax.divergences._legendre import stable_form
from fdiv_jax.divergences._parse import T
from fdiv_jax.divergences._pieces import Piece


def numeric_inverse(piece: Piece) -> Callable[[jax.Array], jax.Array]:
    """t*(s) by safeguarded Newton in log t: a step outside the bracket, or one that shrinks it too
    slowly, bisects.

    The bracket is the part of the piece on which f' is finite in the dtype at hand; slopes beyond it give
    its ends.
    """
    slope, curvature = stable_form(piece.first), stable_form(piece.second)
    f1, f2 = jax_function(slope, T), jax_function(curvature, T)

    def inverse(s: jax.Array) -> jax.Array:
        low, high = _bracket(piece, slope, np.dtype(s.dtype).name)
        digits = jnp.finfo(s.dtype).eps

        def residual(x):
            return f1(jnp.exp(x)) - s

        def step(state):
            i, x, a, b, width = state
            t = jnp.exp(x)
            r = f1(t) - s
            a, b = jnp.where(r <= 0, x, a), jnp.where(r >= 0, x, b)
            newton = x - r / (t * f2(t))
            middle = (a + b) / 2
            good = (newton > a) & (newton < b) & (2 * jnp.abs(newton - x) < width)
            proposal = jnp.where(good, newton, middle)
            return i + 1, proposal, a, b, jnp.where(good, jnp.abs(newton - x), b - a)

        def unfinished(state):
            i, x, a, b, width = state
            return (i < 200) & jnp.any(
                (width > digits * (1 + jnp.abs(x))) & (b - a > digits * (1 + jnp.abs(x)))
            )

        a, b = jnp.full_like(s, low), jnp.full_like(s, high)
        start = jnp.clip(jnp.zeros_like(s), low, high)
        start = jnp.where((start == a) | (start == b), (a + b) / 2, start)
        state = (jnp.zeros((), jnp.int32), start, a, b, 2 * (b - a))
        _, x, a, b, _ = jax.lax.while_loop(unfinished, step, state)
        x = jnp.where(residual(jnp.full_like(s, low)) >= 0, low, x)
        x = jnp.where(residual(jnp.full_like(s, high)) <= 0, high, x)
        return jnp.exp(x)

    return inverse


def _bracket(piece: Piece, slope: sympy.Expr, dtype: str) -> tuple[float, float]:
    """Ends in log t between which f' is finite and increasing in this dtype."""
    reach = 85.0 if dtype == "float32" else 700.0
    low = -reach if piece.lower == 0 else float(sympy.log(piece.lower))
    high = reach if piece.upper == sympy.oo else float(sympy.log(piece.upper))
    grid = np.linspace(low, high, 2001)
    if piece.upper == sympy.oo or piece.lower == 0:
        grid = np.unique(np.concatenate([grid, np.linspace(max(low, -5), min(high, 5), 201)]))
    values = numpy_function(slope, T)(np.exp(grid.astype(dtype)))
    with np.errstate(all="ignore"):
        falls = np.diff(values) < -1e3 * np.finfo(dtype).eps * (np.abs(values[1:]) + np.abs(values[:-1]))
    finite = np.isfinite(values)
    # Where a slope seems to fall, a part of it has overflowed.
    centre_of = np.searchsorted(grid, min(max(0.0, low), high))
    for i in np.flatnonzero(falls):
        finite[i + 1 if i >= centre_of else i] = False
    centre = int(np.argmin(np.abs(grid - min(max(0.0, low), high))))
    left = right = centre
    while left > 0 and finite[left - 1]:
        left -= 1
    while right < len(grid) - 1 and finite[right + 1]:
        right += 1
    return float(grid[left]), float(grid[right])
