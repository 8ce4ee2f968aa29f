"""The training data: images at the anchor prompts, drawn by the frozen model or the user's own, and the
prompts' features."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np

from fdiv_jax.arrays import PyTree
from fdiv_jax.checkpoints import model_digest, parameters_digest
from fdiv_jax.files import JsonObject
from fdiv_jax.nn import Text
from fdiv_jax.pipeline import TextToImagePipeline
from fdiv_jax.unlearning import _validate as check
from fdiv_jax.unlearning.batch import Batch, Prior
from fdiv_jax.unlearning.cache import ArrayCache, digest
from fdiv_jax.unlearning.concepts import PromptPair
from fdiv_jax.unlearning.config_parts import AnchorImagesConfig, PreservedPrompts
from fdiv_jax.unlearning.parameters import Network
from fdiv_jax.unlearning.user_images import OwnImages, read_own_images

__all__ = ["AnchorData", "Batches", "anchor_latents", "prepare_data"]

_LATENT_PIXELS_A_CALL = 8192
_BATCHES, _PRIORS = 1, 2  # the streams of random numbers that choose the batches


@dataclass(frozen=True)
class AnchorData:
    """Where batches come from.

    Attributes:
        pairs: of prompts; the last `retained` ones are of a retained prompt with itself.
        latents: images h w c, float32.
        images_of: for each pair, which of the images are its own.
        target_text: the conditioning passed to the UNet for the target prompts, a tree of arrays with one row
            per pair.
        anchor_text: the same for the anchor prompts.
        retained: how many pairs are of retained prompts.
        retained_share: their share of a batch.
        masks: images h w, where the loss counts; None: everywhere.
        negative: (pairs,), eta of the negative guidance; None: no pair has any.
        tokens: token ids of the target prompts and of the anchor prompts, one array per encoder with one row
            per pair;
            empty unless token embeddings learn.
        prior: the prompts of prior preservation, or None.
    """

    pairs: tuple[PromptPair, ...]
    latents: np.ndarray
    images_of: tuple[np.ndarray, ...]
    target_text: Text
    anchor_text: Text
    retained: int = 0
    retained_share: float = 0.0
    masks: np.ndarray | None = None
    negative: np.ndarray | None = None
    tokens: tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]] = ((), ())
    prior: PreservedPrompts | None = None

    def choose(self, seed: int, step: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Pair and image of each sample of a step's batch, (size,) each; they depend on (seed, step, size)
        alone.

        Every target pair has an equal share of what `retained_share` leaves of a batch, to within one sample,
        and every retained prompt of the rest; at least one sample is a target pair's. Images are drawn
        uniformly.
        """
        rng = np.random.default_rng((seed, _BATCHES, step))
        targets = len(self.pairs) - self.retained
        kept = min(round(size * self.retained_share), size - 1) if self.retained else 0
        start = int(rng.integers(targets))
        pairs = (start + np.arange(size - kept)) % targets
        if kept:
            start = int(rng.integers(self.retained))
            pairs = np.concatenate([pairs, targets + (start + np.arange(kept)) % self.retained])
        pairs = rng.permutation(pairs)
        return pairs, self._images(rng, pairs)

    def _images(self, rng: np.random.Generator, pairs: np.ndarray) -> np.ndarray:
        places = rng.integers([len(self.images_of[pair]) for pair in pairs])
        return np.array([self.images_of[pair][place] for pair, place in zip(pairs, places, strict=True)])

    def batch(self, seed: int, step: int, size: int, rows: slice = slice(None)) -> Batch:
        """The batch of a step, or some rows of it; see `choose`."""
        pairs, images = self.choose(seed, step, size)
        batch = self._batch(pairs, images, rows)
        if self.prior is None:
            return batch
        if self.prior == "retained":
            rng = np.random.default_rng((seed, _PRIORS, step))
            targets = len(self.pairs) - self.retained
            start = int(rng.integers(self.retained))
            pairs = rng.permutation(targets + (start + np.arange(size)) % self.retained)
            images = self._images(rng, pairs)
        pairs, images = pairs[rows], images[rows]
        prior = Prior(
            latents=jnp.asarray(self.latents[images]),
            text=_rows(self.anchor_text, pairs),
            tokens=_rows(self.tokens[1], pairs),
            mask=self._mask(images),
        )
        return dataclasses.replace(batch, prior=prior)

    def everything(self, size: int) -> tuple[list[Batch], np.ndarray]:
        """Every image at its pair once, in batches of at most `size`, without prior; and the pair of each.

        All batches have one size; where it does not divide the number of images, the last one begins again at
        the first image, and the pairs of what is there twice are -1.
        """
        pairs = np.concatenate([np.full(len(own), pair) for pair, own in enumerate(self.images_of)])
        images = np.concatenate(self.images_of)
        count = -(-len(images) // size)
        size = -(-len(images) // count)
        places = np.arange(count * size) % len(images)
        chosen = np.split(places, count)
        shown = np.where(np.arange(count * size) < len(images), pairs[places], -1)
        return [self._batch(pairs[rows], images[rows]) for rows in chosen], shown

    def _batch(self, pairs: np.ndarray, images: np.ndarray, rows: slice = slice(None)) -> Batch:
        position = np.arange(len(pairs), dtype=np.int32)[rows]
        pairs, images = pairs[rows], images[rows]
        return Batch(
            latents=jnp.asarray(self.latents[images]),
            target_text=_rows(self.target_text, pairs),
            anchor_text=_rows(self.anchor_text, pairs),
            mask=self._mask(images),
            position=jnp.asarray(position),
            negative=None if self.negative is None else jnp.asarray(self.negative[pairs], jnp.float32),
            tokens=_rows(self.tokens[0], pairs),
        )

    def _mask(self, images: np.ndarray) -> jax.Array:
        shape = (len(images), *self.latents.shape[1:3])
        return jnp.ones(shape, jnp.float32) if self.masks is None else jnp.asarray(self.masks[images])


class Batches(Iterator[Batch]):
    """The batches of a run in order, prepared ahead of use; the position can be saved and restored."""

    def __init__(self, data: AnchorData, seed: int, size: int, total: int, rows: slice = slice(None)):
        """`total` batches of `size` samples, or these rows of each."""
        chain = grain.MapDataset.range(total).map(lambda step: data.batch(seed, int(step), size, rows))
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
        self._iterator: Any = iter(chain.to_iter_dataset(options))

    def __next__(self) -> Batch:
        return next(self._iterator)

    def position(self) -> JsonObject:
        """The current position, as JSON holds it."""
        return dict(self._iterator.get_state())

    def restore(self, position: JsonObject) -> None:
        """Continue from a `position`."""
        self._iterator.set_state(position)


def prepare_data(
    pipe: TextToImagePipeline,
    pairs: Sequence[PromptPair],
    images: AnchorImagesConfig,
    cache: ArrayCache,
    *,
    retained: Sequence[str] = (),
    retained_share: float = 0.0,
    negative: Sequence[float] | None = None,
    tokens: bool = False,
    prior: PreservedPrompts | None = None,
    own: OwnImages | None = None,
    model: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> AnchorData:
    """Draw, or read, the images of the pairs, and encode their prompts.

    Args:
        pipe: the frozen model.
        pairs: of prompts.
        images: how many and how they are drawn, or where the user's own are.
        cache: where drawn images are kept.
        retained: prompts at which the model is to stay as it is.
        retained_share: their share of a batch.
        negative: eta of the negative guidance of each pair; None: no pair has any.
        tokens: keep the prompts' token ids, for token embeddings that learn.
        prior: the prompts of prior preservation.
        own: the user's images, when they are read already.
        model: its `model_digest`, when it is known.
        progress: called with (images done, images in all).

    Raises:
        ValueError: images that are not finite, do not fit the model, or belong to no anchor prompt; prior
            preservation at retained prompts without any.
    """
    check.prompts_to_preserve(prior, retained)
    targets = len(pairs)
    pairs = (*pairs, *(PromptPair(prompt, prompt) for prompt in retained))
    shown = [pair.target if images.at == "target" else pair.anchor for pair in pairs]
    if images.folder is not None and own is None:
        own = read_own_images(pipe, images, pairs[:targets])
    drawn = list(dict.fromkeys(shown if own is None else shown[targets:]))
    latents = np.zeros((0, *pipe.latent_shape), np.float32)
    places: dict[str, np.ndarray] = {}
    if drawn:
        table = anchor_latents(pipe, drawn, images, cache, model=model, progress=progress)
        latents = table.reshape(-1, *table.shape[2:])
        places = {p: np.arange(i * table.shape[1], (i + 1) * table.shape[1]) for i, p in enumerate(drawn)}
    images_of = [places.get(prompt, np.zeros(0, int)) for prompt in shown]
    masks = None
    if own is not None:
        latents, masks, images_of[:targets] = own.beside(latents, pipe)
    prompts = list(dict.fromkeys([pair.target for pair in pairs] + [pair.anchor for pair in pairs]))
    guidance = images.drawing(pipe).guidance
    text = pipe.sized(pipe.encode_prompts(prompts), (len(prompts), *pipe.latent_shape), guidance)
    ids = pipe.tokenize(prompts) if tokens else ()

    def rows(table: PyTree, chosen: list[str]) -> PyTree:
        at = [prompts.index(prompt) for prompt in chosen]
        return jax.tree.map(lambda part: np.asarray(part)[at], table)

    text = jax.tree.map(lambda part: np.asarray(part, np.float32), text)
    target_prompts, anchor_prompts = [pair.target for pair in pairs], [pair.anchor for pair in pairs]
    guided = None if negative is None else np.array([*negative, *(0.0 for _ in retained)])
    return AnchorData(
        tuple(pairs),
        latents,
        tuple(images_of),
        rows(text, target_prompts),
        rows(text, anchor_prompts),
        len(retained),
        retained_share,
        masks,
        guided if guided is not None and np.any(guided) else None,
        (rows(ids, target_prompts), rows(ids, anchor_prompts)),
        prior,
    )


def anchor_latents(
    pipe: TextToImagePipeline,
    prompts: Sequence[str],
    config: AnchorImagesConfig,
    cache: ArrayCache,
    *,
    model: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Scaled latents that the model draws at prompts, read from the cache when they are there.

    Returns:
        prompts images h w c, float32, with config.number / prompts images (rounded up) each, and as many
        mirrored ones behind them with config.mirror.

    Raises:
        ValueError: latents that are not finite; names the prompt.
    """
    drawing = config.drawing(pipe)
    each = math.ceil(config.number / len(prompts))
    shape = (len(prompts), each, *pipe.latent_shape)
    features = jax.tree.leaves(pipe.encode_prompts([*prompts, None]))
    key = digest(
        {
            "what": "anchor latents",
            "model": model or model_digest(pipe.components),
            "unet": repr(pipe.unet.config),
            "text": parameters_digest({str(i): part for i, part in enumerate(features)}),
            "prompts": list(prompts),
            "shape": shape,
            "schedule": repr(pipe.schedule),
            "sampler": [drawing.sampler, drawing.steps, drawing.guidance],
            "seed": config.seed,
            "jax": [jax.__version__, jax.default_backend()],
        }
    )
    stored = cache.read(key, shape)
    if stored is not None:
        return _with_mirrored(pipe, stored, cache, key) if config.mirror else stored
    every = [prompt for prompt in prompts for _ in range(each)]
    size = min(len(every), max(1, _LATENT_PIXELS_A_CALL // (shape[2] * shape[3])))
    parts: list[np.ndarray] = []
    for first in range(0, len(every), size):
        if progress is not None:
            progress(first, len(every))
        places = np.minimum(np.arange(first, first + size), len(every) - 1)  # the last call is filled up
        drawn = pipe.generate(
            [every[place] for place in places],
            steps=drawing.steps,
            guidance=drawing.guidance,
            sampler=drawing.sampler,
            initial=_initial_noise(config.seed, places, shape[2:]),
        )
        parts.append(np.asarray(drawn, np.float32)[: len(every) - first])
    if progress is not None:
        progress(len(every), len(every))
    latents = np.concatenate(parts).reshape(shape)
    for prompt, values in zip(prompts, latents, strict=True):
        if not np.all(np.isfinite(values)):
            raise ValueError(f"the model draws latents that are not finite at the anchor prompt {prompt!r}")
    cache.write(key, latents)
    return _with_mirrored(pipe, latents, cache, key) if config.mirror else latents


def _with_mirrored(pipe: TextToImagePipeline, latents: np.ndarray, cache: ArrayCache, key: str) -> np.ndarray:
    """The latents and, behind those of each prompt, the latents of the mirrored images."""
    key = digest({"mirrored": key, "vae": parameters_digest(Network.parameters(pipe.vae))})
    mirrored = cache.read(key, latents.shape)
    if mirrored is None:
        flat = jnp.asarray(latents.reshape(-1, *latents.shape[2:]))
        size = max(1, _LATENT_PIXELS_A_CALL // (flat.shape[1] * flat.shape[2]))
        parts = [
            np.asarray(pipe.encode_images(pipe.decode(flat[i : i + size])[:, :, ::-1]))
            for i in range(0, len(flat), size)
        ]
        mirrored = np.concatenate(parts).reshape(latents.shape).astype(np.float32)
        cache.write(key, mirrored)
    return np.concatenate([latents, mirrored], axis=1)


def _rows(table: PyTree, places: np.ndarray) -> PyTree:
    return jax.tree.map(lambda part: jnp.asarray(part[places]), table)


def _initial_noise(seed: int, places: np.ndarray, shape: tuple[int, ...]) -> jax.Array:
    root = jax.random.key(seed)
    draw = jax.vmap(lambda place: jax.random.normal(jax.random.fold_in(root, place), shape))
    return draw(jnp.asarray(places, jnp.uint32))
