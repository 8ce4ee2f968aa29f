"""The names of the original Stable Diffusion code, by rule from a model's configuration.

Those are the names of single-file checkpoints, and of the LoRA files that kohya's scripts write for XL. In
the UNet the blocks are counted through: with L residual blocks per level, `down_blocks.i.resnets.j` is
`input_blocks.{1 + i (L + 1) + j}.0`, its transformer `.1`, and the halving after a level a block of its own.
"""

import re
from collections.abc import Callable
from typing import Literal

from fdiv_jax.nn import UNetConfig
from fdiv_jax.nn.config import per_block

__all__ = [
    "Family",
    "clip_original_name",
    "family",
    "open_clip_name",
    "unet_original_name",
    "vae_original_name",
]

Family = Literal["sd1", "sd2", "sdxl"]

_BLOCK = re.compile(
    r"(?P<block>(?:down|up)_blocks\.\d+|mid_block)\."
    r"(?P<part>(?P<kind>resnets|attentions|downsamplers|upsamplers)\.\d+)\.(?P<rest>.+)"
)
_UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_MID = {"resnets.0": "block_1", "attentions.0": "attn_1", "resnets.1": "block_2"}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OPEN_CLIP = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_projection.weight": "text_projection",
}
_OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
    **{f"self_attn.{part}_proj": f"attn.{part}" for part in "qkv"},
}


def family(config: UNetConfig) -> Family:
    """Which original layout a UNet belongs to: that of Stable Diffusion 1.x, 2.x or XL."""
    if config.addition_embed_type == "text_time":
        return "sdxl"
    return "sd2" if config.use_linear_projection else "sd1"


def unet_original_name(config: UNetConfig) -> Callable[[str], str]:
    """The map from our names of a UNet's tensors or layers to the original ones, without any prefix.

    The map raises a ValueError when the UNet has no place for a name.
    """
    places = _unet_places(config)

    def rename(name: str) -> str:
        for ours, theirs in _UNET_ENDS.items():
            if name == ours or name.startswith(f"{ours}."):
                return theirs + name.removeprefix(ours)
        if (found := _BLOCK.fullmatch(name)) and (place := places.get(f"{found['block']}.{found['part']}")):
            rest = found["rest"]
            if found["kind"] == "resnets":
                rest = _replace_start(rest, _RESNET)
            elif found["kind"] == "downsamplers":
                rest = _replace_start(rest, {"conv": "op"})
            return f"{place}.{rest}"
        raise ValueError(f"no original name for {name} in a UNet of {len(config.block_out_channels)} levels")

    return rename


def vae_original_name(blocks: int) -> Callable[[str], str]:
    """The map from our names of the tensors of an autoencoder of `blocks` levels to the original ones.

    Levels are counted from the image in both halves. The map raises a ValueError on an unknown name.
    """

    def rename(name: str) -> str:
        half, _, inner = name.partition(".")
        if half in ("quant_conv", "post_quant_conv") or inner.startswith(("conv_in.", "conv_out.")):
            return name
        if inner.startswith("conv_norm_out."):
            return f"{half}.norm_out.{inner.removeprefix('conv_norm_out.')}"
        found = _BLOCK.fullmatch(inner)
        if found is None:
            raise ValueError(f"no original name for {name} in an autoencoder of {blocks} levels")
        part, rest = found["part"], found["rest"]
        if found["kind"] == "resnets":
            rest = _replace_start(rest, {"conv_shortcut": "nin_shortcut"}, strict=False)
        if found["block"] == "mid_block":
            if found["kind"] == "attentions":
                rest = _replace_start(rest, _VAE_ATTENTION)
            return f"{half}.mid.{_VAE_MID[part]}.{rest}"
        way, number = found["block"].split("_blocks.")
        level = int(number) if way == "down" else blocks - 1 - int(number)
        if found["kind"] == "resnets":
            return f"{half}.{way}.{level}.block.{part.removeprefix('resnets.')}.{rest}"
        return f"{half}.{way}.{level}.{way}sample.{rest}"

    return rename


def clip_original_name(name: str) -> str:
    """Our name of a tensor of CLIP's text tower in the original files: that of transformers."""
    return f"transformer.{name}"


def open_clip_name(name: str) -> str:
    """Our name of a tensor of a text tower to OpenCLIP's.

    The projections q, k and v, which OpenCLIP keeps as one tensor attn.in_proj_weight (and _bias), are named
    attn.q.weight and so on.

    Raises:
        ValueError: an unknown name.
    """
    if name in _OPEN_CLIP:
        return f"model.{_OPEN_CLIP[name]}"
    if name.startswith("text_model.final_layer_norm."):
        return f"model.ln_final.{name.rpartition('.')[2]}"
    if found := re.fullmatch(r"text_model\.encoder\.layers\.(\d+)\.(.+)", name):
        return f"model.transformer.resblocks.{found[1]}.{_replace_start(found[2], _OPEN_CLIP_LAYER)}"
    raise ValueError(f"no OpenCLIP name for {name}")


def _unet_places(config: UNetConfig) -> dict[str, str]:
    """The original name of each part of a UNet's blocks, such as down_blocks.0.attentions.1."""
    levels = len(config.block_out_channels)
    layers = per_block("layers_per_block", config.layers_per_block, levels)
    places = {
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
    }
    number = 1
    for i, kind in enumerate(config.down_block_types):
        for j in range(layers[i]):
            places[f"down_blocks.{i}.resnets.{j}"] = f"input_blocks.{number}.0"
            if kind.startswith("CrossAttn"):
                places[f"down_blocks.{i}.attentions.{j}"] = f"input_blocks.{number}.1"
            number += 1
        if i < levels - 1:
            places[f"down_blocks.{i}.downsamplers.0"] = f"input_blocks.{number}.0"
            number += 1
    number = 0
    for i, kind in enumerate(config.up_block_types):
        attend = kind.startswith("CrossAttn")
        for j in range(layers[levels - 1 - i] + 1):
            places[f"up_blocks.{i}.resnets.{j}"] = f"output_blocks.{number}.0"
            if attend:
                places[f"up_blocks.{i}.attentions.{j}"] = f"output_blocks.{number}.1"
            number += 1
        if i < levels - 1:
            places[f"up_blocks.{i}.upsamplers.0"] = f"output_blocks.{number - 1}.{2 if attend else 1}"
    return places


def _replace_start(name: str, table: dict[str, str], *, strict: bool = True) -> str:
    for ours, theirs in table.items():
        if name == ours or name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    if strict:
        raise ValueError(f"no original name for the part {name}; known: {', '.join(table)}")
    return name
