"""Files that are written whole, with errors that a user understands."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from fdiv_jax.checkpoints import atomic_file
from fdiv_jax.files import refuse_links


@contextlib.contextmanager
def explained(what: str, path: Path) -> Iterator[None]:
    """OSErrors of the block become `cannot WHAT PATH: REASON`."""
    try:
        yield
    except OSError as error:
        message = f"cannot {what} {path}: {error.strerror or error}; the run so far is kept"
        raise OSError(*([] if error.errno is None else [error.errno]), message) from error


def write_file(path: Path, write: Callable[[Path], object], *, within: Path) -> None:
    """Write a file by `write`, whole or not at all, over one that is there.

    Args:
        path: of the file.
        write: is given the path to write.
        within: the run directory, from which no link is followed.

    Raises:
        ValueError: the file, or a folder on the way to it, is a link.
        OSError: the disk is full or fails, or there is no permission; what was there is as it was.
    """
    refuse_links(path, within)
    with explained("write", path), atomic_file(path, overwrite=True) as temporary:
        write(temporary)
