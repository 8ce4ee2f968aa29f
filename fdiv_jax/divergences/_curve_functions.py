"""f, f', f'' and f*, t* of one smooth piece as JAX functions, read from the table of `_curve`.

t*(s) solves log gap(x) = log |s - f'(b)| by Newton's method within one panel, whose place is known
beforehand; positions are kept relative to the panel, so that they lose no digits far from t = 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import copy
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import sympy
from jax.typing import DTypeLike
from numpy.typing import ArrayLike

from fdiv_jax.divergences._chebyshev import value_and_slope
from fdiv_jax.divergences._constants import evaluated
from fdiv_jax.divergences._curve import LINEAR_REACH, Panel, Side, UnresolvedError, make_side
from fdiv_jax.divergences._exact import at_point
from fdiv_jax.divergences._parse import T
from fdiv_jax.divergences._pieces import Piece

_NAMES = ("f", "slope", "curvature")


def difference(x: jax.Array, number: sympy.Expr) -> jax.Array:
    """x - number, exact to the last place of the result also where the dtype does not hold the number."""
    exact = sympy.Float(evaluated(number, 60), 60)
    with np.errstate(over="ignore"):
        high = float(np.asarray(float(exact), x.dtype))
    low = float(exact - sympy.Float(high, 60)) if math.isfinite(high) else 0.0
    # Behind a barrier, or the compiler would subtract the sum of both.
    return jax.lax.optimization_barrier(x - high) - low if low else x - high


class CurveFunctions:
    """The functions of one smooth piece whose slopes run from `lower` to `upper`.

    Raises:
      UnresolvedError: f' oscillates.
    """

    def __init__(self, piece: Piece, lower: sympy.Expr, upper: sympy.Expr):
        self.base, self.slope_at_base = sympy.S.One, at_point(piece.first, sympy.S.One, T)
        if piece.lower >= 1:
            self.base, self.slope_at_base = piece.lower, lower
        elif piece.upper <= 1:
            self.base, self.slope_at_base = piece.upper, upper
        self.ends = {-1: lower, 1: upper}
        sides = (make_side(piece, self.base, self.slope_at_base, self.ends[d], d) for d in (-1, 1))
        self.sides = [side for side in sides if side is not None]
        self.panels = [panel for side in self.sides for panel in side.panels]
        self.value_at_base = (
            0.0 if self.base == 1 else float(evaluated(at_point(piece.expression, self.base, T)))
        )
        self._derivatives: dict[int, Callable[[jax.Array], jax.Array]] = {}

    # --- of t ----------------------------------------

    def derivative(self, order: int) -> Callable[[jax.Array], jax.Array]:
        """f at order 0, f' at 1 and so on, differentiable any number of times.

        Each order has series of its own. The derivative of a series has the rounding of its values divided
        by t: all there is of the third derivative where f'' tends to a constant as t -> 0.
        """
        if order not in self._derivatives:
            name = _NAMES[order] if order < len(_NAMES) else f"derivative {order}"
            if order >= len(_NAMES):
                for side in self.sides:
                    side.add_derivative(order)
            function = jax.custom_jvp(lambda t: self._read(name, order, t))
            function.defjvp(lambda at, by: (function(*at), self.derivative(order + 1)(*at) * by[0]))
            self._derivatives[order] = function
        return self._derivatives[order]

    def _read(self, quantity: str, order: int, t: jax.Array) -> jax.Array:
        base = float(self.base)
        first, index, beyond = 0, jnp.zeros(t.shape, int), []
        for side in self.sides:
            ends = self._t_at(side, [panel.high for panel in side.panels], t.dtype)
            passed = jnp.sum((t[..., None] > ends) if side.direction > 0 else (t[..., None] < ends), axis=-1)
            here = (t >= base) if side.direction > 0 else (t < base)
            index = jnp.where(here, first + jnp.minimum(passed, len(ends) - 1), index)
            beyond.append((side, here & (passed == len(ends))))
            first += len(ends)
        place = _Place(self.panels, index, t.dtype)
        # Relative to the inner end of the panel, so that no digits are lost far from t = 1.
        t_low = self._t_low(t.dtype)[index]
        first = place.low == 0
        from_base = jnp.log1p(difference(jnp.where(first, t, base), self.base) / base)
        within = jnp.where(first, from_base, jnp.log(jnp.where(first, base, t) / t_low))
        place = place.at_distance(self._direction(t.dtype)[index] * within)
        value = place.value(quantity)
        for side, outside in beyond:
            value = self._beyond(side, order, t, outside, value)
        return value

    @staticmethod
    def _beyond(side: Side, order: int, t: jax.Array, outside: jax.Array, value: jax.Array) -> jax.Array:
        if side.ends == "number":
            return value
        if side.ends == "steep":
            far = side.direction**order * jnp.inf  # the logarithms at the end are beyond float64
        else:
            slope, dual = (side.panels[-1].value_at_end(name) for name in ("slope", "dual"))
            far = {0: slope * t - dual, 1: slope}.get(order, 0.0)
        return jnp.where(outside, far, value)

    def _t_at(self, side: Side, xs: list[float], dtype: DTypeLike) -> jax.Array:
        info = np.finfo(dtype)
        logs = float(sympy.log(self.base)) + side.direction * np.array(xs)
        t = np.exp(np.clip(logs, np.log(float(info.tiny)), np.log(float(info.max))))
        if xs[0] == 0:
            t[0] = float(self.base)
        return jnp.asarray(t.astype(dtype))

    def _t_low(self, dtype: DTypeLike) -> jax.Array:
        return jnp.concatenate([self._t_at(side, [p.low for p in side.panels], dtype) for side in self.sides])

    def _direction(self, dtype: DTypeLike) -> jax.Array:
        return jnp.concatenate([jnp.full(len(side.panels), side.direction, dtype) for side in self.sides])

    # --- of s ----------------------------------------

    def maximiser(self, s: jax.Array) -> jax.Array:
        """t*(s)"""
        return self._solve(s)[0]

    def conjugate(self, s: jax.Array) -> jax.Array:
        """f*(s)"""
        return self._solve(s)[1]

    def _solve(self, s: jax.Array) -> tuple[jax.Array, jax.Array]:
        base, tiny = float(self.base), float(jnp.finfo(s.dtype).tiny)
        rise = difference(s, self.slope_at_base)
        first, index, gap = 0, jnp.zeros(s.shape, int), jnp.ones_like(s)
        for side in self.sides:
            end = self.ends[side.direction]
            to_end = jnp.abs(difference(s, end)) if end.is_finite else jnp.full_like(s, jnp.inf)
            in_side, size = _panel_of_gap(side, jnp.maximum(jnp.abs(rise), tiny), jnp.maximum(to_end, tiny))
            here = side.direction * rise > 0
            index, gap = jnp.where(here, first + in_side, index), jnp.where(here, size, gap)
            first += len(side.panels)
        place = _Place(self.panels, index, s.dtype).at_gap(gap)
        t = self._t_low(s.dtype)[index] * jnp.exp(self._direction(s.dtype)[index] * place.distance)
        linear = base * s - self.value_at_base
        near_base = place.pick([float(panel.near_base) for panel in self.panels]) > 0
        value = place.value("dual") + jnp.where(near_base, linear, 0)
        here = rise != 0
        return (
            jnp.where(here, jnp.clip(t, tiny, float(jnp.finfo(s.dtype).max)), base),
            jnp.where(here, value, linear),
        )


def _panel_of_gap(side: Side, rise: jax.Array, to_end: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(index of the panel, size of the gap in it)"""
    far, last = side.first_far, len(side.panels) - 1
    ends = jnp.asarray(np.array([panel.log_gap_at_end for panel in side.panels]).astype(rise.dtype))
    near_index = jnp.sum(jnp.log(rise)[..., None] > ends[:far], axis=-1)
    if far > last:
        return jnp.minimum(near_index, last), rise
    is_far = jnp.log(to_end) <= side.far_from
    far_index = far + jnp.sum(jnp.log(to_end)[..., None] < ends[far:], axis=-1)
    index = jnp.where(is_far, jnp.minimum(far_index, last), jnp.minimum(near_index, far - 1))
    return index, jnp.where(is_far, to_end, rise)


