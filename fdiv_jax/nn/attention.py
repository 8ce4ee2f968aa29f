"""Attention: one function with several implementations, and the layer of the UNet and the autoencoder.

All implementations give the same values and gradients. Their times and memory side by side, measured by
`python -m benchmarks.attention`, are in docs/models.md; "auto" follows them.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Bool, Float

from fdiv_jax.nn.fused_attention import fused_attention
from fdiv_jax.nn.layers import ModuleT, Precision, linear, with_setting

Implementation = Literal["auto", "plain", "blocked", "library"]

Queries = Float[jax.Array, "batch queries heads width"]
Keys = Float[jax.Array, "batch keys heads width"]
Values = Float[jax.Array, "batch keys heads value_width"]
Attended = Float[jax.Array, "batch queries heads value_width"]
AttentionMask = Bool[jax.Array, "..."]
"""Of a shape that broadcasts to batch heads queries keys; False excludes a pair."""
QueryFeatures = Float[jax.Array, "batch queries features"]
KeyFeatures = Float[jax.Array, "batch keys _"]
Block = tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]
"""Keys, values, which of them are not padding, and their mask; one block, or all along the first axis."""
Saved = tuple[jax.Array, jax.Array, jax.Array, jax.Array | None, jax.Array, jax.Array, jax.Array]
"""What the backward pass of the blocked implementation needs of the forward one."""

_FORWARD: ContextVar[bool] = ContextVar("forward", default=False)
LONG = 1024
"""Queries and keys from which on "auto" takes the blocked implementation: the measured crossing."""
BLOCK = 128
"""Keys per block, the fastest size measured."""


def dot_product_attention(
    query: Queries,
    key: Keys,
    value: Values,
    mask: AttentionMask | None = None,
    *,
    implementation: Implementation = "auto",
    block: int = BLOCK,
) -> Attended:
    """softmax(q k^T / sqrt(d)) v; scores and softmax in float32 at the least.

    Args:
        query: n q heads d.
        key: n k heads d.
        value: n k heads d.
        mask: boolean, broadcastable to n heads q k; False excludes a pair.
        implementation: "plain" holds all q k scores, and can be differentiated as often as one likes, forward
            and in reverse. "blocked" takes `block` keys at a time: values and gradients in memory
            proportional to q + k; derivatives of the gradient hold all scores, and `jax.jvp` of the values
            themselves is an error outside of `forward_mode`. "library" is the fused kernel of a GPU or TPU
            where there is one for these arrays (see `fused_attention`), else `jax.nn.dot_product_attention`.
            "auto" is, from `LONG` queries and keys on, the fused kernel where there is one, else blocked; for
            shorter ones plain.
        block: keys per block.

    Returns:
        n q heads d, in the dtype of `value`.

    Raises:
        ValueError: an unknown implementation, or less than one key per block.
    """
    check_implementation(implementation)
    if block < 1:
        raise ValueError(f"blocks of {block} keys, expected at least 1")
    if implementation == "auto" and min(query.shape[1], key.shape[1]) < LONG:
        implementation = "plain"
    if implementation in ("auto", "library") and mask is None and not _FORWARD.get():
        fused = fused_attention(query, key, value)
        if fused is not None:
            return fused
    if implementation == "library":
        return jax.nn.dot_product_attention(query, key, value, mask=mask)
    if implementation == "plain":
        return _plain(query, key, value, mask)
    if mask is not None:
        mask = jnp.broadcast_to(mask, (*mask.shape[:-1], key.shape[1]))
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
    size = min(block, key.shape[1])
    out: jax.Array
    if _FORWARD.get():  # computed again by what is linear, which would hold every layer's scores
        out = jax.checkpoint(lambda q, k, v: _blocked_forward(q, k, v, mask, size)[0])(q, k, v)
    else:
        out = _blocked(q, k, v, mask, size)
    return jnp.swapaxes(out, 1, 2)


@contextlib.contextmanager
def forward_mode() -> Iterator[None]:
    """Trace attention for `jax.jvp` and `jax.linearize`, also where it is long.

    It then is blocked, of memory linear in the sequence as it is pushed forward; a transpose holds all scores
    of one layer at a time.
    """
    token = _FORWARD.set(True)
    try:
        yield
    finally:
        _FORWARD.reset(token)


def check_implementation(name: str) -> None:
    """Check the name of an implementation of attention.

    Raises:
        ValueError: an unknown name.
    """
    if name not in get_args(Implementation):
        raise ValueError(f"attention {name!r}, expected one of {', '.join(get_args(Implementation))}")


def _scores(query: jax.Array, key: jax.Array, mask: jax.Array | None, axes: str) -> jax.Array:
    dtype, scale = jnp.promote_types(query.dtype, jnp.float32), query.shape[-1] ** -0.5
    if query.dtype == dtype:  # q d multiplications instead of q k; in half precision they would round
        scores = jnp.einsum(axes, query * scale, key, preferred_element_type=dtype)
    else:
        scores = jnp.einsum(axes, query, key, preferred_element_type=dtype) * scale
    return scores if mask is None else jnp.where(mask, scores, jnp.finfo(dtype).min)


def _plain(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None) -> jax.Array:
    """All scores at once.

    The heads go in front of the lengths before the products, which then are batched products of matrices
    that lie in one piece. The largest score is a constant to the derivative (the result does not depend on
    it), and the division by the sum comes after the second product, on q d numbers instead of q k.
    """
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
    scores = _scores(q, k, mask, "nhqd,nhkd->nhqk")
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    out = jnp.einsum("nhqk,nhkd->nhqd", weights.astype(v.dtype), v, preferred_element_type=weights.dtype)
    return jnp.swapaxes((out / weights.sum(-1, keepdims=True)).astype(v.dtype), 1, 2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _blocked(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None, block: int
) -> jax.Array:
    """Attention in one pass over blocks of keys, n heads q d and n heads k d (twice) -> n heads q d.

    For the blocks so far it keeps each query's largest score m, z = sum_j exp(s_j - m) and
    sum_j exp(s_j - m) v_j, and multiplies the sums by exp(m - m') when a block brings a larger m'. The
    backward pass makes each block's weights exp(s - m) / z anew. Milakov and Gimelshein, Online normalizer
    calculation for softmax, 2018; Dao et al., FlashAttention, 2022.
    """
    return _blocked_forward(query, key, value, mask, block)[0]


def _blocked_forward(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None, block: int
) -> tuple[jax.Array, Saved]:
    dtype = jnp.promote_types(query.dtype, jnp.float32)

    def step(carry: tuple[jax.Array, ...], part: Block) -> tuple[tuple[jax.Array, ...], None]:
        total, z, m = carry
        k, v, real, open_ = part
        scores = jnp.where(real, _scores(query, k, open_, "nhqd,nhkd->nhqk"), -jnp.inf)
        larger = jnp.maximum(m, scores.max(-1, keepdims=True))
        weights, fade = jnp.exp(scores - larger), jnp.exp(m - larger)
        new = jnp.einsum("nhqk,nhkd->nhqd", weights.astype(v.dtype), v, preferred_element_type=dtype)
        return (total * fade + new, z * fade + weights.sum(-1, keepdims=True), larger), None

    n, heads, length, _ = query.shape
    start = (
        jnp.zeros((n, heads, length, value.shape[-1]), dtype),
        jnp.zeros((n, heads, length, 1), dtype),
        jnp.full((n, heads, length, 1), -jnp.inf, dtype),
    )
    (total, z, m), _ = jax.lax.scan(step, start, _blocks(key, value, mask, block))
    out = (total / z).astype(value.dtype)
    return out, (query, key, value, mask, out, z, m)


def _blocked_backward(block: int, saved: Saved, cotangent: jax.Array) -> tuple[jax.Array | None, ...]:
    """The cotangents of query, key and value, block by block.

    With P the weights and G the cotangent of the output O = P v: dv = P^T G, and the scores' cotangent is
    P (G v^T - sum_d G O).
    """
    query, key, value, mask, out, z, m = saved
    dtype = z.dtype
    inner = (cotangent.astype(dtype) * out.astype(dtype)).sum(-1, keepdims=True)

    def step(total: jax.Array, part: Block) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        k, v, real, open_ = part
        scores = jnp.where(real, _scores(query, k, open_, "nhqd,nhkd->nhqk"), -jnp.inf)
        weights = jnp.exp(scores - m) / z
        of_v = jnp.einsum("nhqk,nhqd->nhkd", weights.astype(value.dtype), cotangent)
        of_weights = jnp.einsum("nhqd,nhkd->nhqk", cotangent, v, preferred_element_type=dtype)
        of_scores = weights * (of_weights - inner)
        if open_ is not None:
            of_scores = jnp.where(open_, of_scores, 0)
        of_scores = (of_scores * query.shape[-1] ** -0.5).astype(query.dtype)
        of_k = jnp.einsum("nhqk,nhqd->nhkd", of_scores, query)
        of_q = jnp.einsum("nhqk,nhkd->nhqd", of_scores, k, preferred_element_type=dtype)
        return total + of_q, (of_k, of_v)

    start = jnp.zeros(query.shape, dtype)
    of_query, parts = jax.lax.scan(step, start, _blocks(key, value, mask, block))
    of_key, of_value = (
        jnp.moveaxis(part, 0, 2).reshape(*like.shape[:2], -1, like.shape[-1])[:, :, : like.shape[2]]
        for part, like in zip(parts, (key, value), strict=True)
    )
    return of_query.astype(query.dtype), of_key, of_value, None


_blocked.defvjp(_blocked_forward, _blocked_backward)


def _blocks(key: jax.Array, value: jax.Array, mask: jax.Array | None, block: int) -> Block:
    """Keys, values, which of them are not padding, and the mask, in blocks of keys along the first axis."""

    def cut(x: jax.Array, axis: int) -> jax.Array:
        pad = [(0, 0)] * x.ndim
        pad[axis] = (0, -x.shape[axis] % block)
        x = jnp.pad(x, pad)
        x = x.reshape(*x.shape[:axis], -1, block, *x.shape[axis + 1 :])
        return jnp.moveaxis(x, axis, 0)

    real = cut(jnp.ones(key.shape[2], bool), 0)
    return cut(key, 2), cut(value, 2), real, None if mask is None else cut(mask, mask.ndim - 1)


class AttentionLayer(nnx.Module):
    """A layer with attention.

    `implementation` is part of its structure, so that functions are compiled for it; see `with_attention`.
    """

    def __init__(self, heads: int):
        """A layer with this number of heads."""
        self.heads = heads
        self.implementation: Implementation = "auto"

    def attend(
        self, query: QueryFeatures, key: KeyFeatures, value: KeyFeatures, mask: AttentionMask | None = None
    ) -> QueryFeatures:
        """n q c and n k c (twice), the heads side by side in c -> n q c."""
        q, k, v = (x.reshape(*x.shape[:2], self.heads, -1) for x in (query, key, value))
        out = dot_product_attention(q, k, v, mask, implementation=self.implementation)
        return out.reshape(*query.shape[:2], -1)


def with_attention(module: ModuleT, implementation: Implementation) -> ModuleT:
    """`module` with an implementation of `dot_product_attention` in all its layers; parameters are shared.

    Raises:
        ValueError: an unknown implementation.
    """
    check_implementation(implementation)
    return with_setting(module, AttentionLayer, "implementation", implementation)


class Attention(AttentionLayer):
    """Multi-head attention with the names of diffusers: to_q, to_k, to_v, to_out.0."""

    def __init__(
        self,
        channels: int,
        heads: int,
        precision: Precision,
        rngs: nnx.Rngs,
        *,
        context: int | None = None,
        bias: bool = False,
    ):
        """Attention from `channels` features to `context` features (to themselves when None)."""
        if heads < 1 or channels % heads:
            raise ValueError(f"{heads} attention heads do not divide {channels} channels")
        super().__init__(heads)
        source = channels if context is None else context
        self.to_q = linear(channels, channels, precision, rngs, bias=bias)
        self.to_k = linear(source, channels, precision, rngs, bias=bias)
        self.to_v = linear(source, channels, precision, rngs, bias=bias)
        self.to_out = nnx.List([linear(channels, channels, precision, rngs)])

    def __call__(self, x: QueryFeatures, context: KeyFeatures | None = None) -> QueryFeatures:
        """n q c (and n k c' to attend to) -> n q c."""
        source = x if context is None else context
        return self.to_out[0](self.attend(self.to_q(x), self.to_k(source), self.to_v(source)))
