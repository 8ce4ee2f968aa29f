"""Sources of image features, each with a name that goes into the results computed from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from fdiv_jax.arrays import StoredImages
from fdiv_jax.evaluation.distances import cmmd, fid, kid

__all__ = ["Features", "check_images", "feature_distances"]

_DISTANCES: Mapping[str, Callable[..., float]] = {"kid": kid, "fid": fid, "cmmd": cmmd}


@dataclasses.dataclass(frozen=True)
class Features:
    """Images to vectors, by a network or by anything else.

    Attributes:
        name: of the features, such as "inception-v3 (pytorch-fid)" or "fashion judge".
        function: uint8 images n h w 3 to n d; gets at most `batch` images at once.
        batch: images that are handed to the function at once.
    """

    name: str
    function: Callable[[StoredImages], object]
    batch: int = 64

    def __call__(self, images: StoredImages) -> np.ndarray:
        """uint8 images n h w 3 -> n d, as the function computes them.

        Raises:
            ValueError: images of another shape, or a function that does not give one vector per image.
            TypeError: pixels that are not uint8.
        """
        images = check_images(images)
        parts = [
            np.asarray(self.function(images[i : i + self.batch])) for i in range(0, len(images), self.batch)
        ]
        for i, part in enumerate(parts):
            n = len(images[i * self.batch : (i + 1) * self.batch])
            if part.ndim != 2 or len(part) != n:
                raise ValueError(
                    f"features {self.name!r} of shape {part.shape} for {n} images, expected ({n}, d)"
                )
        return np.concatenate(parts)


def feature_distances(
    features: Features,
    images: StoredImages,
    reference: StoredImages,
    *,
    distances: Sequence[str] = ("kid", "fid"),
    paired: bool = False,
) -> dict[str, float]:
    """Distances of two sets of images by the names of distance and features: {"kid, fashion judge": 0.02}.

    Args:
        features: where the vectors come from.
        images, reference: uint8, n h w 3.
        distances: some of kid, fid and cmmd.
        paired: image i of both sets is of the same prompt and noise; see `kid`.

    Raises:
        ValueError: an unknown distance, or as for the distances.
    """
    unknown = [name for name in distances if name not in _DISTANCES]
    if unknown:
        raise ValueError(f"distance {unknown[0]!r}, expected one of {', '.join(_DISTANCES)}")
    x, y = features(images), features(reference)
    options = {"kid": {"paired": paired}}
    return {f"{name}, {features.name}": _DISTANCES[name](x, y, **options.get(name, {})) for name in distances}


def check_images(images: object) -> StoredImages:
    """The images, if they are uint8 of shape n h w 3.

    Raises:
        ValueError: another shape, or none.
        TypeError: pixels that are not uint8.
    """
    found = np.asarray(images)
    if found.ndim != 4 or found.shape[-1] != 3 or not len(found):
        raise ValueError(f"images of shape {found.shape}, expected (n, h, w, 3) with n of 1 or more")
    if found.dtype != np.uint8:
        raise TypeError(f"pixels of dtype {found.dtype}, expected uint8")
    return found
