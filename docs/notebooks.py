"""The tutorials as notebooks: `python docs/notebooks.py` writes docs/tutorials/NAME.ipynb from NAME.md.

Text becomes Markdown cells, Python blocks code cells, and commands code cells with `!`. A test checks that
the notebooks are in step with the pages.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

__all__ = ["notebook", "pages"]

TUTORIALS = Path(__file__).resolve().parent / "tutorials"
_BLOCK = re.compile(r"^```(python|console)\n(.*?)^```$\n?", re.MULTILINE | re.DOTALL)
_INSTALL = "%pip install --quiet fdiv-jax"


def pages() -> list[Path]:
    """The tutorials, as pages."""
    return sorted(TUTORIALS.glob("*.md"))


def notebook(page: Path) -> str:
    """The notebook of a page, as JSON."""
    text = re.sub(r"^\*As a notebook: .*?\*\s*", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    cells, end = [], 0
    heading, _, text = text.partition("\n\n")
    cells += [("markdown", heading), ("code", _INSTALL)]
    for found in _BLOCK.finditer(text):
        cells += [("markdown", text[end : found.start()]), ("code", _code(*found.groups()))]
        end = found.end()
    cells.append(("markdown", text[end:]))
    made = [
        _cell(kind, source.strip("\n"), number)
        for number, (kind, source) in enumerate(cells)
        if source.strip()
    ]
    content = {
        "cells": made,
        "metadata": {
            "colab": {"name": page.with_suffix(".ipynb").name, "provenance": []},
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _code(language: str, block: str) -> str:
    if language == "python":
        return block
    return "\n".join(f"!{line[2:]}" for line in block.splitlines() if line.startswith("$ "))


def _cell(kind: str, source: str, number: int) -> dict:
    cell = {
        "cell_type": kind,
        "id": f"cell-{number:02}",
        "metadata": {},
        "source": source.splitlines(keepends=True),
    }
    return cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})


def main() -> int:
    """Write every notebook; with --check, only say which are not in step."""
    stale = [p for p in pages() if _stored(p) != notebook(p)]
    if "--check" in sys.argv[1:]:
        print(
            *(f"not in step: {p.with_suffix('.ipynb')}" for p in stale), sep="\n", end="\n" if stale else ""
        )
        return bool(stale)
    for page in stale:
        page.with_suffix(".ipynb").write_text(notebook(page), encoding="utf-8")
    return 0


def _stored(page: Path) -> str:
    file = page.with_suffix(".ipynb")
    return file.read_text(encoding="utf-8") if file.is_file() else ""


if __name__ == "__main__":
    sys.exit(main())
