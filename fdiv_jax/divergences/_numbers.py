"""Dtypes at the edge: integers become floats, half precision is computed in float32."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def as_float(x: ArrayLike) -> tuple[jax.Array, jnp.dtype]:
    """The array in a dtype to compute in, and the dtype to answer in.

    Raises:
      TypeError: for complex or non-numeric input.
    """
    array = jnp.asarray(x)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise TypeError(f"expected real numbers, got {array.dtype}")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        array = array.astype(jnp.result_type(float))
    answer = array.dtype
    if jnp.finfo(answer).bits < 32:
        array = array.astype(jnp.float32)
    return array, answer


def elementwise(function: Callable[[jax.Array], jax.Array]) -> Callable[[ArrayLike], jax.Array]:
    """Let a function of float32 or float64 arrays take anything array-like; compiled, also outside
    `jax.jit`."""

    @jax.jit
    def evaluate(x: ArrayLike) -> jax.Array:
        array, answer = as_float(x)
        return function(array).astype(answer)

    return evaluate
