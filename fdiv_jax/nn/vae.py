"""The image autoencoder of Stable Diffusion (AutoencoderKL), names as in diffusers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from fdiv_jax.arrays import FeatureMap, Images, Latents
from fdiv_jax.files import JsonMapping
from fdiv_jax.nn.attention import Attention
from fdiv_jax.nn.config import LAYERS, ModelConfig, require
from fdiv_jax.nn.layers import Precision, activation, conv, group_norm
from fdiv_jax.nn.resnet import Downsample2D, ResnetBlock2D, Upsample2D

_EPSILON = 1e-6
_MOST_BLOCKS = 16


@dataclasses.dataclass(frozen=True)
class VAEConfig(ModelConfig):
    """`vae/config.json`."""

    in_channels: int = 3
    out_channels: int = 3
    down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",)
    up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",)
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    act_fn: str = "silu"
    latent_channels: int = 4
    norm_num_groups: int = 32
    sample_size: int | tuple[int, int] | None = 32
    scaling_factor: float = 0.18215
    shift_factor: float | None = None
    force_upcast: bool | float = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    class_name: ClassVar[str] = "AutoencoderKL"
    neutral: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "latents_mean": (None,),
        "latents_std": (None,),
    }
    ranges: ClassVar[Mapping[str, tuple[int, int]]] = {
        "force_upcast": (0, 1),
        "layers_per_block": LAYERS,
        "scaling_factor": (0, 1 << 16),
        "shift_factor": (-(1 << 16), 1 << 16),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        blocks = len(self.block_out_channels)
        require(blocks > 0, "block_out_channels is empty")
        require(
            len(self.down_block_types) == len(self.up_block_types) == blocks,
            f"{len(self.down_block_types)} down_block_types and {len(self.up_block_types)} up_block_types "
            f"for {blocks} block_out_channels, expected as many",
        )
        for names, supported in (
            (self.down_block_types, "DownEncoderBlock2D"),
            (self.up_block_types, "UpDecoderBlock2D"),
        ):
            for name in names:
                if name != supported:
                    raise NotImplementedError(f"VAE block type {name!r}; supported: {supported}")
        require(blocks <= _MOST_BLOCKS, f"{blocks} block_out_channels, expected at most {_MOST_BLOCKS}")
        activation(self.act_fn)
        require(self.scaling_factor > 0, f"scaling_factor={self.scaling_factor}, expected a positive number")

    @property
    def downsampling(self) -> int:
        """Pixels per latent, along one side."""
        return 2 ** (len(self.block_out_channels) - 1)


class MidAttention(Attention):
    """One-head self-attention over all pixels, with its own group norm and residual."""

    def __init__(self, channels: int, groups: int, precision: Precision, rngs: nnx.Rngs):
        """`channels` in and out."""
        super().__init__(channels, 1, precision, rngs, bias=True)
        self.group_norm = group_norm(channels, groups, _EPSILON, precision, rngs)

    def __call__(self, x: FeatureMap) -> FeatureMap:
        """n h w c -> n h w c."""
        n, h, w, c = x.shape
        return x + super().__call__(self.group_norm(x).reshape(n, h * w, c)).reshape(n, h, w, c)


class _Blocks:
    """Builds residual blocks without time embedding for one configuration."""

    def __init__(self, config: VAEConfig, precision: Precision, rngs: nnx.Rngs):
        self.config, self.precision, self.rngs = config, precision, rngs

    def resnet(self, inputs: int, outputs: int) -> ResnetBlock2D:
        c = self.config
        return ResnetBlock2D(
            inputs, outputs, None, c.norm_num_groups, _EPSILON, c.act_fn, self.precision, self.rngs
        )

    def norm(self, channels: int) -> nnx.GroupNorm:
        return group_norm(channels, self.config.norm_num_groups, _EPSILON, self.precision, self.rngs)

    def conv(self, inputs: int, outputs: int, size: int) -> nnx.Conv:
        return conv(inputs, outputs, size, self.precision, self.rngs, padding=size // 2)


class MidBlock2D(nnx.Module):
    """Residual block, attention, residual block."""

    def __init__(self, channels: int, build: _Blocks):
        """`channels` in and out."""
        if build.config.mid_block_add_attention:
            groups = build.config.norm_num_groups
            self.attentions = nnx.List([MidAttention(channels, groups, build.precision, build.rngs)])
        self.resnets = nnx.List([build.resnet(channels, channels) for _ in range(2)])

    def __call__(self, x: FeatureMap) -> FeatureMap:
        """n h w c -> n h w c."""
        x = self.resnets[0](x)
        if hasattr(self, "attentions"):
            x = self.attentions[0](x)
        return self.resnets[1](x)


class DownEncoderBlock2D(nnx.Module):
    """Residual blocks, then a halving unless it is the last."""

    def __init__(self, inputs: int, outputs: int, build: _Blocks, *, downsample: bool):
        """`inputs` to `outputs` channels."""
        layers = build.config.layers_per_block
        self.resnets = nnx.List([build.resnet(inputs if i == 0 else outputs, outputs) for i in range(layers)])
        if downsample:
            self.downsamplers = nnx.List([Downsample2D(outputs, 0, build.precision, build.rngs)])

    def __call__(self, x: FeatureMap) -> FeatureMap:
        """n h w inputs -> n h' w' outputs."""
        for resnet in self.resnets:
            x = resnet(x)
        return self.downsamplers[0](x) if hasattr(self, "downsamplers") else x


class UpDecoderBlock2D(nnx.Module):
    """Residual blocks, then a doubling unless it is the last."""

    def __init__(self, inputs: int, outputs: int, build: _Blocks, *, upsample: bool):
        """`inputs` to `outputs` channels."""
        layers = build.config.layers_per_block + 1
        self.resnets = nnx.List([build.resnet(inputs if i == 0 else outputs, outputs) for i in range(layers)])
        if upsample:
            self.upsamplers = nnx.List([Upsample2D(outputs, build.precision, build.rngs)])

    def __call__(self, x: FeatureMap) -> FeatureMap:
        """n h w inputs -> n h' w' outputs."""
        for resnet in self.resnets:
            x = resnet(x)
        return self.upsamplers[0](x) if hasattr(self, "upsamplers") else x


class Encoder(nnx.Module):
    """Images to the moments of their latents' distribution."""

    def __init__(self, build: _Blocks):
        """Random parameters, with the sizes in the configuration of `build`."""
        config, channels = build.config, build.config.block_out_channels
        self.conv_in = build.conv(config.in_channels, channels[0], 3)
        self.down_blocks = nnx.List(
            [
                DownEncoderBlock2D(
                    channels[max(i - 1, 0)], channels[i], build, downsample=i < len(channels) - 1
                )
                for i in range(len(channels))
            ]
        )
        self.mid_block = MidBlock2D(channels[-1], build)
        self.conv_norm_out = build.norm(channels[-1])
        self.act = activation("silu")  # for every act_fn, which is that of the residual blocks
        self.conv_out = build.conv(channels[-1], 2 * config.latent_channels, 3)

    def __call__(self, images: Images) -> Latents:
        """n h w 3 -> n h' w' 2 latent_channels."""
        x = self.conv_in(images)
        for block in self.down_blocks:
            x = block(x)
        x = self.mid_block(x)
        return self.conv_out(self.act(self.conv_norm_out(x)))


