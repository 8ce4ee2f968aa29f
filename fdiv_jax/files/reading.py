"""Reading small files whole: regular files only, up to a given size."""

from __future__ import annotations

import os
import stat
from pathlib import Path

__all__ = ["check_regular", "read_bytes", "read_text"]

LIMIT = 16 << 20
"""Size in bytes of the largest text file that is read."""

_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def read_bytes(path: str | os.PathLike[str], *, limit: int = LIMIT) -> bytes:
    """The content of a regular file. A FIFO or a device, which could block reading forever, is refused.

    Raises:
        FileNotFoundError: no such file.
        IsADirectoryError: a directory.
        ValueError: not a regular file, or more than `limit` bytes.
        OSError: it cannot be read. All of them name the file.
    """
    try:
        _require_regular(path, os.stat(path))
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"no file {path}") from None
    with open(descriptor, "rb") as file:
        _require_regular(path, os.fstat(descriptor))  # it may have been replaced meanwhile
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"{path}: more than {limit} bytes, expected at most that many")
    return content


def read_text(path: str | os.PathLike[str], *, limit: int = LIMIT) -> str:
    """The text of a file in UTF-8, with or without a byte-order mark.

    Raises:
        ValueError: not UTF-8 (names the line), and as for `read_bytes`.
    """
    content = read_bytes(path, limit=limit)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: not UTF-8 (byte 0x{content[error.start]:02x})") from None


def check_regular(directory: Path) -> None:
    """Check that a directory, and those below it, hold only files and directories (or links to them).

    Raises:
        ValueError: something else, which could block reading forever; names it.
    """
    for root, _, names in os.walk(directory):
        for name in names:
            path = Path(root, name)
            if path.exists():
                _require_regular(path, path.stat())


def _require_regular(path: str | os.PathLike[str], status: os.stat_result) -> None:
    if stat.S_ISREG(status.st_mode):
        return
    kind = next((name for test, name in _KINDS if test(status.st_mode)), "something else")
    if kind == "a directory":
        raise IsADirectoryError(f"{path} is a directory, expected a file")
    raise ValueError(f"{path} is {kind}, expected a file")
