"""Residual blocks, resampling and the time embedding, shared by the UNet and the VAE."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float

from fdiv_jax.arrays import Embeddings, FeatureMap, RealTimesteps
from fdiv_jax.nn.layers import Precision, activation, conv, group_norm, linear

Sinusoids = Float[jax.Array, "batch sinusoids"]
PerSample = Float[jax.Array, " batch"]


class ResnetBlock2D(nnx.Module):
    """Two 3 x 3 convolutions behind group norms, the time embedding added between them, and a shortcut."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        time: int | None,
        groups: int,
        epsilon: float,
        act: str,
        precision: Precision,
        rngs: nnx.Rngs,
    ):
        """`time` is the width of the time embedding; None for a block without one (VAE)."""
        self.act = activation(act)
        self.norm1 = group_norm(inputs, groups, epsilon, precision, rngs)
        self.conv1 = conv(inputs, outputs, 3, precision, rngs, padding=1)
        if time is not None:
            self.time_emb_proj = linear(time, outputs, precision, rngs)
        self.norm2 = group_norm(outputs, groups, epsilon, precision, rngs)
        self.conv2 = conv(outputs, outputs, 3, precision, rngs, padding=1)
        if inputs != outputs:
            self.conv_shortcut = conv(inputs, outputs, 1, precision, rngs)

    def __call__(self, x: FeatureMap, time: Embeddings | None = None) -> FeatureMap:
        """n h w inputs (and n time) -> n h w outputs."""
        hidden = self.conv1(self.act(self.norm1(x)))
        if time is not None:
            hidden = hidden + self.time_emb_proj(self.act(time))[:, None, None, :]
        hidden = self.conv2(self.act(self.norm2(hidden)))
        shortcut = self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x
        return shortcut + hidden


class Downsample2D(nnx.Module):
    """Half the resolution by a convolution of stride 2.

    `padding` 1 pads all sides (UNet); 0 pads one row below and one column to the right (VAE).
    """

    def __init__(self, channels: int, padding: int, precision: Precision, rngs: nnx.Rngs):
        """`channels` in and out."""
        self.padding = padding
        self.conv = conv(channels, channels, 3, precision, rngs, stride=2, padding=padding)

    def __call__(self, x: FeatureMap) -> FeatureMap:
        """n h w c -> n h/2 w/2 c."""
        if self.padding == 0:
            x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
        return self.conv(x)


class Upsample2D(nnx.Module):
    """Nearest-neighbour enlargement, then a 3 x 3 convolution."""

    def __init__(self, channels: int, precision: Precision, rngs: nnx.Rngs):
        """`channels` in and out."""
        self.conv = conv(channels, channels, 3, precision, rngs, padding=1)

    def __call__(self, x: FeatureMap, size: tuple[int, int] | None = None) -> FeatureMap:
        """n h w c -> n H W c, with (H, W) = `size`, or (2 h, 2 w)."""
        return self.conv(nearest_resize(x, size or (2 * x.shape[1], 2 * x.shape[2])))


def nearest_resize(x: FeatureMap, size: tuple[int, int]) -> FeatureMap:
    """Output pixel i shows input pixel floor(i in / out): PyTorch's nearest mode. n h w c -> n H W c."""
    n, h, w, c = x.shape
    if size == (2 * h, 2 * w):
        return jnp.broadcast_to(x[:, :, None, :, None, :], (n, h, 2, w, 2, c)).reshape(n, 2 * h, 2 * w, c)
    rows = (jnp.arange(size[0]) * h) // size[0]
    columns = (jnp.arange(size[1]) * w) // size[1]
    return x[:, rows][:, :, columns]


def sinusoidal_embedding(
    timesteps: RealTimesteps, width: int, *, flip_sin_to_cos: bool, freq_shift: float
) -> Embeddings:
    """[sin(t w_k), cos(t w_k)] with w_k = 10000^(-k / (width/2 - freq_shift)); cos first when flipped.

    Args:
        timesteps: (n,), any real dtype.
        width: width of the result; an odd width is padded with one zero.

    Returns:
        n width, float32.
    """
    half = width // 2
    frequencies = jnp.exp(-math.log(10_000.0) * jnp.arange(half, dtype=jnp.float32) / (half - freq_shift))
    angles = timesteps.astype(jnp.float32)[:, None] * frequencies[None, :]
    parts = [jnp.sin(angles), jnp.cos(angles)]
    embedding = jnp.concatenate(parts[::-1] if flip_sin_to_cos else parts, axis=-1)
    return jnp.pad(embedding, ((0, 0), (0, width % 2)))


def guidance_embedding(guidance: PerSample, width: int) -> Sinusoids:
    """[sin(a w_k), cos(a w_k)] with a = 1000 (g - 1) and w_k = 10000^(-k / (width/2 - 1)).

    Angles reach 10^4, where the last digit of w_k in single precision is 10^-3 of a radian: the frequencies
    are rounded as in diffusers, whose models were trained with these.

    Args:
        guidance: (n,), g.
        width: width of the result; an odd width is padded with one zero.

    Returns:
        n width, float32.
    """
    half = width // 2
    exponents = np.arange(half, dtype=np.float32) * -(np.float32(math.log(10_000.0)) / np.float32(half - 1))
    frequencies = np.exp(exponents.astype(np.float64)).astype(np.float32)
    angles = (1000.0 * (guidance.astype(jnp.float32) - 1.0))[:, None] * frequencies[None, :]
    embedding = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    return jnp.pad(embedding, ((0, 0), (0, width % 2)))


class TimestepEmbedding(nnx.Module):
    """A two-layer network on the sinusoidal embedding, float32 or wider.

    It is small, and every block depends on it. That of a latent consistency model takes the guidance g as
    well: sinusoids of 1000 (g - 1) go through a matrix and are added to those of time.

    Source of the guidance: Luo et al., Latent consistency models, 2023; Meng et al., On distillation of
    guided diffusion models, 2023.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        act: str,
        precision: Precision,
        rngs: nnx.Rngs,
        *,
        guidance: int | None = None,
    ):
        """`inputs` sinusoids to `width` features; `guidance`: number of sinusoids of the guidance."""
        precision = Precision(jnp.promote_types(precision.dtype, jnp.float32), precision.param_dtype)
        self.act = activation(act)
        self.guidance = guidance
        if guidance is not None:
            self.cond_proj = linear(guidance, inputs, precision, rngs, bias=False)
        self.linear_1 = linear(inputs, width, precision, rngs)
        self.linear_2 = linear(width, width, precision, rngs)

    def __call__(self, embedding: Sinusoids, guidance: PerSample | None = None) -> Embeddings:
        """n inputs (and n) -> n width.

        Raises:
            TypeError: no guidance for a network that takes it, or one for another.
        """
        if (guidance is None) != (self.guidance is None):
            expected, got = ("no ", "one") if self.guidance is None else ("", "none")
            raise TypeError(f"a UNet that takes {expected}guidance (time_cond_proj_dim), got {got}")
        if guidance is not None:
            embedding = embedding + self.cond_proj(guidance_embedding(guidance, self.guidance or 0))
        return self.linear_2(self.act(self.linear_1(embedding)))
