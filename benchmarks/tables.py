"""What the benchmarks that make a table leave behind."""

from __future__ import annotations

import json
from pathlib import Path

from fdiv_jax.files import JsonObject

__all__ = ["write_table"]


def write_table(output: Path, results: JsonObject, text: str) -> None:
    """Write the results as JSON, and beside them the same as Markdown."""
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(results, indent=2) + "\n")
    output.with_suffix(".md").write_text(text)
