"""Text to image: tokenizer, text encoder, UNet, autoencoder and noise schedule in one object."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import Partial

from fdiv_jax.diffusion import NoiseSchedule, Sampler, sample
from fdiv_jax.nn import AutoencoderKL, CLIPTextModel, UNet2DConditionModel
from fdiv_jax.pipeline.concepts import Concept

_LATENT_PIXELS_A_CALL = 16_384
"""How many latent pixels one call of the networks takes: 4 images of 512 px, 256 of the world `fashion`."""


@dataclasses.dataclass(frozen=True)
class TextToImagePipeline:
    """A latent diffusion model that draws prompts. Immutable: `replace` makes a changed copy.

    Images are n h w c, float32 with -1 black and 1 white, or uint8. Latents are n h w c *as the UNet sees
    them*, that is, times the autoencoder's scaling factor.

    Attributes:
        unet: predicts the noise (or v).
        vae: images to unscaled latents and back.
        text_encoder: token ids to features.
        tokenizer: a transformers tokenizer.
        schedule: the noise process.
        scheduler_config: `scheduler_config.json` as it was read.
        concepts: what the model directory says can be unlearned; empty for most models.
        name: what it was loaded by.
        extras: what `model_index.json` held beside the components.
    """

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: Any
    schedule: NoiseSchedule
    scheduler_config: Mapping[str, Any]
    concepts: Mapping[str, Concept] = dataclasses.field(default_factory=dict)
    name: str = ""
    extras: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    stored_dtypes: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        width, context = self.text_encoder.config.hidden_size, self.unet.config.cross_attention_dim
        if any(width != c for c in (context if isinstance(context, tuple) else (context,))):
            raise ValueError(f"text encoder of width {width} for a UNet with cross_attention_dim={context}")
        if self.unet.config.in_channels != self.vae.config.latent_channels:
            raise ValueError(
                f"UNet with in_channels={self.unet.config.in_channels} for an autoencoder with "
                f"latent_channels={self.vae.config.latent_channels}"
            )

    def replace(self, **changes: Any) -> TextToImagePipeline:
        """A copy with some attributes changed, for instance `unet`; everything else is shared."""
        return dataclasses.replace(self, **changes)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(h, w, c) of the latents of an image of the model's own size."""
        size = self.unet.config.sample_size or 64
        h, w = size if isinstance(size, tuple) else (size, size)
        return h, w, self.unet.config.in_channels

    @property
    def text_length(self) -> int:
        """Tokens a prompt is padded or cut to."""
        return min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings)

    def encode_prompts(self, prompts: Sequence[str]) -> jax.Array:
        """The features that the UNet attends to.

        Args:
            prompts: texts; "" is the unconditional one. Longer ones than `text_length` tokens are cut.

        Returns:
            n l d, float32.

        Raises:
            TypeError: a single string, or something that is not text.
        """
        tokens = self.tokenizer(
            check_prompts(prompts),
            padding="max_length",
            max_length=self.text_length,
            truncation=True,
            return_tensors="np",
        )["input_ids"]
        graph, parameters = nnx.split(self.text_encoder)
        return _encode_text(graph, parameters, jnp.asarray(tokens, jnp.int32))

    def denoise(self, latents: jax.Array, timesteps: jax.Array, text: jax.Array) -> jax.Array:
        """The UNet's raw output (noise or v, as `schedule.prediction_type` says).

        Args:
            latents: n h w c, scaled.
            timesteps: (n,) or (), integers from 0 to `schedule.num_train_timesteps` - 1.
            text: n l d, from `encode_prompts`.

        Returns:
            n h w c, float32.

        Raises:
            ValueError: shapes that do not fit; TypeError: timesteps that are not integers.
        """
        latents, text, timesteps = jnp.asarray(latents), jnp.asarray(text), jnp.asarray(timesteps)
        if latents.ndim != 4 or latents.shape[-1] != self.unet.config.in_channels:
            raise ValueError(
                f"latents of shape {latents.shape}, expected (n, h, w, {self.unet.config.in_channels})"
            )
        if text.ndim != 3 or text.shape[0] != latents.shape[0]:
            raise ValueError(f"text of shape {text.shape}, expected ({latents.shape[0]}, l, d)")
        if not jnp.issubdtype(timesteps.dtype, jnp.integer):
            raise TypeError(f"timesteps of dtype {timesteps.dtype}, expected integers")
        if timesteps.shape not in ((), latents.shape[:1]):
            raise ValueError(f"timesteps of shape {timesteps.shape}, expected ({latents.shape[0]},)")
        graph, parameters = nnx.split(self.unet)
        return _denoise(graph, parameters, latents, jnp.broadcast_to(timesteps, latents.shape[:1]), text)

    def decode(self, latents: jax.Array) -> jax.Array:
        """Images of scaled latents: n h w c -> n H W 3, float32, -1 black, 1 white, not clipped."""
        graph, parameters = nnx.split(self.vae)
        parts = [_decode(graph, parameters, part) for part in self._calls(jnp.asarray(latents))]
        return jnp.concatenate(parts)

    def encode_images(self, images: jax.Array) -> jax.Array:
        """Scaled latents of images, the mean of their distribution.

        Args:
            images: n H W 3; uint8, or floating-point with -1 black and 1 white.

        Returns:
            n h w c, float32.

        Raises:
            ValueError: another shape, or sides that the autoencoder's downsampling does not divide.
        """
        images = jnp.asarray(images)
        factor = self.vae.config.downsampling
        if images.ndim != 4 or images.shape[-1] != self.vae.config.in_channels:
            raise ValueError(
                f"images of shape {images.shape}, expected (n, h, w, {self.vae.config.in_channels})"
            )
        if images.shape[1] % factor or images.shape[2] % factor:
            raise ValueError(
                f"images of {images.shape[1]} x {images.shape[2]} px, expected multiples of {factor}"
            )
        if images.dtype == jnp.uint8:
            images = images.astype(jnp.float32) / 127.5 - 1.0
        graph, parameters = nnx.split(self.vae)
        size = max(1, _LATENT_PIXELS_A_CALL * factor**2 // (images.shape[1] * images.shape[2]))
        parts = [images[i : i + size] for i in range(0, len(images), size)]
        return jnp.concatenate([_encode_images(graph, parameters, part) for part in parts])

    def generate(
        self,
        prompts: Sequence[str],
        *,
        seed: int = 0,
        steps: int = 25,
        guidance: float = 6.0,
        sampler: str | Sampler = "ddim",
        eta: float = 0.0,
        negative_prompt: str = "",
        initial: jax.Array | None = None,
    ) -> jax.Array:
        """Scaled latents drawn for prompts.

        With guidance g > 1 the network's output is u + g (c - u), with c the one at the prompt and u the one
        at `negative_prompt`, both from one batched call (Ho and Salimans, Classifier-free diffusion guidance,
        2022).
        The initial noise of image i depends on (seed, i) alone.

        Args:
            prompts: one an image.
            seed: of the noise.
            steps: of the sampler.
            guidance: g; 1 or less leaves the guidance out.
            sampler: a name in `fdiv_jax.diffusion.SAMPLERS`, or a sampler.
            eta: the share of fresh noise a step, for samplers that take it.
            negative_prompt: what to be guided away from.
            initial: n h w c, the initial noise, instead of the seed's.

        Returns:
            n h w c, float32.

        Raises:
            ValueError: an unknown sampler, steps or eta out of range, noise of another shape.
            TypeError: prompts that are not a list of strings.
        """
        prompts = check_prompts(prompts)
        if not np.isfinite(guidance):
            raise ValueError(f"guidance {guidance}, expected a finite number")
        root = jax.random.key(seed)
        if initial is None:
            keys = jax.vmap(lambda i: jax.random.fold_in(root, i))(jnp.arange(len(prompts)))
            initial = jax.vmap(lambda key: jax.random.normal(key, self.latent_shape))(keys)
        initial = jnp.asarray(initial)
        if (
            initial.shape[0] != len(prompts)
            or initial.shape[-1] != self.latent_shape[-1]
            or initial.ndim != 4
        ):
            raise ValueError(
                f"initial noise of shape {initial.shape}, "
                f"expected ({len(prompts)}, h, w, {self.latent_shape[-1]})"
            )
        distinct = list(dict.fromkeys([negative_prompt, *prompts]))
        table = self.encode_prompts(distinct)
        text = table[np.asarray([distinct.index(prompt) for prompt in prompts])]
        graph, parameters = nnx.split(self.unet)
        parts = []
        for number, x in enumerate(self._calls(initial)):
            first = sum(len(part) for part in parts)
            c = text[first : first + len(x)]
            x, c, here = _share_out(x, c, parameters)
            if guidance > 1:
                pairs = jnp.stack([jnp.broadcast_to(table[:1], c.shape), c], axis=1)
                function = Partial(
                    _guided(graph), here, pairs.reshape(-1, *c.shape[1:]), jnp.float32(guidance)
                )
            else:
                function = Partial(_unguided(graph), here, c)
            key = jax.random.fold_in(jax.random.fold_in(root, len(prompts)), number)
            drawn = sample(function, self.schedule, x, sampler=sampler, steps=steps, eta=eta, key=key)
            parts.append(jax.device_put(drawn, jax.local_devices()[0]))
        return jnp.concatenate(parts)

    def __call__(self, prompts: Sequence[str], **options: Any) -> np.ndarray:
        """Images drawn for prompts: uint8, n H W 3. Options as for `generate`."""
        return to_uint8(self.decode(self.generate(prompts, **options)))

    def save(self, directory: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write a diffusers directory, whole or not at all; see `fdiv_jax.pipeline.save_pipeline`."""
        from fdiv_jax.pipeline.directory import save_pipeline

        return save_pipeline(self, directory, overwrite=overwrite)

    def _calls(self, x: jax.Array) -> list[jax.Array]:
        """Cut a batch of latents into what one call of the networks takes."""
        if x.ndim != 4 or x.shape[-1] != self.latent_shape[-1]:
            raise ValueError(f"latents of shape {x.shape}, expected (n, h, w, {self.latent_shape[-1]})")
        size = max(1, _LATENT_PIXELS_A_CALL // (x.shape[1] * x.shape[2]))
        return [x[i : i + size] for i in range(0, len(x), size)]


def _share_out(x: jax.Array, text: jax.Array, parameters: Any) -> tuple[jax.Array, jax.Array, Any]:
    """Cut a batch over the local devices, with the parameters on each of them, where it comes out even."""
    devices = jax.local_devices()
    if len(devices) == 1 or len(x) % len(devices):
        return x, text, parameters
    mesh = Mesh(np.asarray(devices), ("batch",))
    split, everywhere = NamedSharding(mesh, PartitionSpec("batch")), NamedSharding(mesh, PartitionSpec())
    return jax.device_put(x, split), jax.device_put(text, split), jax.device_put(parameters, everywhere)


def to_uint8(images: jax.Array) -> np.ndarray:
    """Images of -1 to 1, clipped and rounded to 0 to 255."""
    return np.asarray(jnp.round((jnp.clip(images, -1.0, 1.0) + 1.0) * 127.5)).astype(np.uint8)


def check_prompts(prompts: Sequence[str]) -> list[str]:
    """The prompts as a list.

    Raises:
        TypeError: a single string, or an entry that is not a string.
        ValueError: no prompt at all.
    """
    if isinstance(prompts, str) or not all(isinstance(prompt, str) for prompt in prompts):
        raise TypeError(f"prompts {prompts!r}, expected a list of strings")
    if not prompts:
        raise ValueError("no prompts, expected at least one")
    return list(prompts)


@functools.partial(jax.jit, static_argnums=0)
def _encode_text(graph: Any, parameters: Any, tokens: jax.Array) -> jax.Array:
    return nnx.merge(graph, parameters)(tokens)


@functools.partial(jax.jit, static_argnums=0)
def _denoise(
    graph: Any, parameters: Any, latents: jax.Array, timesteps: jax.Array, text: jax.Array
) -> jax.Array:
    return nnx.merge(graph, parameters)(latents, timesteps, text)


@functools.partial(jax.jit, static_argnums=0)
def _decode(graph: Any, parameters: Any, latents: jax.Array) -> jax.Array:
    vae = nnx.merge(graph, parameters)
    return vae.decode(latents / vae.config.scaling_factor + (vae.config.shift_factor or 0.0))


@functools.partial(jax.jit, static_argnums=0)
def _encode_images(graph: Any, parameters: Any, images: jax.Array) -> jax.Array:
    vae = nnx.merge(graph, parameters)
    return (vae.encode(images)[0] - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor


# One function a network structure, so that every set of parameters runs the same compiled sampler.


@functools.lru_cache
def _guided(graph: Any) -> Any:
    def denoise(
        parameters: Any, text: jax.Array, guidance: jax.Array, x: jax.Array, t: jax.Array
    ) -> jax.Array:
        # each image beside its unconditional twin, so that a batch cut over devices stays where it is
        output = nnx.merge(graph, parameters)(jnp.repeat(x, 2, axis=0), jnp.repeat(t, 2), text)
        u, c = output[0::2], output[1::2]
        return u + guidance * (c - u)

    return denoise


@functools.lru_cache
def _unguided(graph: Any) -> Any:
    def denoise(parameters: Any, text: jax.Array, x: jax.Array, t: jax.Array) -> jax.Array:
        return nnx.merge(graph, parameters)(x, t, text)

    return denoise
