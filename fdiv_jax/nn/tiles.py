"""Decoding an image in overlapping tiles, for memory that does not grow with the image."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fdiv_jax.arrays import FeatureMap, Images, Latents

OVERLAP = 4
"""A tile shares 1 / OVERLAP of its side with the next one."""


def decode_tiles(decode: Callable[[Latents], Images], latents: Latents, tile: int, factor: int) -> Images:
    """An image decoded tile by tile, the tiles blended linearly where they overlap.

    Every tile is decoded on its own: convolutions see its border and norms see only the tile, so that the
    image differs a little from one decoded whole. The tiles are those of diffusers' `tiled_decode`.

    Args:
        decode: n h w c latents -> n H W 3, with H = factor h.
        latents: n h w c.
        tile: side of a tile in latents; a multiple of 4.
        factor: pixels per latent, along one side.

    Returns:
        n H W 3.

    Raises:
        ValueError: a tile that is not a positive multiple of 4 latents.
    """
    if tile < 1 or tile % OVERLAP:
        raise ValueError(f"tiles of {tile} latents, expected a positive multiple of {OVERLAP}")
    if max(latents.shape[1:3]) <= tile:
        return decode(latents)
    step, seam = tile - tile // OVERLAP, factor * tile // OVERLAP
    above: dict[int, Images] = {}
    bands = []
    for top in range(0, latents.shape[1], step):
        band: list[Images] = []
        before = None
        for left in range(0, latents.shape[2], step):
            part = decode(latents[:, top : top + tile, left : left + tile])
            if left in above:
                part = _blend(above[left], part, seam, axis=1)
            if before is not None:
                part = _blend(before, part, seam, axis=2)
            above[left] = before = part
            band.append(part[:, : factor * step, : factor * step])
        bands.append(jnp.concatenate(band, axis=2))
    return jnp.concatenate(bands, axis=1)


def _blend(first: FeatureMap, second: FeatureMap, seam: int, axis: int) -> FeatureMap:
    """`second` with its first `seam` pixels along an axis faded over from the last ones of `first`."""
    seam = min(seam, second.shape[axis])
    shape = [1] * second.ndim
    shape[axis] = seam
    share = (jnp.arange(seam, dtype=second.dtype) / seam).reshape(shape)
    old = jax.lax.slice_in_dim(first, first.shape[axis] - seam, None, axis=axis)
    new, rest = jnp.split(second, [seam], axis=axis)
    return jnp.concatenate([(1 - share) * old + share * new, rest], axis=axis)
