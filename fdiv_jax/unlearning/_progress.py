"""The progress bar of a run, with the figures that matter."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from fdiv_jax.terminal import Console, TextColumn


class Display:
    """Two bars, one after the other: the anchor images, and the steps with loss, m, gradient norm and
    speed."""

    def __init__(self, shown: bool, batch_size: int):
        """Nothing is printed unless `shown`; the bars go to stderr."""
        console = Console(stderr=True)
        columns: list[ProgressColumn] = [
            TextColumn("{task.description}"),
            MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=9)),
            TextColumn("{task.fields[figures]}", table_column=Column(no_wrap=True)),
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True, min_width=5)),
        ]
        if console.width > 110:
            columns[1:1] = [BarColumn(bar_width=24)]
            columns.append(TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, disable=not shown)
        self._batch_size = batch_size
        self._tasks: dict[str, Any] = {}
        self._first: tuple[int, float] | None = None

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

    def step(self, done: int, total: int, row: Mapping[str, Any]) -> None:
        """Steps done, and the figures of the last one."""
        now = time.monotonic()
        if self._first is None:  # the first step compiles; the speed is that of those after it
            self._first = (done, now)
        steps, seconds = done - self._first[0], now - self._first[1]
        speed = f"{steps * self._batch_size / seconds:.1f} images/s" if steps and seconds > 0 else ""
        figures = f"loss {row['loss']:.3g} m {row['m']:.3g} |grad| {row['gradient_norm']:.2g} {speed}"
        self._update("critic warm-up" if row["warmup"] else "unlearning", done, total, figures, name="steps")

    def _update(self, description: str, done: int, total: int, figures: str, name: str | None = None) -> None:
        name = name or description
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(description, total=total, figures=figures)
        self._progress.update(self._tasks[name], completed=done, description=description, figures=figures)
