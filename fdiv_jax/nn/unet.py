"""The text-conditioned UNet of Stable Diffusion.

Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, 2022; Podell et al., SDXL, 2023.
Structure and names follow diffusers' UNet2DConditionModel, so that a state dict converts by rule.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from fdiv_jax.arrays import Embeddings, FeatureMap, Latents, Predictions, RealTimesteps, TextFeatures
from fdiv_jax.files import JsonMapping, shown
from fdiv_jax.nn.conditioning import Text, TextConditioning
from fdiv_jax.nn.config import LAYERS, ModelConfig, per_block, require
from fdiv_jax.nn.layers import Precision, activation, conv, group_norm
from fdiv_jax.nn.remat import RematModule, rematerialised
from fdiv_jax.nn.resnet import (
    Downsample2D,
    ResnetBlock2D,
    TimestepEmbedding,
    Upsample2D,
    sinusoidal_embedding,
)
from fdiv_jax.nn.transformer import Transformer2DModel

_DOWN = ("CrossAttnDownBlock2D", "DownBlock2D")
_UP = ("CrossAttnUpBlock2D", "UpBlock2D")
_MID = ("UNetMidBlock2DCrossAttn", "UNetMidBlock2D", None)
_MOST_LAYERS = 1000
"""Residual blocks and transformer layers; Stable Diffusion XL has 87."""

Depth = int | tuple[int, ...]
"""Transformer layers: one number for all residual blocks of a level, or one number per block."""


@dataclasses.dataclass(frozen=True)
class UNetConfig(ModelConfig):
    """`unet/config.json`. `attention_head_dim` is, as in diffusers, the *number* of heads.

    Distilled models leave out layers. Their `mid_block_type` is "UNetMidBlock2D" (one residual block) or None
    (nothing), and `transformer_layers_per_block` may give a tuple for a level: the layers after each residual
    block. `reverse_transformer_layers_per_block` then gives the way up, from the lowest resolution.

    With `addition_embed_type` "text_time" (Stable Diffusion XL) an embedding of the pooled text and the
    sinusoids of six sizes, `projection_class_embeddings_input_dim` numbers in all, is added to that of time.

    With `time_cond_proj_dim` (latent consistency models) an embedding of the guidance, of that width, joins
    that of time.
    """

    sample_size: int | tuple[int, int] | None = None
    in_channels: int = 4
    out_channels: int = 4
    center_input_sample: bool = False
    flip_sin_to_cos: bool = True
    freq_shift: float = 0
    down_block_types: tuple[str, ...] = (_DOWN[0], _DOWN[0], _DOWN[0], _DOWN[1])
    mid_block_type: str | None = _MID[0]
    up_block_types: tuple[str, ...] = (_UP[1], _UP[0], _UP[0], _UP[0])
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int | tuple[int, ...] = 2
    downsample_padding: int = 1
    act_fn: str = "silu"
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    cross_attention_dim: int | tuple[int, ...] = 1280
    transformer_layers_per_block: int | tuple[Depth, ...] = 1
    reverse_transformer_layers_per_block: tuple[Depth, ...] | None = None
    attention_head_dim: int | tuple[int, ...] = 8
    use_linear_projection: bool = False
    upcast_attention: bool | None = False
    addition_embed_type: str | None = None
    addition_time_embed_dim: int | None = None
    projection_class_embeddings_input_dim: int | None = None
    time_cond_proj_dim: int | None = None

    class_name: ClassVar[str] = "UNet2DConditionModel"
    neutral: ClassVar[Mapping[str, tuple[object, ...]]] = {
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
        "addition_embed_type_num_heads": (),  # read only with addition_embed_type "text", which is refused
    }
    ranges: ClassVar[Mapping[str, tuple[int, int]]] = {
        "downsample_padding": (0, 1),
        "freq_shift": (0, 1 << 16),
        "layers_per_block": LAYERS,
        "norm_eps": (0, 1),
        "projection_class_embeddings_input_dim": (1, 1 << 20),
        "reverse_transformer_layers_per_block": (0, LAYERS[1]),
        "time_cond_proj_dim": (4, 1 << 16),  # the slowest sinusoid is divided by half of it less one
        "transformer_layers_per_block": (0, LAYERS[1]),
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
        for kind, supported in ((self.down_block_types, _DOWN), (self.up_block_types, _UP)):
            for name in kind:
                if name not in supported:
                    raise NotImplementedError(f"UNet block type {name!r}; supported: {', '.join(supported)}")
        if self.mid_block_type not in _MID:
            raise NotImplementedError(
                f"mid_block_type={self.mid_block_type!r}; supported: {', '.join(map(repr, _MID))}"
            )
        for name in ("layers_per_block", "cross_attention_dim", "attention_head_dim"):
            for value in per_block(name, getattr(self, name), blocks):
                if not isinstance(value, int):
                    raise NotImplementedError(
                        f"{name}={getattr(self, name)!r}; supported: one number per block"
                    )
        self._check_depths(blocks)
        self._check_total()
        require(
            self.freq_shift < self.block_out_channels[0] // 2,
            f"freq_shift={self.freq_shift}, expected less than half of {self.block_out_channels[0]} channels",
        )
        activation(self.act_fn)
        if self.addition_embed_type not in (None, "text_time"):
            raise NotImplementedError(
                f"addition_embed_type={self.addition_embed_type!r}; supported: None, 'text_time'"
            )
        if self.addition_embed_type is not None:
            require(
                bool(self.addition_time_embed_dim) and self.pooled_dim > 0,
                "addition_embed_type 'text_time' with addition_time_embed_dim="
                f"{self.addition_time_embed_dim} and projection_class_embeddings_input_dim="
                f"{self.projection_class_embeddings_input_dim}, "
                "expected the second to be above 6 times the first",
            )

    def _check_depths(self, blocks: int) -> None:
        """Check that the transformer layers are given for every transformer, on the way down and up."""
        down = per_block("transformer_layers_per_block", self.transformer_layers_per_block, blocks)
        up = self.reverse_transformer_layers_per_block
        require(
            up is not None or not any(isinstance(depth, tuple) for depth in down),
            f"transformer_layers_per_block={self.transformer_layers_per_block!r} with a number for each "
            "residual block, expected reverse_transformer_layers_per_block for the way up beside it",
        )
        layers = per_block("layers_per_block", self.layers_per_block, blocks)
        ways = [("transformer_layers_per_block", down, self.down_block_types, layers, 0)]
        if up is not None:
            name = "reverse_transformer_layers_per_block"
            ways.append((name, per_block(name, up, blocks), self.up_block_types, layers[::-1], 1))
        for name, depths, kinds, counts, more in ways:
            for depth, kind, count in zip(depths, kinds, counts, strict=True):
                if kind.startswith("CrossAttn") and isinstance(depth, tuple):
                    require(
                        len(depth) >= count + more,
                        f"{name}={shown(depths)}: {shown(depth)} for a {kind} of {count + more} residual "
                        f"blocks, expected {count + more} numbers",
                    )

    def _check_total(self) -> None:
        layers = per_block("layers_per_block", self.layers_per_block, len(self.block_out_channels))
        total = sum(2 * count + 1 for count in layers)
        for counts, depths in ((layers, self.down_depths), (layers[::-1], self.up_depths)):
            for count, depth in zip(counts, depths, strict=True):
                total += sum(depth) if isinstance(depth, tuple) else (count + 1) * depth
        require(total <= _MOST_LAYERS, f"a network of {total} layers, expected at most {_MOST_LAYERS}")

    @property
    def down_depths(self) -> list[Depth]:
        """Transformer layers of each level on the way down."""
        return list(
            per_block(
                "transformer_layers_per_block",
                self.transformer_layers_per_block,
                len(self.block_out_channels),
            )
        )

    @property
    def up_depths(self) -> list[Depth]:
        """Transformer layers of each level on the way up, lowest resolution first."""
        if self.reverse_transformer_layers_per_block is None:
            return self.down_depths[::-1]
        return list(self.reverse_transformer_layers_per_block)

    @property
    def pooled_dim(self) -> int:
        """Width of the pooled text; 0 for a network without it."""
        if self.addition_embed_type is None:
            return 0
        return (self.projection_class_embeddings_input_dim or 0) - 6 * (self.addition_time_embed_dim or 0)


@dataclasses.dataclass(frozen=True)
class _Stage:
    """The settings of the blocks of one resolution."""

    time: int
    context: int
    heads: int
    config: UNetConfig
    precision: Precision

    def resnet(self, inputs: int, outputs: int, rngs: nnx.Rngs) -> ResnetBlock2D:
        c = self.config
        return ResnetBlock2D(
            inputs, outputs, self.time, c.norm_num_groups, c.norm_eps, c.act_fn, self.precision, rngs
        )

    def transformer(self, channels: int, depth: Depth, place: int, rngs: nnx.Rngs) -> Transformer2DModel:
        """The transformer behind the residual block number `place` of its level."""
        return Transformer2DModel(
            channels,
            self.heads,
            self.context,
            depth if isinstance(depth, int) else depth[place],
            self.config.norm_num_groups,
            self.precision,
            rngs,
            linear_projection=self.config.use_linear_projection,
        )


def _block(
    parts: tuple[ResnetBlock2D] | tuple[ResnetBlock2D, Transformer2DModel],
    x: FeatureMap,
    time: Embeddings,
    text: TextFeatures,
) -> FeatureMap:
    """A residual block, and the transformer behind it where there is one."""
    x = parts[0](x, time)
    return x if len(parts) == 1 else parts[1](x, text)


def _blocks(level: DownBlock2D | UpBlock2D) -> Iterator[tuple[Callable[..., FeatureMap], ...]]:
    """The parts of each residual block of a level."""
    parts = [level.resnets, level.attentions] if hasattr(level, "attentions") else [level.resnets]
    return zip(*parts, strict=True)


class DownBlock2D(RematModule):
    """Residual blocks, each with a transformer of `depth` layers (None: no transformer), then a halving."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        layers: int,
        stage: _Stage,
        rngs: nnx.Rngs,
        *,
        depth: Depth | None,
        downsample: bool,
    ):
        """`inputs` channels from above, `outputs` inside."""
        self.resnets = nnx.List(
            [stage.resnet(inputs if i == 0 else outputs, outputs, rngs) for i in range(layers)]
        )
        if depth is not None:
            self.attentions = nnx.List([stage.transformer(outputs, depth, i, rngs) for i in range(layers)])
        if downsample:
            padding = stage.config.downsample_padding
            self.downsamplers = nnx.List([Downsample2D(outputs, padding, stage.precision, rngs)])

    def __call__(
        self, x: FeatureMap, time: Embeddings, text: TextFeatures
    ) -> tuple[FeatureMap, list[FeatureMap]]:
        """The features, and the skip connections for the way up."""
        skips, run = [], rematerialised(_block, self.remat != "none")
        for parts in _blocks(self):
            x = run(parts, x, time, text)
            skips.append(x)
        if hasattr(self, "downsamplers"):
            x = self.downsamplers[0](x)
            skips.append(x)
        return x, skips


