"""The noncentral chi squared law as Gaussians of unequal variance need it: smooth in every limit.

R = |y + d| for y ~ N(0, I) in n dimensions and |d|^2 = lambda has the density

    p(R) = R^(nu+1) lambda^(-nu/2) exp(-(R^2 + lambda)/2) I_nu(R sqrt(lambda)),    nu = n/2 - 1,

and R^2 is noncentral chi squared. `far` writes it in v = +-(R - sqrt(lambda)) and tau = +-1/sqrt(lambda), is
analytic at tau = 0, and v ~ N(0, 1) there; `near` is analytic at lambda = 0, where R^2 is chi squared.
Bessel's function comes from Debye's expansion for orders of 24 and more, which holds for every argument;
lower orders follow by I_(mu-1) = (2 mu / z) I_mu + I_(mu+1), where all terms are positive.

Source: Abramowitz and Stegun 9.7.7 (Debye), 9.6.26 (recurrence).
"""

from __future__ import annotations

import math
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from numpy.polynomial import Polynomial

_LEAST_ORDER = 24.0
_TERMS = 13
_HALF_LOG = 0.5 * math.log(2 * math.pi)


@cache
def _debye() -> tuple[np.ndarray, ...]:
    """Coefficients of U_0, ..., U_12 in t, constant term first."""
    u, result = Polynomial([1.0]), []
    for _ in range(_TERMS):
        result.append(u.coef)
        u = Polynomial([0, 0, 0.5, 0, -0.5]) * u.deriv() + (Polynomial([1, 0, -5]) * u).integ() / 8
    return tuple(result)


def _log_series(t: jax.Array, order: float) -> jax.Array:
    """log of the sum of U_k(t) / order^k"""
    coefficients = np.zeros(3 * _TERMS)
    for k, u in enumerate(_debye()):
        coefficients[: u.size] += u / order**k
    # Loops, here and below, because their bodies unrolled would take long to compile.
    return jnp.log1p(t * jnp.polyval(jnp.asarray(coefficients[:0:-1], t.dtype), t, unroll=1))


def _orders(order: float) -> list[float]:
    """order + N, ..., order + 1: the steps of the recurrence down from an order of 24 or more."""
    count = max(0, math.ceil(_LEAST_ORDER - order))
    return [order + k for k in range(count, 0, -1)]


def _downwards(
    above: jax.Array, factor: jax.Array, here: np.ndarray | None, over: np.ndarray | None
) -> jax.Array:
    """log of what a y_mu + b y_(mu+1) = y_(mu-1) makes of 1 and `above`, one of a and b being `factor` times
    the numbers given and the other 1."""

    def step(pair: tuple[jax.Array, jax.Array], scale: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
        low, high = pair
        first, second = (scale * factor * low, high) if here is not None else (low, scale * factor * high)
        return (first + second, low), None

    scales = jnp.asarray(here if here is not None else over, above.dtype)
    (last, _), _ = jax.lax.scan(step, (jnp.ones_like(above), above), scales)
    return jnp.log(last)


def far(v: jax.Array, tau: jax.Array, dimensions: int) -> jax.Array:
    """log density of v = +-(R - 1/|tau|), of the sign of tau; 1 + v tau = R / sqrt(lambda) > 0."""
    order = dimensions / 2 - 1
    # Where R is near 0 the density is below e^-100, and logarithms need not follow it.
    share, inverse = jnp.maximum(1 + v * tau, 1e-3), tau**2

    def log_bessel(mu: float) -> jax.Array:
        """log of sqrt(2 pi z) e^-z I_mu(z), z = share / tau^2"""
        y = mu * inverse
        root = jnp.sqrt(y**2 + share**2)
        exponent = mu * (y / (root + share) - jnp.arcsinh(y / share))
        return exponent - 0.5 * jnp.log(root / share) + _log_series(y / root, mu)

    steps = _orders(order)
    bessel = log_bessel(steps[0] if steps else order)
    if steps:
        above = jnp.exp(log_bessel(steps[0] + 1) - bessel)
        bessel = bessel + _downwards(above, 2 * inverse / share, np.array(steps), None)
    return -0.5 * v**2 - _HALF_LOG + (order + 0.5) * jnp.log(share) + bessel


def near(r: jax.Array, noncentrality: jax.Array, dimensions: int) -> jax.Array:
    """log density of R > 0."""
    order = dimensions / 2 - 1
    square = r**2 * noncentrality

    def log_limit(mu: float) -> jax.Array:
        """log of Gamma(mu + 1) (2/z)^mu I_mu(z), less log Gamma(mu + 1) - mu log(mu) + mu - log(2 pi mu)/2"""
        root = jnp.sqrt(mu**2 + square)
        rise = square / (root + mu)  # root - mu
        return (
            rise - mu * jnp.log1p(rise / (2 * mu)) - 0.5 * jnp.log1p(rise / mu) + _log_series(mu / root, mu)
        )

    def stirling(mu: float) -> float:
        return math.lgamma(mu + 1) - mu * math.log(mu) + mu - 0.5 * math.log(2 * math.pi * mu)

    steps = _orders(order)
    if not steps:  # the Gamma functions cancel
        scaled = r**2 / (2 * order)
        return (
            log_limit(order)
            - 0.5 * noncentrality
            + order * (1 - scaled + jnp.log(scaled))
            + jnp.log(r)
            - 0.5 * math.log(2 * math.pi * order)
        )
    top = steps[0]
    value = log_limit(top) + stirling(top)
    above = jnp.exp(log_limit(top + 1) + stirling(top + 1) - value)
    orders = np.array(steps)  # h_(mu-1) = h_mu + (z/2)^2 / (mu (mu + 1)) h_(mu+1)
    value = value + _downwards(above, square / 4, None, 1 / (orders * (orders + 1)))
    constant = order * math.log(2) + math.lgamma(order + 1)
    return value - (r**2 + noncentrality) / 2 + (2 * order + 1) * jnp.log(r) - constant


def _log_density(r: jax.Array, noncentrality: jax.Array, dimensions: int) -> jax.Array:
    is_far = noncentrality > threshold(dimensions)
    root = jnp.sqrt(jnp.where(is_far, noncentrality, 1e4))
    distant = far(jnp.where(is_far, r - root, 0.0), 1 / root, dimensions)
    close = near(r, jnp.where(is_far, 1.0, noncentrality), dimensions)
    return jnp.where(is_far, distant, close)


def threshold(dimensions: int) -> float:
    """The noncentrality from which on `far` serves."""
    return float(max(dimensions, 250))


def noncentral_chi2_log_density(x: jax.Array, dimensions: int, noncentrality: jax.Array) -> jax.Array:
    """log density at x > 0 of noncentral chi squared with so many degrees of freedom, any shape.

    >>> round(float(noncentral_chi2_log_density(jnp.array(3.0), 2, jnp.array(0.0))), 5)   # log(e^-1.5 / 2)
    -2.19315
    """
    r = jnp.sqrt(x)
    return _log_density(r, jnp.broadcast_to(noncentrality, r.shape), dimensions) - jnp.log(2 * r)
