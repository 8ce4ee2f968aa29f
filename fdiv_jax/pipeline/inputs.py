"""Checks of a pipeline's arguments: prompts, seeds, sizes, images."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

LARGEST_SEED = 2**32 - 1
"""Largest seed that gives a key of its own in JAX."""
LARGEST_VALUE = 16.0
"""More than an autoencoder overshoots white by; floats of 0 to 255 exceed it."""


def check_prompts(prompts: Sequence[str]) -> list[str]:
    """The prompts as a list.

    Raises:
        TypeError: a single string, something that is not a sequence, or an entry that is not a string.
        ValueError: no prompts, or one with half a character (a lone surrogate).
    """
    if isinstance(prompts, (str, bytes)) or not hasattr(prompts, "__len__"):
        raise TypeError(f"prompts {prompts!r}, expected a list of strings")
    found = list(prompts)
    if not all(isinstance(prompt, str) for prompt in found):
        raise TypeError(f"prompts {prompts!r}, expected a list of strings")
    if not found:
        raise ValueError("no prompts, expected at least one")
    for prompt in found:
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"prompt {prompt!a} is not text: {error.reason}") from error
    return found


def check_guidance(guidance: Any) -> None:
    """Check a guidance.

    Raises:
        TypeError: not a number.
        ValueError: not finite.
    """
    if np.ndim(guidance) or not isinstance(guidance, (float, int, np.generic, jax.Array)):
        raise TypeError(f"guidance {guidance!r}, expected a number")
    if not np.isfinite(guidance):
        raise ValueError(f"guidance {guidance}, expected a finite number")


def check_size(size: object, factor: int) -> tuple[int, int]:
    """(height, width) in pixels.

    Raises:
        ValueError: not two whole numbers that are positive multiples of `factor`.
    """
    sides = tuple(size) if isinstance(size, (tuple, list)) else ()
    if len(sides) != 2 or any(not _whole(side) or side < factor or side % factor for side in sides):
        raise ValueError(f"size {size!r}, expected (height, width), each a multiple of {factor} px")
    return int(sides[0]), int(sides[1])


def image_keys(seed: int | Sequence[int], count: int) -> jax.Array:
    """(count,): one key per image, from one seed or from one seed per image.

    Raises:
        TypeError: a seed that is not a whole number.
        ValueError: a seed below 0 or above `LARGEST_SEED`, or a number of seeds other than one or `count`.
    """
    if np.ndim(seed) == 0:
        root = jax.random.key(_checked_seed(seed))
        return jax.vmap(lambda i: jax.random.fold_in(root, i))(jnp.arange(count))
    seeds = [_checked_seed(one) for one in seed]  # type: ignore[union-attr]
    if len(seeds) != count:
        raise ValueError(f"{len(seeds)} seeds for {count} prompts, expected one seed or as many")
    return jnp.stack([jax.random.key(one) for one in seeds])


def one_an_image(negative: str | Sequence[str] | None, count: int) -> list[str | None]:
    """The negative prompt of every image.

    Raises:
        TypeError: as for `check_prompts`.
        ValueError: as for `check_prompts`, or a number of negative prompts other than one or `count`.
    """
    if negative is None:
        return [None] * count
    if isinstance(negative, str):
        return check_prompts([negative]) * count  # type: ignore[return-value]
    if hasattr(negative, "__len__") and len(negative) != count:
        raise ValueError(f"{len(negative)} negative prompts for {count} prompts, expected one or as many")
    return list(check_prompts(negative))


def _whole(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _checked_seed(seed: Any) -> int:
    whole = seed.item() if isinstance(seed, (jax.Array, np.ndarray)) and seed.ndim == 0 else seed
    if not _whole(whole):
        raise TypeError(f"seed {seed!r}, expected a whole number")
    if not 0 <= whole <= LARGEST_SEED:
        raise ValueError(f"seed {seed}, expected 0 to {LARGEST_SEED}")
    return int(whole)


def check_images(images: ArrayLike, channels: int, factor: int) -> jax.Array:
    """Images to encode, as an array.

    Raises:
        ValueError: another shape than n H W `channels`, sides that `factor` does not divide, or floats far
            beyond -1 to 1.
        TypeError: integers that are not uint8.
    """
    images = jnp.asarray(images)
    if images.ndim != 4 or images.shape[-1] != channels or 0 in images.shape:
        raise ValueError(f"images of shape {images.shape}, expected (n, h, w, {channels})")
    height, width = images.shape[1:3]
    if height % factor or width % factor:
        raise ValueError(f"images of {height} x {width} px, expected multiples of {factor}")
    if images.dtype == jnp.uint8:
        return images
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"images of {images.dtype}, expected uint8 or floating-point ones of -1 to 1")
    if not isinstance(images, Tracer):
        reach = float(jnp.max(jnp.abs(images)))
        if reach > LARGEST_VALUE:
            raise ValueError(f"images reach {reach:.4g}, expected -1 to 1, or uint8 of 0 to 255")
    return images