class MidBlock2D(RematModule):
    """One residual block at the lowest resolution; with a depth, a transformer and another block after it."""

    def __init__(self, channels: int, stage: _Stage, rngs: nnx.Rngs, *, depth: Depth | None):
        """`channels` in and out."""
        if depth is not None:
            self.attentions = nnx.List([stage.transformer(channels, depth, 0, rngs)])
        count = 1 if depth is None else 2
        self.resnets = nnx.List([stage.resnet(channels, channels, rngs) for _ in range(count)])

    def __call__(self, x: FeatureMap, time: Embeddings, text: TextFeatures) -> FeatureMap:
        """n h w c -> n h w c."""
        run = rematerialised(_block, self.remat != "none")
        x = run((self.resnets[0], *getattr(self, "attentions", ())), x, time, text)
        for resnet in self.resnets[1:]:
            x = run((resnet,), x, time, text)
        return x


class UpBlock2D(RematModule):
    """Residual blocks on (features, skip), each with a transformer as in `DownBlock2D`, then a doubling."""

    def __init__(
        self,
        inputs: tuple[int, ...],
        outputs: int,
        stage: _Stage,
        rngs: nnx.Rngs,
        *,
        depth: Depth | None,
        upsample: bool,
    ):
        """`inputs`: channels of (features, skip) together, one entry per residual block."""
        self.resnets = nnx.List([stage.resnet(channels, outputs, rngs) for channels in inputs])
        if depth is not None:
            self.attentions = nnx.List(
                [stage.transformer(outputs, depth, i, rngs) for i in range(len(inputs))]
            )
        if upsample:
            self.upsamplers = nnx.List([Upsample2D(outputs, stage.precision, rngs)])

    def __call__(
        self, x: FeatureMap, skips: list[FeatureMap], time: Embeddings, text: TextFeatures
    ) -> FeatureMap:
        """The features; this block's skips are the last ones of `skips`, in reverse."""
        run, left = rematerialised(_block, self.remat != "none"), list(skips)
        for parts in _blocks(self):
            x = run(parts, jnp.concatenate([x, left.pop()], axis=-1), time, text)
        if hasattr(self, "upsamplers"):
            size = (left[-1].shape[1], left[-1].shape[2]) if left else None
            x = self.upsamplers[0](x, size)
        return x


