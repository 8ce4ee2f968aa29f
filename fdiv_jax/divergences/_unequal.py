"""D_f between Gaussians of different means and variances, by one integral over the norm of a Gaussian.

P = N(mu1, s1^2 I), Q = N(mu2, s2^2 I), rho = s1^2/s2^2, e = rho - 1, y = (x - mu2)/s2, delta of norm sqrt(m):

    log r = -(n/2) log rho - |y - delta|^2 / (2 rho) + |y|^2 / 2
          = (e / (2 rho)) (R^2 - R0^2),    R = |y + delta/e|,    R0^2 = rho (m/e^2 + n log(rho)/e)

so one number R decides, and under Q its square is noncentral chi squared with noncentrality m/e^2. As
rho -> 1 both R and R0 run away; v = +-(R - sqrt(m)/|e|) stays, and log r is analytic in e. Powers have means

    log E_Q[r^p] = K(p) = (n/2) (q log rho - log u) - p q m / (2 u),    q = 1 - p, u = 1 + q e,

infinite for u <= 0. Elsewhere A = f - f'(1)(t - 1) >= 0 is taken from the table that equal variances use, and
integrated over Gauss-Legendre panels: about r = 1, about the mass of Q tilted by the power with which A ends,
and between the panels of the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple, NoReturn

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from fdiv_jax.divergences._checks import InfiniteDivergenceError
from fdiv_jax.divergences._closed_form import terms_of
from fdiv_jax.divergences._divergence import Divergence
from fdiv_jax.divergences._make import divergence
from fdiv_jax.divergences._noncentral import far, near, threshold
from fdiv_jax.divergences._numbers import as_float
from fdiv_jax.divergences._pieces import Piece
from fdiv_jax.divergences._quadrature import size_of_side, values_of_side
from fdiv_jax.divergences._quadrature_table import Profile, Side

Two = tuple[jax.Array, jax.Array]
"""Two numbers: m and rho, or what belongs to each."""
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_WINDOW = np.arange(-10.0, 11.0, 2.0)
_SCALES = np.append(0.0, 2.0 ** np.arange(-14, 4))
_REACH = 12.0
_CHUNK = 256  # each pair of arguments takes some thousands of numbers


class _Power(NamedTuple):
    """coefficient (E[r^p] - 1), or with `log` coefficient times E[r log r] (p = 1) or E[log r] (p = 0)."""

    coefficient: float
    power: float
    log: bool


def unequal_gaussian_divergence(
    d: Divergence | str, m: ArrayLike, ratio: ArrayLike, dimensions: int
) -> jax.Array:
    """D_f(P||Q) between P = N(mu1, s1^2 I) and Q = N(mu2, s2^2 I) in n dimensions, exact.

    Closed where f is a sum of powers and logarithms whose parts do not cancel,

        kl           m/2 + (n/2) (rho - 1 - log rho)
        alpha(a)     (e^{K(a)} - 1) / (a (a - 1)),   K(a) = (n/2) (q log rho - log u) - a q m / (2 u),
                     q = 1 - a, u = 1 + q (rho - 1) > 0

    (reverse_kl, jeffreys, squared_hellinger and both chi2 are of these), elsewhere by quadrature of one
    dimension. At rho = 1 it is `gaussian_divergence`, and near it D = f''(1) (m + n (rho - 1)^2 / 2) / 2, the
    Fisher information of mean and variance.

    Args:
      d: the divergence, or its name or expression.
      m: ||mu1 - mu2||^2 / s2^2 >= 0, any shape.
      ratio: rho = s1^2 / s2^2 > 0, any shape that broadcasts with m.
      dimensions: n >= 1, a Python integer.

    Returns:
      D_f, of the broadcast shape and in the dtype of the arguments, differentiable in both; it saturates at
      the largest finite number. For traced arguments it is +inf where the divergence is infinite. Second
      derivatives are not there for an f with kinks.

    Raises:
      InfiniteDivergenceError: (a ValueError) f grows too fast for these variances, as pearson_chi2 for
        rho >= 2 and neyman_chi2 for rho <= 1/2, or faster than every power of t.
      ValueError: a negative or infinite m, a ratio that is not finite and > 0, dimensions < 1.
      TypeError: not real numbers; dimensions not an integer.

    Source: Gil, Alajaji and Linder 2013 (powers); Liese and Vajda 2006.

    >>> from fdiv_jax.divergences import divergence
    >>> round(float(unequal_gaussian_divergence("kl", 1.0, 2.0, 3)), 4)   # 1/2 + (3/2) (1 - log 2)
    0.9603
    >>> unequal_gaussian_divergence("pearson_chi2", 1.0, 2.0, 3)
    Traceback (most recent call last):
      ...
    fdiv_jax.divergences._checks.InfiniteDivergenceError: pearson_chi2: infinite for ratio = 2.0: ...
    """
    d = divergence(d)
    if isinstance(dimensions, bool) or not isinstance(dimensions, (int, np.integer)):
        raise TypeError(f"expected dimensions to be an integer, got {dimensions!r}")
    if dimensions < 1:
        raise ValueError(f"expected dimensions >= 1, got {dimensions}")
    _check_known(d, m, ratio)
    distance, answer = as_float(m)
    variance, other = as_float(ratio)
    answer = jnp.promote_types(answer, other)
    distance, variance = jnp.broadcast_arrays(distance, variance)
    dtype = jnp.promote_types(distance.dtype, variance.dtype)
    result = _compiled(d, int(dimensions))(distance.astype(dtype), variance.astype(dtype))
    limit = float(jnp.finfo(answer).max)
    return jnp.where(jnp.isfinite(result), jnp.clip(result, -limit, limit), result).astype(answer)


def _check_known(d: Divergence, m: ArrayLike, ratio: ArrayLike) -> None:
    """Refuse what is known now to be out of range or infinite; traced numbers are not known."""
    if not isinstance(m, jax.core.Tracer):
        values = np.asarray(m)
        if values.dtype.kind in "fiu" and (np.isinf(values) | (values < 0)).any():
            raise ValueError(f"a squared distance m must be finite and >= 0, got {values.min()}")
    low, high = _powers(d)
    if isinstance(ratio, jax.core.Tracer):
        return
    values = np.asarray(ratio, dtype=np.float64)
    if np.isinf(values).any() or (values <= 0).any():
        raise ValueError(f"expected a ratio of variances that is finite and > 0, got {values.min()}")
    for power, bad in ((high, values > 1), (low, values < 1)):
        if math.isinf(power):
            if bad.any():
                raise InfiniteDivergenceError(
                    f"{d.name}: infinite for ratio = {values[bad].flat[0]}: f grows faster than every "
                    "power of t"
                )
            continue
        bad = bad & (1 + (1 - power) * (values - 1) <= 0)
        if bad.any():
            edge = 1 + 1 / (power - 1)
            side = "below" if edge > 1 else "above"
            raise InfiniteDivergenceError(
                f"{d.name}: infinite for ratio = {values[bad].flat[0]}: f ends like t^{power:.6g}, which has "
                f"a mean for ratios of variances {side} {edge:.6g} alone"
            )


@lru_cache(maxsize=256)
def _powers(d: Divergence) -> tuple[float, float]:
    """Exponents with which f - f'(1)(t - 1) ends at t -> 0 and t -> oo, at most 0 and at least 1."""
    moments = d._tables  # refuses what grows faster than every power
    terms = _closed_terms(moments.pieces)
    if terms is not None:
        powers = [0.0, 1.0, *(term.power for term in terms)]
        return min(powers), max(powers)
    left, right = moments.profile(0).left, moments.profile(0).right
    low = -math.inf if left.steep else 0.5 - left.tilt
    return min(0.0, low), max(1.0, math.inf if right.steep else right.tilt + 0.5)


