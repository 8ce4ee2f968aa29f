"""F_f(m), its weight and their derivatives as JAX functions: closed form where it is stable, quadrature
otherwise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from fdiv_jax.divergences._moments import MomentTables
from fdiv_jax.divergences._numbers import as_float
from fdiv_jax.divergences._quadrature import in_chunks, log_moment, moment, scaled_moment

Function = Callable[[jax.Array], jax.Array]
_MAX_DECADES = 30.0  # float32 holds 10^+-30 with room to spare


class GaussianMoments:
    """E_Q[A_k(r)] = 2^k d^k F/dm^k for k = 0, 1, 2, ...: each order's derivative is half the next order."""

    def __init__(self, tables: MomentTables):
        self._tables = tables
        self._functions: dict[int, Function] = {}

    @cached_property
    def value(self) -> Callable[[ArrayLike], jax.Array]:
        return _of_squared_distance(self.order(0))

    @cached_property
    def weight(self) -> Callable[[ArrayLike], jax.Array]:
        return _of_squared_distance(self._weight)

    @cached_property
    def log_weight(self) -> Callable[[ArrayLike], jax.Array]:
        return _of_squared_distance(self._log_weight)

    def _jumps(self, order: int):
        return [self._tables.profile(k).jumps for k in range(order)] if len(self._tables.pieces) > 1 else []

    def _plain(self, k: int) -> Function:
        """m -> E_Q[A_k(r)], by JAX's own derivative of the order below where A_k is no function to
        integrate."""

        def evaluate(m: jax.Array) -> jax.Array:
            if self._tables.terms is not None:
                return _sum_of_exponentials(self._tables.terms, k, m)
            if not self._tables.is_tabulable(k):
                safe = jnp.maximum(m, self._least(k, m.dtype))
                below, slope = jax.jvp(self._plain(k - 1), (safe,), (jnp.ones_like(m),))
                limit = jnp.finfo(m.dtype).max
                return jnp.where(jnp.abs(below) < limit, jnp.clip(2 * slope, -limit, limit), limit)
            return in_chunks(lambda x: moment(self._tables.profile(k), self._jumps(k), x), m)

        return evaluate

    def _least(self, k: int, dtype) -> float:
        """Below this m the derivative that gives order k is taken at it: rounding would drown it at m -> 0,
        save where it is the leading power of m."""
        single = jnp.finfo(dtype).bits == 32
        sides = (self._tables.profile(0).left, self._tables.profile(0).right)
        if k == 1 or any(side.zero_order != int(side.zero_order) for side in sides):
            return 1e-10 if single else 1e-60
        return 1e-3 if single else 1e-6

    def order(self, k: int) -> Function:
        """m -> E_Q[A_k(r)], differentiable any number of times."""
        if k in self._functions:
            return self._functions[k]

        function = jax.custom_jvp(self._plain(k))

        def rule(primals, tangents):
            (m,), (dm,) = primals, tangents
            rate = self.order(k + 1)(m)
            if self._tables.sharp:
                rate = jnp.where(m > 0, rate, 0.0)
            return function(m), 0.5 * rate * dm

        function.defjvp(rule)
        self._functions[k] = function
        return function

    def _weight(self, m: jax.Array) -> jax.Array:
        weight = self.order(1)(m)
        return jnp.where(m > 0, weight, jnp.inf) if self._tables.sharp else weight

    @cached_property
    def _log_weight(self) -> Function:
        if self._tables.terms is not None:
            rates = np.array([c for _, c in self._tables.terms])
            logs = np.log([2 * a for a, _ in self._tables.terms])

            def closed(m: jax.Array) -> jax.Array:
                parts = m[..., None] * jnp.asarray(rates, m.dtype) + jnp.asarray(logs, m.dtype)
                return jax.scipy.special.logsumexp(parts, axis=-1)

            return closed

        if not self._tables.is_tabulable(1):
            return lambda m: _log(self._weight(m))

        def evaluate(m: jax.Array) -> jax.Array:
            value = in_chunks(lambda x: log_moment(self._tables.profile(1), self._jumps(1), x), m)
            return jnp.where(m > 0, value, jnp.inf) if self._tables.sharp else value

        function = jax.custom_jvp(evaluate)

        def rule(primals, tangents):
            (m,), (dm,) = primals, tangents
            log_weight = function(m)
            if self._tables.is_tabulable(2):
                rate = 0.5 * self._ratio(2)(m)
            else:
                safe = jnp.maximum(m, self._least(2, m.dtype))
                rate = jax.jvp(evaluate, (safe,), (jnp.ones_like(m),))[1]
            return log_weight, jnp.where(jnp.isfinite(log_weight), rate, 0.0) * dm

        function.defjvp(rule)
        return function

    def _ratio(self, k: int) -> Function:
        """m -> R_k = E_Q[A_k(r)] / w(m), which does not overflow; R_k' = (R_{k+1} - R_k R_2) / 2."""

        @jax.custom_jvp
        def ratio(m: jax.Array) -> jax.Array:
            log_weight = self._log_weight(m)
            scale = jnp.where(jnp.isfinite(log_weight), log_weight, 0.0)
            return scaled_moment(self._tables.profile(k), self._jumps(k), m, scale)

        def rule(primals, tangents):
            (m,), (dm,) = primals, tangents
            here = ratio(m)
            if not self._tables.is_tabulable(k + 1):
                raise NotImplementedError(f"no derivative of order {k} of the log weight of this generator")
            return here, 0.5 * (self._ratio(k + 1)(m) - here * self._ratio(2)(m)) * dm

        ratio.defjvp(rule)
        return ratio


