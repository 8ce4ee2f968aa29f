"""Directories and files that are written whole or not at all."""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

__all__ = ["atomic_directory", "atomic_file", "check_place"]


def check_place(path: str | os.PathLike[str]) -> None:
    """Whether a file, or the content of a directory, can be made at `path`, asked before the work for it.

    Raises NotADirectoryError where what it would be in is a file, PermissionError where that cannot be
    written to.
    """
    target = _target(path)
    above = target if target.is_dir() else next(place for place in target.parents if place.exists())
    if not above.is_dir():
        raise NotADirectoryError(f"output {path}: {above} is a file, expected a directory")
    if not os.access(above, os.W_OK | os.X_OK):
        raise PermissionError(f"output {path}: {above} cannot be written to")


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Gives a temporary sibling of `path` to write into, and renames it to `path` when the block ends well.

    Everything is flushed to disk before the rename, so that a reader (or a machine that loses power) sees the
    old state or the whole new one. When the block raises, the temporary directory is removed and `path` is as
    it was. Missing parents are made.

    Raises FileExistsError when `path` is a directory with something in it and `overwrite` is off,
    NotADirectoryError when it is a file; both before the block runs.
    """
    target = _target(path)
    _refuse(target, overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    token = secrets.token_hex(4)
    temporary = target.with_name(f".{target.name}.tmp-{token}")
    temporary.mkdir()
    try:
        yield temporary
        _flush(temporary)
        _refuse(target, overwrite)
        _swap(temporary, target, target.with_name(f".{target.name}.old-{token}"))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Gives a temporary sibling of `path` to write, and renames it to `path` when the block ends well.

    As `atomic_directory`, for one file. The sibling has the ending of `path`.

    Raises FileExistsError when `path` is there and `overwrite` is off, IsADirectoryError when it is a
    directory; both before the block runs.
    """
    target = _target(path)
    _refuse_file(target, overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.tmp-{secrets.token_hex(4)}{target.suffix}")
    try:
        yield temporary
        _fsync(temporary)
        _refuse_file(target, overwrite)
        temporary.replace(target)
        _fsync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _target(path: str | os.PathLike[str]) -> Path:
    target = Path(os.path.abspath(path))
    return target.resolve() if target.is_symlink() else target


def _refuse_file(target: Path, overwrite: bool) -> None:
    if target.is_dir():
        raise IsADirectoryError(f"{target} is a directory, expected a file to write or a free name")
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists; expected a new file")


def _refuse(target: Path, overwrite: bool) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise NotADirectoryError(f"{target} is a file, expected a directory to write or a free name")
    if not overwrite and any(target.iterdir()):
        raise FileExistsError(f"{target} exists and is not empty; expected an empty or a new directory")


def _swap(temporary: Path, target: Path, aside: Path) -> None:
    """Rename `temporary` to `target`; what is there now is put aside first, and back if the rename fails."""
    if target.exists() and any(target.iterdir()):
        target.rename(aside)
        try:
            temporary.rename(target)
        except BaseException:
            aside.rename(target)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    else:
        temporary.replace(target)
    _fsync(target.parent)


def _flush(directory: Path) -> None:
    for root, _, files in os.walk(directory):
        for name in files:
            _fsync(Path(root, name))
        _fsync(Path(root))


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems cannot flush a directory
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)
