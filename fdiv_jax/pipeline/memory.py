"""The memory that drawing takes, from shapes, before anything is allocated."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx

from fdiv_jax.arrays import PyTree
from fdiv_jax.nn import Text
from fdiv_jax.nn.conditioning import TextConditioning
from fdiv_jax.nn.memory import peak_bytes, shapes_of
from fdiv_jax.nn.room import require_room

if TYPE_CHECKING:
    from fdiv_jax.pipeline.text_to_image import TextToImagePipeline

__all__ = [
    "LATENT_PIXELS_A_CALL",
    "check_decoding",
    "check_drawing",
    "decoding_bytes",
    "drawing_bytes",
    "images_a_call",
    "latent_text",
]

Shape = tuple[int, ...]

LATENT_PIXELS_A_CALL = 16_384
"""Latent pixels per call of the networks: 4 images of 512 px, 256 of the world `fashion`."""
_ADVICE = "expected fewer or smaller images, tiles (tile=), or dtype bfloat16"


def images_a_call(shape: Shape) -> int:
    """Number of images with latents h w ... per call of the networks."""
    return max(1, LATENT_PIXELS_A_CALL // (shape[0] * shape[1]))


def drawing_bytes(pipe: TextToImagePipeline, count: int, at_once: int, shape: Shape, guided: bool) -> int:
    """Bytes that the sampler takes beside the model.

    Args:
        pipe: the model.
        count: number of images.
        at_once: number of images per call of the UNet.
        shape: h w c of the latents of an image.
        guided: with classifier-free guidance, which doubles the batch.
    """
    rows = min(count, at_once) * (2 if guided else 1)
    # the latents of all images: noise, result, and their parts; and the state of the sampler in a call
    latents = 4 * math.prod(shape) * (3 * count + 3 * rows)
    x, t = jax.ShapeDtypeStruct((rows, *shape), jnp.float32), jax.ShapeDtypeStruct((rows,), jnp.int32)
    return latents + _call_bytes(pipe.unet, "__call__", x, t, latent_text(pipe, rows, shape))


def decoding_bytes(pipe: TextToImagePipeline, count: int, at_once: int, shape: Shape) -> int:
    """Bytes that the autoencoder takes to decode `count` latents h w c, `at_once` of them per call."""
    pixels = pipe.vae.config.out_channels * (pipe.vae.config.downsampling**2) * math.prod(shape[:2])
    x = jax.ShapeDtypeStruct((min(count, at_once), *shape), jnp.float32)
    # all images in single precision, twice while they are joined, and as bytes
    return (4 + 4 + 1) * count * pixels + _call_bytes(pipe.vae, "decode", x)


def check_drawing(pipe: TextToImagePipeline, count: int, shape: Shape, guided: bool) -> None:
    """Check that there is memory for drawing latents.

    Raises:
        MemoryError: too little memory; see `require_room`.
    """
    factor = pipe.vae.config.downsampling
    what = f"drawing {count} images of {shape[0] * factor} x {shape[1] * factor} px"
    require_room(drawing_bytes(pipe, count, images_a_call(shape), shape, guided), what, _ADVICE)


def check_decoding(pipe: TextToImagePipeline, count: int, shape: Shape) -> None:
    """Check that there is memory for decoding latents.

    Raises:
        MemoryError: too little memory; see `require_room`.
    """
    factor = pipe.vae.config.downsampling
    what = f"decoding {count} images of {shape[0] * factor} x {shape[1] * factor} px"
    require_room(decoding_bytes(pipe, count, images_a_call(shape), shape), what, _ADVICE)


def latent_text(pipe: TextToImagePipeline, rows: int, shape: Shape | None = None) -> Text:
    """The shapes of the conditioning passed to the UNet for `rows` prompts and latents h w c; None: those of
    the model's own size."""
    width = sum(encoder.config.hidden_size for _, encoder in pipe.text_towers)
    # Shapes stand in for arrays.
    text: Any = jax.ShapeDtypeStruct((rows, pipe.text_length, width), jnp.float32)
    if pipe.text_encoder_2 is not None:
        pooled: Any = jax.ShapeDtypeStruct((rows, pipe.text_encoder_2.config.projection_dim), jnp.float32)
        text = TextConditioning(text, pooled)
    return jax.eval_shape(lambda own: pipe.sized(own, (rows, *(shape or pipe.latent_shape))), text)


def _call_bytes(network: nnx.Module, method: str, *arguments: PyTree) -> int:
    """Bytes that a call of a network's method takes; traced once per structure and shapes."""
    graph, parameters = nnx.split(network)
    leaves, structure = jax.tree.flatten(shapes_of((parameters, arguments)))
    return _traced_bytes(graph, method, structure, tuple(leaves))


@functools.lru_cache(maxsize=512)
def _traced_bytes(
    graph: nnx.GraphDef, method: str, structure: Any, leaves: tuple[jax.ShapeDtypeStruct, ...]
) -> int:
    parameters, arguments = jax.tree.unflatten(structure, leaves)
    return peak_bytes(lambda p, *a: getattr(nnx.merge(graph, p), method)(*a), parameters, *arguments)
