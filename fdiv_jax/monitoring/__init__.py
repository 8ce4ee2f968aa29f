"""Observers of a run: sample sheets, events for TensorBoard and Weights & Biases, a report.

`unlearn(pipe, config, output, observers=make_observers(pipe, config, sample_every=50, tensorboard=True))`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from fdiv_jax.monitoring.events import TensorBoardEvents, WandbEvents, check_wandb
from fdiv_jax.monitoring.report import Report
from fdiv_jax.monitoring.run_card import run_card
from fdiv_jax.monitoring.sheets import SampleSheets, contact_sheet
from fdiv_jax.pipeline import TextToImagePipeline
from fdiv_jax.unlearning import Observer, UnlearningConfig, resolve_all
from fdiv_jax.unlearning.library import known_concepts

__all__ = [
    "Report",
    "SampleSheets",
    "TensorBoardEvents",
    "WandbEvents",
    "contact_sheet",
    "make_observers",
    "run_card",
]


def make_observers(
    pipe: TextToImagePipeline,
    config: UnlearningConfig,
    *,
    sample_every: int = 0,
    tensorboard: bool = False,
    wandb_project: str | None = None,
    report: bool = True,
) -> Callable[[Path], Sequence[Observer]]:
    """The observers of a run, for the argument `observers` of `unlearn`.

    Args:
        pipe: the frozen model.
        config: of the run; the images of the sheets are drawn as its anchor images are.
        sample_every: steps of the model between two sample sheets; 0: no sheets.
        tensorboard: write event files.
        wandb_project: the project of Weights & Biases to log to; None: it is not used.
        report: write `report.html`.

    Raises:
        ValueError: a negative `sample_every`; a target or an anchor that the model does not know.
        NotImplementedError: Weights & Biases without the package `wandb`.
    """
    if sample_every < 0:
        raise ValueError(f"sample_every must be at least 0, got {sample_every}")
    if wandb_project is not None:
        check_wandb()
    concepts = known_concepts(pipe.concepts, config.defined)
    prompts = [pair.target for pair in resolve_all(concepts, config.erasures)]

    def of_run(directory: Path) -> list[Observer]:
        observers: list[Observer] = []
        if tensorboard:
            observers.append(TensorBoardEvents(directory))
        if wandb_project is not None:
            observers.append(WandbEvents(directory, wandb_project, config))
        if sample_every:
            options = config.images.drawing(pipe)
            observers.append(
                SampleSheets(
                    pipe,
                    prompts,
                    directory,
                    sample_every,
                    seed=config.seed,
                    steps=options.steps,
                    guidance=options.guidance,
                    sampler=options.sampler,
                )
            )
        if report:  # the last one: it shows the sheets
            observers.append(Report(pipe, directory))
        return observers

    return of_run
