"""Arrays on disk under a key of everything that made them: written atomically, checked on reading."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import warnings
from pathlib import Path

import numpy as np

from fdiv_jax.checkpoints import atomic_file
from fdiv_jax.files import JsonMapping, read_bytes

__all__ = ["ArrayCache", "digest"]

_FORMAT = 1
_HEADERS = 1 << 16
"""Bytes of a file beside its array, at most."""


def digest(description: JsonMapping) -> str:
    """The key of a description that JSON can hold."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


class ArrayCache:
    """A directory of arrays, one file per key.

    What cannot be read or is not what it says is taken for absent, with a warning; what cannot be written is
    not kept, with a warning. A directory of None keeps nothing.
    """

    def __init__(self, directory: str | os.PathLike[str] | None):
        """Nothing is written before the first array."""
        self.directory = None if directory is None else Path(directory)

    def path(self, key: str) -> Path | None:
        """Where the array of a key is kept."""
        return None if self.directory is None else self.directory / f"{key}.npz"

    def read(self, key: str, shape: tuple[int, ...]) -> np.ndarray | None:
        """The float32 array of a key, or None."""
        path = self.path(key)
        if path is None or not path.exists():
            return None
        try:
            content = read_bytes(path, limit=4 * math.prod(shape) + _HEADERS)
            with np.load(io.BytesIO(content), allow_pickle=False) as stored:
                values, check = stored["values"], str(stored["check"])
        except Exception as error:
            warnings.warn(f"cache file {path} cannot be read ({error}); making it anew", stacklevel=2)
            return None
        if values.dtype != np.float32 or values.shape != shape or check != _check(key, values):
            warnings.warn(f"cache file {path} is damaged; making it anew", stacklevel=2)
            return None
        return values

    def write(self, key: str, values: np.ndarray) -> None:
        """Keep an array, whole or not at all."""
        path = self.path(key)
        if path is None:
            return
        try:
            with atomic_file(path, overwrite=True) as temporary:
                np.savez(temporary, values=values, check=np.array(_check(key, values)))
        except OSError as error:
            warnings.warn(
                f"cache {path.parent} cannot be written ({error}); going on without it", stacklevel=2
            )


def _check(key: str, values: np.ndarray) -> str:
    total = hashlib.sha256(f"{_FORMAT} {key} {values.dtype} {values.shape}".encode())
    total.update(np.ascontiguousarray(values).tobytes())
    return total.hexdigest()
