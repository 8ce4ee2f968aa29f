"""The kinds of pipelines: which components each has, and what its UNet takes beside text and noisy latents.

A UNet for images and text is a text-to-image model where the image says nothing: an inpainting model with all
of the image masked, InstructPix2Pix without an image (which it was trained for, as it was for no text).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fdiv_jax.files import JsonMapping
from fdiv_jax.nn import UNetConfig

if TYPE_CHECKING:
    from fdiv_jax.pipeline.text_to_image import TextToImagePipeline

__all__ = ["COMPONENTS", "PIPELINES", "Beside", "beside", "class_name", "pipeline_kind"]

COMPONENTS: dict[str, tuple[str, str]] = {
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "tokenizer_2": ("transformers", "CLIPTokenizer"),
}
"""Library and class of each component that is run."""
_ONE_TOWER = ("unet", "vae", "text_encoder", "tokenizer")
_TWO_TOWERS = tuple(COMPONENTS)
PIPELINES: Mapping[str, tuple[str, ...]] = {
    "StableDiffusionPipeline": _ONE_TOWER,
    "StableDiffusionXLPipeline": _TWO_TOWERS,
    "LatentConsistencyModelPipeline": _ONE_TOWER,
    "StableDiffusionInpaintPipeline": _ONE_TOWER,
    "StableDiffusionXLInpaintPipeline": _TWO_TOWERS,
    "StableDiffusionInstructPix2PixPipeline": _ONE_TOWER,
    "StableDiffusionXLInstructPix2PixPipeline": _TWO_TOWERS,
}
"""The components of each kind of pipeline; others (a safety checker, for instance) are kept as files."""
_REFINED = (
    "which changes images, as the refiner of Stable Diffusion XL does; what serves is the base, a "
    "StableDiffusionXLPipeline, which draws the images that the refiner touches up"
)
_ENLARGED = "which enlarges another model's images; what serves is the model that draws them"
_FEATURES = (
    "which draws from an image's features; what serves is a StableDiffusionPipeline (Stable Diffusion 2.1)"
)
_INSTEAD = {
    "StableDiffusionXLImg2ImgPipeline": _REFINED,
    "StableDiffusionImg2ImgPipeline": "which changes images; what serves is its networks' usual _class_name, "
    "StableDiffusionPipeline",
    "StableDiffusionDepth2ImgPipeline": "which draws over a map of depths; what serves is the model that it "
    "was made from, a StableDiffusionPipeline (Stable Diffusion 2.0 base)",
    "StableDiffusionUpscalePipeline": _ENLARGED,
    "StableDiffusionLatentUpscalePipeline": _ENLARGED,
    "StableUnCLIPPipeline": _FEATURES,
    "StableUnCLIPImg2ImgPipeline": _FEATURES,
}
"""What other pipelines for Stable Diffusion are, and what serves instead."""

Beside = Literal["nothing", "mask", "image"]
"""What a UNet takes behind the channels of the noisy latents: nothing; a mask and the masked image's latents
(inpainting); an image's latents (InstructPix2Pix)."""


def beside(unet: UNetConfig, latent: int) -> Beside:
    """What a UNet takes beside the `latent` channels of an autoencoder.

    Raises:
        ValueError: another number of channels.
    """
    kinds: dict[int, Beside] = {latent: "nothing", 2 * latent + 1: "mask", 2 * latent: "image"}
    if unet.in_channels not in kinds or unet.out_channels != latent:
        raise ValueError(
            f"UNet with in_channels={unet.in_channels} and out_channels={unet.out_channels} for an "
            f"autoencoder with latent_channels={latent}; expected {latent} of both, or in_channels="
            f"{2 * latent + 1} (inpainting) or {2 * latent} (InstructPix2Pix)"
        )
    return kinds[unet.in_channels]


def pipeline_kind(directory: Path, index: JsonMapping) -> str:
    """The kind of pipeline that a `model_index.json` names.

    Raises:
        NotImplementedError: another one; says what serves instead, where something does.
    """
    kind = index.get("_class_name")
    if isinstance(kind, str) and kind in PIPELINES:
        return kind
    if kind is None:
        named = "model_index.json names no pipeline (_class_name)"
    else:
        named = f"pipeline {kind!r}"
        if isinstance(kind, str) and kind in _INSTEAD:
            raise NotImplementedError(f"{directory}: {named}, {_INSTEAD[kind]}")
    raise NotImplementedError(f"{directory}: {named}; supported: {', '.join(PIPELINES)}")


def class_name(pipe: TextToImagePipeline) -> str:
    """The `_class_name` of a pipeline in `model_index.json`: the one it was loaded with, if that fits its
    networks, else the first that does."""
    xl = "" if pipe.text_encoder_2 is None else "XL"
    kind = beside(pipe.unet.config, pipe.vae.config.latent_channels)
    fitting = {
        "nothing": [f"StableDiffusion{xl}Pipeline", f"StableDiffusion{xl}InpaintPipeline"],
        "mask": [f"StableDiffusion{xl}InpaintPipeline"],
        "image": [f"StableDiffusion{xl}InstructPix2PixPipeline"],
    }[kind]
    if pipe.unet.config.time_cond_proj_dim is not None and kind == "nothing" and not xl:
        fitting.insert(0, "LatentConsistencyModelPipeline")
    named = pipe.extras.get("_class_name")
    return named if isinstance(named, str) and named in fitting else fitting[0]