@lru_cache(maxsize=512)
def curve_functions(piece: Piece, lower: sympy.Expr, upper: sympy.Expr) -> CurveFunctions | None:
    """The functions of the piece, or None where it oscillates too fast for a table."""
    try:
        return CurveFunctions(piece, lower, upper)
    except UnresolvedError:
        return None


class _Place:
    """Positions in panels chosen by an index array: `distance` is x - low, u the panel's own variable."""

    distance: jax.Array
    x: jax.Array
    u: jax.Array
    log_zero: jax.Array

    def __init__(self, panels: Sequence[Panel], index: jax.Array, dtype: DTypeLike):
        self.panels, self.index, self.dtype = panels, index, dtype
        self.low, self.high = (
            self.pick([getattr(panel, end) for panel in panels]) for end in ("low", "high")
        )
        self.logarithmic = self.low >= LINEAR_REACH
        ratio = self.high / jnp.maximum(self.low, 1)
        self.width = jnp.where(self.logarithmic, jnp.log(ratio), self.high - self.low)

    def pick(self, values: ArrayLike) -> jax.Array:
        limit = float(np.finfo(self.dtype).max)
        return jnp.asarray(np.clip(np.array(values, float), -limit, limit).astype(self.dtype))[self.index]

    def moved(self, distance: jax.Array, u: jax.Array) -> _Place:
        there = copy(self)
        there.distance, there.u = distance, u
        x, tiny = self.low + distance, float(np.finfo(self.dtype).tiny)
        there.x = jnp.where(x > tiny, x, tiny)
        there.log_zero = jnp.log(-jnp.expm1(-there.x))
        return there

    def at_distance(self, distance: jax.Array) -> _Place:
        share = jnp.where(self.logarithmic, distance, 0) / jnp.maximum(self.low, 1)
        u = 2 * jnp.where(self.logarithmic, jnp.log1p(share), distance) / self.width - 1
        # Rounding may put it outside; a derivative of the clipping itself would be 1/2 at the ends.
        return self.moved(distance, u + jax.lax.stop_gradient(jnp.clip(u, -1, 1) - u))

    def at_unknown(self, q: jax.Array) -> _Place:
        """q is u, and log(x / high) in a first panel."""
        along = (q + 1) / 2 * self.width
        distance = jnp.where(self.logarithmic, self.low * jnp.expm1(along), along)
        share = jnp.exp(jnp.minimum(q, 0))
        first = self.low == 0
        return self.moved(jnp.where(first, self.high * share, distance), jnp.where(first, 2 * share - 1, q))

    def series(self, quantity: str) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
        """(coefficients, scale, rest, power, sign); the exponential of the offset is scale e^rest."""
        series = [panel.series[quantity] for panel in self.panels]
        reach = math.log(float(np.finfo(self.dtype).max)) - 5
        offsets = np.array([s.offset for s in series])
        kept = np.clip(offsets, -reach, reach)
        columns = (
            [s.coefficients for s in series], np.exp(kept), offsets - kept, [s.power for s in series],
            [float(s.sign) for s in series],
        )  # fmt: skip
        coefficients, scale, rest, power, sign = (self.pick(column) for column in columns)
        return coefficients, scale, rest, power, sign

    def value(self, quantity: str) -> jax.Array:
        coefficients, scale, rest, power, sign = self.series(quantity)
        p = value_and_slope(jnp.unstack(coefficients, axis=-1), self.u)[0]
        exponent = rest + jnp.where(power == 0, 0, power * self.log_zero) + jnp.where(sign == 0, 0, p)
        half = jnp.exp(
            exponent / 2
        )  # twice, so that the product over- or underflows only where the result does
        return half * (jnp.where(sign == 0, p, sign) * scale) * half

    def at_gap(self, gap: jax.Array) -> _Place:
        """The place where the gap has this size, by Newton's method, or a bisection where that leaves the
        bracket or is slow."""
        coefficients, scale, rest, power, _ = self.series("gap")
        rising = self.pick([-1.0 if panel.far else 1.0 for panel in self.panels])
        target = jnp.log(gap / scale) - rest
        first = self.low == 0
        info = np.finfo(self.dtype)
        bottom = jnp.where(first, math.log(float(info.tiny)) - jnp.log(self.high), -1)
        top = jnp.where(first, 0, 1).astype(self.dtype)
        # In a first panel gap = x^power e^P(-1) to first order.
        signs = jnp.asarray((-1.0) ** np.arange(coefficients.shape[-1]), self.dtype)
        guess = (target - jnp.sum(coefficients * signs, axis=-1)) / jnp.maximum(power, 1e-3) - jnp.log(
            self.high
        )
        start = jnp.clip(jnp.where(first, guess, 0), bottom, top)

        columns = jnp.unstack(coefficients, axis=-1)

        def step(state):
            i, q, a, b, _ = state
            place = self.at_unknown(q)
            p, dp = value_and_slope(columns, place.u)
            along = self.width / 2 * jnp.where(self.logarithmic, place.x, 1)
            slope = jnp.where(first, place.u + 1, 1) * dp
            slope += power / jnp.expm1(place.x) * jnp.where(first, place.x, along)
            residual = rising * (p + jnp.where(power == 0, 0, power * place.log_zero) - target)
            a, b = jnp.where(residual <= 0, q, a), jnp.where(residual >= 0, q, b)
            newton = q - residual / (rising * slope)
            good = (newton >= a) & (newton <= b) & (i % 8 != 7)
            proposal = jnp.where(good, newton, (a + b) / 2)
            return i + 1, proposal, a, b, jnp.minimum(jnp.abs(proposal - q), b - a)

        def unfinished(state):
            i, q, _, _, change = state
            return (i < 64) & jnp.any(change > 2 * float(info.eps) * jnp.maximum(1, jnp.abs(q)))

        state = (jnp.zeros((), jnp.int32), start, bottom, top, jnp.full_like(start, jnp.inf))
        _, q, _, _, _ = jax.lax.while_loop(unfinished, step, state)
        return self.at_unknown(jnp.clip(q, bottom, top))
