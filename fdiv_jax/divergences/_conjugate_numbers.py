"""f* and f*' as JAX functions, from the segments of the s axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import sympy
from jax.typing import ArrayLike

from fdiv_jax.divergences._conjugate import Conjugate
from fdiv_jax.divergences._conjugate_values import ConjugateFunctions
from fdiv_jax.divergences._curve_functions import curve_functions
from fdiv_jax.divergences._exact import at_point
from fdiv_jax.divergences._jax_function import jax_function
from fdiv_jax.divergences._legendre import stable_form
from fdiv_jax.divergences._numbers import elementwise
from fdiv_jax.divergences._numeric_inverse import numeric_inverse
from fdiv_jax.divergences._parse import T

Function = Callable[[jax.Array], jax.Array]


def _through_inverse(inverse: Function, f: Function) -> Function:
    """f*(s) = s t* - f(t*)"""

    def value(s: jax.Array) -> jax.Array:
        t = inverse(s)
        return s * t - f(t)

    return value


class ConjugateNumbers:
    """The values of a conjugate; those of a single smooth piece may be known beforehand."""

    def __init__(self, symbols: Conjugate, known: ConjugateFunctions | None = None):
        self._symbols = symbols
        self._known = known

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
        for segment in self._symbols.segments:
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
            if self._known is not None:
                second = self._known.second
                parts.append(
                    (self._known.value, self._known.maximiser, lambda s, t, second=second: second(s))
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
        for segment in self._symbols.segments:
            low, high = float(segment.lower), float(segment.upper)
            if math.isinf(low) and math.isinf(high):
                piece = segment.piece
                samples.append(0.0 if piece is None else float(at_point(piece.first, sympy.S.One, T)))
            elif math.isinf(low):
                samples.append(high - 1)
            elif math.isinf(high):
                samples.append(low + 1)
            else:
                samples.append((low + high) / 2)
        return samples

    def _select(self, s: jax.Array, functions: Sequence[Function], beyond: float) -> jax.Array:
        result = jnp.full_like(s, beyond)
        closed = self._symbols.highest_slope != sympy.oo and self._symbols.value_at_top != sympy.oo
        for segment, function, sample in zip(self._symbols.segments, functions, self._samples, strict=True):
            inside = (s >= float(segment.lower)) & (s < float(segment.upper))
            if closed and segment is self._symbols.segments[-1]:
                inside |= s == jnp.asarray(float(segment.upper), s.dtype)
            result = jnp.where(inside, function(jnp.where(inside, s, sample)), result)
        return jnp.where(jnp.isnan(s), s, result)

    def _value(self, s: jax.Array) -> jax.Array:
        result = self._select(s, [part[0] for part in self._parts], jnp.inf)
        top = self._symbols.highest_slope
        if top != sympy.oo and self._symbols.value_at_top != sympy.oo:
            at_top = jnp.asarray(float(self._symbols.value_at_top), s.dtype)
            result = jnp.where(s == jnp.asarray(float(top), s.dtype), at_top, result)
        return result


def _rate(s: jax.Array, t: jax.Array, curvature: Function, sample: float) -> jax.Array:
    """f*'' = 1/f''(t*), and 0 where t* saturates at an end at which f'' has no number."""
    # A t* of 0 has underflowed.
    value = curvature(jnp.where(jnp.isfinite(t), jnp.maximum(t, jnp.finfo(t.dtype).tiny), sample))
    return jnp.where(jnp.isnan(value), 0.0, 1 / value)
