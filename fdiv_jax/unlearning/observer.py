"""The interface of what watches a run."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

from fdiv_jax.pipeline import TextToImagePipeline
from fdiv_jax.unlearning.result import Row, UnlearningResult

__all__ = ["Observer", "Watch"]


class Observer(Protocol):
    """An observer of a run: sample sheets, events for TensorBoard, a report."""

    def row(self, row: Row) -> None:
        """A step's figures, as metrics.jsonl holds them."""
        ...

    def due(self, done: int) -> bool:
        """Whether to be shown the model after `done` steps of its own; it costs the overlap of two steps."""
        ...

    def model(self, done: int, pipeline: Callable[[], TextToImagePipeline]) -> None:
        """The model after `done` steps of its own, made when asked for."""
        ...

    def end(self, result: UnlearningResult) -> None:
        """The result, before it is written."""
        ...


class Watch:
    """An observer that is shown the model alone, at some steps; a subclass adds `model`."""

    def __init__(self, looks: int | Collection[int], last: int):
        """Look at the model before any step, then every `looks` steps, and after the last one; or after these
        numbers of steps.

        Raises:
            ValueError: less than one step between two looks.
        """
        if isinstance(looks, int):
            if looks < 1:
                raise ValueError(f"every {looks}, expected at least 1")
            looks = {*range(0, last, looks), last}
        self._looks = frozenset(looks)

    def row(self, row: Row) -> None:
        """Ignore the step's figures."""

    def due(self, done: int) -> bool:
        """At the steps asked for."""
        return done in self._looks

    def end(self, result: UnlearningResult) -> None:
        """Ignore the result: the model was seen."""
