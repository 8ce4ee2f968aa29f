"""`fdiv-jax sweep MODEL --target ... --divergences ... --output DIR`: many runs, and their table."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from fdiv_jax.cli._loading import Loading
from fdiv_jax.cli._tables import print_table
from fdiv_jax.cli._unlearning_options import configured, erasure_score
from fdiv_jax.unlearning import UnlearningConfig
from fdiv_jax.unlearning.sweep import ExecutorName, cells_of, executor_of, sweep

__all__ = ["HELP", "Command", "default"]

HELP = {
    "what to compare": ("divergences", "anchors", "seeds", "score-images"),
    "what all runs share": ("target", "anchor", "loss", "steps", "batch-size", "learning-rate", "preset"),
    "the runs": ("output", "resume", "executor"),
}


@dataclass(frozen=True)
class Command:
    """Unlearn the same concept with many divergences, anchors and seeds, and compare.

    Runs with the same anchor and seed see the same batches. Writes a run directory for each run, and
    table.csv and table.json; for models of the embedded world the judge's figures are in the table.

    Example: fdiv-jax sweep fashion --target sneaker --divergences kl exact:le_cam --output runs/sweep
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """The model: `fashion` (the embedded world), a diffusers directory, one .safetensors file, or a hub
    id."""
    config: Annotated[UnlearningConfig, tyro.conf.arg(name="")]
    """Settings that all runs share."""
    divergences: tuple[str, ...]
    """Divergences to compare, each a name or a generator in t, with its loss in front where that is not
    --loss: kl exact:le_cam variational:jensen_shannon."""
    output: Path
    """The directory of the sweep, which must be new or empty, unless --resume."""
    anchors: tuple[str, ...] = ()
    """Anchors to compare, instead of --anchor."""
    seeds: tuple[int, ...] = ()
    """Seeds to repeat every run with, instead of --seed."""
    resume: bool = False
    """Continue the sweep in the directory: finished runs stay as they are."""
    score_images: int = 2
    """Images per prompt for the judge's scores, for models of the embedded world; 0: no scores."""
    executor: ExecutorName = "here"
    """Who makes the runs: this process, or the machines of a Ray cluster (that of RAY_ADDRESS, else this
    machine alone), which must all see --output. Runs of one anchor and seed are made together."""
    tasks_per_machine: int = 1
    """Tasks of a machine of the cluster at once, where there are no GPUs; with GPUs each task has one."""
    preset: str | None = None
    """A preset, METHOD-CONCEPT, such as fdmu-van-gogh: the other options start from its settings."""
    concept_file: Path | None = None
    """A YAML file of the concepts to unlearn at once, instead of --target."""
    cache: Path | None = None
    """Directory where anchor images are kept; by default FDIV_JAX_CACHE or the user's cache directory."""
    loading: Annotated[Loading, tyro.conf.arg(name="")] = field(default_factory=Loading)
    """How to load the model."""

    def run(self) -> None:
        """Make the runs and print the table."""
        from fdiv_jax.terminal import Console

        if self.score_images < 0:
            raise ValueError(f"--score-images must be at least 0, got {self.score_images}")
        executor = executor_of(self.executor, self.tasks_per_machine)
        cells = cells_of(self.config, self.divergences, anchors=self.anchors, seeds=self.seeds)
        console = Console(stderr=True)
        with console.waiting(f"loading {self.model}"):
            pipe = self.loading.load(self.model)
        score = erasure_score(pipe, self.score_images) if self.score_images else None
        if score is not None:
            _check_targets(cells[0].config)
        rows = sweep(
            pipe,
            cells,
            self.output,
            score=score,
            cache=self.cache,
            resume=self.resume,
            executor=executor,
        )
        names = list(dict.fromkeys(name for row in rows for name in row if name != "name"))
        place = str(self.output / "table.csv")
        columns = [name.replace("_", " ") for name in names]
        told = ("diverged", "warning")  # sentences, which get lines of their own
        cells_shown = [
            ["yes" if n in told and n in row else _shown(row.get(n)) for n in names] for row in rows
        ]
        print_table(console, place, columns, cells_shown, first=_FIRST, elsewhere=place)
        for row in rows:
            for name in told:
                if name in row:
                    console.print(f"{row['name']}: {row[name]}", highlight=False)
        print(place)


_FIRST = ("anchor", "seed", "target accuracy", "retained items", "final m", "diverged", "warning", "loss")
"""Columns that a narrow terminal shows before others."""


def default(arguments: Sequence[str]) -> Command | None:
    """What options start from when a preset or a concept file is named."""
    config = configured(arguments)
    missing = tyro.MISSING
    return None if config is None else Command(missing, config, missing, missing)


def _check_targets(config: UnlearningConfig) -> None:
    """Refuse a target that the judge does not know, before any work."""
    from fdiv_jax.worlds.erasure_scores import targets_of

    try:
        targets_of(config)
    except ValueError as error:
        raise ValueError(f"{error}, so that the judge cannot see it; expected --score-images 0") from error


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
