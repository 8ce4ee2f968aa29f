"""The progress bar of a run, with the figures that matter."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from types import TracebackType

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from fdiv_jax.terminal import Console, TextColumn
from fdiv_jax.unlearning.result import Row

_FIXED = 3 + 7
"""Characters of a line for the spaces between its columns and the time that is left."""


def fitting(parts: Sequence[str], room: int) -> str:
    """The first of the parts, and those of the others, in their order, that fit."""
    text = parts[0]
    for part in parts[1:]:
        if len(text) + 1 + len(part) <= room:
            text = f"{text} {part}"
    return text


class Display:
    """Two bars, one after the other: the anchor images, and the steps with loss, m, gradient norm and
    speed."""

    def __init__(self, shown: bool, batch_size: int):
        """Nothing is printed unless `shown`; the bars go to stderr."""
        console = Console(stderr=True)
        columns: list[ProgressColumn] = [
            TextColumn("{task.description}"),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[figures]}", table_column=Column(no_wrap=True)),
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
        ]
        self._room = console.width - _FIXED
        if console.width > 110:
            self._room -= 24 + 1 + 8
            columns[1:1] = [BarColumn(bar_width=24)]
            columns.append(TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, disable=not shown)
        self._batch_size = batch_size
        self._tasks: dict[str, TaskID] = {}
        self._last: tuple[int, float] | None = None
        self._taken: list[float] = []

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def images(self, done: int, total: int) -> None:
        """Anchor images drawn so far."""
        self._update("anchor images", done, total, "")

    def step(self, done: int, total: int, row: Row) -> None:
        """Steps done, and the figures of the last one."""
        now = time.monotonic()
        if self._last is not None and done > self._last[0]:
            self._taken.append((now - self._last[1]) / (done - self._last[0]))
        if self._last is None or done > self._last[0]:
            self._last = (done, now)
        description = "critic warm-up" if row["warmup"] else "unlearning"
        parts = [f"loss {row['loss']:.3g}", f"m {row['m']:.3g}"]
        if self.speed:
            parts.append(f"{self.speed:.1f} images/s")
        parts.append(f"|grad| {row['gradient_norm']:.2g}")
        room = self._room - len(f"{total}/{total}")
        if len(description) + len(parts[0]) > room:
            description = ""
        self._update(description, done, total, fitting(parts, room - len(description)), name="steps")

    @property
    def speed(self) -> float:
        """Images per second in the median step; 0 before two are done.

        A step that compiles, writes a checkpoint or draws a sheet takes far longer than the others, which the
        median does not see.
        """
        usual = statistics.median(self._taken) if self._taken else 0.0
        return self._batch_size / usual if usual > 0 else 0.0

    def _update(self, description: str, done: int, total: int, figures: str, name: str | None = None) -> None:
        name = name or description
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(description, total=total, figures=figures)
        self._progress.update(self._tasks[name], completed=done, description=description, figures=figures)
