"""A lock on a directory, which ends with the process that holds it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
from pathlib import Path

from fdiv_jax.files import open_own, read_json, shown

NAME = ".lock"


class DirectoryLock:
    """The file `.lock` of a directory, with an exclusive `flock` and the host and process that hold it."""

    def __init__(self, directory: Path):
        """Not held yet."""
        self._directory = directory
        self._path = directory / NAME
        self._descriptor: int | None = None
        self._place: int | None = None

    def acquire(self, takeover: bool) -> None:
        """Take it.

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
        holder = json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode()
        with contextlib.suppress(OSError):  # a full disk: the lock holds without the words
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, holder, 0)

    def check(self) -> None:
        """See that the lock is still this process's.

        Raises:
            FileNotFoundError: the directory was moved or removed, or its lock file was.
            BlockingIOError: another process has taken the lock over; names it.
        """
        if self._descriptor is None or self._is_at_its_place(self._descriptor):
            return
        where = f"output {self._directory}"
        if self._place is not None and not _is_same(self._place, self._directory):
            now = _path_of(self._place)
            moved = f"moved to {now}" if now is not None else "moved or removed"
            raise FileNotFoundError(
                errno.ENOENT, f"{where} was {moved} while its run went on; resume the run where it is now"
            )
        if not os.path.lexists(self._path):
            raise FileNotFoundError(
                errno.ENOENT, f"{self._path} was removed, by which the run held {where}; resume it"
            )
        raise BlockingIOError(errno.EAGAIN, f"{where} was taken over by {self._holder()}")

    def release(self) -> None:
        """Give it back, and remove the file if it is still this process's."""
        if self._descriptor is None:
            return
        if self._is_at_its_place(self._descriptor):
            with contextlib.suppress(OSError):
                self._path.unlink()
        elif self._place is not None and not _is_same(self._place, self._directory):
            with contextlib.suppress(OSError):  # the directory was moved, the lock with it
                os.unlink(NAME, dir_fd=self._place)
        os.close(self._descriptor)
        if self._place is not None:
            os.close(self._place)
        self._descriptor = self._place = None

    def _lock(self, descriptor: int, takeover: bool) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if not takeover:
                text = f"output {self._directory} is in use by {self._holder()}"
                raise BlockingIOError(errno.EAGAIN, text) from error
            self._path.unlink(missing_ok=True)
        except OSError as error:
            if not takeover:
                text = f"output {self._directory}: no lock to be had on its file system ({error.strerror})"
                raise OSError(error.errno, f"{text}; takeover goes on without one") from error

    def _is_at_its_place(self, descriptor: int) -> bool:
        return _is_same(descriptor, self._path)

    def _holder(self) -> str:
        try:
            holder = read_json(self._path, limit=1000)
            return f"process {int(holder['pid'])} on {shown(holder['host'])[1:-1]}"
        except (OSError, ValueError, TypeError, KeyError):
            return "another process"


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
