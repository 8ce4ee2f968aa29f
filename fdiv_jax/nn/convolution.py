"""Convolutions whose derivative for the image suits the processor that runs it."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from fdiv_jax.compiling import platform

__all__ = ["by_columns", "conv_general_dilated"]

Padding = tuple[tuple[int, int], ...]
Tangent = jax.Array | SymbolicZero


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **settings: object,
) -> jax.Array:
    """`jax.lax.conv_general_dilated`, by products of matrices where a CPU takes less time for them.

    "Gather the k k neighbours of each pixel, then one product with the kernel" is taken on a CPU, for
    stride 1,

    * for maps smaller than the kernel, such as 2 x 2, where XLA counts number by number: 2 to 45 times as
      fast;
    * as the derivative for the image, where maps have at most 3/2 as many pixels (of all samples) as the
      kernel has outputs: 1.2 to 9 times as fast for maps up to 16 x 16. As XLA writes it, that derivative
      is a convolution with the kernel turned around, which is copied at every step; the transpose of the
      product reads the kernel as it lies. Values are those of the convolution.

    The columns then are no larger than 3/2 of the kernel, or than k k maps smaller than it. Derivatives of
    every order and kind exist. Times: `python -m benchmarks.convolutions`.

    Args:
        lhs: n h w inputs.
        rhs: k k inputs outputs.
        window_strides: of the two axes.
        padding: below and above, of the two axes.
        settings: the other arguments of `jax.lax.conv_general_dilated`.
    """
    plain = functools.partial(jax.lax.conv_general_dilated, **settings)  # type: ignore[arg-type]
    pads = tuple((int(below), int(above)) for below, above in padding)
    suits = (
        platform() == "cpu"
        and lhs.ndim == 4
        and rhs.shape[:2] != (1, 1)
        and set(window_strides) == {1}
        and settings.get("feature_group_count", 1) == 1
        and {*_pair(settings, "lhs_dilation"), *_pair(settings, "rhs_dilation")} == {1}
    )
    if suits and (lhs.shape[1] < rhs.shape[0] or lhs.shape[2] < rhs.shape[1]):
        return by_columns(lhs, rhs, pads)
    if suits and 2 * math.prod(lhs.shape[:3]) <= 3 * rhs.shape[-1]:
        return _convolution(lhs, rhs, pads, plain)
    return plain(lhs, rhs, window_strides, padding)


def _pair(settings: dict[str, object], name: str) -> tuple[int, ...]:
    value = settings.get(name)
    return (1,) if value is None else tuple(value)  # type: ignore[arg-type]


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _convolution(
    x: jax.Array, kernel: jax.Array, padding: Padding, plain: functools.partial[jax.Array]
) -> jax.Array:
    return plain(x, kernel, (1, 1), padding)


def _convolution_jvp(
    padding: Padding,
    plain: functools.partial[jax.Array],
    primals: tuple[jax.Array, jax.Array],
    tangents: tuple[Tangent, Tangent],
) -> tuple[jax.Array, jax.Array]:
    (x, kernel), (of_x, of_kernel) = primals, tangents
    out = _convolution(x, kernel, padding, plain)
    tangent = jnp.zeros_like(out)
    if not isinstance(of_x, SymbolicZero):
        tangent = by_columns(of_x, kernel, padding)
    if not isinstance(of_kernel, SymbolicZero):
        tangent = tangent + _convolution(x, of_kernel, padding, plain)
    return out, tangent


_convolution.defjvp(_convolution_jvp, symbolic_zeros=True)


def by_columns(x: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
    """The convolution as one product, of the k k neighbours of each pixel and the kernel as a matrix."""
    high, wide, inputs, outputs = kernel.shape
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    rows, columns = padded.shape[1] - high + 1, padded.shape[2] - wide + 1
    near = [padded[:, i : i + rows, j : j + columns] for i in range(high) for j in range(wide)]
    return jnp.concatenate(near, -1) @ kernel.reshape(high * wide * inputs, outputs)
