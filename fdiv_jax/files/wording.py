"""Values, names and errors as parts of messages: on one line, cut to a length."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence

__all__ = ["listed", "one_line", "shown"]


class _Short(reprlib.Repr):
    def __init__(self, limit: int):
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, limit, limit

    def repr_str(self, x: str, level: int) -> str:
        return repr(x) if len(x) <= self.maxstring else f"{x[: self.maxstring]!r}..."

    def repr_int(self, x: int, level: int) -> str:
        if abs(x).bit_length() > 256:  # Python refuses to write numbers of many digits
            return f"<a whole number of {abs(x).bit_length()} bits>"
        return repr(x)


def shown(value: object, limit: int = 80) -> str:
    """`repr(value)` in at most `limit` characters; the work does not grow with the value.

    >>> shown("x" * 1_000_000, 20)
    "'xxxxxxxxxxxxxxxx..."
    """
    return one_line(_Short(limit).repr(value), limit)


def one_line(message: object, limit: int = 400) -> str:
    """The text of a message or an error on one line, cut after `limit` characters.

    >>> one_line(ValueError("first\\n   second"))
    'first second'
    """
    if isinstance(message, BaseException):
        message = str(message) or type(message).__name__
    text = " ".join(str(message)[: 4 * limit].split())
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def listed(names: Sequence[str], most: int, between: str = "; ") -> str:
    """The first names, and the number of those left out.

    >>> listed(["a", "b", "c"], 2)
    'a; b and 1 more'
    """
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return between.join(names[:most]) + rest
