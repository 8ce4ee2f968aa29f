"""The styles of the world `fashion`: deterministic image filters on grey photographs.

Every filter is a JAX function n 32 32 -> n 32 32 3 on [0, 1], so that a training step can draw its own batch.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp


def _shift(x: jax.Array, rows: int, columns: int) -> jax.Array:
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1)), mode="edge")
    h, w = x.shape[1:]
    return padded[:, 1 + rows : 1 + rows + h, 1 + columns : 1 + columns + w]


def _blur(x: jax.Array) -> jax.Array:
    """The 3 x 3 binomial filter."""
    x = 0.25 * _shift(x, -1, 0) + 0.5 * x + 0.25 * _shift(x, 1, 0)
    return 0.25 * _shift(x, 0, -1) + 0.5 * x + 0.25 * _shift(x, 0, 1)


def _edges(x: jax.Array) -> jax.Array:
    """The Sobel gradient's magnitude, about 0 to 1."""
    down = sum(
        weight * (_shift(x, 1, c) - _shift(x, -1, c)) for c, weight in ((-1, 0.25), (0, 0.5), (1, 0.25))
    )
    right = sum(
        weight * (_shift(x, r, 1) - _shift(x, r, -1)) for r, weight in ((-1, 0.25), (0, 0.5), (1, 0.25))
    )
    return jnp.sqrt(down**2 + right**2 + 1e-8)


def _silhouette(x: jax.Array) -> jax.Array:
    """1 on the piece of clothing, 0 on the background, soft between."""
    return jnp.clip((_blur(x) - 0.03) / 0.12, 0.0, 1.0)


def _mix(a: tuple[float, ...], b: tuple[float, ...], weight: jax.Array) -> jax.Array:
    """From colour a (weight 0) to colour b (weight 1)."""
    low, high = jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
    return low + (high - low) * weight[..., None]


def photo(x: jax.Array) -> jax.Array:
    """The photograph as it is, slightly warm, on a charcoal backdrop."""
    body = _mix((0.12, 0.11, 0.10), (1.0, 0.98, 0.94), x)
    backdrop = jnp.asarray((0.13, 0.15, 0.18), jnp.float32)
    return backdrop + (body - backdrop) * _silhouette(x)[..., None]


def sketch(x: jax.Array) -> jax.Array:
    """Pencil on cream paper: dark outlines and creases, a breath of shading."""
    line = jnp.clip(1.8 * _edges(x), 0.0, 1.0)
    shade = 0.18 * _silhouette(x) * (1.0 - x)
    return _mix((0.97, 0.94, 0.86), (0.16, 0.15, 0.20), jnp.clip(line + shade, 0.0, 1.0))


def neon(x: jax.Array) -> jax.Array:
    """Glowing outlines in the dark, cyan above and magenta below."""
    edge = jnp.clip(1.7 * _edges(x), 0.0, 1.0)
    glow = jnp.clip(edge + 0.7 * _blur(_blur(edge)), 0.0, 1.0)
    height = jnp.broadcast_to(jnp.linspace(0.0, 1.0, x.shape[1])[None, :, None], x.shape)
    tube = _mix((0.10, 0.95, 1.0), (1.0, 0.15, 0.85), height)
    dark = jnp.asarray((0.05, 0.02, 0.10), jnp.float32)
    return dark + (tube - dark) * glow[..., None]


def cyanotype(x: jax.Array) -> jax.Array:
    """A Prussian blue print: white where the cloth is light."""
    return _mix((0.03, 0.16, 0.42), (0.93, 0.97, 0.98), jnp.clip(x, 0.0, 1.0) ** 0.8)


def poster(x: jax.Array) -> jax.Array:
    """Three flat inks on yellow, by brightness."""
    step = lambda edge: jnp.clip((x - edge) / 0.08 + 0.5, 0.0, 1.0)  # noqa: E731
    colour = _mix((0.98, 0.80, 0.14), (0.13, 0.20, 0.45), _silhouette(x))
    for edge, ink in ((0.42, (0.85, 0.17, 0.20)), (0.70, (0.99, 0.93, 0.80))):
        colour = colour + (jnp.asarray(ink, jnp.float32) - colour) * step(edge)[..., None]
    return colour


STYLES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "photo": photo,
    "sketch": sketch,
    "neon": neon,
    "cyanotype": cyanotype,
    "poster": poster,
}


def draw(grey: jax.Array, style: jax.Array) -> jax.Array:
    """Draw each photograph in its style.

    Args:
        grey: n 28 28 or n 32 32, uint8, 0 background (28 is padded by 2 on each side).
        style: (n,), indices into `STYLES`.

    Returns:
        n 32 32 3, float32, -1 black, 1 white: what the pipeline calls an image.
    """
    x = grey.astype(jnp.float32) / 255.0
    if x.shape[1] == 28:
        x = jnp.pad(x, ((0, 0), (2, 2), (2, 2)))
    drawn = jnp.stack([filter_(x) for filter_ in STYLES.values()])
    return 2.0 * drawn[style, jnp.arange(x.shape[0])] - 1.0
