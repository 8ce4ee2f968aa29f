"""Directories and files that are written whole or not at all.

Content being written is in a hidden directory beside its place, `.NAME.tmp-1a2b3c4d`, on which the writing
process holds a lock. The next process that writes the same name removes one that a dead process left.
"""

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

__all__ = [
    "LEFTOVER",
    "atomic_directory",
    "atomic_file",
    "check_place",
    "clean_leftovers",
    "flush",
    "follow_umask",
]

LEFTOVER = re.compile(r"\.(?P<name>.+)\.(?P<kind>tmp|old)-[0-9a-f]{8}")
"""Names of directories that a dying process can leave behind: half written, or put aside."""


def check_place(path: str | os.PathLike[str]) -> None:
    """Check, before the work for it, that a file or directory can be made at `path`.

    Raises:
        NotADirectoryError: the parent is a file.
        PermissionError: the parent cannot be written to.
    """
    target = _target(path)
    above = target if target.is_dir() else next(place for place in target.parents if place.exists())
    if not above.is_dir():
        raise NotADirectoryError(f"output {path}: {above} is a file, expected a directory")
    if not os.access(above, os.W_OK | os.X_OK):
        raise PermissionError(f"output {path}: {above} cannot be written to")


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary sibling of `path` to write into, renamed to `path` when the block ends without an error.

    Everything is flushed to disk before the rename, so that a reader (or a machine that loses power) sees the
    old state or the whole new one. When the block raises, the temporary directory is removed and `path` is as
    it was. Missing parents are made. Files have the permissions of any new file.

    Both exceptions are raised before the block runs.

    Raises:
        FileExistsError: `path` is a directory that is not empty, and `overwrite` is False.
        NotADirectoryError: `path` is a file.
    """
    target = _target(path)
    _refuse(target, overwrite)
    with _beside(target) as temporary:
        yield temporary
        _settle(temporary)
        _refuse(target, overwrite)
        _swap(temporary, target, temporary.with_name(temporary.name.replace(".tmp-", ".old-")))


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """A file in a temporary directory to write, moved to `path` when the block ends without an error.

    As `atomic_directory`, for one file.

    Raises:
        FileExistsError: `path` exists and `overwrite` is False.
        IsADirectoryError: `path` is a directory.
    """
    target = _target(path)
    _refuse_file(target, overwrite)
    with _beside(target) as temporary:
        yield temporary / target.name
        _settle(temporary)
        _refuse_file(target, overwrite)
        (temporary / target.name).replace(target)
        flush(target.parent)


def clean_leftovers(directory: Path, name: str | None = None) -> None:
    """Remove directories that dead processes left half written or half removed; restore those put aside.

    Args:
        directory: where they wrote.
        name: name of the file or directory they wrote; None: any.
    """
    for path in directory.iterdir() if directory.is_dir() else ():
        match = LEFTOVER.fullmatch(path.name)
        if match is None or name not in (None, match["name"]) or path.is_symlink() or not path.is_dir():
            continue
        with contextlib.suppress(OSError), _locked(path, fcntl.LOCK_EX):
            whole = path.with_name(match["name"])
            if match["kind"] == "old" and not os.path.lexists(whole):
                path.rename(whole)
            else:
                shutil.rmtree(path, ignore_errors=True)


def follow_umask(path: Path, like: int) -> None:
    """Give a file the permissions of a new one: those of a new directory, of mode `like`, without execution.

    Some libraries write files that only their owner can read.
    """
    if stat.S_IMODE(path.stat().st_mode) != like & 0o666:
        path.chmod(like & 0o666)


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A new hidden directory beside `target`, locked while the block runs and removed after it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    clean_leftovers(target.parent, target.name)
    while True:
        temporary = target.with_name(f".{target.name}.tmp-{secrets.token_hex(4)}")
        temporary.mkdir()
        lock = contextlib.ExitStack()
        try:
            lock.enter_context(_locked(temporary, fcntl.LOCK_SH))
            break
        except (BlockingIOError, FileNotFoundError):  # another process has just taken it for a dead one's
            continue
        except OSError:  # not every file system has locks
            break
    try:
        with lock:
            yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _locked(directory: Path, kind: int) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(descriptor), os.stat(directory)):
            raise FileNotFoundError(directory)
        yield
    finally:
        os.close(descriptor)


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
    """Rename `temporary` to `target`; an old `target` is put aside first, and back if the rename fails."""
    if target.exists() and any(target.iterdir()):
        with contextlib.ExitStack() as lock:
            with contextlib.suppress(OSError):
                lock.enter_context(_locked(target, fcntl.LOCK_SH))
            target.rename(aside)
            try:
                temporary.rename(target)
            except BaseException:
                aside.rename(target)
                raise
        shutil.rmtree(aside, ignore_errors=True)
    else:
        temporary.replace(target)
    flush(target.parent)


def _settle(directory: Path) -> None:
    """Flush all of a new directory to disk, its files with the permissions of new ones."""
    mode = stat.S_IMODE(directory.stat().st_mode)
    for root, _, files in os.walk(directory):
        for name in files:
            follow_umask(Path(root, name), mode)
            flush(Path(root, name))
        flush(Path(root))


def flush(path: Path) -> None:
    """Flush a file, or the names in a directory, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems cannot flush a directory
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)
