"""What a file of tensors is: a Stable Diffusion model in the original layout, or something else, by name."""

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

from fdiv_jax.checkpoints.lora_names import other_kind
from fdiv_jax.checkpoints.original_names import Family
from fdiv_jax.checkpoints.original_shapes import Shapes

__all__ = [
    "TITLES",
    "Layout",
    "check_kind",
    "check_types",
    "find_layout",
    "is_adapter",
    "is_autoencoder",
    "model_family",
]

TITLES: dict[Family, str] = {
    "sd1": "Stable Diffusion 1.x",
    "sd2": "Stable Diffusion 2.x",
    "sdxl": "Stable Diffusion XL",
}
_UNET = "model.diffusion_model."
_FIRST = f"{_UNET}input_blocks.0.0.weight"
_VAES = ("first_stage_model.", "vae.")
_CHANNELS = {7: "an upscaler", 5: "a depth-to-image model"}
"""Kinds of models by the channels that their UNets take, which are not built here."""
_WITH_UNET = (
    (r"\.time_stack\.|\.time_mixer\.", "a video model"),
    (r"^control_model\.", "a model with a ControlNet"),
    (
        r"time_embed\.cond_proj\.|time_embedding\.cond_proj\.",
        "a latent consistency model in one file (its diffusers directory serves)",
    ),
    (r"^(edm_mean|edm_vpred\.sigma_max)$", "an EDM model (Playground v2.5, CosXL)"),
)
_WITHOUT_UNET = (
    (r"joint_blocks\.\d+\.(x_block|context_block)\.", "Stable Diffusion 3"),
    (r"distilled_guidance_layer\.", "Chroma"),
    (r"individual_token_refiner\.", "HunyuanVideo"),
    (r"single_stream_modulation\.", "FLUX.2"),
    (r"double_blocks\.\d+\.img_attn|single_blocks\.\d+\.linear1|single_transformer_blocks\.", "Flux"),
    (r"double_layers\.\d+\.attn\.w1q", "AuraFlow"),
    (r"cap_embedder\.", "Lumina 2 or Z-Image"),
    (r"patchify_proj\.", "LTX-Video"),
    (r"clip_txt_mapper\.|\.channelwise\.\d", "Stable Cascade"),
    (r"head\.modulation$", "Wan"),
    (r"caption_projection\.|adaln_single\.|adaLN_modulation", "a diffusion transformer"),
    (r"^(lllite_|controlnet_|control_model\.|input_hint_block\.|zero_convs\.)", "a ControlNet"),
    (r"motion_modules\.", "a motion module of AnimateDiff"),
)
_ADAPTER = re.compile(r"lora|hada_|lokr_|(^|[._])b?oft_|\.diff(_b)?$|on_input$")
_ORIGINAL_VAE = re.compile(r"(encoder\.down|decoder\.up)\.0\.block\.0\.")
_DIFFUSERS_VAE = re.compile(r"(encoder\.down|decoder\.up)_blocks\.0\.")
_PARTS = (
    (re.compile(r"(model\.)?(diffusion_model\.)?input_blocks\.0\.0\.weight"), "a UNet alone"),
    (re.compile(r"(unet\.)?down_blocks\.0\.resnets\.0\."), "a UNet alone, in diffusers' layout"),
    (re.compile(r"(.+\.)?(text_model\.|vision_model\.|transformer\.resblocks\.)"), "a CLIP encoder alone"),
)
_EXPECTED = "expected a whole text-to-image model: UNet, text encoder and autoencoder"
_SHOWN = 3


class Layout(NamedTuple):
    """Where the components lie in a file of the original layout."""

    root: str = ""
    """In front of every name: the wrapper that some trainers save with the model, such as "model."."""
    vae: str | None = _VAES[0]
    """The prefix of the autoencoder, behind `root`; None: the file has none."""
    bare: bool = False
    """Whether CLIP's text tower is without its usual `text_model.`, as files of 2022 have it."""

    @property
    def unet(self) -> str:
        """The prefix of the UNet."""
        return self.root + _UNET


def find_layout(names: Collection[str]) -> Layout | None:
    """The places of the components; None for a file without a UNet in the original layout."""
    roots = [name.removesuffix(_FIRST) for name in names if name.endswith(_FIRST)]
    roots = [root for root in roots if not root or root.endswith(".")]
    if not roots:
        return None
    root = min(roots, key=len)
    held = [prefix for prefix in _VAES if any(name.startswith(root + prefix) for name in names)]
    bare = any(name.startswith(f"{root}cond_stage_model.transformer.embeddings.") for name in names)
    return Layout(root, held[0] if held else None, bare)


def check_types(types: Mapping[str, str]) -> None:
    """Check the types of a file's tensors, by the names that safetensors gives them.

    Raises:
        NotImplementedError: weights in fp8 or fewer bits, or quantised ones.
    """
    for name, kind in types.items():
        if kind.startswith(("F8_", "F6_", "F4")):
            raise NotImplementedError(
                f"weights in {'fp8' if kind.startswith('F8') else 'fewer than 8 bits'} ({name} is {kind}), "
                "too coarse to train; expected those in float16, bfloat16 or float32"
            )
        if name.endswith((".quant_map", ".absmax", ".scale_weight", ".qweight")) or ".quant_state." in name:
            raise NotImplementedError(
                f"quantised weights, as {name} shows; expected those in float16, bfloat16 or float32"
            )


