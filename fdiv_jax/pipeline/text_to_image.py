"""Text to image: tokenizer, text encoder, UNet, autoencoder and noise schedule in one object."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import Partial

from fdiv_jax.arrays import AnyTimesteps, Images, Latents, Predictions, PyTree, StoredImages, TokenIds
from fdiv_jax.diffusion import NoiseSchedule, Sampler, sample
from fdiv_jax.files import JsonMapping
from fdiv_jax.nn import (
    AutoencoderKL,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Text,
    TextConditioning,
    UNet2DConditionModel,
    with_attention,
)
from fdiv_jax.nn.attention import Implementation
from fdiv_jax.nn.tiles import OVERLAP, decode_tiles
from fdiv_jax.pipeline import programs
from fdiv_jax.pipeline.concepts import Concept
from fdiv_jax.pipeline.conditioning import completed
from fdiv_jax.pipeline.drawing_defaults import DrawingDefaults, distilled_defaults
from fdiv_jax.pipeline.inputs import (
    check_guidance,
    check_images,
    check_prompts,
    check_size,
    image_keys,
    one_an_image,
)
from fdiv_jax.pipeline.kept import KeptComponent
from fdiv_jax.pipeline.kinds import beside
from fdiv_jax.pipeline.memory import LATENT_PIXELS_A_CALL, check_decoding, check_drawing, images_a_call
from fdiv_jax.pipeline.tokens import Tokenizer, token_rows, warn_of_cuts


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
        concepts: the concepts that the model directory offers for unlearning; empty for most models.
        name: the name, path or hub id it was loaded by.
        extras: entries of `model_index.json` beside the components.
        text_encoder_2: the second text tower, of Stable Diffusion XL; None for models with one.
        tokenizer_2: its tokenizer.
        kept: components that are not run, such as a safety checker; copied when the pipeline is saved.
        loaded_with: what `load_pipeline` was told beside the name: `config`, `vae`, `prediction_type`,
            `variant`, `revision`, and `dtype` and `param_dtype` where they are not float32.
        loras: (file, strength) of the LoRA files that were added, see `with_lora`.
    """

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: Tokenizer
    schedule: NoiseSchedule
    scheduler_config: JsonMapping
    concepts: Mapping[str, Concept] = dataclasses.field(default_factory=dict)
    name: str = ""
    extras: JsonMapping = dataclasses.field(default_factory=dict)
    stored_dtypes: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict, repr=False)
    text_encoder_2: CLIPTextModelWithProjection | None = None
    tokenizer_2: Tokenizer | None = None
    kept: Mapping[str, KeptComponent] = dataclasses.field(default_factory=dict, repr=False)
    loaded_with: Mapping[str, str] = dataclasses.field(default_factory=dict)
    loras: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        second = self.text_encoder_2
        if (second is None) != (self.tokenizer_2 is None):
            raise ValueError("text_encoder_2 and tokenizer_2 come together, got one of them")
        width, context = self.text_encoder.config.hidden_size, self.unet.config.cross_attention_dim
        if second is not None:
            width += second.config.hidden_size
        if any(width != c for c in (context if isinstance(context, tuple) else (context,))):
            raise ValueError(f"text features of width {width} for a UNet with cross_attention_dim={context}")
        pooled, expected = 0 if second is None else second.config.projection_dim, self.unet.config.pooled_dim
        if pooled != expected and expected:
            raise ValueError(f"pooled text of width {pooled} for a UNet that takes a width of {expected}")
        beside(self.unet.config, self.vae.config.latent_channels)

    def replace(self, **changes: Any) -> TextToImagePipeline:
        """A copy with some attributes changed, for instance `unet`; everything else is shared."""
        return dataclasses.replace(self, **changes)

    def with_attention(self, implementation: Implementation) -> TextToImagePipeline:
        """A copy whose networks use that implementation of `fdiv_jax.nn.dot_product_attention`.

        Raises:
            ValueError: an unknown implementation.
        """
        return self.replace(
            **{name: with_attention(m, implementation) for name, m in self.components.items()}
        )

    def with_lora(self, file: str | os.PathLike[str], strength: float = 1.0) -> TextToImagePipeline:
        """A copy with a LoRA file's changes added to the weights; see `fdiv_jax.pipeline.loras.with_lora`."""
        from fdiv_jax.pipeline.loras import with_lora

        return with_lora(self, file, strength)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(h, w, c) of the latents of an image of the model's own size."""
        size = self.unet.config.sample_size
        if size is None:
            size = 64 if self.text_encoder_2 is None else 128
        h, w = size if isinstance(size, tuple) else (size, size)
        return h, w, self.vae.config.latent_channels

    @property
    def drawing_defaults(self) -> DrawingDefaults:
        """Sampler, steps and guidance where none are given: ddim, 25 and 6, or those of a distilled model."""
        return distilled_defaults(self.unet.config, self.scheduler_config) or DrawingDefaults()

    @property
    def components(self) -> dict[str, nnx.Module]:
        """The networks by their names on disk: unet, vae, text_encoder and, for XL, text_encoder_2."""
        networks = {"unet": self.unet, "vae": self.vae, "text_encoder": self.text_encoder}
        return (
            networks if self.text_encoder_2 is None else {**networks, "text_encoder_2": self.text_encoder_2}
        )

    @property
    def text_length(self) -> int:
        """Tokens a prompt is padded or cut to."""
        return min(
            length
            for tokenizer, encoder in self.text_towers
            for length in (tokenizer.model_max_length, encoder.config.max_position_embeddings)
        )

    @property
    def text_towers(self) -> list[tuple[Tokenizer, CLIPTextModel]]:
        """(tokenizer, text encoder), one pair or two."""
        first = (self.tokenizer, self.text_encoder)
        if self.text_encoder_2 is None or self.tokenizer_2 is None:
            return [first]
        return [first, (self.tokenizer_2, self.text_encoder_2)]

    def encode_prompts(self, prompts: Sequence[str | None]) -> Text:
        """The conditioning passed to the UNet for prompts.

        Args:
            prompts: texts; None stands for no prompt, which guidance leads away from: the same as "", but
                zeros for a model with two text towers, unless its `model_index.json` has
                force_zeros_for_empty_prompt off. Longer ones than `text_length` tokens are cut, with a
                warning that says what is lost.

        Returns:
            n l d, float32: the last hidden states of the text tower, after the final norm. With two towers a
            `TextConditioning`: the penultimate hidden states of both, without a norm, side by side, and the
            pooled projection of the second.

        Raises:
            TypeError: a single string, or something that is not text.
        """
        some = isinstance(prompts, (list, tuple))
        texts = check_prompts(["" if p is None else p for p in prompts] if some else prompts)  # type: ignore
        warn_of_cuts([tokenizer for tokenizer, _ in self.text_towers], texts, self.text_length)
        towers = [nnx.split(encoder) for _, encoder in self.text_towers]
        graphs, parameters = zip(*towers, strict=True)
        text = programs.encode_text(graphs, parameters, self.tokenize(texts))
        if self.text_encoder_2 is None or not self.extras.get("force_zeros_for_empty_prompt", True):
            return text
        given = np.array([prompt is not None for prompt in prompts])
        return jax.tree.map(lambda x: x * given.reshape(-1, *(1,) * (x.ndim - 1)), text)

    def tokenize(self, prompts: Sequence[str]) -> tuple[TokenIds, ...]:
        """The token ids of prompts for each text encoder, (n, `text_length`), int32.

        A textual-inversion token of several vectors ("<cat-toy>" with "<cat-toy>_1" in the vocabulary) stands
        for all of them, as in diffusers' pipelines.
        """
        texts = check_prompts(prompts)
        return tuple(
            jnp.asarray(token_rows(tokenizer, texts, self.text_length)) for tokenizer, _ in self.text_towers
        )

    def denoise(self, latents: Latents, timesteps: AnyTimesteps, text: Text) -> Predictions:
        """The UNet's raw output (noise or v, as `schedule.prediction_type` says).

        Args:
            latents: n h w c, scaled.
            timesteps: (n,) or (), integers from 0 to `schedule.num_train_timesteps` - 1.
            text: from `encode_prompts`, for n prompts; what it lacks is filled in, see `sized`.

        Returns:
            n h w c, float32.

        Raises:
            ValueError: shapes that do not fit.
            TypeError: timesteps that are not integers.
        """
        latents, timesteps = jnp.asarray(latents), jnp.asarray(timesteps)
        channels = self.latent_shape[-1]
        if latents.ndim != 4 or latents.shape[-1] != channels or 0 in latents.shape:
            raise ValueError(f"latents of shape {latents.shape}, expected (n, h, w, {channels})")
        text = self.sized(jax.tree.map(jnp.asarray, text), latents.shape)
        hidden = text.hidden if isinstance(text, TextConditioning) else text
        width = self.unet.config.cross_attention_dim
        width = width[0] if isinstance(width, tuple) else width
        fits = hidden.ndim == 3 and hidden.shape[1] > 0 and hidden.shape[2] == width
        if not fits or any(len(part) != len(latents) for part in jax.tree.leaves(text)):
            shapes = ", ".join(str(part.shape) for part in jax.tree.leaves(text))
            raise ValueError(f"text of shape {shapes}, expected ({latents.shape[0]}, l, {width})")
        if not jnp.issubdtype(timesteps.dtype, jnp.integer):
            raise TypeError(f"timesteps of dtype {timesteps.dtype}, expected integers")
        if timesteps.shape not in ((), latents.shape[:1]):
            raise ValueError(f"timesteps of shape {timesteps.shape}, expected ({latents.shape[0]},)")
        graph, parameters = nnx.split(self.unet)
        return programs.denoise(
            graph, parameters, latents, jnp.broadcast_to(timesteps, latents.shape[:1]), text
        )

    def sized(self, text: Text, latents: tuple[int, ...], guidance: float | None = None) -> Text:
        """`text` with what else the UNet takes for latents of this shape (n h w c), where it lacks it.

        XL: the image's size, not cropped. A latent consistency model: the guidance, by default its own.
        Inpainting: a mask of all of the image; InstructPix2Pix: no image.
        """
        return completed(self, text, latents, guidance)

    def decode(self, latents: Latents, *, batch: int | None = None, tile: int | None = None) -> Images:
        """Images of scaled latents.

        Args:
            latents: n h w c.
            batch: images per call of the autoencoder, 1 for the least memory; None: as many as make up
                16,384 latent pixels.
            tile: side in pixels of the overlapping tiles that a larger image is decoded in, for memory that
                does not grow with it, at a small difference in the image; see `fdiv_jax.nn.tiles`. None:
                whole images.

        Returns:
            n H W 3, float32, -1 black, 1 white, not clipped.

        Raises:
            ValueError: latents of another shape, less than one image per call, or a tile that is not a
                multiple of 4 latents.
        """
        graph, parameters = nnx.split(self.vae)
        call = functools.partial(programs.decode, graph, parameters)
        calls = self._calls(jnp.asarray(latents), batch)
        self._check_tile(tile)
        if tile is not None:
            factor = self.vae.config.downsampling
            return jnp.concatenate([decode_tiles(call, part, tile // factor, factor) for part in calls])
        return jnp.concatenate([call(part) for part in calls])

    def encode_images(self, images: Images | StoredImages) -> Latents:
        """Scaled latents of images, the mean of their distribution.

        Args:
            images: n H W 3; uint8, or floating-point with -1 black and 1 white.

        Returns:
            n h w c, float32.

        Raises:
            ValueError: another shape, sides that the autoencoder's downsampling does not divide, or values
                far beyond -1 to 1, as of floats of 0 to 255.
            TypeError: whole numbers that are not uint8.
        """
        factor = self.vae.config.downsampling
        images = check_images(images, self.vae.config.in_channels, factor)
        if images.dtype == jnp.uint8:
            images = images.astype(jnp.float32) / 127.5 - 1.0
        graph, parameters = nnx.split(self.vae)
        size = max(1, LATENT_PIXELS_A_CALL * factor**2 // (images.shape[1] * images.shape[2]))
        parts = [images[i : i + size] for i in range(0, len(images), size)]
        return jnp.concatenate([programs.encode_images(graph, parameters, part) for part in parts])

    def generate(
        self,
        prompts: Sequence[str],
        *,
        seed: int | Sequence[int] = 0,
        steps: int | None = None,
        guidance: float | None = None,
        sampler: str | Sampler | None = None,
        eta: float | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        size: tuple[int, int] | None = None,
        initial: Latents | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Latents:
        """Scaled latents drawn for prompts.

        With guidance g > 1 the network's output is u + g (c - u), with c the one at the prompt and u the one
        at `negative_prompt`, both from one batched call (Ho and Salimans, Classifier-free diffusion guidance,
        2022). The randomness of image i depends only on (seed, i), or on seed[i].

        Args:
            prompts: one per image.
            seed: seed of the noise, or one per image.
            steps: number of steps of the sampler; None: the model's own, see `drawing_defaults`.
            guidance: g; 1 or less leaves the guidance out. A latent consistency model takes it as an input,
                and makes one call per step. None: the model's own.
            sampler: a name in `fdiv_jax.diffusion.SAMPLERS`, or a sampler; None: the model's own.
            eta: the share of fresh noise per step, for samplers that take it; None: the sampler's default.
            negative_prompt: text to guide away from, for all images or one per image; None: no prompt, see
                `encode_prompts`.
            size: (height, width) of the images in pixels, multiples of the autoencoder's factor; None: the
                model's own.
            initial: n h w c, the initial noise, instead of the seed's.
            progress: called with (network calls done, calls in all) as the sampler goes on.

        Returns:
            n h w c, float32.

        Raises:
            ValueError: an unknown sampler, steps or eta out of range, a size, noise, seeds or negative
                prompts that do not fit; seeds are 0 to 2^32 - 1, which is what JAX tells apart.
            TypeError: prompts that are not a list of strings, seeds that are not whole numbers.
        """
        prompts = check_prompts(prompts)
        own = self.drawing_defaults
        steps = own.steps if steps is None else steps
        sampler = own.sampler if sampler is None else sampler
        guidance = own.guidance if guidance is None else guidance
        check_guidance(guidance)
        as_input = self.unet.config.time_cond_proj_dim is not None
        if as_input and negative_prompt is not None:
            raise ValueError("a negative prompt for a latent consistency model, which is guided by none")
        guided = guidance > 1 and not as_input
        if progress is not None and not callable(progress):
            raise TypeError(f"progress {progress!r}, expected a function of (calls done, calls in all)")
        count = len(prompts)
        keys = image_keys(seed, count)
        shape = self._latent_shape_of(size)
        if initial is None:
            check_drawing(self, count, shape, guided)
            initial = jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
        initial = jnp.asarray(initial)
        if initial.ndim != 4 or initial.shape[0] != count or initial.shape[-1] != shape[-1]:
            raise ValueError(f"initial noise of shape {initial.shape}, expected ({count}, h, w, {shape[-1]})")
        negatives = one_an_image(negative_prompt, count)
        distinct = list(dict.fromkeys([*negatives, *prompts]))
        table = self.sized(self.encode_prompts(distinct), initial.shape, float(guidance))
        places, away = (np.asarray([distinct.index(p) for p in some]) for some in (prompts, negatives))
        graph, parameters = nnx.split(self.unet)
        calls = self._calls(initial)
        parts: list[Latents] = []
        for number, x in enumerate(calls):
            first = sum(len(part) for part in parts)
            rows = slice(first, first + len(x))
            key = jax.vmap(lambda k: jax.random.fold_in(k, 0))(keys[rows])  # apart from the initial noise's
            texts = [_rows(table, places[rows]), _rows(table, away[rows])]
            x, (c, u, key), here = _share_out(x, (*texts, key), parameters)
            if guided:
                pairs = jax.tree.map(_alternate, u, c)
                function = Partial(programs.guided(graph), here, pairs, jnp.float32(guidance))
            else:
                function = Partial(programs.unguided(graph), here, c)

            def tell(done: int, number: int = number) -> None:
                if progress is not None:
                    progress(number * steps + done, len(calls) * steps)

            drawn = sample(
                function,
                self.schedule,
                x,
                sampler=sampler,
                steps=steps,
                eta=eta,
                key=key,
                progress=None if progress is None else tell,
            )
            parts.append(jax.device_put(drawn, jax.local_devices()[0]))
        return jnp.concatenate(parts)

    def _latent_shape_of(self, size: tuple[int, int] | None) -> tuple[int, int, int]:
        """(h, w, c) of the latents of an image of `size` pixels."""
        if size is None:
            return self.latent_shape
        factor = self.vae.config.downsampling
        height, width = check_size(size, factor)
        return height // factor, width // factor, self.latent_shape[-1]

    def __call__(self, prompts: Sequence[str], *, tile: int | None = None, **options: Any) -> StoredImages:
        """Images drawn for prompts: uint8, n H W 3. `tile` is that of `decode`, the rest of `generate`.

        Raises:
            ValueError: images that are not finite, from unfit weights or precision; and as for `decode` and
                `generate`.
            MemoryError: too little free memory.
        """
        self._check_tile(tile)
        if tile is None:
            check_decoding(self, len(check_prompts(prompts)), self._latent_shape_of(options.get("size")))
        return to_uint8(self.decode(self.generate(prompts, **options), tile=tile))

    def save(self, directory: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write a diffusers directory, whole or not at all; see `fdiv_jax.pipeline.save_pipeline`."""
        from fdiv_jax.pipeline.directory import save_pipeline

        return save_pipeline(self, directory, overwrite=overwrite)

    def push_to_hub(
        self, repository: str, *, private: bool | None = None, card: str | None = None, message: str = ""
    ) -> str:
        """Push a diffusers directory with a model card to the hub; see `fdiv_jax.pipeline.push_to_hub`."""
        from fdiv_jax.pipeline.uploading import push_to_hub

        return push_to_hub(self, repository, private=private, card=card, message=message)

    def _check_tile(self, tile: int | None) -> None:
        least = self.vae.config.downsampling * OVERLAP
        if tile is not None and (not isinstance(tile, (int, np.integer)) or tile < 1 or tile % least):
            raise ValueError(f"tile of {tile} px, expected a positive multiple of {least}")

    def _calls(self, x: Latents, batch: int | None = None) -> list[Latents]:
        """Cut a batch of latents into parts of `batch`, by default the size of a call of the networks."""
        if x.ndim != 4 or x.shape[-1] != self.latent_shape[-1] or 0 in x.shape:
            raise ValueError(f"latents of shape {x.shape}, expected (n, h, w, {self.latent_shape[-1]})")
        if batch is not None and batch < 1:
            raise ValueError(f"{batch} images per call, expected at least 1")
        size = batch or images_a_call(x.shape[1:])
        return [x[i : i + size] for i in range(0, len(x), size)]


def _share_out(x: Latents, others: PyTree, parameters: PyTree) -> tuple[Latents, PyTree, PyTree]:
    """Cut a batch over the local devices, with the parameters on each of them, if their number divides it."""
    devices = jax.local_devices()
    if len(devices) == 1 or len(x) % len(devices):
        return x, others, parameters
    mesh = Mesh(np.asarray(devices), ("batch",))
    split, everywhere = NamedSharding(mesh, PartitionSpec("batch")), NamedSharding(mesh, PartitionSpec())
    return jax.device_put(x, split), jax.device_put(others, split), jax.device_put(parameters, everywhere)


def _rows(table: Text, places: np.ndarray) -> Text:
    return jax.tree.map(lambda entries: entries[places], table)


def _alternate(first: jax.Array, second: jax.Array) -> jax.Array:
    """The rows of two arrays in turn: n ... twice -> 2 n ..."""
    return jnp.stack([first, second], axis=1).reshape(-1, *first.shape[1:])


def to_uint8(images: Images) -> StoredImages:
    """Images of -1 to 1, clipped and rounded to 0 to 255.

    Raises:
        ValueError: values that are not finite; names the images.
    """
    bad = np.flatnonzero(~np.isfinite(np.asarray(images)).reshape(len(images), -1).all(axis=1))
    if bad.size:
        raise ValueError(f"{bad.size} of {len(images)} images are not finite: {', '.join(map(str, bad[:8]))}")
    return np.asarray(jnp.round((jnp.clip(images, -1.0, 1.0) + 1.0) * 127.5)).astype(np.uint8)
