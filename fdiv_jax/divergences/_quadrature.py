"""E_Q[A_k(r)] for log r ~ N(-m/2, m), for every m >= 0 and in any float dtype.

On the side x = |log r| the integrand is e^{-m/8} N(x; 0, m) e^{c x} (1 - e^-x)^a G(x) (midpoint measure,
`_quadrature_table`). For c > 0 its mass lies at x = c m; completing the square gives e^{(c^2 - 1/4) m/2}
N(x; c m, m) G, without two large numbers that cancel. For c <= 0 the mass lies at x = 0. Gauss-Legendre
panels are cut where the Gaussian needs it (two standard deviations) and where G needs it (the panels of
its table), so that neither scale is ever under-resolved. Where G grows faster than every e^{c x} the
integrand's peak is searched for. Delta functions of f'' at kinks contribute in closed form.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np

from fdiv_jax.divergences._chebyshev import value_and_slope
from fdiv_jax.divergences._quadrature_table import Jump, Profile, Side

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_CHUNK = 2048
# How far a steep side is integrated: the squares of float32 end near 1e38.
_STEEP_REACH = {False: 1e30, True: 1e18}


def _cuts_of(side: Side) -> np.ndarray:
    """Where the x axis is cut for G's sake, and for the decay e^{c x} where c < 0."""
    cuts = side.breaks[np.isfinite(side.breaks)]
    if side.tilt < 0:
        reach = min(60 / -side.tilt, 1e12)
        scale = min(1 / -side.tilt, reach)
        cuts = np.concatenate([cuts, scale * 2.0 ** np.arange(-1, math.ceil(math.log2(reach / scale)) + 1)])
    return np.unique(cuts)


def size_of_side(side: Side) -> float:
    """The scale of a table that float32 could not hold, 1 for every other one."""
    if side.steep:
        return 1.0
    largest = float(np.abs(side.coefficients[~side.logarithmic]).max())
    return largest if largest > 1e20 or 0 < largest < 1e-20 else 1.0


def values_of_side(side: Side, x: jax.Array) -> jax.Array:
    """G(x) / `size_of_side`, or log G(x) of a steep side, by the series on the panel of x."""
    dtype = x.dtype
    breaks = side.breaks.astype(dtype)
    # A few dozen breaks: comparing with all of them compiles faster than a search, and runs as fast.
    index = jnp.searchsorted(jnp.asarray(breaks), x, side="right", method="compare_all")
    index = jnp.clip(index - 1, 0, len(breaks) - 2)
    with np.errstate(divide="ignore"):
        low = np.where(side.logarithmic, np.log(side.breaks[:-1]), side.breaks[:-1])
        high = np.where(side.logarithmic, np.log(side.breaks[1:]), side.breaks[1:])
    low_j, high_j = jnp.asarray(low.astype(dtype))[index], jnp.asarray(high.astype(dtype))[index]
    uniform = jnp.where(jnp.asarray(side.logarithmic)[index], jnp.log(jnp.maximum(x, 1e-3)), x)
    u = jnp.clip((2 * uniform - low_j - high_j) / (high_j - low_j), -1, 1)
    limit = float(np.finfo(dtype).max) / 1e3
    size = size_of_side(side)
    table = np.clip(side.coefficients / size, -limit, limit).astype(dtype)
    value, _ = value_and_slope([jnp.asarray(column)[index] for column in table.T], u)
    return jnp.where(x > breaks[-1], jnp.asarray(np.clip(side.tail / size, -limit, limit), dtype), value)


