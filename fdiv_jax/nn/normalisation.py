"""Group normalisation as one multiplication and one addition per number, with its own derivative."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import nnx


class GroupNorm(nnx.GroupNorm):
    """Group normalisation over (pixels, channels of a group), n ... c -> n ... c in `dtype`.

        y = (x - mean) / sqrt(variance + epsilon) * scale + bias

    Parameters and their names are those of `nnx.GroupNorm`, and so are the values (variance by two passes,
    in float32 at the least). It differs in speed: see `normalise_groups`.

    Source: Wu and He, Group normalization, 2018.
    """

    def __call__(self, x: jax.Array) -> jax.Array:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Normalise `x`."""
        assert self.scale is not None
        assert self.bias is not None
        wide = jnp.promote_types(x.dtype, jnp.float32)
        out = normalise_groups(
            x.astype(wide),
            self.scale[...].astype(wide),
            self.bias[...].astype(wide),
            self.num_groups,
            self.epsilon,
        )
        return out.astype(self.dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def normalise_groups(
    x: jax.Array, scale: jax.Array, bias: jax.Array, groups: int, epsilon: float
) -> jax.Array:
    """Group normalisation as y = a x + b with one a and one b per sample and channel.

    The large array is read three times: for the sums of a channel, for those of its squared deviations, and
    for a x + b. What is left is arithmetic on n c numbers. The derivative is written out for the same
    reason, and in the same form:

        dy = a (dx - mean(dx) - u mean(u dx)) + u dscale + dbias,   u = (x - mean) / sqrt(variance + epsilon)

    It is linear in the tangents, so that JAX transposes it for the gradient, and may itself be
    differentiated.

    Args:
        x: n ... c.
        scale, bias: (c,).
        groups: of channels; divides c.
        epsilon: added to the variance.
    """
    mean, inverse = _moments(x, groups, epsilon)
    a = inverse * scale
    return x * a + (bias - mean * a)


@normalise_groups.defjvp
def _normalise_groups_jvp(
    groups: int, epsilon: float, primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
    (x, scale, bias), (dx, dscale, dbias) = primals, tangents
    mean, inverse = _moments(x, groups, epsilon)
    a = inverse * scale
    along = _group_mean((x - mean) * dx, groups) * inverse**2
    # a (dx - mean(dx)) - a (x - mean) along, with the small factors multiplied first.
    tangent = a * dx - (a * along) * x + (a * (mean * along - _group_mean(dx, groups)))
    tangent = tangent + (inverse * dscale) * x + (dbias - mean * inverse * dscale)
    return x * a + (bias - mean * a), tangent


def _moments(x: jax.Array, groups: int, epsilon: float) -> tuple[jax.Array, jax.Array]:
    """The mean and 1 / sqrt(variance + epsilon) of each group, n 1 ... 1 c."""
    mean = _group_mean(x, groups)
    return mean, jax.lax.rsqrt(_group_mean(jnp.square(x - mean), groups) + epsilon)


def _group_mean(x: jax.Array, groups: int) -> jax.Array:
    """n ... c -> n 1 ... 1 c: the mean over the pixels, then over the channels of a group."""
    n, *inner, c = x.shape
    by_channel = jnp.mean(x, axis=tuple(range(1, x.ndim - 1)))
    by_group = jnp.mean(by_channel.reshape(n, groups, c // groups), axis=-1)
    return jnp.repeat(by_group, c // groups, axis=-1).reshape(n, *(1 for _ in inner), c)
