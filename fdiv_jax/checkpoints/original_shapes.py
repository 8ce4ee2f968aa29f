"""Configurations from the shapes of a file in the original layout.

Shapes show channels, residual blocks, transformers and widths. They do not show the number of heads, which
follows the family: 8 in Stable Diffusion 1.x, one per 64 channels in 2.x, XL and every text tower.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from fdiv_jax.checkpoints.original_names import Family
from fdiv_jax.files import JsonObject

__all__ = ["CHANNELS_A_HEAD", "Shapes", "below", "tower_settings", "unet_settings", "vae_settings"]

Shapes = Mapping[str, tuple[int, ...]]
"""The shapes of tensors by name, without the prefix of their component."""
CHANNELS_A_HEAD = 64
_HEADS_SD1 = 8
_LAYERS_SD2 = 23
"""Layers of its text tower that Stable Diffusion 2.x uses: files hold the 24th of OpenCLIP ViT-H as well."""
_Tree = dict[str, Any]
_Depths = list[int | None]
"""Transformer layers behind each residual block of a level; None: no transformer."""


def below(shapes: Shapes, prefix: str) -> dict[str, tuple[int, ...]]:
    """The shapes of the names with a prefix, without it."""
    return {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}


def unet_settings(shapes: Shapes, kind: Family) -> JsonObject:
    """The settings of `UNetConfig` that the shapes of a UNet's tensors show.

    Raises:
        ValueError: a tensor that every UNet has is missing, or a structure that no UNet of the family has.
    """
    tree = _tree(shapes)
    first, *rest = _numbered(tree, "input_blocks")
    channels, down = [], [[]]
    for block in rest:
        if "op" in block.get("0", {}):
            down.append([])
            continue
        down[-1].append(_depth(block))
        if len(channels) < len(down):
            channels.append(_shape(block, "0.in_layers.2.weight")[0])
    counts = [len(level) for level in down]
    if not all(counts):
        raise ValueError(f"levels of {counts} residual blocks, expected at least one in each")
    outputs = [_depth(block) for block in _numbered(tree, "output_blocks")]
    if len(outputs) != sum(counts) + len(counts):
        raise ValueError(
            f"{len(outputs)} output_blocks, expected {sum(counts) + len(counts)} for levels of {counts} "
            "residual blocks on the way down"
        )
    up = []
    for count in reversed(counts):
        up.append(outputs[: count + 1])
        outputs = outputs[count + 1 :]
    attending = [_attends(level) for level in (*down, *up)]
    middle = _numbered(tree, "middle_block") if "middle_block" in tree else []
    settings: JsonObject = {
        "in_channels": _shape(first, "0.weight")[1],
        "out_channels": _shape(tree, "out.2.weight")[0],
        "block_out_channels": channels,
        "layers_per_block": counts[0] if len(set(counts)) == 1 else counts,
        "down_block_types": [f"{'CrossAttn' * a}DownBlock2D" for a in attending[: len(down)]],
        "up_block_types": [f"{'CrossAttn' * a}UpBlock2D" for a in attending[len(down) :]],
        "mid_block_type": {0: None, 1: "UNetMidBlock2D"}.get(len(middle), "UNetMidBlock2DCrossAttn"),
        "cross_attention_dim": _context(shapes),
        "use_linear_projection": kind != "sd1",
        **_depths(down, up, _depth({"1": middle[1]}) if len(middle) > 1 else None),
    }
    if kind == "sd1":
        settings["attention_head_dim"] = _HEADS_SD1
    else:
        settings["attention_head_dim"] = [_heads(width) for width in channels]
    if kind == "sdxl":
        settings["projection_class_embeddings_input_dim"] = _shape(tree, "label_emb.0.0.weight")[1]
    return settings


def vae_settings(shapes: Shapes) -> JsonObject:
    """The settings of `VAEConfig` that the shapes of an autoencoder's tensors show.

    Raises:
        ValueError: a tensor that every autoencoder has is missing, or halves that do not fit each other.
    """
    tree = _tree(shapes)
    levels = _numbered(tree, "encoder.down")
    counts = [len(_numbered(level, "block")) for level in levels]
    decoded = [len(_numbered(level, "block")) for level in _numbered(tree, "decoder.up")]
    if len({*counts, *(count - 1 for count in decoded)}) != 1 or len(counts) != len(decoded):
        raise ValueError(
            f"an autoencoder of {counts} residual blocks in its encoder's levels and {decoded} in its "
            "decoder's, expected the same number in each level of the encoder, and one more in the decoder's"
        )
    return {
        "in_channels": _shape(tree, "encoder.conv_in.weight")[1],
        "out_channels": _shape(tree, "decoder.conv_out.weight")[0],
        "latent_channels": _shape(tree, "decoder.conv_in.weight")[1],
        "block_out_channels": [_shape(level, "block.0.conv1.weight")[0] for level in levels],
        "layers_per_block": counts[0],
        "down_block_types": ["DownEncoderBlock2D"] * len(levels),
        "up_block_types": ["UpDecoderBlock2D"] * len(levels),
        "use_quant_conv": "quant_conv" in tree,
        "use_post_quant_conv": "post_quant_conv" in tree,
        "mid_block_add_attention": "attn_1" in _inside(tree, "encoder.mid"),
    }


def tower_settings(shapes: Shapes, kind: Family, *, open_clip: bool) -> JsonObject:
    """The settings of `CLIPTextConfig` that the shapes of a text tower's tensors show.

    Args:
        shapes: by transformers' names, `text_model.embeddings...`; by OpenCLIP's where `open_clip`.
        kind: the family, which says how many layers are used.
        open_clip: whether the names are OpenCLIP's.

    Raises:
        ValueError: a tensor that every tower has is missing.
    """
    tree = _tree(shapes)
    if open_clip:
        layers = _numbered(tree, "transformer.resblocks")
        tokens, positions = _shape(tree, "token_embedding.weight"), _shape(tree, "positional_embedding")
        inner = _shape(layers[0], "mlp.c_fc.weight")[0]
    else:
        layers = _numbered(tree, "text_model.encoder.layers")
        tokens = _shape(tree, "text_model.embeddings.token_embedding.weight")
        positions = _shape(tree, "text_model.embeddings.position_embedding.weight")
        inner = _shape(layers[0], "mlp.fc1.weight")[0]
    settings: JsonObject = {
        "vocab_size": tokens[0],
        "hidden_size": tokens[1],
        "intermediate_size": inner,
        "max_position_embeddings": positions[0],
        "num_hidden_layers": min(len(layers), _LAYERS_SD2) if kind == "sd2" else len(layers),
        "num_attention_heads": _heads(tokens[1]),
    }
    if kind == "sdxl" and open_clip:
        settings["projection_dim"] = _shape(tree, "text_projection")[1]
    return settings


def _depths(down: Sequence[_Depths], up: Sequence[_Depths], middle: int | None) -> JsonObject:
    """`transformer_layers_per_block`, with the way up beside it where it differs from the way down."""
    plain = [level[0] for level in down]
    usual = [[depth] * (len(level) + 1) for depth, level in zip(plain[::-1], down[::-1], strict=True)]
    if middle is not None and plain[-1] not in (None, middle):
        raise ValueError(
            f"{middle} transformer layers in the middle block and {plain[-1]} in the level before it, "
            "expected as many"
        )
    filled = [1 if depth is None else depth for depth in plain]
    if middle is not None:  # the middle block has as many as the last level, transformers there or not
        filled[-1] = middle
    if all(len(set(level)) == 1 for level in down) and usual == list(up):
        return {"transformer_layers_per_block": 1 if set(filled) == {1} else filled}
    return {
        "transformer_layers_per_block": [
            fill if level[0] is None else level for fill, level in zip(filled, down, strict=True)
        ],
        "reverse_transformer_layers_per_block": [1 if level[0] is None else level for level in up],
    }


def _attends(level: _Depths) -> bool:
    if len({depth is None for depth in level}) > 1:
        raise ValueError(
            f"a level with transformers of {level} layers, expected one behind every residual block, or none"
        )
    return level[0] is not None


def _depth(block: _Tree) -> int | None:
    """Transformer layers behind the residual block of a block."""
    inner = block.get("1", {})
    if "proj_in" not in inner:
        return None
    return len(_numbered(inner, "transformer_blocks")) if "transformer_blocks" in inner else 0


def _context(shapes: Shapes) -> int:
    keys = [shape for name, shape in shapes.items() if name.endswith("attn2.to_k.weight") and shape]
    widths = sorted({shape[-1] for shape in keys})
    if len(widths) != 1:
        found = ", ".join(map(str, widths)) or "none"
        raise ValueError(f"attention to text of widths {found}, expected one width")
    return widths[0]


def _heads(width: int) -> int:
    """Heads of 64 channels."""
    if width % CHANNELS_A_HEAD:
        raise ValueError(
            f"attention over {width} channels; the family has heads of {CHANNELS_A_HEAD} channels, so the "
            "number of heads cannot be told"
        )
    return width // CHANNELS_A_HEAD


def _tree(shapes: Shapes) -> _Tree:
    """The names split at their dots, the shapes as leaves."""
    tree: _Tree = {}
    for name, shape in shapes.items():
        *path, leaf = name.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise ValueError(f"{name} lies below the name of another tensor")
        node[leaf] = shape
    return tree


def _inside(tree: _Tree, path: str) -> Any:
    node: Any = tree
    for part in path.split("."):
        if not isinstance(node, dict) or part not in node:
            raise ValueError(f"no tensor {path}")
        node = node[part]
    return node


def _shape(tree: _Tree, path: str) -> tuple[int, ...]:
    """The shape of a tensor of at least two axes."""
    shape = _inside(tree, path)
    if isinstance(shape, dict) or len(shape) < 2 or 0 in shape:
        raise ValueError(f"{path} is no matrix or convolution")
    return shape


def _numbered(tree: _Tree, path: str) -> list[_Tree]:
    """The parts numbered 0, 1, ... below a name."""
    parts = _inside(tree, path)
    if not isinstance(parts, dict) or set(parts) != set(map(str, range(len(parts)))):
        raise ValueError(f"{path} is not numbered from 0 on without a gap")
    found = [parts[str(number)] for number in range(len(parts))]
    if not all(isinstance(part, dict) for part in found):
        raise ValueError(f"{path} holds tensors, expected blocks")
    return found
