"""A lock on a directory, which ends with the process that holds it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
from pathlib import Path

from fdiv_jax.files import JsonMapping, open_own, parse_json, read_json, shown

NAME = ".lock"
_TAKER = "taken_over_by"
_LONGEST = 1000
"""Bytes of a lock file, at most."""


class DirectoryLock:
    """The file `.lock` of a directory, with an exclusive `flock` and the host and process that hold it."""

    def __init__(self, directory: Path):
        """Set up the lock without taking it."""
        self._directory = directory
        self._path = directory / NAME
        self._descriptor: int | None = None
        self._place: int | None = None

    def acquire(self, takeover: bool) -> None:
        """Take the lock.

        Raises:
            BlockingIOError: a live process holds it, and `takeover` is off; names host and process.
            OSError: the file system has no locks, and `takeover` is off.
            ValueError: the file is a link.
        """
        while True:
            descriptor = open_own(self._path, os.O_RDWR)
            try:
                self._lock(descriptor, takeover)
            except BaseException:
                os.close(descriptor)
                raise
            if self._is_at_its_place(descriptor):
                if os.fstat(descriptor).st_nlink == 1:
                    break
                self._path.unlink()  # it has another name elsewhere, where nothing is to be written
            os.close(descriptor)  # another process has removed or replaced the file meanwhile
        self._descriptor = descriptor
        self._place = os.open(self._directory, os.O_RDONLY)
        _write(descriptor, {"host": socket.gethostname(), "pid": os.getpid()})

    def check(self) -> None:
        """Check that the lock is still this process's.

        Raises:
            FileNotFoundError: the directory was moved or removed, or its lock file was removed or replaced.
            BlockingIOError: another process has taken the lock over; names it.
        """
        if self._descriptor is None or self._is_at_its_place(self._descriptor):
            return
        where = f"output {self._directory}"
        taker = _taker(self._descriptor)
        if taker is not None:
            raise BlockingIOError(errno.EAGAIN, f"{where} was taken over by {taker}")
        if self._place is not None and not _is_same(self._place, self._directory):
            now = _path_of(self._place)
            moved = f"moved to {now}" if now is not None else "moved or removed"
            raise FileNotFoundError(
                errno.ENOENT, f"{where} was {moved} while its run went on; resume the run where it is now"
            )
        if self._is_held():
            raise BlockingIOError(errno.EAGAIN, f"{where} was taken over by {self._holder()}")
        what = "replaced by another file" if os.path.lexists(self._path) else "removed"
        raise FileNotFoundError(
            errno.ENOENT, f"{self._path}, by which the run held {where}, was {what}; resume the run"
        )

    def release(self) -> None:
        """Release the lock, and remove the file if it is still this process's."""
        if self._descriptor is None or self._place is None:
            return
        with contextlib.suppress(OSError):  # through the directory itself, which may have been moved
            found = os.stat(NAME, dir_fd=self._place, follow_symlinks=False)
            if os.path.samestat(found, os.fstat(self._descriptor)):
                os.unlink(NAME, dir_fd=self._place)
        os.close(self._descriptor)
        os.close(self._place)
        self._descriptor = self._place = None

    def _lock(self, descriptor: int, takeover: bool) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if not takeover:
                text = f"output {self._directory} is in use by {self._holder()}"
                raise BlockingIOError(errno.EAGAIN, text) from error
            if (
                os.fstat(descriptor).st_nlink == 1
            ):  # the former process, which has it open, can read who it was
                _write(descriptor, {_TAKER: {"host": socket.gethostname(), "pid": os.getpid()}})
            self._path.unlink(missing_ok=True)
        except OSError as error:
            if not takeover:
                text = f"output {self._directory}: no lock to be had on its file system ({error.strerror})"
                raise OSError(error.errno, f"{text}; takeover goes on without one") from error

    def _is_at_its_place(self, descriptor: int) -> bool:
        return _is_same(descriptor, self._path)

    def _is_held(self) -> bool:
        """Whether another process holds the file that is at the place of this one's."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:  # where there are no locks, whoever wrote it is taken to live
            return True
        finally:
            os.close(descriptor)
        return False

    def _holder(self) -> str:
        try:
            return _named(read_json(self._path, limit=_LONGEST))
        except (OSError, ValueError, TypeError, KeyError):
            return "another process"


def _named(holder: JsonMapping) -> str:
    return f"process {int(holder['pid'])} on {shown(holder['host'])[1:-1]}"


def _taker(descriptor: int) -> str | None:
    """Who took over the lock of an open file; None: nobody has."""
    try:
        return _named(parse_json(os.pread(descriptor, _LONGEST, 0).decode(), NAME)[_TAKER])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _write(descriptor: int, content: JsonMapping) -> None:
    with contextlib.suppress(OSError):  # a full disk: the lock holds without the words
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(content).encode(), 0)


def _is_same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except (FileNotFoundError, NotADirectoryError):
        return False


def _path_of(descriptor: int) -> str | None:
    """Where an open directory is now; None where the system does not say, or it is gone."""
    try:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        return path if os.path.samestat(os.fstat(descriptor), os.stat(path)) else None
    except OSError:
        return None
