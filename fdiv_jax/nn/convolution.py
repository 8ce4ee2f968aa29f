"""Convolutions whose derivative for the image suits the processor that runs it."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from fdiv_jax.compiling import platform

__all__ = ["conv_general_dilated"]

Padding = tuple[tuple[int, int], ...]
Tangent = jax.Array | SymbolicZero


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **settings: object,
) -> jax.Array:
    """`jax.lax.conv_general_dilated`, with a derivative by products of matrices where that is faster.

    The derivative for the image, as XLA writes it, is a convolution with the kernel turned around, which a
    CPU copies number by number at every step: for maps of 8 x 8 that takes several times as long as the
    convolution itself. The transpose of "gather the k k neighbours, then one product" reads the kernel as
    it lies. It is taken on a CPU, for stride 1, where a map has at most twice as many pixels (of all
    samples) as the kernel has outputs; so the columns hold at most twice as many numbers as the kernel.
    Values are those of the convolution itself, and derivatives of any order and kind exist. Times:
    `python -m benchmarks.convolutions`.

    Args:
        lhs: n h w inputs.
        rhs: k k inputs outputs.
        window_strides: of the two axes.
        padding: below and above, of the two axes.
        settings: the other arguments of `jax.lax.conv_general_dilated`.
    """
    plain = functools.partial(jax.lax.conv_general_dilated, **settings)  # type: ignore[arg-type]
    pads = tuple((int(below), int(above)) for below, above in padding)
    rows = lhs.shape[0] * lhs.shape[1] * lhs.shape[2] if lhs.ndim == 4 else 0
    suits = (
        platform() == "cpu"
        and 0 < rows <= 2 * rhs.shape[-1]
        and rhs.shape[:2] != (1, 1)
        and set(window_strides) == {1}
        and settings.get("feature_group_count", 1) == 1
        and {*_pair(settings, "lhs_dilation"), *_pair(settings, "rhs_dilation")} == {1}
    )
    if not suits:
        return plain(lhs, rhs, window_strides, padding)
    return _convolution(lhs, rhs, pads, plain)


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
        tangent = _by_columns(of_x, kernel, padding)
    if not isinstance(of_kernel, SymbolicZero):
        tangent = tangent + _convolution(x, of_kernel, padding, plain)
    return out, tangent


_convolution.defjvp(_convolution_jvp, symbolic_zeros=True)


def _by_columns(x: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
    """The convolution as one product, of the k k neighbours of each pixel and the kernel as a matrix."""
    high, wide, inputs, outputs = kernel.shape
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    rows, columns = padded.shape[1] - high + 1, padded.shape[2] - wide + 1
    near = [padded[:, i : i + rows, j : j + columns] for i in range(high) for j in range(wide)]
    return jnp.concatenate(near, -1) @ kernel.reshape(high * wide * inputs, outputs)
