"""How much an unlearned model changes the images that it should leave alone: same prompt, same noise."""

from __future__ import annotations

import numpy as np

from fdiv_jax.arrays import StoredImages
from fdiv_jax.evaluation.features import Features, check_images

__all__ = ["cosine_distance", "feature_change", "pixel_change"]


def pixel_change(images: StoredImages, reference: StoredImages) -> np.ndarray:
    """For each of n pairs of images the root mean square of the difference of pixels, 1 from black to white.

    Args:
        images, reference: uint8, n h w 3; image i of both is of the same prompt and noise.

    Raises:
        ValueError: images of other shapes.
        TypeError: pixels that are not uint8.
    """
    first, second = _pairs(images, reference)
    found = np.empty(len(first))
    for i, (a, b) in enumerate(zip(first, second, strict=True)):
        found[i] = np.sqrt(np.mean((a.astype(np.float64) - b) ** 2)) / 255.0
    return found


def feature_change(features: Features, images: StoredImages, reference: StoredImages) -> np.ndarray:
    """For each of n pairs of images 1 - cos of their features: 0 where they are the same, up to 2.

    Args:
        features: where the vectors come from.
        images, reference: uint8, n h w 3; image i of both is of the same prompt and noise.

    Raises:
        ValueError: images of other shapes, or a feature vector that is 0.
        TypeError: pixels that are not uint8.
    """
    first, second = _pairs(images, reference)
    return cosine_distance(features(first), features(second))


def cosine_distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """1 - cos of the angle between feature vectors, x (..., d) and y (..., d).

    Raises:
        ValueError: a vector that is 0.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    lengths = [np.linalg.norm(z, axis=-1, keepdims=True) for z in (x, y)]
    if min(length.min() for length in lengths) == 0:
        raise ValueError("a feature vector of length 0, which has no angle to another")
    # |x - y|^2 / 2 of unit vectors is 1 - cos, without the digits lost where cos is near 1.
    return ((x / lengths[0] - y / lengths[1]) ** 2).sum(-1) / 2


def _pairs(images: StoredImages, reference: StoredImages) -> tuple[StoredImages, StoredImages]:
    first, second = check_images(images), check_images(reference)
    if first.shape != second.shape:
        raise ValueError(f"images of shape {first.shape} and {second.shape}, expected the same, paired")
    return first, second
