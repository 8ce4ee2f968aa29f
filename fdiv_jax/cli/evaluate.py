"""`fdiv-jax evaluate BASE UNLEARNED... --output DIR`: how much is gone, and what was lost."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fdiv_jax.cli._loading import Loading

if TYPE_CHECKING:
    from fdiv_jax.evaluation import Backbones, Evaluated, Evaluation, Figure, Protocol

__all__ = ["HELP", "Command"]

HELP = {
    "what to evaluate": ("protocol", "target", "anchor", "compare"),
    "what looks at the images": ("clip", "inception"),
    "the result": ("output", "images"),
}

_INCEPTION = "inception-v3 ("
_AT_TARGET = ("ua", "clip_score", "clip_accuracy")


@dataclass(frozen=True)
class Command:
    """Draw the same images with a model and with what became of it; say how much is gone and what was lost.

    Writes result.json and report.html. Images are drawn once and kept: the command can be stopped and run
    again, and later models join those that are in the directory.

    Example: fdiv-jax evaluate fashion runs/sneaker --output evaluations/sneaker
    """

    base: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="BASE")]
    """The model before unlearning: `fashion`, a diffusers directory, one .safetensors file, or a hub id."""
    unlearned: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="UNLEARNED")]
    """One or more models after it: run directories of `fdiv-jax unlearn`, models like BASE, or files with a
    LoRA or a delta of it."""
    output: Path
    """The directory of the result: a new one, or that of an earlier evaluation under the same protocol, whose
    models stay beside the new ones."""
    protocol: str = "fashion"
    """What is drawn and measured: fashion, ca-2023, fdmu-repo, unlearncanvas, or a .yaml file."""
    target: str | None = None
    """The concept that was unlearned; by default what the run directories say."""
    anchor: str | None = None
    """What took its place, as in `fdiv-jax unlearn`; by default what the run directories say."""
    compare: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DIR")] = ()
    """Directories of other evaluations of the same base under the same protocol, whose models are shown
    beside these."""
    clip: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    """The CLIP of CLIP scores and CMMD: a directory or a hub id; by default the protocol's, from the hub."""
    inception: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """The weights of Inception-v3 for KID and FID: a .safetensors file."""
    images: Path | None = None
    """The directory of the drawn images, which evaluations may share; by default images/ in the output
    directory."""
    report: bool = True
    """Write report.html."""
    loading: Annotated[Loading, tyro.conf.arg(name="")] = field(default_factory=Loading)
    """How to load the models."""

    def run(self) -> None:
        """Load, draw, look, write, and say one line per model."""
        from fdiv_jax.cli._candidates import erasures_of, find_candidates, pipeline_directory
        from fdiv_jax.evaluation import find_protocol, read_evaluation, run_protocol
        from fdiv_jax.evaluation.evaluate import check_output
        from fdiv_jax.terminal import Console
        from fdiv_jax.worlds.evaluation import with_judge

        if not self.unlearned:
            raise ValueError("no UNLEARNED model given; expected at least one beside BASE")
        check_output(self.output)
        others = {path: read_evaluation(path) for path in self.compare}
        console = Console(stderr=True)
        with console.waiting(f"loading {self.base}") as tell:
            base = self.loading.load(pipeline_directory(self.base))
            candidates = find_candidates(self.unlearned, base, self.loading)
            protocol = find_protocol(
                self.protocol, base.concepts, erasures_of(candidates, self.target, self.anchor)
            )
            tell("loading what looks at the images")
            backbones = with_judge(self._backbones(protocol), protocol, base)
        with _bar(console) as progress:
            result = run_protocol(
                base,
                {each.name: each.load for each in candidates},
                protocol,
                backbones,
                output=self.output,
                images=self.images,
                progress=progress,
            )
        for path, other in others.items():
            result.check_alike(other, f"--compare {path}")
        shown = result.with_models(_renamed(others, result))
        if self.report:
            from fdiv_jax.monitoring.evaluation_report import write_report

            write_report(shown, self.output, self._stores())
        for line in lines_of(shown):
            print(line)
        print(self.output)

    def _stores(self) -> list[Path]:
        """Directories that may hold the images of the models that are shown."""
        from fdiv_jax.evaluation.evaluate import IMAGES

        own = self.images or self.output / IMAGES
        beside = [(path if path.is_dir() else path.parent) / IMAGES for path in self.compare]
        return [own, *beside]

    def _backbones(self, protocol: "Protocol") -> "Backbones":
        """CLIP and Inception, where the protocol needs them."""
        from fdiv_jax.checkpoints.digests import files_digest
        from fdiv_jax.evaluation import Backbones, ClipScorer, inception_features

        clip = features = None
        weights = {}
        if "clip" in protocol.needs:
            model = self.clip or protocol.clip
            clip = ClipScorer.load(model, offline=self.loading.offline)
            if Path(model).is_dir():
                weights["clip"] = files_digest(sorted(Path(model).glob("*.safetensors")))
        if "features" in protocol.needs and protocol.features.startswith(_INCEPTION):
            if self.inception is None:
                wanting = [m for m in protocol.metrics if "features" in protocol.backbones_of(m)]
                raise ValueError(
                    f"protocol {protocol.name!r} measures {', '.join(wanting)} in Inception-v3: name its "
                    "weights by --inception FILE.safetensors; docs/evaluation.md says where they are from"
                )
            resizing = protocol.features.removeprefix(_INCEPTION).removesuffix(")")
            features = inception_features(self.inception, resizing=resizing)  # type: ignore[arg-type]
            weights["features"] = files_digest([self.inception])
        return Backbones(features=features, clip=clip, weights=weights)


def lines_of(evaluation: "Evaluation") -> list[str]:
    """One line per model: its main figures, with intervals and the base's value."""
    return [f"{name}: {_line(each)}" for name, each in evaluation.models.items()]


def _line(model: "Evaluated") -> str:
    return "; ".join(_figure(figure) for figure in model.figures if _told(figure))


def _told(figure: "Figure") -> bool:
    """What fits a line: accuracies, CLIP at the target, and what happened to what was to stay."""
    if figure.concept or figure.role == "anchor":
        return False
    return not figure.role or figure.role == "retained" or figure.metric in _AT_TARGET


def _figure(figure: "Figure") -> str:
    digits = ".4f" if figure.metric in ("kid", "cmmd", "fid") else ".2f"
    base = "" if figure.base is None else f" (base {figure.base:{digits}})"
    return f"{figure.name} {format(figure.value, digits)}{base}"


def _renamed(others: "Mapping[Path, Evaluation]", own: "Evaluation") -> "dict[str, Evaluated]":
    """The models of other evaluations; those whose names are taken with that of their directory before it."""
    found: dict[str, Evaluated] = {}
    for path, other in others.items():
        for name, each in other.models.items():
            free = name not in own.models and name not in found
            found[name if free else f"{path}: {name}"] = each
    return found


@contextmanager
def _bar(console) -> "Iterator":
    """A progress bar, as a function of (what is being done, images done, images in all)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from fdiv_jax.terminal import TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        tasks: dict[str, int] = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(f"{what}, images", total=total)
            bar.update(tasks[what], completed=done)  # type: ignore[arg-type]

        yield progress
