"""The transformer that the UNet applies to its feature maps."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float

from fdiv_jax.arrays import FeatureMap, TextFeatures
from fdiv_jax.nn.attention import Attention
from fdiv_jax.nn.layers import Identity, Precision, conv, group_norm, layer_norm, linear

PixelFeatures = Float[jax.Array, "batch pixels channels"]
"""A feature map with its pixels in one row."""
Inputs = Float[jax.Array, "*places inputs"]
Outputs = Float[jax.Array, "*places outputs"]


class GatedGelu(nnx.Module):
    """a * gelu(b) with (a, b) one linear map of the input."""

    def __init__(self, inputs: int, outputs: int, precision: Precision, rngs: nnx.Rngs):
        """`inputs` features to `outputs`."""
        self.proj = linear(inputs, 2 * outputs, precision, rngs)

    def __call__(self, x: Inputs) -> Outputs:
        """... inputs -> ... outputs."""
        value, gate = jnp.split(self.proj(x), 2, axis=-1)
        return value * jax.nn.gelu(gate, approximate=False)


class FeedForward(nnx.Module):
    """The position-wise network of a transformer block, four times as wide inside."""

    def __init__(self, channels: int, precision: Precision, rngs: nnx.Rngs):
        """`channels` features in and out."""
        self.net = nnx.List(
            [
                GatedGelu(channels, 4 * channels, precision, rngs),
                Identity(),
                linear(4 * channels, channels, precision, rngs),
            ]
        )

    def __call__(self, x: PixelFeatures) -> PixelFeatures:
        """n l c -> n l c."""
        return self.net[2](self.net[0](x))


class BasicTransformerBlock(nnx.Module):
    """Self-attention, cross-attention to the text, feed-forward; each with a layer norm and a residual."""

    def __init__(self, channels: int, heads: int, context: int, precision: Precision, rngs: nnx.Rngs):
        """`context` is the width of the text features."""
        self.norm1 = layer_norm(channels, precision, rngs)
        self.attn1 = Attention(channels, heads, precision, rngs)
        self.norm2 = layer_norm(channels, precision, rngs)
        self.attn2 = Attention(channels, heads, precision, rngs, context=context)
        self.norm3 = layer_norm(channels, precision, rngs)
        self.ff = FeedForward(channels, precision, rngs)

    def __call__(self, x: PixelFeatures, text: TextFeatures) -> PixelFeatures:
        """n l c and n t d -> n l c."""
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), text)
        return x + self.ff(self.norm3(x))


class Transformer2DModel(nnx.Module):
    """Transformer blocks over the pixels of a feature map, with a residual around them."""

    def __init__(
        self,
        channels: int,
        heads: int,
        context: int,
        layers: int,
        groups: int,
        precision: Precision,
        rngs: nnx.Rngs,
        *,
        linear_projection: bool = False,
    ):
        """`linear_projection`: proj_in and proj_out are linear maps (SD 2), not 1 x 1 convolutions (SD 1)."""
        self.norm = group_norm(channels, groups, 1e-6, precision, rngs)
        if linear_projection:
            self.proj_in = linear(channels, channels, precision, rngs)
        else:
            self.proj_in = conv(channels, channels, 1, precision, rngs)
        self.transformer_blocks = nnx.List(
            [BasicTransformerBlock(channels, heads, context, precision, rngs) for _ in range(layers)]
        )
        if linear_projection:
            self.proj_out = linear(channels, channels, precision, rngs)
        else:
            self.proj_out = conv(channels, channels, 1, precision, rngs)

    def __call__(self, x: FeatureMap, text: TextFeatures) -> FeatureMap:
        """n h w c and n t d -> n h w c."""
        n, h, w, c = x.shape
        hidden = self.proj_in(self.norm(x)).reshape(n, h * w, c)
        for block in self.transformer_blocks:
            hidden = block(hidden, text)
        return x + self.proj_out(hidden.reshape(n, h, w, c))
