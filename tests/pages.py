"""The pages of the project as tests read them: blocks of code, headings, links; and how they are run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "PAGES",
    "ROOT",
    "Block",
    "anchors",
    "blocks",
    "commands",
    "links",
    "mentioned",
    "quickly_compiled",
]

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "benchmarks" / "README.md",
    ROOT / "paper_figures" / "README.md",
    ROOT / "spaces" / "README.md",
    ROOT / "tests" / "divergences" / "data" / "README.md",
]
_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+) -->\n)?"
    r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>\w*)[^\n]*\n(?P<text>.*?)^ *(?P=fence)$",
    re.MULTILINE | re.DOTALL,
)
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")


class Block(NamedTuple):
    """A fenced block: its language, its text, the line that it begins on, and why it is not run if it is not.

    A block is not run after a line `<!-- not run: REASON -->`; its names are looked up all the same.
    """

    language: str
    text: str
    line: int
    not_run: str = ""


def blocks(page: Path, language: str = "") -> list[Block]:
    """The fenced blocks of a page, of one language or of all."""
    text = page.read_text(encoding="utf-8")
    found = [
        Block(
            each["language"],
            each["text"],
            text.count("\n", 0, each.start("fence")) + 1,
            each["reason"] or "",
        )
        for each in _BLOCK.finditer(text)
    ]
    return [block for block in found if not language or block.language == language]


def commands(page: Path) -> Iterator[tuple[int, list[str]]]:
    """The commands that a page shows, in words, each with its line: after `$ `, or indented."""
    for block in blocks(page, "console"):
        text = block.text.replace("\\\n", " ")
        for number, line in enumerate(text.splitlines()):
            if line.startswith("$ "):
                yield block.line + 1 + number, shlex.split(line[2:], comments=True)
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if re.match(r"    (make|pip) ", line):
            yield number, shlex.split(line.replace(";", " # "), comments=True)


def mentioned(page: Path) -> Iterator[tuple[int, list[str]]]:
    """The commands that the text of a page mentions, in words, each with its line: `fdiv-jax NAME ...`.

    They need not be whole, and what stands for more (`...`) is left out.
    """
    text = page.read_text(encoding="utf-8")
    outside = _BLOCK.sub(lambda block: "\n" * block[0].count("\n"), text)
    for found in re.finditer(r"(?<!`)`((?:fdiv-jax|python -m|make|bash|pip) [^`]+)`", outside):
        words = shlex.split(" ".join(found[1].split()), comments=True)
        yield text.count("\n", 0, found.start()) + 1, [word for word in words if word != "..."]


def links(page: Path) -> list[str]:
    """The targets of a page's links and pictures, outside of code."""
    text = _BLOCK.sub("", page.read_text(encoding="utf-8"))
    return _LINK.findall(re.sub(r"`[^`\n]*`", "", text))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as the site makes them."""
    text = _BLOCK.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", heading.lower()).strip() for heading in headings)
    return {re.sub(r"[\s-]+", "-", heading) for heading in plain}


@contextmanager
def quickly_compiled() -> Iterator[None]:
    """XLA optimises little, as in the fast tests: where code has two steps, compiling it is all the work."""
    import jax

    before = jax.config.values["jax_disable_most_optimizations"]
    jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.clear_caches()
        jax.config.update("jax_disable_most_optimizations", before)
