"""Fused attention of accelerators: kernels that never write the scores to memory, where they can be had.

cuDNN's on an NVIDIA GPU, in half precision; splash attention, a kernel of JAX, on a TPU. Which device a
program is for is known while it is traced (`fdiv_jax.compiling.platform`).
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fdiv_jax.compiling import divided, platform

__all__ = ["fused_attention"]

Kernel = Callable[[jax.Array, jax.Array, jax.Array], jax.Array | None]
_LANES = 128
"""Numbers that a TPU's vector unit has side by side: blocks of keys are multiples of it."""
_LARGEST = 512
"""Queries or keys of a block: scores of a block take 1 MB, in float32, of a TPU core's 16 MB or more."""
_AMPERE = (8, 0)
"""Compute capability from which on cuDNN has fused attention."""


def fused_attention(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array | None:
    """softmax(q k^T / sqrt(d)) v by the fused kernel of the device; None: there is none for these arrays.

    Where the device has a kernel that does not take these arrays, a warning says why, once for each reason.
    Values can be differentiated in reverse, once.

    Args:
        query: n q heads d.
        key: n k heads d.
        value: n k heads d.

    Returns:
        n q heads d, in the dtype of `value`.

    Source: Dao et al., FlashAttention, 2022; https://docs.nvidia.com/deeplearning/cudnn.
    """
    kernel = _KERNELS.get(platform())
    if kernel is None:
        return None
    try:
        return kernel(query, key, value)
    except (NotImplementedError, ValueError, RuntimeError) as error:  # what cuDNN takes, JAX knows
        _tell(" ".join(str(error).split()))
        return None


def _cudnn(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array | None:
    found = _capability()
    if found is None:  # the program is for a GPU elsewhere
        return None
    if found < _AMPERE:
        raise NotImplementedError(f"compute capability {'.'.join(map(str, found))}, expected 8.0 or higher")
    return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")


def _splash(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    if divided():
        raise NotImplementedError("a program that the compiler divides over chips (--parallel fsdp)")
    lengths = query.shape[1], key.shape[1]
    if any(length % _LANES for length in lengths):
        raise NotImplementedError(
            f"{lengths[0]} queries and {lengths[1]} keys, expected multiples of {_LANES}"
        )
    kernel = splash_kernel(query.shape[2], *lengths)
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (query * query.shape[-1] ** -0.5, key, value))
    return jnp.swapaxes(jax.vmap(kernel)(q, k, v), 1, 2).astype(value.dtype)


def splash_kernel(heads: int, queries: int, keys: int, *, interpret: bool = False) -> Callable[..., Any]:
    """Splash attention without a mask: heads q d, scaled, and heads k d twice -> heads q d.

    `interpret`: computed by XLA, on any device.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel,
        splash_attention_mask,
    )

    q, k = _block(queries), _block(keys)
    sizes = splash_attention_kernel.BlockSizes(
        block_q=q,
        block_kv=k,
        block_kv_compute=k,
        block_q_dkv=q,
        block_kv_dkv=k,
        block_kv_dkv_compute=k,
        block_q_dq=q,
        block_kv_dq=k,
    )
    mask = splash_attention_mask.MultiHeadMask([splash_attention_mask.FullMask((queries, keys))] * heads)
    return splash_attention_kernel.make_splash_mha_single_device(mask, block_sizes=sizes, interpret=interpret)


def _block(length: int) -> int:
    """The largest block that divides a length."""
    return max(size for size in range(_LANES, _LARGEST + 1, _LANES) if length % size == 0)


@functools.cache
def _capability() -> tuple[int, int] | None:
    """The compute capability of the GPU here; None: there is no NVIDIA GPU."""
    try:
        text = getattr(jax.local_devices(backend="gpu")[0], "compute_capability", "")
    except RuntimeError:
        return None
    major, _, minor = text.partition(".")
    return (int(major), int(minor or 0)) if major.isdigit() else None


@functools.cache
def _tell(reason: str) -> None:
    warnings.warn(f"no fused attention on this {platform().upper()}: {reason}", stacklevel=5)


_KERNELS: dict[str, Kernel] = {"gpu": _cudnn, "tpu": _splash}
