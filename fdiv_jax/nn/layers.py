"""The layers that all models are made of, with one policy for precision.

Parameters are kept in `param_dtype` (float32 by default), convolutions and products run in
`dtype`, and the statistics of every normalisation are taken in float32 (two-pass variance, as PyTorch does).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from fdiv_jax.nn.convolution import conv_general_dilated
from fdiv_jax.nn.normalisation import GroupNorm

ModuleT = TypeVar("ModuleT", bound=nnx.Module)
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "relu": jax.nn.relu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "mish": lambda x: x * jnp.tanh(jax.nn.softplus(x)),
}


def with_setting(module: ModuleT, kind: type[nnx.Module], name: str, value: object) -> ModuleT:
    """`module` with an attribute of all its parts of a kind set to a value; parameters are shared.

    The attribute belongs to the structure, so that functions are compiled for it.
    """
    copy = nnx.merge(*nnx.split(module))
    for _, part in nnx.iter_modules(copy):
        if isinstance(part, kind):
            setattr(part, name, value)
    return copy


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """The activation function of that name.

    Raises:
        NotImplementedError: a name not in `ACTIVATIONS`.
    """
    if name not in ACTIVATIONS:
        raise NotImplementedError(f"activation {name!r}; supported: {', '.join(sorted(ACTIVATIONS))}")
    return ACTIVATIONS[name]


@dataclasses.dataclass(frozen=True)
class Precision:
    """The floating-point types: `dtype` for compute, `param_dtype` for parameters."""

    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32


def linear(
    inputs: int, outputs: int, precision: Precision, rngs: nnx.Rngs, *, bias: bool = True
) -> nnx.Linear:
    """x W + b over the last axis."""
    return nnx.Linear(
        inputs, outputs, use_bias=bias, dtype=precision.dtype, param_dtype=precision.param_dtype, rngs=rngs
    )


def conv(
    inputs: int,
    outputs: int,
    size: int,
    precision: Precision,
    rngs: nnx.Rngs,
    *,
    stride: int = 1,
    padding: int = 0,
) -> nnx.Conv:
    """A square convolution, n h w c, with the same explicit padding on all four sides."""
    return nnx.Conv(
        inputs,
        outputs,
        (size, size),
        strides=(stride, stride),
        padding=((padding, padding), (padding, padding)),
        conv_general_dilated=conv_general_dilated,
        dtype=precision.dtype,
        param_dtype=precision.param_dtype,
        rngs=rngs,
    )


def group_norm(channels: int, groups: int, epsilon: float, precision: Precision, rngs: nnx.Rngs) -> GroupNorm:
    """Group normalisation over (h, w, channels of a group).

    Raises:
        ValueError: `groups` does not divide `channels`.
    """
    if groups < 1 or channels % groups:
        raise ValueError(f"norm_num_groups={groups} does not divide {channels} channels")
    return GroupNorm(
        channels,
        num_groups=groups,
        epsilon=epsilon,
        dtype=precision.dtype,
        param_dtype=precision.param_dtype,
        use_fast_variance=False,
        rngs=rngs,
    )


def layer_norm(
    channels: int, precision: Precision, rngs: nnx.Rngs, *, epsilon: float = 1e-5
) -> nnx.LayerNorm:
    """Layer normalisation over the last axis."""
    return nnx.LayerNorm(
        channels,
        epsilon=epsilon,
        dtype=precision.dtype,
        param_dtype=precision.param_dtype,
        use_fast_variance=False,
        rngs=rngs,
    )


class Identity(nnx.Module):
    """Does nothing; holds the place of a layer without parameters (dropout) in a numbered list."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return `x`."""
        return x
