"""A lock on a directory, which ends with the process that holds it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
from pathlib import Path

NAME = ".lock"


class DirectoryLock:
    """The file `.lock` of a directory, with an exclusive `flock` and the host and process that hold it."""

    def __init__(self, directory: Path):
        """Not held yet."""
        self._directory = directory
        self._path = directory / NAME
        self._descriptor: int | None = None

    def acquire(self, takeover: bool) -> None:
        """Take it.

        Raises:
            BlockingIOError: a live process holds it, and `takeover` is off; names host and process.
            OSError: the file system has no locks, and `takeover` is off.
        """
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                self._lock(descriptor, takeover)
            except BaseException:
                os.close(descriptor)
                raise
            if self._is_at_its_place(descriptor):
                break
            os.close(descriptor)  # another process has removed or replaced the file meanwhile
        self._descriptor = descriptor
        holder = json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode()
        with contextlib.suppress(OSError):  # a full disk: the lock holds without the words
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, holder, 0)

    def check(self) -> None:
        """Raises BlockingIOError when another process has taken the lock over."""
        if self._descriptor is not None and not self._is_at_its_place(self._descriptor):
            holder = self._holder()
            raise BlockingIOError(errno.EAGAIN, f"output {self._directory} was taken over by {holder}")

    def release(self) -> None:
        """Give it back, and remove the file if it is still this process's."""
        if self._descriptor is None:
            return
        if self._is_at_its_place(self._descriptor):
            with contextlib.suppress(OSError):
                self._path.unlink()
        os.close(self._descriptor)
        self._descriptor = None

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
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self._path))
        except FileNotFoundError:
            return False

    def _holder(self) -> str:
        try:
            holder = json.loads(self._path.read_text())
            return f"process {holder['pid']} on {holder['host']}"
        except (OSError, ValueError, TypeError, KeyError):
            return "another process"
