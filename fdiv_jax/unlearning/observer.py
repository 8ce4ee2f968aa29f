"""The interface of what watches a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from fdiv_jax.pipeline import TextToImagePipeline
from fdiv_jax.unlearning.result import UnlearningResult

__all__ = ["Observer"]


class Observer(Protocol):
    """An observer of a run: sample sheets, events for TensorBoard, a report."""

    def row(self, row: Mapping[str, Any]) -> None:
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
