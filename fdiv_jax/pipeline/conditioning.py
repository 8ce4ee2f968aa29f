"""What a UNet takes beside noisy latents, a timestep and the text's features, filled in."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax.numpy as jnp

from fdiv_jax.arrays import Latents
from fdiv_jax.nn import Text, TextConditioning, sized_text
from fdiv_jax.pipeline.kinds import beside

if TYPE_CHECKING:
    from fdiv_jax.pipeline.text_to_image import TextToImagePipeline

__all__ = ["completed"]


def completed(
    pipe: TextToImagePipeline, text: Text, latents: tuple[int, ...], guidance: float | None
) -> Text:
    """`text` with all that the model's UNet takes for latents of a shape, where it lacks it.

    Args:
        pipe: the model.
        text: of n prompts.
        latents: n h w c.
        guidance: of a latent consistency model; None: its own.
    """
    factor = pipe.vae.config.downsampling
    text = sized_text(text, latents[1] * factor, latents[2] * factor)
    takes_guidance = pipe.unet.config.time_cond_proj_dim is not None
    kind = beside(pipe.unet.config, pipe.vae.config.latent_channels)
    if not takes_guidance and kind == "nothing":
        return text
    found = text if isinstance(text, TextConditioning) else TextConditioning(text)
    rows = found.hidden.shape[0]
    if takes_guidance and found.guidance is None:
        g = pipe.drawing_defaults.guidance if guidance is None else guidance
        found = dataclasses.replace(found, guidance=jnp.full((rows,), g, jnp.float32))
    if kind != "nothing" and found.beside is None:
        blank = blank_channels(pipe, latents[1], latents[2])
        found = dataclasses.replace(found, beside=jnp.broadcast_to(blank, (rows, *blank.shape[1:])))
    return found


def blank_channels(pipe: TextToImagePipeline, height: int, width: int) -> Latents:
    """The channels beside `height` x `width` latents that leave the image to the text, 1 h w c.

    For inpainting a mask of ones, all of the image to be drawn, and the scaled latents of what is left of
    it, a grey image (0 of -1 to 1), as diffusers' pipeline encodes it. For InstructPix2Pix zeros, which
    stand for no image.

    Source: Brooks, Holynski, Efros, InstructPix2Pix: learning to follow image editing instructions, 2023,
    section 3.2.1.
    """
    latent = pipe.vae.config.latent_channels
    if beside(pipe.unet.config, latent) == "image":
        return jnp.zeros((1, height, width, latent))
    factor = pipe.vae.config.downsampling
    grey = jnp.zeros((1, height * factor, width * factor, pipe.vae.config.in_channels))
    return jnp.concatenate([jnp.ones((1, height, width, 1)), pipe.encode_images(grey)], axis=-1)
