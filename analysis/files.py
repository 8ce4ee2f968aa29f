"""Files that are written whole or not at all, and numbers that can be read back."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fdiv_jax.files import JsonObject

__all__ = ["Columns", "Row", "csv_text", "digest", "json_text", "read_json", "write_whole"]

Row = dict[str, Any]
"""A row of a table, by the names of its columns: numbers, text, or sequences of them."""
Columns = Mapping[str, ArrayLike]
"""A table by its columns, which have one length."""


def write_whole(path: Path, content: str | bytes) -> None:
    """Write to a neighbouring file and move it into place, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.tmp-{secrets.token_hex(4)}")
    try:
        draft.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def read_json(path: Path) -> JsonObject:
    """The object in a file; empty when there is none or it cannot be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"expected a finite number at {where or 'the top'}, got {value}")
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise TypeError(f"expected JSON values, got {type(value).__name__} at {where or 'the top'}")


def json_text(value: Any) -> str:
    """JSON with numpy numbers made plain; nan and infinity are refused, naming their place."""
    return json.dumps(_plain(value, ""), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def csv_text(rows: Iterable[Mapping[str, Any]] | Columns) -> str:
    """CSV from rows, or from columns of one length; numbers as the shortest text that reads back the same."""
    if isinstance(rows, Mapping):
        columns = {str(name): list(np.asarray(values).tolist()) for name, values in rows.items()}
        table: list[Row] = [
            dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
        ]
    else:
        table = [{k: v.item() if isinstance(v, np.generic) else v for k, v in row.items()} for row in rows]
    if not table:
        raise ValueError("expected at least one row of numbers, got none")
    names = list(table[0])
    for i, row in enumerate(table):
        if list(row) != names:
            raise ValueError(f"expected the columns {names} in every row, got {list(row)} in row {i}")
        for name, value in row.items():
            if isinstance(value, float) and math.isnan(value):
                raise ValueError(f"expected numbers, got nan in row {i}, column {name}")
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return buffer.getvalue()
