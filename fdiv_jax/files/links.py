"""Writing inside a directory only: a link in it could lead to somebody else's file.

A run directory may come from a stranger, in an archive. Were its `metrics.jsonl` a symbolic link, or another
name (a hard link) of a file elsewhere, writing to it would change that file.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

__all__ = ["check_no_links", "open_own", "refuse_links"]

_GUESTS = ("wandb",)
"""Folders that another program fills, with links of its own; only the files we write there are checked."""


def check_no_links(directory: Path) -> None:
    """Check that a directory holds only files and directories of its own, before anything is written.

    The directory itself may be a link, which its user has made.

    Raises:
        ValueError: a symbolic link, a FIFO, a device or a socket; names it and the directory.
    """
    for root, folders, files in os.walk(directory):
        for name in (*folders, *files):
            _refuse(Path(root, name), directory)
        folders[:] = [name for name in folders if name not in _GUESTS]


def refuse_links(path: Path, within: Path) -> None:
    """Check that a file about to be written, and the folders from `within` to it, are not links.

    Raises:
        ValueError: one of them is a link, or neither a file nor a folder; names it.
    """
    for part in (path, *path.parents):
        if part == within:
            return
        if os.path.lexists(part):
            _refuse(part, within)


def open_own(path: Path, flags: int) -> int:
    """Open a file for writing in place, and return its descriptor; a missing file is created.

    Raises:
        ValueError: it is a symbolic link, or not a file.
    """
    refuse_links(path, path.parent)
    descriptor = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # it has become one since
        os.close(descriptor)
        _refuse(path, path.parent)
    return descriptor


def _refuse(path: Path, within: Path) -> None:
    mode = os.lstat(path).st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return
    what = f"a symbolic link to {os.readlink(path)}" if stat.S_ISLNK(mode) else "neither a file nor a folder"
    raise ValueError(
        f"output {within}: {path.relative_to(within)} is {what}; expected files and folders of its own: "
        "nothing is written through links"
    )