@lru_cache(maxsize=64)
def _singular_rule(power: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on (-1, 1) for (1 + u)^power times a smooth function, which needs no factor taken
    out: Gauss-Jacobi with its weights divided by (1 + u)^power.

    Source: Golub and Welsch, Calculation of Gauss quadrature rules, 1969.
    """
    k = np.arange(1, _NODES.size, dtype=float)
    diagonal = np.append(power / (power + 2), power**2 / ((2 * k + power) * (2 * k + power + 2)))
    beside = 2 * k * (k + power) / ((2 * k + power) * np.sqrt((2 * k + power) ** 2 - 1))
    nodes = np.linalg.eigvalsh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
    # A weight is one over the sum of the squared orthonormal polynomials at its node.
    last, polynomial = np.zeros_like(nodes), np.full_like(nodes, np.sqrt((power + 1) / 2 ** (power + 1)))
    squares = polynomial**2
    for centre, before, after in zip(diagonal, np.append(0.0, beside), beside, strict=False):
        last, polynomial = polynomial, ((nodes - centre) * polynomial - before * last) / after
        squares += polynomial**2
    weights = 1 / squares
    return nodes, weights * (1 + nodes) ** -power


def _side_sum(side: Side, m: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(exponent, sum) of one side, whose contribution is e^exponent * sum.

    The nodes in x stand still when this is differentiated: only the density depends on m, never the table.
    """
    if side.steep:
        return _steep_side_sum(side, m)
    moving_root = jnp.sqrt(m)[..., None]
    root = jax.lax.stop_gradient(moving_root)
    centre = max(side.tilt, 0.0)
    # y = x / root - shift is the Gaussian's own variable, and z = x / root is exact near x = 0.
    shift = centre * root
    window = np.arange(-10.0, 11.0, 2.0) if side.tilt > 0 else np.arange(0.0, 11.0, 2.0)
    in_y = jnp.broadcast_to(jnp.asarray(window, m.dtype), (*m.shape, window.size))
    in_z = jnp.asarray(_cuts_of(side).astype(m.dtype)) / root
    if side.zero_order != int(side.zero_order):
        in_z = jnp.concatenate([in_z, _shrinking(m)], axis=-1)
    # Beyond ten standard deviations nothing is left, and squares would overflow.
    y_ends = jnp.concatenate([in_y, in_z - shift], axis=-1)
    y_ends = jnp.sort(jnp.clip(y_ends, jnp.maximum(-shift, -40.0), 40.0), axis=-1)
    z_ends = jnp.concatenate([in_y + shift, in_z], axis=-1)
    z_ends = jnp.sort(jnp.clip(z_ends, jnp.maximum(shift - 40.0, 0.0), shift + 40.0), axis=-1)
    shift, scale = shift[..., None], root[..., None]
    near = 2 * z_ends[..., 1:, None] < shift
    low = jnp.where(near, z_ends[..., :-1, None], y_ends[..., :-1, None])
    high = jnp.where(near, z_ends[..., 1:, None], y_ends[..., 1:, None])
    nodes, weights = _rule(side, jnp.where(near, low, low + shift) == 0, m.dtype)
    points = (low + high) / 2 + (high - low) / 2 * nodes
    y = jnp.where(near, points - shift, points)
    z = jnp.where(near, points, points + shift)
    x = jnp.maximum(z * scale, 0)
    # y and dy at the moving m, the same numbers as at rest.
    ratio = scale / moving_root[..., None]
    y = y + z * (ratio - 1) - centre * (moving_root[..., None] - scale)
    scale, width = moving_root[..., None], (high - low) / 2 * ratio
    exponent = -0.5 * y**2 + (side.tilt - centre) * scale * y
    density = jnp.exp(exponent) * width * weights / math.sqrt(2 * math.pi)
    total = jnp.sum(density * values_of_side(side, x) * _zero_factor(side, x), axis=(-2, -1))
    exponent = (centre**2 - 0.25) / 2 * m if side.tilt > 0 else -m / 8
    return exponent + math.log(size_of_side(side)), total


def _zero_factor(side: Side, x: jax.Array) -> jax.Array:
    """(1 - e^-x)^a."""
    zero = -jnp.expm1(-x)
    if side.zero_order == int(side.zero_order):
        return zero**side.zero_order
    # By the logarithm: the derivative of a negative power would overflow.
    return jnp.exp(side.zero_order * jnp.log(jnp.maximum(zero, _tiny(x.dtype))))


def _steep_side_sum(side: Side, m: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`_side_sum` where log G grows faster than x: e^{log G - z^2/2} in z = x / sqrt(m) over the window in
    which it is within e^-50 of its largest value, at x = 0 and at every peak.

    The window is found by narrowing it around what is kept of a grid, ever finer.
    """
    moving_root = jnp.sqrt(m)[..., None]
    root = jax.lax.stop_gradient(moving_root)
    single = m.dtype.itemsize == 4
    reach = _STEEP_REACH[single]

    def log_density(z: jax.Array, root: jax.Array) -> jax.Array:
        return values_of_side(side, jnp.minimum(z * root, reach)) - 0.5 * z**2

    def narrowed(z: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        values = log_density(z, root)
        peak = jnp.max(values, axis=-1, keepdims=True)
        kept = values >= peak - 50
        first = jnp.argmax(kept, axis=-1, keepdims=True)
        last = z.shape[-1] - 1 - jnp.argmax(kept[..., ::-1], axis=-1, keepdims=True)
        low = jnp.take_along_axis(z, jnp.maximum(first - 1, 0), axis=-1)
        high = jnp.take_along_axis(z, jnp.minimum(last + 1, z.shape[-1] - 1), axis=-1)
        return low, high, peak

    steps = jnp.linspace(0, 1, 65, dtype=m.dtype)
    in_x = jnp.asarray(np.append(2.0 ** np.arange(-10, math.log2(reach), 0.25), reach), m.dtype)
    near = jnp.broadcast_to(jnp.linspace(0, 12, 49, dtype=m.dtype), (*m.shape, 49))
    window = narrowed(jnp.sort(jnp.concatenate([near, jnp.minimum(in_x / root, reach)], axis=-1), axis=-1))
    low, high, peak = jax.lax.fori_loop(
        0, 6 if single else 12, lambda _, w: narrowed(w[0] + (w[1] - w[0]) * steps), window
    )
    # Far out the numbers of the dtype lie further apart than the window is wide.
    high = jnp.maximum(high, low * (1 + 4 * jnp.finfo(m.dtype).eps))
    cuts = [low + (high - low) * jnp.linspace(0, 1, 25, dtype=m.dtype), near[..., :41:8]]
    cuts.append(jnp.asarray(_cuts_of(side).astype(m.dtype)) / root)
    if side.zero_order != int(side.zero_order):
        cuts.append(_shrinking(m))
    ends = jnp.sort(jnp.clip(jnp.concatenate(cuts, axis=-1), low, high), axis=-1)[..., None]
    nodes, weights = _rule(side, ends[..., :-1, :] == 0, m.dtype)
    half = (ends[..., 1:, :] - ends[..., :-1, :]) / 2
    z = (ends[..., 1:, :] + ends[..., :-1, :]) / 2 + half * nodes
    peak, root, ratio = peak[..., None], root[..., None], (root / moving_root)[..., None]
    x = z * root
    exponent = values_of_side(side, jnp.minimum(x, reach)) - 0.5 * (z * ratio) ** 2 - peak
    # Of huge exponents only the rounding is left: it is taken out, and their derivative kept.
    rounded = jnp.abs(peak) * jnp.finfo(m.dtype).eps > 0.1
    rounding = jnp.where(rounded, exponent, jnp.maximum(exponent - 1, 0))
    exponent = exponent - jax.lax.stop_gradient(rounding)
    density = jnp.exp(exponent) * half * ratio * weights / math.sqrt(2 * math.pi)
    total = jnp.sum(density * _zero_factor(side, x), axis=(-2, -1))
    # A peak beyond the reach is one of more than the dtype's largest number.
    beyond = high[..., 0] * root[..., 0, 0] > 0.999 * reach
    exponent = jnp.where(beyond, jnp.finfo(m.dtype).max, peak[..., 0, 0] - m / 8)
    return exponent, jnp.where(beyond, 1.0, total)


def _shrinking(m: jax.Array) -> jax.Array:
    """Cuts towards an algebraic singularity at x = 0, for G's sake (its own power beside x^a), down to where
    G is constant to rounding."""
    cuts = jnp.asarray(4.0 ** -np.arange(0, 16 if m.dtype.itemsize == 4 else 40), m.dtype)
    return jnp.broadcast_to(cuts, (*m.shape, cuts.size))


def _rule(side: Side, at_zero: jax.Array, dtype) -> tuple[jax.Array, jax.Array]:
    """Nodes and weights on (-1, 1); on the innermost panel the rule that knows x^a."""
    plain = (jnp.asarray(_NODES, dtype), jnp.asarray(_WEIGHTS, dtype))
    if side.zero_order == int(side.zero_order):
        return plain
    singular = _singular_rule(side.zero_order)
    nodes, weights = (
        jnp.where(at_zero, jnp.asarray(a, dtype), b) for a, b in zip(singular, plain, strict=True)
    )
    return nodes, weights


def _kink_terms(jumps: tuple[Jump, ...], m: jax.Array) -> jax.Array:
    """Contribution of the delta functions that jumps of A_{k-1} leave in A_k = t^2 A_{k-1}''."""
    total = jnp.zeros_like(m)
    root = jnp.sqrt(m)
    for jump in jumps:
        if jump.value == 0 and jump.slope == 0:
            continue
        z = jump.log_t / root + root / 2
        density = jnp.exp(-0.5 * z**2) / (root * math.sqrt(2 * math.pi))
        part = jump.slope * math.exp(jump.log_t) * jnp.ones_like(m)
        if jump.value:
            part = part + jump.value * (jump.log_t / m - 0.5)
        total = total + jnp.where(density > 0, density * part, 0.0)
    return total


def _tiny(dtype) -> float:
    return 1e-30 if np.finfo(dtype).bits == 32 else 1e-200


def all_kink_terms(lower_orders: list[tuple[Jump, ...]], m: jax.Array) -> jax.Array:
    """Kink terms of order k from the jumps of the orders 0 to k - 1: each later order is 2 d/dm of the
    one before."""

    def of_order(k: int) -> Callable[[jax.Array], jax.Array]:
        def terms(x: jax.Array) -> jax.Array:
            here = _kink_terms(lower_orders[k - 1], x)
            if k == 1:
                return here
            return here + 2 * jax.jvp(of_order(k - 1), (x,), (jnp.ones_like(x),))[1]

        return terms

    if not lower_orders:
        return jnp.zeros_like(m)
    return of_order(len(lower_orders))(m)


def moment(profile: Profile, lower_jumps: list[tuple[Jump, ...]], m: jax.Array) -> jax.Array:
    """E_Q[A_k(r)], clipped to the largest finite number of the dtype. m: any shape, >= 0."""
    sides, kinks, small = _parts(profile, lower_jumps, m)
    total = kinks
    for exponent, sum_ in sides:
        # Two halves of the exponential, so that the product overflows only where the result does.
        half = jnp.exp(exponent / 2)
        total = total + jnp.where(sum_ == 0, 0.0, half * sum_ * half)
    total = total * small
    limit = jnp.finfo(m.dtype).max
    return jnp.clip(total, -limit, limit)


def log_moment(profile: Profile, lower_jumps: list[tuple[Jump, ...]], m: jax.Array) -> jax.Array:
    """log E_Q[A_k(r)] for a nonnegative A_k; finite also where the moment itself over- or underflows."""
    safe = jnp.maximum(m, _tiny(m.dtype))
    sides, _, small = _parts(profile, lower_jumps, m)
    logs = [exponent + jnp.log(sum_) for exponent, sum_ in sides]
    if any(j.slope for jumps in lower_jumps for j in jumps):
        root = jnp.sqrt(safe)
        for jump in lower_jumps[0]:
            if jump.slope > 0:
                z = jump.log_t / root + root / 2
                logs.append(
                    math.log(jump.slope) + jump.log_t - 0.5 * z**2 - jnp.log(root * math.sqrt(2 * math.pi))
                )
    return jax.scipy.special.logsumexp(jnp.stack(logs), axis=0) + jnp.log(small)


def scaled_moment(
    profile: Profile, lower_jumps: list[tuple[Jump, ...]], m: jax.Array, log_scale: jax.Array
) -> jax.Array:
    """E_Q[A_k(r)] e^{-log_scale}, for ratios of moments that overflow."""
    sides, kinks, _ = _parts(profile, lower_jumps, m)
    total = jnp.where(kinks == 0, 0.0, kinks * jnp.exp(-log_scale))
    for exponent, sum_ in sides:
        total = total + jnp.where(sum_ == 0, 0.0, sum_ * jnp.exp(exponent - log_scale))
    return total


def _parts(profile: Profile, lower_jumps: list[tuple[Jump, ...]], m: jax.Array):
    tiny = _tiny(m.dtype)
    safe = jnp.maximum(m, tiny)
    sides = [_side_sum(side, safe) for side in (profile.left, profile.right)]
    kinks = all_kink_terms(lower_jumps, safe)
    small = jnp.ones_like(m)
    order = min(profile.left.zero_order, profile.right.zero_order)
    if order > 0:
        # Below `tiny` the value is its leading power of m.
        small = jnp.minimum(m / tiny, 1.0) ** (order / 2)
    return sides, kinks, small


def in_chunks(function: Callable[[jax.Array], jax.Array], m: jax.Array) -> jax.Array:
    """Evaluate on large arrays a chunk at a time: the quadrature holds about a thousand numbers per
    element."""
    if m.size <= _CHUNK:
        return function(m)
    flat = m.reshape(-1)
    return jax.lax.map(function, flat, batch_size=_CHUNK).reshape(m.shape)
