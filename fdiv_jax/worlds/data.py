"""Fashion-MNIST: 70,000 photographs of 10 kinds of clothing (Xiao, Rasul, Vollgraf, 2017, MIT licence)."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np

DEBIAN_DIRECTORY = Path("/usr/share/datasets/fashion-mnist")
"""Where the Debian package `dataset-fashion-mnist` puts the four files."""

_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}


def find_fashion_mnist(directory: str | os.PathLike[str] | None = None) -> Path:
    """The directory that holds the data set.

    Looks at `directory`, else at the environment variable FDIV_JAX_FASHION_MNIST, else where Debian puts it.

    Raises:
        FileNotFoundError: a file is missing; names it and how to get it.
    """
    place = Path(directory or os.environ.get("FDIV_JAX_FASHION_MNIST") or DEBIAN_DIRECTORY)
    for pair in _FILES.values():
        for name in pair:
            if not (place / name).is_file():
                raise FileNotFoundError(
                    f"Fashion-MNIST: no {name} in {place}; install the Debian package dataset-fashion-mnist, "
                    "or name a directory with the four idx files by --data or FDIV_JAX_FASHION_MNIST"
                )
    return place


def load_split(split: str, directory: str | os.PathLike[str] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of one split.

    Args:
        split: "train" (60,000) or "test" (10,000).
        directory: see `find_fashion_mnist`.

    Returns:
        uint8 n 28 28 (0 is background) and uint8 (n,), indices into `ITEMS`.

    Raises:
        ValueError: another split, or a file that is not what its name says.
    """
    if split not in _FILES:
        raise ValueError(f"split {split!r}, expected one of {sorted(_FILES)}")
    place = find_fashion_mnist(directory)
    images, labels = (_read_idx(place / name) for name in _FILES[split])
    if images.shape[1:] != (28, 28) or len(images) != len(labels):
        raise ValueError(f"{place}: images {images.shape} and labels {labels.shape}, expected n 28 28 and n")
    return images, labels


def _read_idx(path: Path) -> np.ndarray:
    with gzip.open(path, "rb") as stream:
        raw = stream.read()
    dimensions = raw[3] if raw[:3] == b"\x00\x00\x08" else 0
    shape = np.frombuffer(raw, ">u4", dimensions, 4)
    if dimensions == 0 or len(raw) != 4 + 4 * dimensions + int(np.prod(shape)):
        raise ValueError(f"{path}: not an idx file of unsigned bytes, or truncated")
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