def _of_squared_distance(function: Function) -> Callable[[ArrayLike], jax.Array]:
    """Check and convert the argument; compiled, also outside `jax.jit`."""

    @jax.jit
    def compiled(m: ArrayLike) -> jax.Array:
        array, answer = as_float(m)
        # Rounding may leave a traced squared distance slightly negative. (At 0 the derivative of maximum
        # would be 1/2.) An infinite one has the limit, as reached by the largest number.
        inside = jnp.where(array < 0, 0, jnp.where(array == jnp.inf, jnp.finfo(array.dtype).max, array))
        result = jnp.where(jnp.isnan(array), array, function(inside))
        if answer != array.dtype:
            limit = float(jnp.finfo(answer).max)
            result = jnp.where(jnp.isfinite(result), jnp.clip(result, -limit, limit), result)
        return result.astype(answer)

    def checked(m: ArrayLike) -> jax.Array:
        if isinstance(m, (int, float, list, tuple, np.ndarray, np.generic)) and np.any(np.asarray(m) < 0):
            raise ValueError(f"a squared distance m must be >= 0, got {np.min(m)}")
        return compiled(m)

    return checked


def _log(x: jax.Array) -> jax.Array:
    """log x for 0 <= x <= inf, with derivative 0 at both ends."""
    inside = (x > 0) & jnp.isfinite(x)
    return jnp.where(inside, jnp.log(jnp.where(inside, x, 1)), jnp.where(x > 0, jnp.inf, -jnp.inf))


def _times(x: jax.Array, factor: float) -> jax.Array:
    """factor * x; by logarithms where the dtype may not hold the factor: 0 or inf in its place would turn
    into nan."""
    if abs(math.log10(abs(factor))) < _MAX_DECADES:
        return factor * x
    size = jnp.exp(jnp.log(jnp.abs(x)) + math.log(abs(factor)))
    return jnp.sign(x) * math.copysign(1.0, factor) * jnp.where(x == 0, 0, size)


def _scaled(function: Function, x: jax.Array, factor: float) -> jax.Array:
    """factor * exp(x) or factor * expm1(x), over- and underflowing only where the product does."""
    large = x > 40  # beyond it the 1 in expm1 is rounded away
    far = jnp.where(large, x, 0)
    log_factor = math.log(abs(factor))
    if abs(log_factor) < _MAX_DECADES * math.log(10):
        half = jnp.exp(far / 2)
        beyond = factor * half * half
    else:
        beyond = math.copysign(1.0, factor) * jnp.exp(far + log_factor)
    return jnp.where(large, beyond, _times(function(jnp.where(large, 0, x)), factor))


def _sum_of_exponentials(terms: Sequence[tuple[float, float]], order: int, m: jax.Array) -> jax.Array:
    """2^k d^k/dm^k of the sum of a (e^(c m) - 1)/c, clipped to the largest finite number."""
    total = jnp.zeros_like(m)
    limit = float(jnp.finfo(m.dtype).max)
    for a, c in terms:
        if order == 0:
            total = total + (_times(m, a) if c == 0 else _scaled(jnp.expm1, c * m, a / c))
        elif c == 0:
            total = total + (min(2 * a, limit) if order == 1 else 0.0)
        else:
            total = total + _scaled(jnp.exp, c * m, 2 * a * (2 * c) ** (order - 1))
    return jnp.clip(total, -limit, limit)