def _closed_terms(pieces: Sequence[Piece]) -> tuple[_Power, ...] | None:
    """f as powers and logarithms whose divergences are all >= 0, so that no digits cancel; else None."""
    terms = terms_of(pieces[0].expression) if len(pieces) == 1 else None
    if terms is None:
        return None
    found = []
    for term in terms:
        c, p = float(term.coefficient), float(term.power)
        if term.log_power == 0 and p * (p - 1) != 0:
            found.append(_Power(c, p, False))
        elif term.log_power == 1 and p in (0.0, 1.0):
            found.append(_Power(c, p, True))
        elif term.log_power:
            return None
    positive = all(
        t.coefficient * ((2 * t.power - 1) if t.log else t.power * (t.power - 1)) > 0 for t in found
    )
    return tuple(found) if found and positive else None


@lru_cache(maxsize=256)
def _compiled(d: Divergence, dimensions: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
    moments, (low, high) = d._tables, _powers(d)
    if math.inf in (-low, high):
        raise NotImplementedError(
            f"{d.name}: f grows faster than every power of t; its divergence at unequal variances is not "
            "computed"
        )
    terms = _closed_terms(moments.pieces)
    half_curvature = 0.0 if moments.sharp else float(d.curvature) / 2

    def finite(m: jax.Array, rho: jax.Array) -> jax.Array:
        if terms is not None:
            return _sum_of_powers(terms, m, rho, dimensions)
        return _by_quadrature(moments.profile(0), m, rho, dimensions)

    slopes = jax.jacfwd(finite, argnums=(0, 1))
    if d.kinks:
        slopes = _once(slopes, d.name)

    @jax.custom_jvp
    def value(m: jax.Array, rho: jax.Array) -> jax.Array:
        return jnp.where((m == 0) & (rho == 1), 0.0, finite(m, rho))

    @value.defjvp
    def _(primals: Two, tangents: Two) -> Two:
        m, rho = primals
        by_m, by_rho = slopes(m, rho)
        least = (m == 0) & (rho == 1)
        if terms is None and not moments.sharp:  # the quadrature has no width there; dD/dm = f''(1)/2
            by_m = by_m + jnp.where(least, half_curvature - jax.lax.stop_gradient(by_m), 0.0)
        if moments.sharp:  # the subgradient at the minimum, as for equal variances
            by_m, by_rho = jnp.where(least, 0.0, by_m), jnp.where(least, 0.0, by_rho)
        return value(m, rho), by_m * tangents[0] + by_rho * tangents[1]

    def scalar(m: jax.Array, rho: jax.Array) -> jax.Array:
        known = jnp.isfinite(m) & jnp.isfinite(rho)
        e = rho - 1
        infinite = ((e > 0) & (1 + (1 - high) * e <= 0)) | ((e < 0) & (1 + (1 - low) * e <= 0)) | (rho <= 0)
        safe = known & ~infinite
        result = value(jnp.where(safe & (m >= 0), m, 0.0), jnp.where(safe, rho, 1.0))
        return jnp.where(known, jnp.where(infinite, jnp.inf, result), jnp.nan)

    @jax.jit
    def evaluate(m: jax.Array, rho: jax.Array) -> jax.Array:
        flat, every = (m.reshape(-1), rho.reshape(-1)), jax.vmap(scalar)
        if m.size <= _CHUNK:  # a map would be compiled twice, for the remainder too
            return every(*flat).reshape(m.shape)
        return jax.lax.map(lambda pair: scalar(*pair), flat, batch_size=_CHUNK).reshape(m.shape)

    return evaluate


def _once(slopes: Callable[..., Two], name: str) -> Callable[..., Two]:
    """The function, without derivatives of its own: those would need the mass of f'' at the kinks."""
    function = jax.custom_jvp(slopes)

    @function.defjvp
    def _(primals: Two, tangents: Two) -> NoReturn:
        raise NotImplementedError(
            f"{name}: f has kinks, and no second derivatives of its divergence at unequal variances"
        )

    return function


def _log1p_less(x: jax.Array) -> jax.Array:
    """log(1 + x) - x, to full relative accuracy also for small x."""
    small = jnp.abs(x) < 0.4
    z = jnp.where(small, x, 0.0)
    y = z / (2 + z)  # log(1 + x) = 2 artanh(y), 2 y - x = -x^2/(2 + x)
    series = jnp.zeros_like(y)
    for k in range(20, 0, -1):
        series = (series + 1 / (2 * k + 1)) * y**2
    return jnp.where(small, 2 * y * series - z * y, jnp.log1p(jnp.where(small, 0.0, x)) - x)


def _sum_of_powers(terms: tuple[_Power, ...], m: jax.Array, rho: jax.Array, n: int) -> jax.Array:
    e = rho - 1
    total = jnp.zeros_like(m)
    for term in terms:
        c, p, q = term.coefficient, term.power, 1 - term.power
        if term.log:
            part = m / 2 - n / 2 * _log1p_less(e) if p else -m / (2 * rho) + n / 2 * _log1p_less(-e / rho)
        else:
            cumulant = n / 2 * (q * _log1p_less(e) - _log1p_less(q * e)) - p * q * m / (2 * (1 + q * e))
            part = jnp.expm1(jnp.minimum(cumulant, math.log(float(jnp.finfo(m.dtype).max))))
        total = total + c * part
    return jnp.minimum(total, jnp.finfo(m.dtype).max)


class _Place(NamedTuple):
    """A coordinate on the line: where r = 1, where Q tilted by r^p is and how wide, and functions of it."""

    zero: jax.Array
    centre: Callable[[float], tuple[jax.Array, jax.Array]]
    at_log: Callable[[jax.Array], jax.Array]
    rise: Callable[[jax.Array], jax.Array]  # log r
    log_density: Callable[[jax.Array], jax.Array]
    ends: tuple[jax.Array, jax.Array]


def _tilt(p: float, e: jax.Array) -> jax.Array:
    """u = 1 + (1 - p) e, 1 where that tilt has no mean (its side is then bounded)."""
    u = 1 + (1 - p) * e
    return jnp.where(u > 1e-3 * jnp.minimum(1.0, jnp.abs(1 - p)), u, jnp.where(u > 0, u, 1.0))


def _log_over(e: jax.Array) -> jax.Array:
    """log(1 + e) / e"""
    tiny = jnp.abs(e) < 1e-6
    safe = jnp.where(tiny, 1.0, e)
    return jnp.where(tiny, 1 - e / 2 + e**2 / 3, jnp.log1p(safe) / safe)


def _far_place(m: jax.Array, e: jax.Array, n: int) -> _Place:
    rho, root = 1 + e, jnp.sqrt(m)
    tau = e / root
    inner = jnp.sqrt(rho * (1 + n * tau**2 * _log_over(e)))
    zero = (root + tau * rho * n * _log_over(e)) / (1 + inner)

    def centre(p: float) -> tuple[jax.Array, jax.Array]:
        u = _tilt(p, e)
        s2 = rho / u
        top = s2 * n * tau + root * p * (s2 + 1) / u
        return top / (1 + jnp.sqrt(s2 * n * tau**2 + s2**2)), jnp.sqrt(s2)

    def at_log(l: jax.Array) -> jax.Array:
        c = rho * (l + n / 2 * jnp.log1p(e)) + m / 2
        return 2 * c / (root + jnp.sqrt(jnp.maximum(m + 2 * e * c, 0.0)))

    def rise(v: jax.Array) -> jax.Array:
        return (v - zero) * (root + e * (v + zero) / 2) / rho

    edge = jnp.where(tau == 0, jnp.inf, 1 / jnp.where(tau == 0, 1.0, tau))
    ends = jnp.where(tau > 0, -edge, -jnp.inf), jnp.where(tau < 0, -edge, jnp.inf)
    return _Place(zero, centre, at_log, rise, lambda v: far(v, tau, n), ends)


def _near_place(m: jax.Array, e: jax.Array, n: int) -> _Place:
    rho, noncentrality = 1 + e, m / e**2
    square = rho * (noncentrality + n * _log_over(e))
    zero = jnp.sqrt(square)

    def centre(p: float) -> tuple[jax.Array, jax.Array]:
        s2 = rho / _tilt(p, e)
        return jnp.sqrt(s2 * n + s2**2 * noncentrality), jnp.sqrt(s2)

    def at_log(l: jax.Array) -> jax.Array:
        return jnp.sqrt(jnp.maximum(square + 2 * rho * l / e, 0.0))

    def rise(r: jax.Array) -> jax.Array:
        return e / (2 * rho) * (r - zero) * (r + zero)

    ends = jnp.zeros_like(m), jnp.full_like(m, jnp.inf)
    return _Place(zero, centre, at_log, rise, lambda r: near(r, noncentrality, n), ends)


class _Panels(NamedTuple):
    """Nodes with the length of their panel, |log r| and the exponent of the integrand at each."""

    length: jax.Array
    x: jax.Array
    exponent: jax.Array


def _panels(side: Side, sign: int, place: _Place, direction: jax.Array) -> _Panels:
    """Gauss-Legendre panels of the side sign * log r > 0, outward along `direction` from r = 1.

    The nodes stand still when this is differentiated; density and log r at them move.
    """
    dtype = place.zero.dtype
    frozen = jax.lax.stop_gradient
    middle, width = (frozen(x) for x in place.centre(0.5 + sign * side.tilt))
    zero = frozen(place.zero)
    breaks = jnp.asarray(side.breaks[np.isfinite(side.breaks) & (side.breaks < 1e6)].astype(dtype))
    mass = direction * (middle - zero)
    edges = jnp.concatenate(
        [
            width * jnp.asarray(_SCALES, dtype),
            mass + width * jnp.asarray(_WINDOW, dtype),
            direction * (frozen(place.at_log(sign * breaks)) - zero),
        ]
    )
    low, high = (frozen(x) for x in place.ends)
    most = jnp.where(direction > 0, high - zero, zero - low)
    reach = jnp.minimum(jnp.maximum(mass, 0.0) + _REACH * width, most)
    edges = jnp.sort(jnp.clip(jnp.nan_to_num(edges), 0.0, reach))
    half = (edges[1:] - edges[:-1])[:, None] / 2
    points = zero + direction * (edges[:-1, None] + half + half * jnp.asarray(_NODES, dtype))
    x = jnp.maximum(sign * place.rise(points), 0.0)
    exponent = place.log_density(points) + (0.5 * sign + side.tilt) * x
    used = (half > 0) & ~jnp.isnan(exponent)
    return _Panels(half + 0 * points, x, jnp.where(used, exponent, -jnp.inf))


def _side_integral(side: Side, panels: _Panels) -> jax.Array:
    """E_Q[A(r)] of one side, A e^(-log r / 2) = e^(tilt x) (1 - e^-x)^order G(x)."""
    top = jax.lax.stop_gradient(jnp.max(panels.exponent))
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    values = values_of_side(side, panels.x)
    if side.zero_order:
        zeros = -jnp.expm1(-panels.x)
        values = values * jnp.where(zeros > 0, jnp.where(zeros > 0, zeros, 1.0) ** side.zero_order, 0.0)
    used = panels.exponent > -jnp.inf
    mass = jnp.where(used, jnp.exp(jnp.where(used, panels.exponent, top) - top), 0.0)
    part = jnp.sum(mass * values * panels.length * jnp.asarray(_WEIGHTS, values.dtype))
    half = jnp.exp((top + math.log(size_of_side(side))) / 2)
    return jnp.where(part == 0, 0.0, half * part * half)


def _by_quadrature(profile: Profile, m: jax.Array, rho: jax.Array, n: int) -> jax.Array:
    e = rho - 1
    is_far = m >= threshold(n) * e**2
    tiny = 1e-30 if m.dtype.itemsize == 4 else 1e-60
    one = jnp.ones_like(m)
    distant = _far_place(jnp.where(is_far, jnp.maximum(m, tiny), one), jnp.where(is_far, e, 0.0), n)
    close = _near_place(jnp.where(is_far, one, m), jnp.where(is_far, 0.5, e), n)
    rising = jnp.where(is_far | (e > 0), one, -one)  # the direction of R in which log r grows
    total = jnp.zeros_like(m)
    for side, sign in ((profile.right, 1), (profile.left, -1)):
        both = _panels(side, sign, distant, sign * one), _panels(side, sign, close, sign * rising)
        total = total + _side_integral(side, jax.tree.map(lambda a, b: jnp.where(is_far, a, b), *both))
    return jnp.minimum(total, jnp.finfo(total.dtype).max)
