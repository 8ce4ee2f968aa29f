"""Terminal output that shows text from users and files literally, never as markup.

Rich reads `[b]` as bold and `:cat:` as a picture in every string that it is given, and a terminal obeys the
control characters in what it is sent. Prompts, patterns, paths and names out of a model's files hold all of
these, so everything that the library shows goes through the classes here.
"""

from __future__ import annotations

import contextlib
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any

import rich.console
from rich.progress import ProgressColumn, Task
from rich.table import Column
from rich.text import Text

__all__ = ["Console", "TextColumn", "printable"]

_KEPT = "\n\t"
_DIRECTIONS = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that change the order in which the text around them is shown."""


def printable(text: str) -> str:
    r"""The text with every character that a terminal obeys or cannot print written as `\x1b`, `\u202e`, ...

    >>> print(printable("a \x1b[31mred dog"))
    a \x1b[31mred dog
    """
    if text.isprintable():
        return text
    return "".join(_escaped(c) if _obeyed(c) else c for c in text)


def _obeyed(character: str) -> bool:
    if character in _KEPT:
        return False
    return character in _DIRECTIONS or unicodedata.category(character) in ("Cc", "Cs")


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


class Console(rich.console.Console):
    """Rich's console without markup in strings, including the cells and titles of tables.

    Styles are passed explicitly: `print(Text("heading", "bold"))`, `add_column(style="bold")`.
    """

    def __init__(self, **options: Any):
        super().__init__(**options, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:  # type: ignore[override]
        """A string as Rich's text, without markup."""
        return super().render_str(printable(text), **{**options, "markup": False, "emoji": False})

    @contextlib.contextmanager
    def waiting(self, text: str) -> Iterator[Callable[[str], None]]:
        """A spinner beside a text while the block runs; gives the function that changes the text."""
        with super().status(Text(printable(text))) as status:
            yield lambda changed: status.update(Text(printable(changed)))


class TextColumn(ProgressColumn):
    """A column of a progress bar: a format such as "{task.description}", filled in and shown as it is."""

    def __init__(self, text_format: str, table_column: Column | None = None):
        super().__init__(table_column or Column(no_wrap=True))
        self._format = text_format

    def render(self, task: Task) -> Text:
        """The column's text for a task."""
        return Text(printable(self._format.format(task=task)))
