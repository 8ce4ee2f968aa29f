"""A line of metrics.jsonl: strict JSON, for which a number that is not finite is a word."""

from __future__ import annotations

import json
import math

from fdiv_jax.files import JsonMapping, JsonObject, parse_json, shown

__all__ = ["Row", "metrics_line", "metrics_row"]

Row = JsonObject
"""The figures of a step by name, as a line of metrics.jsonl holds them; `step` and `warmup` among them."""

_WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""As the JSON form of Protocol Buffers has them; bare, most readers refuse them."""


def metrics_line(row: JsonMapping) -> str:
    """One step's figures as a line."""

    def plain(value: object) -> object:
        if not isinstance(value, float) or math.isfinite(value):
            return value
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"

    return json.dumps({name: plain(value) for name, value in row.items()}, allow_nan=False) + "\n"


def metrics_row(line: str, where: str = "metrics.jsonl") -> Row:
    """The figures of a line; `where` is what an error names it by.

    Raises:
        ValueError: it is not an object of JSON.
    """
    row = parse_json(line, where)
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected a JSON object, got {shown(row)}")
    return {name: _WORDS.get(word, word) if isinstance(word, str) else word for name, word in row.items()}
