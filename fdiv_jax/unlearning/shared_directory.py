"""The run directory of several processes: the leader writes, the others read."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from fdiv_jax.arrays import PyTree
from fdiv_jax.checkpoints import Restored, TrainingCheckpoints
from fdiv_jax.distributed.hosts import barrier, hear, is_leader, tell
from fdiv_jax.files import JsonMapping
from fdiv_jax.unlearning._metrics import metrics_row
from fdiv_jax.unlearning.result import Row
from fdiv_jax.unlearning.run_directory import METRICS, RunDirectory
from fdiv_jax.unlearning.state import FORMER_NAMES

__all__ = ["FollowedDirectory", "open_shared"]


class LeadingDirectory(RunDirectory):
    """The directory as the process that writes it has it."""

    def restore(self, like: PyTree, *, at_most: int | None = None) -> Restored | None:
        """As `RunDirectory.restore`; the other processes are told which checkpoint it is."""
        restored = super().restore(like, at_most=at_most)
        tell("restored", "" if restored is None else str(restored.step))
        return restored


class FollowedDirectory:
    """The directory as the other processes have it, with the methods of `RunDirectory`: none writes.

    Attributes:
        path: of the directory, absolute; on a file system that all processes share.
    """

    finished = False

    def __init__(self, path: Path):
        """The directory at `path`, which the leader has opened."""
        self.path = path
        self.saved: int | None = None
        self.rows: list[Row] = []

    def log(self, row: JsonMapping) -> None:
        """The leader logs."""

    def save(self, step: int, state: PyTree, extra: JsonMapping) -> None:
        """The leader saves."""
        self.saved = step

    def restore(self, like: PyTree, *, at_most: int | None = None) -> Restored | None:
        """The checkpoint that the leader goes on from.

        Raises:
            FileNotFoundError: this process does not see it.
        """
        told = hear("restored")
        if not told:
            return None
        restored = TrainingCheckpoints(self.path / "checkpoints").restore(like, FORMER_NAMES)
        if restored is None or restored.step != int(told):
            seen = "none" if restored is None else f"that of step {restored.step}"
            raise FileNotFoundError(
                f"output {self.path}: the first process goes on from the checkpoint of step {told}, process "
                f"{jax.process_index()} sees {seen}; expected a directory that all processes share"
            )
        lines = restored.files.get(METRICS, b"").decode().splitlines()
        self.rows = [metrics_row(line, f"{METRICS}, line {number}") for number, line in enumerate(lines, 1)]
        self.saved = restored.step
        return restored

    def finish(self, write: Callable[[Path], object]) -> None:
        """The leader writes the result."""


@contextlib.contextmanager
def open_shared(
    path: str | os.PathLike[str], description: JsonMapping, **options: Any
) -> Iterator[RunDirectory | FollowedDirectory]:
    """The run directory for this process, of one or of several; see `RunDirectory.open`.

    Raises:
        LostProcessError: the leader could not open it; its own error says why.
    """
    if jax.process_count() == 1:
        with RunDirectory.open(path, description, **options) as directory:
            yield directory
    elif is_leader():
        with LeadingDirectory.open(path, description, **options) as directory:
            barrier("directory")
            yield directory
    else:
        barrier("directory")
        yield FollowedDirectory(Path(os.path.abspath(path)))
