"""A line of metrics.jsonl: strict JSON, for which a number that is not finite is a word."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

__all__ = ["metrics_line", "metrics_row"]

_WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""As the JSON form of Protocol Buffers has them; bare, most readers refuse them."""


def metrics_line(row: Mapping[str, Any]) -> str:
    """One step's figures as a line."""

    def plain(value: Any) -> Any:
        if not isinstance(value, float) or math.isfinite(value):
            return value
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"

    return json.dumps({name: plain(value) for name, value in row.items()}, allow_nan=False) + "\n"


def metrics_row(line: str | bytes) -> dict[str, Any]:
    """The figures of a line."""
    return {
        name: _WORDS.get(value, value) if isinstance(value, str) else value
        for name, value in json.loads(line).items()
    }
