"""Special functions that JAX lacks."""

from __future__ import annotations

import jax
import jax.numpy as jnp


@jax.custom_jvp
def lambert_w_exp(x: jax.Array) -> jax.Array:
    """W0(e^x), the solution w > 0 of w + log w = x, for every real x without overflow.

    Newton's method on w + log w - x for large x and on its exponential form for small x; the derivative is
    w / (1 + w).

    >>> round(float(lambert_w_exp(1.0)), 6)
    1.0
    """
    x = jnp.asarray(x)
    dtype = x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jnp.result_type(float)
    x = x.astype(dtype)
    large = x > 1
    # Either branch sees only arguments that suit it.
    x_large = jnp.where(large, x, 2.0)
    w = x_large - jnp.log(x_large)
    for _ in range(5):
        w = w * ((1 + x_large - jnp.log(w)) / (1 + w))
    x_small = jnp.where(large, 0.0, x)
    # log w = x - w: with y = log w, Newton on y + e^y - x starts above the root for y = x.
    y = x_small - jnp.log1p(jnp.exp(x_small))
    for _ in range(5):
        y = y - (y + jnp.exp(y) - x_small) / (1 + jnp.exp(y))
    return jnp.where(large, w, jnp.exp(y))


@lambert_w_exp.defjvp
def _lambert_w_exp_jvp(primals, tangents):
    w = lambert_w_exp(*primals)
    return w, tangents[0] * (w / (1 + w))
