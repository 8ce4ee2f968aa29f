"""A pipeline's networks as compiled functions of their parameters; pipelines of one structure share them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float

from fdiv_jax.arrays import Images, Latents, Predictions, PyTree, RealTimesteps, Scalar, Timesteps, TokenIds
from fdiv_jax.compiling import jit
from fdiv_jax.nn import CLIPTextModel, Text, TextConditioning

__all__ = ["decode", "denoise", "encode_images", "encode_text", "features_of", "guided", "unguided"]

PairedText = Float[jax.Array, "rows tokens features"] | TextConditioning
"""Two rows per image: without the prompt, and with it."""


@functools.partial(jit, static_argnums=0)
def encode_text(graphs: tuple[nnx.GraphDef, ...], parameters: PyTree, tokens: tuple[TokenIds, ...]) -> Text:
    """The conditioning for token ids; see `features_of`."""
    return features_of([nnx.merge(graph, own) for graph, own in zip(graphs, parameters, strict=True)], tokens)


def features_of(encoders: Sequence[CLIPTextModel], tokens: Sequence[TokenIds]) -> Text:
    """The conditioning for token ids, one array per encoder; see `TextToImagePipeline.encode_prompts`."""
    features = [encoder.features(ids) for encoder, ids in zip(encoders, tokens, strict=True)]
    if len(features) == 1:
        return features[0].last
    hidden = jnp.concatenate([tower.hidden[-2] for tower in features], axis=-1)
    return TextConditioning(hidden, features[-1].pooled)


@functools.partial(jit, static_argnums=0)
def denoise(
    graph: nnx.GraphDef, parameters: PyTree, latents: Latents, timesteps: Timesteps, text: Text
) -> Predictions:
    """The UNet's raw output."""
    return nnx.merge(graph, parameters)(latents, timesteps, text)


@functools.partial(jit, static_argnums=0)
def decode(graph: nnx.GraphDef, parameters: PyTree, latents: Latents) -> Images:
    """Images of scaled latents."""
    vae = nnx.merge(graph, parameters)
    return vae.decode(latents / vae.config.scaling_factor + (vae.config.shift_factor or 0.0))


@functools.partial(jit, static_argnums=0)
def encode_images(graph: nnx.GraphDef, parameters: PyTree, images: Images) -> Latents:
    """Scaled latents of images, the mean of their distribution."""
    vae = nnx.merge(graph, parameters)
    return (vae.encode(images)[0] - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor


# One function per network structure, so that every set of parameters runs the same compiled sampler.


@functools.lru_cache
def guided(graph: nnx.GraphDef) -> Callable[..., Predictions]:
    """The guided output as a function of (parameters, text, guidance, x, t); text has two rows per image."""

    def output(
        parameters: PyTree, text: PairedText, guidance: Scalar, x: Latents, t: RealTimesteps
    ) -> Predictions:
        # each image beside its unconditional twin, so that a batch cut over devices stays where it is
        both = nnx.merge(graph, parameters)(jnp.repeat(x, 2, axis=0), jnp.repeat(t, 2), text)
        u, c = both[0::2], both[1::2]
        return u + guidance * (c - u)

    return output


@functools.lru_cache
def unguided(graph: nnx.GraphDef) -> Callable[..., Predictions]:
    """The output as a function of (parameters, text, x, t)."""

    def output(parameters: PyTree, text: Text, x: Latents, t: RealTimesteps) -> Predictions:
        return nnx.merge(graph, parameters)(x, t, text)

    return output
