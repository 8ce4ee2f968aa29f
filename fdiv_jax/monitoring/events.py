"""The figures of a run for TensorBoard and for Weights & Biases."""

from __future__ import annotations

import importlib
import importlib.util
import os
import secrets
import time
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from typing import Any

from fdiv_jax.files import open_own, read_text, refuse_links
from fdiv_jax.monitoring._event_file import PREFIX, record, restart_event, scalar_event, version_event
from fdiv_jax.monitoring._files import explained, write_file
from fdiv_jax.pipeline import TextToImagePipeline
from fdiv_jax.unlearning import UnlearningConfig, UnlearningResult
from fdiv_jax.unlearning.result import Row

__all__ = ["TensorBoardEvents", "WandbEvents", "check_wandb"]


class TensorBoardEvents:
    """Writes `tensorboard/` in the run directory: every figure of every step, as it comes.

    `tensorboard --logdir RUN` shows them. A run that is resumed adds a file, which takes back the steps that
    are taken again. Nothing of TensorBoard is needed to write it.
    """

    def __init__(self, directory: Path):
        """`directory` is the run's."""
        self._directory = Path(directory) / "tensorboard"
        self._file: Path | None = None

    def row(self, row: Row) -> None:
        """Add a step's figures.

        Raises:
            OSError: the disk is full or fails, or there is no permission.
        """
        now, step = time.time(), int(row["step"])
        message = record(scalar_event(now, step, _figures(row)))
        with explained("write", self._file or self._directory):
            if self._file is None:
                refuse_links(self._directory, self._directory.parent)
                self._directory.mkdir(parents=True, exist_ok=True)
                resumed = any(self._directory.glob(f"{PREFIX}*"))
                name = f"{PREFIX}{time.time_ns()}.fdiv-jax.{secrets.token_hex(4)}"
                self._file = self._directory / name
                start = record(version_event(now))
                message = start + (record(restart_event(now, step)) if resumed else b"") + message
            with open(open_own(self._file, os.O_WRONLY | os.O_APPEND), "ab") as file:
                file.write(message)

    def due(self, done: int) -> bool:
        """Never: scalars need no model."""
        return False

    def model(self, done: int, pipeline: Callable[[], TextToImagePipeline]) -> None:
        """Ignore the model."""

    def end(self, result: UnlearningResult) -> None:
        """Every row is on disk already."""


class WandbEvents:
    """Logs every figure of every step to Weights & Biases, with the configuration; needs `wandb`.

    The run's id is kept in `wandb/id` of the run directory, so that a run that is resumed goes on there.
    """

    def __init__(self, directory: Path, project: str, config: UnlearningConfig):
        """Set up the observer; nothing is sent before the first row.

        Args:
            directory: of the run.
            project: of Weights & Biases.
            config: of the run.

        Raises:
            NotImplementedError: the package `wandb` is not installed.
        """
        check_wandb()
        self._directory, self._project, self._config = Path(directory), project, config
        self._run: Any = None

    def row(self, row: Row) -> None:
        """Log a step's figures."""
        if self._run is None:
            self._run = self._begin()
        self._run.log(_figures(row), step=int(row["step"]))

    def due(self, done: int) -> bool:
        """Never: scalars need no model."""
        return False

    def model(self, done: int, pipeline: Callable[[], TextToImagePipeline]) -> None:
        """Ignore the model."""

    def end(self, result: UnlearningResult) -> None:
        """Close the run at Weights & Biases."""
        if self._run is not None:
            self._run.finish()

    def _begin(self) -> Any:
        wandb: Any = importlib.import_module("wandb")
        path = self._directory / "wandb" / "id"
        if not path.exists():
            write_file(
                path, lambda temporary: temporary.write_text(secrets.token_hex(8)), within=self._directory
            )
        with explained("read", path):
            identity = read_text(path, limit=1000).strip()
        return wandb.init(
            project=self._project,
            name=self._directory.name,
            id=identity,
            resume="allow",
            dir=str(self._directory),
            config=self._config.to_dict(),
        )


def check_wandb() -> None:
    """Check that the package `wandb` is installed.

    Raises:
        NotImplementedError: it is not installed.
    """
    if importlib.util.find_spec("wandb") is None:
        raise NotImplementedError("Weights & Biases needs the package wandb: pip install 'fdiv-jax[wandb]'")


def _figures(row: Row) -> dict[str, float]:
    return {name: float(value) for name, value in row.items() if name != "step" and isinstance(value, Real)}
