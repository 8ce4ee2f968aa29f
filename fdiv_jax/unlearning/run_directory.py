"""The directory of a run while it goes on: what it was asked for, its metrics, its checkpoints, its lock."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fdiv_jax.arrays import PyTree
from fdiv_jax.checkpoints import (
    Restored,
    TrainingCheckpoints,
    atomic_directory,
    atomic_file,
    check_place,
    clean_leftovers,
)
from fdiv_jax.checkpoints.atomic import LEFTOVER, flush
from fdiv_jax.checkpoints.training import error_number
from fdiv_jax.files import (
    JsonMapping,
    JsonObject,
    check_no_links,
    open_own,
    read_bytes,
    read_json,
    refuse_links,
)
from fdiv_jax.unlearning._lock import NAME as LOCK
from fdiv_jax.unlearning._lock import DirectoryLock
from fdiv_jax.unlearning._metrics import metrics_line, metrics_row
from fdiv_jax.unlearning.config import SETTINGS_SINCE
from fdiv_jax.unlearning.preemption import Preempted, TerminationGuard
from fdiv_jax.unlearning.result import Row
from fdiv_jax.unlearning.state import FORMER_NAMES

__all__ = ["METRICS", "Preempted", "RunDirectory", "TerminationGuard"]

_DESCRIPTION = "config.json"
METRICS = "metrics.jsonl"
_RESULT = "pipeline"
_PARTIAL = ".result"
_STALE = re.compile(rf"{LEFTOVER.pattern}|{re.escape(_PARTIAL)}")
"""What a process that dies can leave behind besides the run itself."""
_LONGEST = 1 << 30
"""Bytes of a metrics file, at most."""
_ABSENT = "(absent)"
_PLACEMENT = ("devices: ", "parallel: ")
"""Settings of the configuration that say where its work is done, and change nothing but the last bits."""


class RunDirectory:
    """A run directory that this process may write: `config.json`, `metrics.jsonl`, `checkpoints/`, `.lock`.

    Attributes:
        path: of the directory, absolute.
        checkpoints: of the run.
        resumed: the run was begun by an earlier process.
        saved: step of the last checkpoint that was written or restored; None: there was none.
    """

    def __init__(self, path: Path, lock: DirectoryLock):
        """For internal use; see `open`."""
        self.path = path
        self.checkpoints = TrainingCheckpoints(path / "checkpoints")
        self.resumed = (path / _DESCRIPTION).exists()
        self.saved: int | None = None
        self._lock = lock
        self._lines: list[bytes] = []
        self._descriptor: int | None = None
        self._changed: bytes | None = None

    @classmethod
    @contextlib.contextmanager
    def open(
        cls,
        path: str | os.PathLike[str],
        description: JsonMapping,
        *,
        resume: bool,
        takeover: bool = False,
        allow_changes: bool = False,
    ) -> Iterator[RunDirectory]:
        """The run directory at `path`, locked till the block ends or the process dies.

        A new or empty directory is begun, with `resume` too: its `config.json` is `description`. A run that
        is resumed keeps its own; where the new one differs and that is allowed, it takes the place of the old
        one, which moves to its list `earlier`, once `restore` has found that the checkpoint fits.

        Args:
            path: of the directory.
            description: what JSON can hold; `config`, `model` and `images` are compared with those of the run
                that is resumed, `versions` and `devices` too, but differences in them, and in how the
                configuration shares the work out (`devices`, `parallel`), give a warning only.
            resume: go on with the run that is there.
            takeover: take the directory from a process that holds its lock.
            allow_changes: go on with another configuration or model.

        Raises:
            FileExistsError: there is something, and `resume` is off.
            FileNotFoundError: there is something but no run to resume.
            BlockingIOError: another process has locked it, and `takeover` is off; names host and process.
            ValueError: `config`, `model` or `images` are not those of the run (names the keys), its
                `config.json` cannot be read, or something in the directory is a link or no file.
            NotADirectoryError: `path`, or what it would be in, is a file.
            PermissionError: it cannot be written.
        """
        path = Path(os.path.abspath(path))
        _check(path, resume)
        path.mkdir(parents=True, exist_ok=True)
        check_no_links(path)
        lock = DirectoryLock(path)
        lock.acquire(takeover)
        try:
            _check(path, resume)  # another process may have begun a run meanwhile
            directory = cls(path, lock)
            try:
                directory._begin(_plain(description), allow_changes)
                yield directory
            finally:
                directory._close()
        finally:
            lock.release()

    @property
    def finished(self) -> bool:
        """The result is there; such a run takes nothing more."""
        return (self.path / _RESULT).exists()

    @property
    def rows(self) -> list[Row]:
        """The rows of the metrics, of earlier processes too; on resuming, known after `restore`."""
        where = str(self.path / METRICS)
        return [metrics_row(line.decode(), f"{where}, line {i}") for i, line in enumerate(self._lines, 1)]

    def log(self, row: JsonMapping) -> None:
        """Add a row to the metrics; it survives the death of the process.

        Raises:
            RuntimeError: the run was resumed and `restore` not yet called.
            OSError: the disk is full or fails; the metrics are as before.
        """
        self._admit()
        if self._descriptor is None:
            raise RuntimeError(f"{self.path}: the run was resumed; restore comes before the first row")
        line = metrics_line(row).encode()
        size, rest = os.fstat(self._descriptor).st_size, line
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, size)
            message = f"{self.path / METRICS}: a row could not be added: {error.strerror}"
            raise OSError(error.errno, f"{message}; those before it are whole") from error
        self._lines.append(line)

    def metrics_bytes(self) -> bytes:
        """What the metrics file holds, flushed to disk.

        Raises:
            OSError: the disk is full or fails.
        """
        if self._descriptor is not None:
            try:
                os.fsync(self._descriptor)
            except OSError as error:
                message = f"{self.path / METRICS} could not be flushed to disk: {error.strerror}"
                raise OSError(error.errno, message) from error
        return b"".join(self._lines)

    def save(self, step: int, state: PyTree, extra: JsonMapping) -> Path:
        """A checkpoint, the metrics so far in it; see `TrainingCheckpoints.save`."""
        self._admit()
        path = self.checkpoints.save(step, state, extra, {METRICS: self.metrics_bytes()})
        self.saved = step
        return path

    def restore(self, like: PyTree, *, at_most: int | None = None) -> Restored | None:
        """The newest checkpoint that is whole, None where there is none; see `TrainingCheckpoints.restore`.

        The metrics become those of the checkpoint, so that every step is in them once, whatever the death of
        the former process left behind it.

        Args:
            like: the state that is expected.
            at_most: steps of the run in all.

        Raises:
            ValueError: the checkpoint does not fit, or is of a later step; the directory is as before.
        """
        self._admit()
        restored = self.checkpoints.restore(like, FORMER_NAMES)
        if restored is not None and at_most is not None and restored.step > at_most:
            raise ValueError(
                f"output {self.path}: {restored.step} steps are done, more than the {at_most} asked for; "
                "expected as many or more"
            )
        if self._changed is not None:  # what does not fit the checkpoint is refused by now
            _write(self.path / _DESCRIPTION, self._changed)
        content = b"" if restored is None else restored.files.get(METRICS, b"")
        if not self._begins_with(content):
            warnings.warn(
                f"{self.path / METRICS} was removed or changed since the checkpoint of step "
                f"{restored.step if restored else 0}; it is written again from there",
                RuntimeWarning,
                stacklevel=3,
            )
        self._rewind(content)
        self.saved = None if restored is None else restored.step
        return restored

    def finish(self, write: Callable[[Path], object]) -> None:
        """Put the result in, `pipeline/` last, and remove the checkpoints.

        Args:
            write: is given an empty directory; what it writes there, with `pipeline/` in it, is moved into
                the run directory when all of it is on disk.

        Raises:
            OSError: the disk is full or fails; the run can be resumed.
        """
        self._admit()
        if self._descriptor is None:
            self._rewind(b"")
        self.metrics_bytes()
        whole = self.path / _PARTIAL
        refuse_links(whole, self.path)
        try:
            with atomic_directory(whole, overwrite=True) as temporary:
                write(temporary)
        except Exception as error:
            number = error_number(error)
            if number is None or isinstance(error, OSError):
                raise
            message = f"the result could not be written to {self.path}: {os.strerror(number)}"
            raise OSError(number, message) from error
        for source in sorted(whole.iterdir(), key=lambda path: (path.name == _RESULT, path.name)):
            target = self.path / source.name
            refuse_links(target, self.path)
            if target.is_dir():
                shutil.rmtree(target)
            source.replace(target)
        whole.rmdir()
        flush(self.path)
        shutil.rmtree(self.checkpoints.directory, ignore_errors=True)

    def _begin(self, description: JsonObject, allow_changes: bool) -> None:
        clean_leftovers(self.path)
        shutil.rmtree(self.path / _PARTIAL, ignore_errors=True)
        file = self.path / _DESCRIPTION
        if not self.resumed:
            _write(file, _render(description))
            self._rewind(b"")
            return
        if self.finished and not (self.path / METRICS).exists():
            raise FileNotFoundError(
                f"output {self.path}: its run is finished, but {METRICS} is missing; expected it beside "
                f"{_RESULT}/. Put it back, or remove the directory to make the run again"
            )
        try:
            former = read_json(file)
        except ValueError as error:
            raise ValueError(f"{error}; the run cannot be resumed") from error
        earlier = former.pop("earlier", [])
        if not isinstance(earlier, list):
            raise ValueError(f"{file}: `earlier` is no list; the run cannot be resumed")
        asked = description.get("config")
        differences = _differences("", _completed(former.get("config"), asked), asked)
        changes = [text for text in differences if not text.startswith(_PLACEMENT)]
        for key in ("model", "images"):
            changes += _differences(key, former.get(key), description.get(key))
        if changes and not allow_changes:
            raise ValueError(
                f"output {self.path} was begun otherwise: {'; '.join(changes)} (stored -> asked); expected "
                "the same, or allow_changes"
            )
        other = [text for text in differences if text not in changes]
        for key in ("versions", "devices"):
            other += _differences(key, former.get(key), description.get(key))
        if other:
            text = f"{self.path} is resumed on another system: {'; '.join(other)} (then -> now)"
            warnings.warn(f"{text}; results may differ in the last bits", RuntimeWarning, stacklevel=4)
        if (changes or other) and not self.finished:
            self._changed = _render({**description, "earlier": [*earlier, former]})

    def _rewind(self, content: bytes) -> None:
        """Make the metrics exactly this; what only has to be cut off needs no room on the disk."""
        self._close()
        file = self.path / METRICS
        # a file that has another name (a hard link) is not written in its place either
        if content and self._begins_with(content) and file.stat().st_nlink == 1:
            self._descriptor = open_own(file, os.O_WRONLY | os.O_APPEND)
            os.ftruncate(self._descriptor, len(content))
        else:
            _write(file, content)
            self._descriptor = open_own(file, os.O_WRONLY | os.O_APPEND)
        self._lines = content.splitlines(keepends=True)

    def _begins_with(self, content: bytes) -> bool:
        file = self.path / METRICS
        return not content or (file.exists() and read_bytes(file, limit=_LONGEST).startswith(content))

    def _admit(self) -> None:
        self._lock.check()
        if self.finished:
            raise FileExistsError(f"output {self.path}: its run is finished; {_RESULT}/ is there")

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _check(path: Path, resume: bool) -> None:
    """Raises unless a run may be begun in `path`, or resumed."""
    if path.is_dir():
        begun = (path / _DESCRIPTION).exists()
        used = any(each.name != LOCK and not _STALE.fullmatch(each.name) for each in path.iterdir())
        if used and not resume:
            hint = "; --resume continues its run" if begun else ""
            raise FileExistsError(
                f"output {path} exists and is not empty; expected an empty or a new directory{hint}"
            )
        if used and not begun:
            raise FileNotFoundError(f"output {path} has no {_DESCRIPTION}: it is not the directory of a run")
    elif path.exists():
        raise NotADirectoryError(f"output {path} is a file; expected an empty or a new directory")
    check_place(path)


def _plain(description: JsonMapping) -> JsonObject:
    """As JSON gives it back, so that it can be compared with what was stored."""
    return json.loads(json.dumps(dict(description)))


def _completed(stored: Any, asked: Any, since: JsonMapping = SETTINGS_SINCE) -> Any:
    """A stored configuration with the settings that it is too old to have, where they are asked for."""
    if not isinstance(stored, dict) or not isinstance(asked, Mapping):
        return stored
    added = {name: value for name, value in since.items() if name in asked}
    parts = {
        name: _completed(stored[name], asked[name], value)
        for name, value in added.items()
        if isinstance(value, dict) and name in stored
    }
    return {**added, **stored, **parts}


def _differences(name: str, stored: Any, asked: Any) -> list[str]:
    """`a.b: stored -> asked` of every key that differs; `name` is that of the whole."""
    before, now = _flatten(name, stored), _flatten(name, asked)
    return [
        f"{key}: {before.get(key, _ABSENT)} -> {now.get(key, _ABSENT)}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key, _ABSENT) != now.get(key, _ABSENT)
    ]


def _flatten(name: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        return {name: json.dumps(value)}
    parts = (_flatten(f"{name}.{key}" if name else key, part) for key, part in value.items())
    return {key: text for part in parts for key, text in part.items()}


def _render(description: JsonMapping) -> bytes:
    return (json.dumps(description, indent=2) + "\n").encode()


def _write(file: Path, content: bytes) -> None:
    refuse_links(file, file.parent)
    try:
        with atomic_file(file, overwrite=True) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise OSError(error.errno, f"{file} could not be written: {error.strerror}") from error
