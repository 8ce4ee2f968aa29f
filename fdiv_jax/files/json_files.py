"""Strict JSON from untrusted files: bounded time and memory, and the place of every mistake."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from typing import Any

from fdiv_jax.files.reading import LIMIT, read_text
from fdiv_jax.files.wording import one_line, shown

__all__ = ["JsonMapping", "JsonObject", "parse_json", "read_json"]

JsonObject = dict[str, Any]
"""An object of a JSON file: whoever takes a value out of it checks the value."""
JsonMapping = Mapping[str, Any]
"""The same, to read from."""

DEPTH = 64
"""Deepest nesting of lists and objects."""
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\Z)|[\[\]{}]', re.DOTALL)
"""A string (to the end of the text where it is not closed), or a bracket."""


def read_json(path: str | os.PathLike[str], *, limit: int = LIMIT, finite: bool = True) -> JsonObject:
    """The JSON object that a file holds.

    Args:
        path: the file.
        limit: largest size in bytes.
        finite: refuse NaN and Infinity, which Python writes although the standard does not have them.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a regular file, too large, not UTF-8, not JSON, a key twice in one object,
            nested more than 64 deep, or not an object. Names the file and the place in it.
    """
    value = parse_json(read_text(path, limit=limit), str(path), finite=finite)
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, got {shown(value)}")
    return value


def parse_json(text: str, where: str, *, finite: bool = True) -> Any:
    """The value of a JSON text, which errors call `where`.

    Raises:
        ValueError: as `read_json` for the content of a file.
    """
    _check_depth(text, where)
    options: JsonObject = {"object_pairs_hook": _once}
    if finite:
        options |= {"parse_constant": _refused, "parse_float": _finite}
    try:
        return json.loads(text, **options)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}, {_place(text, error.pos)}: not JSON ({error.msg})") from None
    except ValueError as error:
        raise ValueError(f"{where}: not JSON ({one_line(error)})") from None


def _check_depth(text: str, where: str) -> None:
    if text.count("[") + text.count("{") <= DEPTH:
        return
    depth = 0
    for match in _TOKEN.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(match[0], 0)
        if depth > DEPTH:
            raise ValueError(f"{where}, {_place(text, match.start())}: nested more than {DEPTH} deep")


def _place(text: str, position: int) -> str:
    line, column = text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)
    # A text of one line may be a line of a longer file, which `where` then names.
    return f"line {line}, column {column}" if "\n" in text else f"column {column}"


def _once(pairs: list[tuple[str, Any]]) -> JsonObject:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise ValueError(f"the key {shown(twice)} twice in one object")
    return found


def _refused(name: str) -> float:
    raise ValueError(f"{name}, expected a finite number")


def _finite(digits: str) -> float:
    value = float(digits)
    return value if math.isfinite(value) else _refused(one_line(digits, 40))