class Decoder(nnx.Module):
    """Latents to images."""

    def __init__(self, build: _Blocks):
        """Random parameters, with the sizes in the configuration of `build`."""
        config, channels = build.config, build.config.block_out_channels[::-1]
        self.conv_in = build.conv(config.latent_channels, channels[0], 3)
        self.mid_block = MidBlock2D(channels[0], build)
        self.up_blocks = nnx.List(
            [
                UpDecoderBlock2D(channels[max(i - 1, 0)], channels[i], build, upsample=i < len(channels) - 1)
                for i in range(len(channels))
            ]
        )
        self.conv_norm_out = build.norm(channels[-1])
        self.act = activation("silu")  # for every act_fn, which is that of the residual blocks
        self.conv_out = build.conv(channels[-1], config.out_channels, 3)

    def __call__(self, latents: Latents) -> Images:
        """n h w latent_channels -> n H W 3."""
        x = self.mid_block(self.conv_in(latents))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(self.act(self.conv_norm_out(x)))


class AutoencoderKL(nnx.Module):
    """A variational autoencoder with a Gaussian latent. Works in *unscaled* latents; the pipeline scales."""

    def __init__(
        self,
        config: VAEConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ):
        """A network with random parameters.

        With `force_upcast`, the default, float16 compute becomes float32: activations of Stable Diffusion
        XL's autoencoder exceed the range of float16.

        Raises:
            ValueError: groups that do not divide the channels.
        """
        if jnp.dtype(dtype) == jnp.float16 and config.force_upcast:
            dtype = jnp.float32
        self.config = config
        self.dtype = dtype
        build = _Blocks(config, Precision(dtype, param_dtype), rngs)
        self.encoder = Encoder(build)
        self.decoder = Decoder(build)
        if config.use_quant_conv:
            self.quant_conv = build.conv(2 * config.latent_channels, 2 * config.latent_channels, 1)
        if config.use_post_quant_conv:
            self.post_quant_conv = build.conv(config.latent_channels, config.latent_channels, 1)

    @classmethod
    def from_config(cls, mapping: JsonMapping, *, rngs: nnx.Rngs, **precision: DTypeLike) -> AutoencoderKL:
        """A network from a `config.json` mapping; see `VAEConfig.from_dict` for what it raises."""
        return cls(VAEConfig.from_dict(mapping), rngs=rngs, **precision)

    def encode(self, images: Images) -> tuple[Latents, Latents]:
        """Mean and log variance of the latents.

        Args:
            images: n h w 3, -1 black, 1 white.

        Returns:
            Two arrays n h' w' latent_channels; the log variance is kept within [-30, 20].
        """
        moments = self.encoder(images.astype(self.dtype))
        if self.config.use_quant_conv:
            moments = self.quant_conv(moments)
        moments = moments.astype(jnp.promote_types(moments.dtype, jnp.float32))
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        return mean, jnp.clip(log_variance, -30.0, 20.0)

    def decode(self, latents: Latents) -> Images:
        """Images of unscaled latents, n h w c -> n H W 3, about -1 to 1 and not clipped."""
        latents = latents.astype(self.dtype)
        if self.config.use_post_quant_conv:
            latents = self.post_quant_conv(latents)
        images = self.decoder(latents)
        return images.astype(jnp.promote_types(images.dtype, jnp.float32))
