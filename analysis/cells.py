"""Finished pieces of a part's work, kept so that an interrupted part goes on from them."""

from __future__ import annotations

import base64
import io
import json
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from . import files

__all__ = ["Cells", "decode", "encode"]

_ARRAY = "__array__"


class Cells:
    """The cells of one part in one folder.

    Attributes:
      kept_seconds: the time that the cells took which were not computed again.
    """

    def __init__(self, folder: Path):
        """`folder` belongs to one state of the code and the settings; it need not exist."""
        self.kept_seconds = 0.0
        self._folder = folder

    def get(self, name: str, compute: Callable[[], Any]) -> Any:
        """The kept cell of that name, or what `compute` returns, which is kept.

        Either way the value has been through JSON: tuples are lists, numpy scalars are Python's, and arrays
        have the same type and bits.

        Raises:
          TypeError: a value that `encode` refuses.
        """
        path = self._folder / f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}.json"
        stored = files.read_json(path)
        if stored.get("name") == name and "value" in stored:
            self.kept_seconds += stored["seconds"]
            return decode(stored["value"])
        started = time.perf_counter()
        value = encode(compute())
        seconds = time.perf_counter() - started
        files.write_whole(path, json.dumps({"name": name, "seconds": seconds, "value": value}))
        return decode(value)


def encode(value: Any) -> Any:
    """What JSON can hold: mappings, sequences, text, numbers (nan and infinity too) and numpy arrays.

    Raises:
      TypeError: anything else, or a key that is not text.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, np.ndarray):
        buffer = io.BytesIO()
        np.save(buffer, value, allow_pickle=False)
        return {_ARRAY: base64.b64encode(buffer.getvalue()).decode()}
    if isinstance(value, (list, tuple)):
        return [encode(entry) for entry in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: encode(entry) for key, entry in value.items()}
    raise TypeError(f"expected text, numbers, arrays, and lists and mappings of them; got {value!r}")


def decode(value: Any) -> Any:
    """The value that `encode` was given."""
    if isinstance(value, list):
        return [decode(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {_ARRAY}:
        return np.load(io.BytesIO(base64.b64decode(value[_ARRAY])), allow_pickle=False)
    return {key: decode(entry) for key, entry in value.items()}