class UNet2DConditionModel(RematModule):
    """epsilon_theta(x_t, t, text): predicts the noise (or v) in latents, given the text's features."""

    def __init__(
        self,
        config: UNetConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
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
        down, up = config.down_depths, config.up_depths
        time = 4 * channels[0]
        stages = [_Stage(time, context[i], heads[i], config, precision) for i in range(blocks)]

        self.dtype = dtype
        self.conv_in = conv(config.in_channels, channels[0], 3, precision, rngs, padding=1)
        self.time_embedding = TimestepEmbedding(
            channels[0], time, config.act_fn, precision, rngs, guidance=config.time_cond_proj_dim
        )
        if config.addition_embed_type is not None:
            width = config.projection_class_embeddings_input_dim or 0
            self.add_embedding = TimestepEmbedding(width, time, "silu", precision, rngs)

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
                    depth=down[i] if name == _DOWN[0] else None,
                    downsample=not last,
                )
            )
            skip_channels += [channels[i]] * (layers[i] + (not last))

        if config.mid_block_type is not None:
            depth = down[-1] if config.mid_block_type == _MID[0] else None
            self.mid_block = MidBlock2D(channels[-1], stages[-1], rngs, depth=depth)

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
                    depth=up[i] if name == _UP[0] else None,
                    upsample=i < blocks - 1,
                )
            )

        self.act = activation(config.act_fn)
        self.conv_norm_out = group_norm(channels[0], config.norm_num_groups, config.norm_eps, precision, rngs)
        self.conv_out = conv(channels[0], config.out_channels, 3, precision, rngs, padding=1)

    @classmethod
    def from_config(
        cls, mapping: JsonMapping, *, rngs: nnx.Rngs, **precision: DTypeLike
    ) -> UNet2DConditionModel:
        """A network from a `config.json` mapping; see `UNetConfig.from_dict` for what it raises."""
        return cls(UNetConfig.from_dict(mapping), rngs=rngs, **precision)

    def __call__(self, latents: Latents, timesteps: RealTimesteps, text: Text) -> Predictions:
        """The raw prediction.

        Args:
            latents: n h w c, scaled; with the channels `beside` them in `text`, in_channels.
            timesteps: (n,), integers from 0 to `schedule.num_train_timesteps` - 1.
            text: features n l cross_attention_dim, or a `TextConditioning` of such; a network with
                addition_embed_type "text_time" needs the latter, with `time_ids`, one with
                time_cond_proj_dim needs it with `guidance`.

        Returns:
            n h w out_channels, float32 or wider.

        Raises:
            TypeError: no pooled text and sizes, or no guidance, for a network that needs them.
        """
        more = text if isinstance(text, TextConditioning) else TextConditioning(text)
        if more.beside is not None:
            latents = jnp.concatenate([latents, more.beside.astype(latents.dtype)], axis=-1)
        latents = latents.astype(self.dtype)
        if self.config.center_input_sample:
            latents = 2 * latents - 1
        sinusoids = self._sinusoids(timesteps, self.config.block_out_channels[0])
        time = self.time_embedding(sinusoids, more.guidance)
        if self.config.addition_embed_type is not None:
            time = time + self._size_and_pooled(more)
        features = more.hidden.astype(self.dtype)
        x = self.conv_in(latents)
        skips = [x]
        whole = self.remat == "full"
        for down in self.down_blocks:
            x, more = rematerialised(DownBlock2D.__call__, whole)(down, x, time, features)
            skips += more
        if hasattr(self, "mid_block"):
            x = self.mid_block(x, time, features)
        for up in self.up_blocks:
            x = rematerialised(UpBlock2D.__call__, whole)(up, x, skips, time, features)
            del skips[-len(up.resnets) :]
        x = self.conv_out(self.act(self.conv_norm_out(x)))
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))

    def _sinusoids(self, values: RealTimesteps, width: int) -> Embeddings:
        c = self.config
        return sinusoidal_embedding(values, width, flip_sin_to_cos=c.flip_sin_to_cos, freq_shift=c.freq_shift)

    def _size_and_pooled(self, text: TextConditioning) -> Embeddings:
        """n time: the embedding of the pooled text and the sizes."""
        pooled, sizes = text.pooled, text.time_ids
        if pooled is None or sizes is None:
            got = "features alone" if pooled is None else "one without time_ids"
            raise TypeError(f"a UNet of addition_embed_type 'text_time' takes a TextConditioning, got {got}")
        if sizes.shape != (pooled.shape[0], 6) or pooled.shape[1] != self.config.pooled_dim:
            raise ValueError(
                f"pooled text of shape {pooled.shape} with time_ids of shape {sizes.shape}, "
                f"expected (n, {self.config.pooled_dim}) and (n, 6)"
            )
        embedded = self._sinusoids(sizes.reshape(-1), self.config.addition_time_embed_dim or 0)
        return self.add_embedding(jnp.concatenate([pooled, embedded.reshape(len(pooled), -1)], axis=-1))
