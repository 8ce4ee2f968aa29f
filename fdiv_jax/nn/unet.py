"""The text-conditioned UNet of Stable Diffusion.

Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, 2022. Structure and names follow
diffusers' UNet2DConditionModel, so that a state dict converts by rule.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from fdiv_jax.nn.attention import Transformer2DModel
from fdiv_jax.nn.config import ModelConfig, per_block, require
from fdiv_jax.nn.layers import Precision, activation, conv, group_norm
from fdiv_jax.nn.resnet import (
    Downsample2D,
    ResnetBlock2D,
    TimestepEmbedding,
    Upsample2D,
    sinusoidal_embedding,
)

_DOWN = ("CrossAttnDownBlock2D", "DownBlock2D")
_UP = ("CrossAttnUpBlock2D", "UpBlock2D")


@dataclasses.dataclass(frozen=True)
class UNetConfig(ModelConfig):
    """`unet/config.json`. `attention_head_dim` is, as in diffusers, the *number* of heads of SD 1 and 2."""

    sample_size: int | tuple[int, int] | None = None
    in_channels: int = 4
    out_channels: int = 4
    center_input_sample: bool = False
    flip_sin_to_cos: bool = True
    freq_shift: float = 0
    down_block_types: tuple[str, ...] = (_DOWN[0], _DOWN[0], _DOWN[0], _DOWN[1])
    up_block_types: tuple[str, ...] = (_UP[1], _UP[0], _UP[0], _UP[0])
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int | tuple[int, ...] = 2
    downsample_padding: int = 1
    act_fn: str = "silu"
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    cross_attention_dim: int | tuple[int, ...] = 1280
    transformer_layers_per_block: int | tuple[int, ...] = 1
    attention_head_dim: int | tuple[int, ...] = 8
    use_linear_projection: bool = False
    upcast_attention: bool | None = False

    class_name: ClassVar[str] = "UNet2DConditionModel"
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "mid_block_type": ("UNetMidBlock2DCrossAttn",),
        "only_cross_attention": (False, None),
        "dual_cross_attention": (False, None),
        "mid_block_scale_factor": (1, None),
        "dropout": (0, None),
        "num_attention_heads": (None,),
        "resnet_time_scale_shift": ("default",),
        "resnet_out_scale_factor": (1, None),
        "resnet_skip_time_act": (False, None),
        "time_embedding_type": ("positional", None),
        "conv_in_kernel": (3, None),
        "conv_out_kernel": (3, None),
        "attention_type": ("default", None),
        "cross_attention_norm": (None,),
        "addition_embed_type_num_heads": (),  # read only with an addition_embed_type, which is refused
    }

    def __post_init__(self) -> None:
        blocks = len(self.block_out_channels)
        require(blocks > 0, "block_out_channels is empty")
        require(
            len(self.down_block_types) == len(self.up_block_types) == blocks,
            f"{len(self.down_block_types)} down_block_types and {len(self.up_block_types)} up_block_types "
            f"for {blocks} block_out_channels, expected as many",
        )
        for kind, supported in ((self.down_block_types, _DOWN), (self.up_block_types, _UP)):
            for name in kind:
                if name not in supported:
                    raise NotImplementedError(f"UNet block type {name!r}; supported: {', '.join(supported)}")
        for name in (
            "layers_per_block",
            "cross_attention_dim",
            "transformer_layers_per_block",
            "attention_head_dim",
        ):
            per_block(name, getattr(self, name), blocks)
        activation(self.act_fn)


@dataclasses.dataclass(frozen=True)
class _Stage:
    """What one resolution's blocks are built from."""

    time: int
    context: int
    heads: int
    transformer_layers: int
    config: UNetConfig
    precision: Precision

    def resnet(self, inputs: int, outputs: int, rngs: nnx.Rngs) -> ResnetBlock2D:
        c = self.config
        return ResnetBlock2D(
            inputs, outputs, self.time, c.norm_num_groups, c.norm_eps, c.act_fn, self.precision, rngs
        )

    def transformer(self, channels: int, rngs: nnx.Rngs) -> Transformer2DModel:
        return Transformer2DModel(
            channels,
            self.heads,
            self.context,
            self.transformer_layers,
            self.config.norm_num_groups,
            self.precision,
            rngs,
            linear_projection=self.config.use_linear_projection,
        )