def check_kind(shapes: Shapes) -> Layout:
    """The layout of a file that holds a text-to-image model of the families that are built here.

    Raises:
        ValueError: a part of a model, or a file that changes a model.
        NotImplementedError: a model of another kind; names it.
    """
    layout = find_layout(shapes)
    if layout is None:
        _refuse_without_unet(shapes)
    assert layout is not None
    for pattern, kind in _WITH_UNET:
        if (found := _first(pattern, shapes)) is not None:
            raise NotImplementedError(f"{kind}, as {found} shows; expected a text-to-image model")
    taken, given = shapes[f"{layout.unet}input_blocks.0.0.weight"], shapes.get(f"{layout.unet}out.2.weight")
    if len(taken) > 1 and given and taken[1] not in (given[0], 2 * given[0], 2 * given[0] + 1):
        kind = _CHANNELS.get(taken[1], "a model of another kind")
        raise NotImplementedError(
            f"{kind}: its UNet takes {taken[1]} channels and gives {given[0]}; expected a text-to-image "
            f"model (as many as it gives), one for inpainting ({2 * given[0] + 1}) or InstructPix2Pix "
            f"({2 * given[0]})"
        )
    return layout


def model_family(names: Collection[str], layout: Layout) -> Family:
    """The family, by the text towers that are in the file.

    Raises:
        ValueError: no text encoder, or one of the two of XL.
        NotImplementedError: the refiner of XL, or an unCLIP.
    """

    def held(prefix: str) -> bool:
        return any(name.startswith(layout.root + prefix) for name in names)

    embedded = held(f"{_UNET}label_emb.")
    first, second = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
    if held("conditioner.embedders.0.model.") and not held(second):
        raise NotImplementedError(
            "the refiner of Stable Diffusion XL, which works on another model's images; expected the base"
        )
    if held(first) or held(second):
        if held(first) and held(second) and embedded:
            return "sdxl"
        missing = first if not held(first) else second if not held(second) else f"{_UNET}label_emb."
        raise ValueError(f"a model of Stable Diffusion XL without {missing}*; {_EXPECTED}")
    kinds: tuple[tuple[Family, str], ...] = (
        ("sd1", "cond_stage_model.transformer."),
        ("sd2", "cond_stage_model.model."),
    )
    for kind, prefix in kinds:
        if held(prefix):
            if embedded:
                raise NotImplementedError(
                    "a UNet with an embedding beside time (unCLIP); expected a text-to-image model"
                )
            return kind
    parts = "a UNet alone" if layout.vae is None else "a UNet and an autoencoder, without a text encoder"
    raise ValueError(f"{parts} (no cond_stage_model.* or conditioner.*); {_EXPECTED}")


def is_adapter(names: Collection[str]) -> bool:
    """Whether a file holds changes of a model, such as a LoRA, and no model."""
    return find_layout(names) is None and any(_ADAPTER.search(name) for name in names)


def is_autoencoder(names: Collection[str]) -> bool:
    """Whether a file holds an autoencoder alone, in the original layout."""
    return find_layout(names) is None and any(_ORIGINAL_VAE.search(name) for name in names)


def _refuse_without_unet(names: Collection[str]) -> None:
    """Say what a file without a UNet in the original layout is."""
    adapter = next((name for name in names if _ADAPTER.search(name)), None)
    if adapter is not None:
        what = other_kind(names)
        if what is None:
            raise ValueError(
                f"a LoRA, as {adapter} shows: it changes a model and is not one; add it to its model by "
                "--lora (pipe.with_lora in Python)"
            )
        raise ValueError(f"{what}; {_EXPECTED}")
    for pattern, kind in _WITHOUT_UNET:
        if (found := _first(pattern, names)) is not None:
            raise NotImplementedError(
                f"{kind}, as {found} shows; supported: {', '.join(TITLES.values())}, in the original layout"
            )
    if any(_ORIGINAL_VAE.search(name) or _DIFFUSERS_VAE.search(name) for name in names):
        raise ValueError("an autoencoder alone: it goes beside a model by --vae (vae=... in Python)")
    for pattern, kind in _PARTS:
        if (found := next((name for name in names if pattern.match(name)), None)) is not None:
            raise ValueError(f"{kind}, as {found} shows; {_EXPECTED}")
    what = other_kind(names)
    if what is not None and "whole" not in what:
        raise ValueError(f"{what}; {_EXPECTED}")
    shown = ", ".join(sorted(names)[:_SHOWN]) or "nothing"
    raise ValueError(
        f"no {_FIRST}, and so no Stable Diffusion in the original layout; the file holds {shown}"
    )


def _first(pattern: str, names: Collection[str]) -> str | None:
    search = re.compile(pattern).search
    return next((name for name in names if search(name)), None)
