"""`fdiv-jax unlearn MODEL --target ... --output DIR`: remove concepts and write the run directory."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from jax import process_count

from fdiv_jax.cli._loading import Loading
from fdiv_jax.cli._summary import report_counts, summarise
from fdiv_jax.cli._tables import print_table
from fdiv_jax.cli._unlearning_options import concept_score, configured, erasure_count
from fdiv_jax.distributed.hosts import connected, is_leader
from fdiv_jax.monitoring import make_observers
from fdiv_jax.unlearning import Observer, UnlearningConfig, UnlearningResult, unlearn
from fdiv_jax.unlearning.sequence import unlearn_sequence

if TYPE_CHECKING:
    from fdiv_jax.pipeline import TextToImagePipeline
    from fdiv_jax.terminal import Console

__all__ = ["HELP", "Command", "default"]

HELP = {
    "what to unlearn": ("target", "anchor", "prompts", "retained", "preset", "concept-file"),
    "how": ("divergence", "loss", "steps", "batch-size", "learning-rate", "seed"),
    "the run": ("output", "resume"),
}


@dataclass(frozen=True)
class Command:
    """Unlearn a concept: at its prompts the model learns to draw what it drew at the anchor's.

    Writes a run directory with report.html and the new model in pipeline/, a diffusers directory. A run that
    was stopped continues with --resume as if nothing had happened.

    Example: fdiv-jax unlearn fashion --target sneaker --anchor near
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """The model: `fashion` (the embedded world), a diffusers directory, one .safetensors file, or a hub
    id."""
    config: Annotated[UnlearningConfig, tyro.conf.arg(name="")]
    """What to unlearn and how."""
    preset: str | None = None
    """A preset, METHOD-CONCEPT, such as fdmu-van-gogh, concept-ablation-snoopy, esd-x-sneaker or uce-nemo:
    the other options start from its settings."""
    concept_file: Path | None = None
    """A YAML file of the concepts to unlearn, instead of --target."""
    sequential: bool = False
    """Unlearn the concepts one after the other, each from the last result, and write retention.csv."""
    output: Path | None = None
    """The run directory, which must be new or empty, unless --resume; by default
    runs/TARGET-ANCHOR-DIVERGENCE-LOSS-SEED."""
    resume: bool = False
    """Continue from the last good checkpoint in the directory."""
    checkpoint_every: int = 100
    """Steps between two checkpoints; 0: only when the process is asked to end."""
    allow_changes: bool = False
    """Resume although the run was begun with another configuration."""
    takeover: bool = False
    """Use the directory although another run seems to be using it."""
    sample_every: int = 0
    """Steps between two sample sheets of the same noise, which together show the concept fade; 0: no
    sheets."""
    tensorboard: bool = True
    """Write TensorBoard events."""
    wandb_project: str | None = None
    """Project of Weights & Biases to log to as well (needs the extra `wandb`)."""
    report: bool = True
    """Write report.html at the end."""
    judge: bool = True
    """Count at the end, with the judge of the embedded world, how much of the target is left and how much of
    the rest is kept; for models and targets that the judge knows."""
    print_config: bool = False
    """Print the configuration as JSON and do nothing."""
    hosts: bool = False
    """Join the other processes of the job, one per host, that Slurm, Open MPI, Cloud TPU or GKE started with
    the same command; process 0 writes. Needs --parallel data or fsdp, and a directory that all share."""
    cache: Path | None = None
    """Directory where anchor images are kept; by default FDIV_JAX_CACHE or the user's cache directory."""
    loading: Annotated[Loading, tyro.conf.arg(name="")] = field(default_factory=Loading)
    """How to load the model."""

    def run(self) -> None:
        """Load the model, unlearn, and sum up."""
        if self.print_config:
            print(json.dumps(self.config.to_dict(), indent=2))
            return
        for name in ("checkpoint_every", "sample_every"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 0, got {getattr(self, name)}")
        with connected(self.hosts):
            self._unlearn()

    def _unlearn(self) -> None:
        from fdiv_jax.terminal import Console

        output = self.output or default_output(self.config)
        console = Console(stderr=True)
        with console.waiting(f"loading {self.model}"):
            pipe = self.loading.load(self.model)
        several = process_count() > 1
        if self.sequential and several:
            raise NotImplementedError(f"--sequential in {process_count()} processes; expected one process")
        if self.sequential:
            self._sequence(pipe, output, console)
        else:
            result = unlearn(
                pipe,
                self.config,
                output,
                cache=self.cache,
                resume=self.resume,
                checkpoint_every=self.checkpoint_every,
                observers=self._observers(pipe, self.config),
                allow_changes=self.allow_changes,
                takeover=self.takeover,
            )
            if several and not is_leader():
                return
            summarise(console, result)
            if self.judge:
                self._judge(pipe, result, output, console)
        print(output)

    def _judge(
        self, pipe: "TextToImagePipeline", result: UnlearningResult, output: Path, console: "Console"
    ) -> None:
        count = erasure_count(pipe, self.config)
        if count is not None:
            with console.waiting("drawing images for the judge"):
                before, after = count(pipe), count(result.pipeline)
            report_counts(console, output, before, after)

    def _observers(
        self, pipe: "TextToImagePipeline", config: UnlearningConfig
    ) -> Callable[[Path], Sequence[Observer]]:
        return make_observers(
            pipe,
            config,
            sample_every=self.sample_every,
            tensorboard=self.tensorboard,
            wandb_project=self.wandb_project,
            report=self.report,
        )

    def _sequence(self, pipe: "TextToImagePipeline", output: Path, console: "Console") -> None:
        _, matrix = unlearn_sequence(
            pipe,
            self.config,
            output,
            concept_score(pipe),
            cache=self.cache,
            resume=self.resume,
            checkpoint_every=self.checkpoint_every,
            observers=self._observers,
            allow_changes=self.allow_changes,
            takeover=self.takeover,
        )
        if not matrix.concepts:
            console.print("no scores: they are for models of the embedded world")
            return
        rows = [
            (name, *(f"{score:.2f}" for score in scores))
            for name, scores in zip(("(frozen)", *matrix.erased), matrix.scores, strict=True)
        ]
        place = str(output / "retention.csv")
        columns = ("after erasing", *matrix.concepts)
        print_table(console, place, columns, rows, first=matrix.erased, elsewhere=place)


def default(arguments: Sequence[str]) -> Command | None:
    """What options start from when a preset or a concept file is named."""
    config = configured(arguments)
    return None if config is None else Command(tyro.MISSING, config)


def default_output(config: UnlearningConfig) -> Path:
    """runs/TARGET-ANCHOR-DIVERGENCE-LOSS-SEED, made of characters that every file system takes."""
    targets = "+".join(each.target for each in config.erasures)
    anchors = "+".join(dict.fromkeys(each.anchor for each in config.erasures))
    method = [config.divergence, config.loss] if config.method == "descent" else [config.method]
    parts = [targets, anchors, *method, str(config.seed)]
    words = ["".join(c if c.isalnum() or c in "._+" else "_" for c in part)[:40] for part in parts]
    return Path("runs") / "-".join(words)