class DownBlock2D(nnx.Module):
    """Residual blocks, each followed by a transformer where `attend`, then a halving."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        layers: int,
        stage: _Stage,
        rngs: nnx.Rngs,
        *,
        attend: bool,
        downsample: bool,
    ):
        """`inputs` channels from above, `outputs` inside."""
        self.resnets = nnx.List(
            [stage.resnet(inputs if i == 0 else outputs, outputs, rngs) for i in range(layers)]
        )
        if attend:
            self.attentions = nnx.List([stage.transformer(outputs, rngs) for _ in range(layers)])
        if downsample:
            padding = stage.config.downsample_padding
            self.downsamplers = nnx.List([Downsample2D(outputs, padding, stage.precision, rngs)])

    def __call__(self, x: jax.Array, time: jax.Array, text: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        """The features, and what the way up takes over by its skip connections."""
        skips = []
        for i, resnet in enumerate(self.resnets):
            x = resnet(x, time)
            if hasattr(self, "attentions"):
                x = self.attentions[i](x, text)
            skips.append(x)
        if hasattr(self, "downsamplers"):
            x = self.downsamplers[0](x)
            skips.append(x)
        return x, skips


class MidBlock2DCrossAttn(nnx.Module):
    """Residual block, transformer, residual block at the lowest resolution."""

    def __init__(self, channels: int, stage: _Stage, rngs: nnx.Rngs):
        """`channels` in and out."""
        self.attentions = nnx.List([stage.transformer(channels, rngs)])
        self.resnets = nnx.List([stage.resnet(channels, channels, rngs) for _ in range(2)])

    def __call__(self, x: jax.Array, time: jax.Array, text: jax.Array) -> jax.Array:
        """n h w c -> n h w c."""
        x = self.attentions[0](self.resnets[0](x, time), text)
        return self.resnets[1](x, time)


class UpBlock2D(nnx.Module):
    """Residual blocks on (features, skip), each followed by a transformer where `attend`, then a doubling."""

    def __init__(
        self,
        inputs: tuple[int, ...],
        outputs: int,
        stage: _Stage,
        rngs: nnx.Rngs,
        *,
        attend: bool,
        upsample: bool,
    ):
        """`inputs`: channels of (features, skip) together, one entry a residual block."""
        self.resnets = nnx.List([stage.resnet(channels, outputs, rngs) for channels in inputs])
        if attend:
            self.attentions = nnx.List([stage.transformer(outputs, rngs) for _ in inputs])
        if upsample:
            self.upsamplers = nnx.List([Upsample2D(outputs, stage.precision, rngs)])

    def __call__(self, x: jax.Array, skips: list[jax.Array], time: jax.Array, text: jax.Array) -> jax.Array:
        """Takes this block's skips off the end of `skips`."""
        for i, resnet in enumerate(self.resnets):
            x = resnet(jnp.concatenate([x, skips.pop()], axis=-1), time)
            if hasattr(self, "attentions"):
                x = self.attentions[i](x, text)
        if hasattr(self, "upsamplers"):
            size = (skips[-1].shape[1], skips[-1].shape[2]) if skips else None
            x = self.upsamplers[0](x, size)
        return x


class UNet2DConditionModel(nnx.Module):
    """epsilon_theta(x_t, t, text): predicts the noise (or v) in latents, given the text's features."""

    def __init__(
        self,
        config: UNetConfig,
        *,
        rngs: nnx.Rngs,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
    ):
        """A network with random parameters.

        Raises:
            ValueError: channels that heads or groups do not divide.
        """
        self.config = config
        precision = Precision(dtype, param_dtype)
        channels = config.block_out_channels
        blocks = len(channels)
        layers = per_block("layers_per_block", config.layers_per_block, blocks)
        heads = per_block("attention_head_dim", config.attention_head_dim, blocks)
        context = per_block("cross_attention_dim", config.cross_attention_dim, blocks)
        depth = per_block("transformer_layers_per_block", config.transformer_layers_per_block, blocks)
        time = 4 * channels[0]
        stages = [_Stage(time, context[i], heads[i], depth[i], config, precision) for i in range(blocks)]

        self.dtype = dtype
        self.conv_in = conv(config.in_channels, channels[0], 3, precision, rngs, padding=1)
        self.time_embedding = TimestepEmbedding(channels[0], time, config.act_fn, precision, rngs)

        self.down_blocks = nnx.List()
        skip_channels = [channels[0]]
        for i, name in enumerate(config.down_block_types):
            last = i == blocks - 1
            self.down_blocks.append(
                DownBlock2D(
                    channels[max(i - 1, 0)],
                    channels[i],
                    layers[i],
                    stages[i],
                    rngs,
                    attend=name == _DOWN[0],
                    downsample=not last,
                )
            )
            skip_channels += [channels[i]] * (layers[i] + (not last))

        self.mid_block = MidBlock2DCrossAttn(channels[-1], stages[-1], rngs)

        self.up_blocks = nnx.List()
        current = channels[-1]
        for i, name in enumerate(config.up_block_types):
            level = blocks - 1 - i
            inputs = []
            for _ in range(layers[level] + 1):
                inputs.append(current + skip_channels.pop())
                current = channels[level]
            self.up_blocks.append(
                UpBlock2D(
                    tuple(inputs),
                    channels[level],
                    stages[level],
                    rngs,
                    attend=name == _UP[0],
                    upsample=i < blocks - 1,
                )
            )

        self.act = activation(config.act_fn)
        self.conv_norm_out = group_norm(channels[0], config.norm_num_groups, config.norm_eps, precision, rngs)
        self.conv_out = conv(channels[0], config.out_channels, 3, precision, rngs, padding=1)

    @classmethod
    def from_config(
        cls, mapping: Mapping[str, Any], *, rngs: nnx.Rngs, **precision: Any
    ) -> UNet2DConditionModel:
        """A network from a `config.json` mapping; see `UNetConfig.from_dict` for what it raises."""
        return cls(UNetConfig.from_dict(mapping), rngs=rngs, **precision)

    def __call__(self, latents: jax.Array, timesteps: jax.Array, text: jax.Array) -> jax.Array:
        """The raw prediction.

        Args:
            latents: n h w in_channels, scaled.
            timesteps: (n,), integers from 0 to the length of the schedule - 1.
            text: n l cross_attention_dim.

        Returns:
            n h w out_channels, float32 or wider.
        """
        c = self.config
        latents = latents.astype(self.dtype)
        text = text.astype(self.dtype)
        if c.center_input_sample:
            latents = 2 * latents - 1
        sinusoids = sinusoidal_embedding(
            timesteps, c.block_out_channels[0], flip_sin_to_cos=c.flip_sin_to_cos, freq_shift=c.freq_shift
        )
        time = self.time_embedding(sinusoids.astype(self.dtype))
        x = self.conv_in(latents)
        skips = [x]
        for down in self.down_blocks:
            x, more = down(x, time, text)
            skips += more
        x = self.mid_block(x, time, text)
        for up in self.up_blocks:
            x = up(x, skips, time, text)
        x = self.conv_out(self.act(self.conv_norm_out(x)))
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))
