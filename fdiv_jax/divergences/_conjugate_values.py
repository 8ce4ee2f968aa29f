"""f*, f*' and f*(g) of the named divergences in JAX, written so that they keep their digits.

The formulas of the catalogue lose digits in three places: beside s0 = f'(1) (2 - 2 sqrt(1 - s) at s = 1e-5),
at the edge of the domain (1 - e^s at s = -1e-6), and far out, where an exponent of 80 rounds by 5e-6 in
float32. Here each is an expm1, a log1p or a quotient of factors, and a constant that is subtracted keeps the
digits that the dtype has no room for (`less`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
from jax.typing import DTypeLike

from fdiv_jax.divergences._names import Value

Function = Callable[[jax.Array], jax.Array]
with mpmath.workdps(40):
    _LOG_2 = mpmath.log(2)


@dataclass(frozen=True)
class ConjugateFunctions:
    """JAX functions of one array.

    value, maximiser, second: f*, t* = f*' and f*'' on the slopes that f takes on t > 0. composed: f*(g(v)) on
    the same slopes; None where g is the identity.
    """

    value: Function
    maximiser: Function
    second: Function
    composed: Function | None = None


def in_two_parts(constant: Value, dtype: DTypeLike) -> tuple[np.ndarray, np.ndarray]:
    """A number of mpmath as a number of the dtype and what that leaves over."""
    high = np.asarray(float(constant), dtype)
    return high, np.asarray(float(constant - mpmath.mpf(float(high))), dtype)


def less(x: jax.Array, constant: Value) -> jax.Array:
    """x - constant for a number of mpmath; no digits are lost where x is near the constant.

    There x low / high is low; XLA would add two constants up.
    """
    high, low = in_two_parts(constant, x.dtype)
    return x - high if high == 0 else (x - high) - x * (low / high)


@jax.custom_jvp
def expm1(x: jax.Array) -> jax.Array:
    """e^x - 1 with the derivative e^x; that of `jnp.expm1` is expm1(x) + 1, which is 0 at x = -20."""
    return jnp.expm1(x)


@expm1.defjvp
def _expm1_jvp(primals, tangents):
    return expm1(*primals), jnp.exp(*primals) * tangents[0]


def _exp_of(s: jax.Array, factor: Value) -> jax.Array:
    """e^s times the factor, without overflow before the product has it."""
    root = jnp.exp(s / 2)
    return root * (root * factor)


# --- jeffreys ----------------------------------------


@jax.custom_jvp
def _log_maximiser(s: jax.Array) -> jax.Array:
    """z = log t* of jeffreys, the root of f'(e^z) = z - expm1(-z) = s.

    Newton's method from the left of the root, on this concave function for s > 0 and on z + log1p(z - s) for
    s < 0, where e^-z would overflow.
    """
    right, left = jnp.maximum(s, 0), jnp.minimum(s, 0)

    def step(_, roots):
        z, y = roots
        z = z - (z - jnp.expm1(-z) - right) / (1 + jnp.exp(-z))
        y = y - (y + jnp.log1p(y - left)) / (1 + 1 / (1 + y - left))
        return z, y

    z, y = jax.lax.fori_loop(0, 6, step, (jnp.maximum(right / 2, right - 1), -jnp.log1p(-left)))
    return jnp.where(s > 0, z, y)


@_log_maximiser.defjvp
def _log_maximiser_jvp(primals, tangents):
    z = _log_maximiser(*primals)
    return z, tangents[0] / (1 + jnp.exp(-z))


def _jeffreys_maximiser(s: jax.Array) -> jax.Array:
    z = _log_maximiser(s)
    right, left = jnp.maximum(s, 0), jnp.minimum(s, 0)
    # Where |z| is large e^z would lose digits; z = s + expm1(-z).
    above = _exp_of(right, 1 + jnp.expm1(jnp.expm1(-jnp.maximum(z, 0))))
    return jnp.where(s > 0, above, 1 / (1 - left + jnp.minimum(z, 0)))


def _jeffreys_second(s: jax.Array) -> jax.Array:
    """t^2 / (1 + t)"""
    t = _jeffreys_maximiser(s)
    return t / (1 + 1 / t)


def _jeffreys_value(s: jax.Array) -> jax.Array:
    z = _log_maximiser(s)
    return jnp.where(s < 1, jnp.expm1(jnp.minimum(z, 1)), _jeffreys_maximiser(s) - 1) + z


# --- jensen_shannon and gan ----------------------------------------


def _two_minus_exp(s: jax.Array) -> tuple[jax.Array, jax.Array]:
    """2 - e^s and its logarithm."""
    edge = s > 0.35
    rest = -jnp.expm1(less(jnp.where(edge, s, 0.5), _LOG_2))
    near = -jnp.expm1(jnp.where(edge, 0, s))
    return jnp.where(edge, 2 * rest, 1 + near), jnp.where(edge, jnp.log(rest) + math.log(2), jnp.log1p(near))


def _jensen_shannon_composed(v: jax.Array) -> jax.Array:
    close = jnp.abs(v) < 1
    near = jnp.log1p(jnp.expm1(jnp.where(close, v, 0)) / 2)
    return jnp.where(close, near, jnp.logaddexp(v, 0) - math.log(2))


def _jensen_shannon_maximiser(s: jax.Array) -> jax.Array:
    return jnp.exp(s) / _two_minus_exp(s)[0]


def _gan_maximiser(s: jax.Array) -> jax.Array:
    return jnp.exp(s) / -jnp.expm1(s)


def _with_next(maximiser: Function) -> Function:
    """t (1 + t), the reciprocal of f'' = 1/(t (1 + t))."""

    def second(s: jax.Array) -> jax.Array:
        t = maximiser(s)
        return t * (1 + t)

    return second


# --- le_cam ----------------------------------------


def _le_cam_value(s: jax.Array) -> jax.Array:
    q = jnp.sqrt(1 - s)
    return s * ((3 - q) / (1 + q))


def _le_cam_maximiser(s: jax.Array) -> jax.Array:
    q = jnp.sqrt(1 - s)
    return (3 + s) / (q * (2 + q))


def _le_cam_composed(v: jax.Array) -> jax.Array:
    u = expm1(-v / 2)
    return u * (u - 2)


# --- the catalogue ----------------------------------------


def _exp_of_less_one(s: jax.Array) -> jax.Array:
    return _exp_of(s, math.exp(-1))


KL = ConjugateFunctions(_exp_of_less_one, _exp_of_less_one, _exp_of_less_one)
REVERSE_KL = ConjugateFunctions(
    lambda s: -1 - jnp.log(-s), lambda s: -1 / s, lambda s: (1 / s) ** 2, lambda v: v - 1
)
JEFFREYS = ConjugateFunctions(_jeffreys_value, _jeffreys_maximiser, _jeffreys_second)
SQUARED_HELLINGER = ConjugateFunctions(
    lambda s: s / (1 - s), lambda s: (1 / (1 - s)) ** 2, lambda s: 2 * (1 / (1 - s)) ** 3, expm1
)
PEARSON_CHI2 = ConjugateFunctions(
    lambda s: s * (1 + s / 4), lambda s: 1 + s / 2, lambda s: jnp.full_like(s, 0.5)
)
NEYMAN_CHI2 = ConjugateFunctions(
    lambda s: 2 * (s / (1 + jnp.sqrt(1 - s))),
    lambda s: 1 / jnp.sqrt(1 - s),
    lambda s: (1 / jnp.sqrt(1 - s)) ** 3 / 2,
    lambda v: -2 * expm1(-v / 2),
)
JENSEN_SHANNON = ConjugateFunctions(
    lambda s: -_two_minus_exp(s)[1],
    _jensen_shannon_maximiser,
    _with_next(_jensen_shannon_maximiser),
    _jensen_shannon_composed,
)
GAN = ConjugateFunctions(
    lambda s: -jnp.log(-jnp.expm1(s)) - 2 * math.log(2),
    _gan_maximiser,
    _with_next(_gan_maximiser),
    lambda v: jnp.logaddexp(v, 0) - 2 * math.log(2),
)
LE_CAM = ConjugateFunctions(
    _le_cam_value, _le_cam_maximiser, lambda s: (1 / jnp.sqrt(1 - s)) ** 3, _le_cam_composed
)


def alpha_functions(a: Value, k: Value) -> ConjugateFunctions:
    """alpha(a) for numbers a and k = a - 1 of mpmath in 40 digits, neither of them 0."""
    with mpmath.workdps(40):
        edge, two_less = -1 / k, 2 - a
    rate, number = float(k), float(a)
    if abs(number) < 1e-30:  # float32 has no such number: the limit, reverse_kl up to 1 - t
        return ConjugateFunctions(
            lambda s: -jnp.log1p(-s), lambda s: 1 / (1 - s), lambda s: (1 / (1 - s)) ** 2, lambda v: v
        )

    def power(s: jax.Array, exponent: Value, minus: float = 0.0) -> jax.Array:
        """t*^exponent - minus (0 or 1), t* = (1 + k s)^(1/k)."""
        x = rate * s
        beside = jnp.abs(x) < 0.5
        # From the distance to the edge, unless that is too far to matter.
        base = rate * less(s, edge) if abs(edge) < 1e30 else 1 + x
        base = jnp.maximum(base, jnp.finfo(s.dtype).tiny)
        log = jnp.log(base)
        ratio = jnp.where(x == 0, 1, jnp.log1p(jnp.where(beside, x, 0)) / jnp.where(x == 0, 1, x))
        argument = float(exponent) * jnp.where(beside, s * ratio, log / rate)
        with mpmath.workdps(40):
            over = exponent / k if abs(edge) < 1e30 else mpmath.mpf(0)
        high, low = in_two_parts(over, s.dtype)
        near = beside | (jnp.abs(log) < 1) | (jnp.abs(argument) < 1)
        argument = jnp.where(near, argument, 0)
        far = jnp.power(jnp.where(near, 1, base), high) * (1 + low * log) - minus
        return jnp.where(near, jnp.expm1(argument) if minus else jnp.exp(argument), far)

    def composed(v: jax.Array) -> jax.Array:
        return expm1(number * v) / number

    return ConjugateFunctions(
        lambda s: power(s, a, 1.0) / number,
        lambda s: power(s, 1),
        lambda s: power(s, two_less),
        composed if rate < 0 else None,
    )
