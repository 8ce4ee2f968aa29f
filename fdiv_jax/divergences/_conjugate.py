"""f* and f*' as JAX functions, from the segments of the s axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import sympy
from jax.typing import ArrayLike

from fdiv_jax.divergences._conjugate_values import ConjugateFunctions
from fdiv_jax.divergences._curve_functions import curve_functions
from fdiv_jax.divergences._evaluate import jax_function
from fdiv_jax.divergences._legendre import (
    S,
    Segment,
    numeric_inverse,
    segments_of,
    shortened,
    stable_form,
    symbolic_inverse,
    value_at_upper_end,
)
from fdiv_jax.divergences._names import Formula
from fdiv_jax.divergences._numbers import elementwise
from fdiv_jax.divergences._parse import T
from fdiv_jax.divergences._pieces import Piece

Function = Callable[[jax.Array], jax.Array]


def _through_inverse(inverse: Function, f: Function) -> Function:
    """f*(s) = s t* - f(t*)"""

    def value(s: jax.Array) -> jax.Array:
        t = inverse(s)
        return s * t - f(t)

    return value


class Conjugate:
    """The conjugate of a generator given by its pieces; formulas of a single smooth piece may be known
    beforehand."""

    def __init__(
        self,
        pieces: Sequence[Piece],
        known_value: sympy.Expr | None = None,
        known_inverse: sympy.Expr | None = None,
        numeric: ConjugateFunctions | None = None,
    ):
        self.pieces = tuple(pieces)
        self._numeric = numeric
        self._known = (known_value, known_inverse)

    # --- symbols ----------------------------------------

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        return segments_of(self.pieces)

    @cached_property
    def lowest_slope(self) -> sympy.Expr:
        first = self.segments[0]
        return first.upper if first.kind == "flat" else first.lower

    @property
    def highest_slope(self) -> sympy.Expr:
        return self.segments[-1].upper

    @property
    def floor(self) -> sympy.Expr:
        """-f(0+), the value of f* below f'(0+)."""
        first = self.segments[0]
        return -first.value_at_point if first.kind == "flat" else -sympy.oo

    @cached_property
    def value_at_top(self) -> sympy.Expr:
        return value_at_upper_end(self.pieces, self.highest_slope)

    @cached_property
    def domain(self) -> Formula:
        top = self.highest_slope
        return sympy.Interval(-sympy.oo, top, True, self.value_at_top == sympy.oo)

    @cached_property
    def _formulas(self) -> dict[Segment, tuple[sympy.Expr, sympy.Expr] | None]:
        """(f*, t*) of each smooth segment, None where only numbers are known."""
        formulas = {}
        for segment in self.segments:
            if segment.piece is None:
                continue
            value, inverse = self._known if len(self.pieces) == 1 else (None, None)
            if inverse is None:
                inverse = symbolic_inverse(segment.piece)
            if inverse is not None and value is None:
                value = shortened(S * inverse - segment.piece.expression.subs(T, inverse), segment.piece)
            formulas[segment] = None if inverse is None or value is None else (value, inverse)
        return formulas

    @cached_property
    def expression(self) -> sympy.Expr | None:
        cases = []
        for segment in self.segments:
            if segment.kind == "smooth":
                formula = self._formulas[segment]
                if formula is None:
                    return None
                value = formula[0]
            else:
                value = S * segment.point - segment.value_at_point
            cases.append((value, segment.upper))
        if len(cases) == 1 and cases[0][1] == sympy.oo:
            return cases[0][0]
        parts = [(value, upper > S) for value, upper in cases]
        if self.highest_slope != sympy.oo:
            if self.value_at_top != sympy.oo:
                parts.append((self.value_at_top, sympy.Eq(S, self.highest_slope)))
            parts.append((sympy.oo, True))
        else:
            parts[-1] = (parts[-1][0], True)
        return sympy.Piecewise(*parts)

    # --- numbers ----------------------------------------

    @cached_property
    def value(self) -> Callable[[ArrayLike], jax.Array]:
        """f*(s)"""
        function = jax.custom_jvp(self._value)

        def rule(primals, tangents):
            (s,), (ds,) = primals, tangents
            slope = self._smooth_prime(s)
            return function(s), jnp.where(jnp.isfinite(slope), slope, 0.0) * ds

        function.defjvp(rule)
        return elementwise(function)

    @cached_property
    def prime(self) -> Callable[[ArrayLike], jax.Array]:
        """t*(s)"""
        return elementwise(self._smooth_prime)

    @cached_property
    def _smooth_prime(self) -> Function:
        function = jax.custom_jvp(lambda s: self._select(s, [part[1] for part in self._parts], jnp.inf))

        def rule(primals, tangents):
            (s,), (ds,) = primals, tangents
            t = function(s)
            rates = [partial(part[2], t=t) for part in self._parts]
            return t, jnp.where(jnp.isfinite(t), self._select(s, rates, 0.0), 0.0) * ds

        function.defjvp(rule)
        return function

    @cached_property
    def _parts(self) -> list[tuple[Function, Function, Callable[..., jax.Array]]]:
        """f* and t* as functions of s, and f*'' as one of s and t*, of each segment."""
        parts: list[tuple[Function, Function, Callable[..., jax.Array]]] = []
        for segment in self.segments:
            if segment.piece is None:
                point, height = float(segment.point), float(segment.value_at_point)
                parts.append(
                    (
                        lambda s, point=point, height=height: s * point - height,
                        lambda s, point=point: jnp.full_like(s, point),
                        lambda s, t: jnp.zeros_like(s),
                    )
                )
                continue
            if self._numeric is not None:
                second = self._numeric.second
                parts.append(
                    (self._numeric.value, self._numeric.maximiser, lambda s, t, second=second: second(s))
                )
                continue
            piece = segment.piece
            curve = curve_functions(piece, segment.lower, segment.upper)
            if curve is not None:
                rate = partial(_rate, curvature=curve.derivative(2), sample=piece.inner)
                parts.append((curve.conjugate, curve.maximiser, rate))
                continue
            # f' oscillates too fast for a table
            inverse, f = numeric_inverse(piece), jax_function(stable_form(piece.expression), T)
            value = _through_inverse(inverse, f)
            curvature = jax_function(stable_form(piece.second), T)
            parts.append((value, inverse, partial(_rate, curvature=curvature, sample=piece.inner)))
        return parts

    @cached_property
    def _samples(self) -> list[float]:
        """A slope inside each segment, to stand in where an element belongs to another one."""
        samples = []
        for segment in self.segments:
            low, high = float(segment.lower), float(segment.upper)
            if math.isinf(low) and math.isinf(high):
                samples.append(float(segment.piece.first.subs(T, 1)) if segment.piece is not None else 0.0)
            elif math.isinf(low):
                samples.append(high - 1)
            elif math.isinf(high):
                samples.append(low + 1)
            else:
                samples.append((low + high) / 2)
        return samples

    def _select(self, s: jax.Array, functions: Sequence[Function], beyond: float) -> jax.Array:
        result = jnp.full_like(s, beyond)
        closed = self.highest_slope != sympy.oo and self.value_at_top != sympy.oo
        for segment, function, sample in zip(self.segments, functions, self._samples, strict=True):
            inside = (s >= float(segment.lower)) & (s < float(segment.upper))
            if closed and segment is self.segments[-1]:
                inside |= s == jnp.asarray(float(segment.upper), s.dtype)
            result = jnp.where(inside, function(jnp.where(inside, s, sample)), result)
        return jnp.where(jnp.isnan(s), s, result)

    def _value(self, s: jax.Array) -> jax.Array:
        result = self._select(s, [part[0] for part in self._parts], jnp.inf)
        top = self.highest_slope
        if top != sympy.oo and self.value_at_top != sympy.oo:
            at_top = jnp.asarray(float(self.value_at_top), s.dtype)
            result = jnp.where(s == jnp.asarray(float(top), s.dtype), at_top, result)
        return result


def _rate(s: jax.Array, t: jax.Array, curvature: Function, sample: float) -> jax.Array:
    """f*'' = 1/f''(t*), and 0 where t* saturates at an end at which f'' has no number."""
    # A t* of 0 has underflowed.
    value = curvature(jnp.where(jnp.isfinite(t), jnp.maximum(t, jnp.finfo(t.dtype).tiny), sample))
    return jnp.where(jnp.isnan(value), 0.0, 1 / value)
