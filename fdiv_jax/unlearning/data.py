"""The training data: images that the frozen model itself draws at the anchor prompts, and the prompts'
features."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from fdiv_jax.nn import Text
from fdiv_jax.pipeline import TextToImagePipeline
from fdiv_jax.unlearning.cache import ArrayCache, digest, parameters_digest
from fdiv_jax.unlearning.concepts import PromptPair
from fdiv_jax.unlearning.config import AnchorImagesConfig
from fdiv_jax.unlearning.parameters import Network
from fdiv_jax.unlearning.step import Batch

__all__ = ["AnchorData", "anchor_latents", "model_digest", "prepare_data"]

_LATENT_PIXELS_A_CALL = 8192
_BATCHES = 1  # the stream of random numbers that chooses the batches


@dataclass(frozen=True)
class AnchorData:
    """Where batches come from.

    Attributes:
        pairs: of prompts.
        latents: anchors images h w c, float32: the images of each distinct anchor prompt.
        anchor_of: (pairs,), which anchor prompt each pair has.
        target_text: what the UNet is told of the target prompts, a tree of arrays with a row a pair.
        anchor_text: the same of the anchor prompts.
        retained: how many pairs, the last ones, are of a retained prompt with itself.
        retained_share: their share of a batch.
    """

    pairs: tuple[PromptPair, ...]
    latents: np.ndarray
    anchor_of: np.ndarray
    target_text: Text
    anchor_text: Text
    retained: int = 0
    retained_share: float = 0.0

    def choose(self, seed: int, step: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Pair and image of each sample of a step's batch, (size,) each: a function of (seed, step, size)
        alone.

        Every target pair has an equal share of what `retained_share` leaves of a batch, to within one sample,
        and every retained prompt of the rest; images are drawn uniformly.
        """
        rng = np.random.default_rng((seed, _BATCHES, step))
        targets = len(self.pairs) - self.retained
        kept = round(size * self.retained_share) if self.retained else 0
        start = int(rng.integers(targets))
        pairs = (start + np.arange(size - kept)) % targets
        if kept:
            start = int(rng.integers(self.retained))
            pairs = np.concatenate([pairs, targets + (start + np.arange(kept)) % self.retained])
        pairs = rng.permutation(pairs)
        return pairs, rng.integers(self.latents.shape[1], size=size)

    def batch(self, seed: int, step: int, size: int) -> Batch:
        """The batch of a step; see `choose`."""
        pairs, images = self.choose(seed, step, size)
        latents = self.latents[self.anchor_of[pairs], images]
        return Batch(
            latents=jnp.asarray(latents),
            target_text=jax.tree.map(lambda rows: jnp.asarray(rows[pairs]), self.target_text),
            anchor_text=jax.tree.map(lambda rows: jnp.asarray(rows[pairs]), self.anchor_text),
            mask=jnp.ones(latents.shape[:3], jnp.float32),
            position=jnp.arange(size, dtype=jnp.int32),
        )


def model_digest(pipe: TextToImagePipeline) -> str:
    """A hash of what draws the latents: the parameters of the UNet and of the text encoders."""
    return parameters_digest(
        *(Network.parameters(network) for name, network in pipe.components.items() if name != "vae")
    )


def prepare_data(
    pipe: TextToImagePipeline,
    pairs: Sequence[PromptPair],
    images: AnchorImagesConfig,
    cache: ArrayCache,
    *,
    retained: Sequence[str] = (),
    retained_share: float = 0.0,
    model: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> AnchorData:
    """Draw (or read) the anchor images of the pairs, and encode their prompts.

    Args:
        pipe: the frozen model.
        pairs: of prompts.
        images: how many and how they are drawn.
        cache: where the images are kept.
        retained: prompts at which the model is to stay as it is.
        retained_share: their share of a batch.
        model: its `model_digest`, when it is known.
        progress: called with (images done, images in all).
    """
    pairs = (*pairs, *(PromptPair(prompt, prompt) for prompt in retained))
    anchors = list(dict.fromkeys(pair.anchor for pair in pairs))
    latents = anchor_latents(pipe, anchors, images, cache, model=model, progress=progress)
    prompts = list(dict.fromkeys([pair.target for pair in pairs] + anchors))
    text = pipe.sized(pipe.encode_prompts(prompts), (len(prompts), *pipe.latent_shape))

    def rows(chosen: list[str]) -> Text:
        places = [prompts.index(prompt) for prompt in chosen]
        return jax.tree.map(lambda table: np.asarray(table, np.float32)[places], text)

    return AnchorData(
        tuple(pairs),
        latents,
        np.array([anchors.index(pair.anchor) for pair in pairs]),
        rows([pair.target for pair in pairs]),
        rows([pair.anchor for pair in pairs]),
        len(retained),
        retained_share,
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
        prompts images h w c, float32, with config.number / prompts images (rounded up) each.

    Raises:
        ValueError: latents that are not finite; names the prompt.
    """
    each = math.ceil(config.number / len(prompts))
    shape = (len(prompts), each, *pipe.latent_shape)
    features = jax.tree.leaves(pipe.encode_prompts([*prompts, None]))
    key = digest(
        {
            "what": "anchor latents",
            "model": model or model_digest(pipe),
            "text": parameters_digest({str(i): part for i, part in enumerate(features)}),
            "prompts": list(prompts),
            "shape": shape,
            "schedule": repr(pipe.schedule),
            "sampler": [config.sampler, config.steps, config.guidance],
            "seed": config.seed,
            "jax": [jax.__version__, jax.default_backend()],
        }
    )
    stored = cache.read(key, shape)
    if stored is not None:
        return stored
    every = [prompt for prompt in prompts for _ in range(each)]
    size = min(len(every), max(1, _LATENT_PIXELS_A_CALL // (shape[2] * shape[3])))
    parts: list[np.ndarray] = []
    for first in range(0, len(every), size):
        if progress is not None:
            progress(first, len(every))
        places = np.minimum(np.arange(first, first + size), len(every) - 1)  # the last call is filled up
        drawn = pipe.generate(
            [every[place] for place in places],
            steps=config.steps,
            guidance=config.guidance,
            sampler=config.sampler,
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
    return latents


def _initial_noise(seed: int, places: np.ndarray, shape: tuple[int, ...]) -> jax.Array:
    root = jax.random.key(seed)
    draw = jax.vmap(lambda place: jax.random.normal(jax.random.fold_in(root, place), shape))
    return draw(jnp.asarray(places, jnp.uint32))
