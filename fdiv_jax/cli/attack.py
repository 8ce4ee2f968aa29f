"""`fdiv-jax attack BASE UNLEARNED --target ... --with ...`: does the concept come back?"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import tyro

from fdiv_jax.cli._loading import Loading

if TYPE_CHECKING:
    from fdiv_jax.evaluation.attacks import Campaign
    from fdiv_jax.pipeline import TextToImagePipeline
    from fdiv_jax.terminal import Console

__all__ = ["HELP", "Command"]

HELP = {
    "what to attack": ("target", "with", "budget", "seeds"),
    "what the attacker has": ("images", "number"),
    "how success is seen": ("fresh", "floor", "clip", "against"),
    "the results": ("output", "resume"),
}


@dataclass(frozen=True)
class Command:
    """Try to bring an unlearned concept back, in several ways, and say how far each of them gets.

    Every attack is judged by images at noise that its search never saw, and is made on the base as well (the
    ceiling) and on a model, or for a concept, that was never learned (the floor). Writes result.json,
    curves.png, and the curve and the images of every search.

    Example: fdiv-jax attack fashion runs/sneaker --target sneaker --with concept-inversion --output attacks
    """

    base: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="BASE")]
    """The model before unlearning: `fashion` (the embedded world), a diffusers directory, one .safetensors
    file, or a hub id."""
    unlearned: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="UNLEARNED")]
    """One or more models after it: run directories of `fdiv-jax unlearn`, models like BASE, or files with a
    LoRA or a delta of it."""
    target: str
    """The concept that was unlearned."""
    with_: Annotated[tuple[str, ...], tyro.conf.arg(name="with", metavar="ATTACK")]
    """The attacks: concept-inversion, soft-prompt, prompt-search, black-box-search, image-inversion,
    ddim-inversion, relearn, benign, quantise, prune, or all."""
    output: Path
    """The directory of the results, which must be new or empty, unless --resume."""
    budget: int = 200
    """Steps, rounds or tries of every search; attacks that do not search have a scale of their own."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the searches: every attack that searches is made once for each."""
    images: Path | None = None
    """A folder of images of the concept for the attacker, perhaps with a metadata.jsonl of their prompts; by
    default real photographs for models of the embedded world, and for others images that the base draws."""
    number: int = 30
    """Images of the concept for the attacker, where they do not come from a folder."""
    fresh: int = 40
    """Images at fresh noise by which success is seen, at every point of a curve."""
    floor: str = "upside-down"
    """The floor: a model that never knew the concept; or upside-down, the same attack on the base with the
    images turned over, which no model knows; or none."""
    clip: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    """A CLIP model, a directory or a hub id, that recognises the concept where its text fits an image better
    than --against; for models that the judge of the embedded world does not know."""
    against: str | None = None
    """What CLIP tells the concept from, such as "a shoe"; by default the concept's super-class."""
    prompts: tuple[str, ...] = ()
    """Prompts that show the concept, for a target that the model does not know by name."""
    batch_size: int = 8
    """Samples per step of a search."""
    accumulation: int = 1
    """Parts that a batch is computed in, one after the other, for less memory."""
    steps: int = 12
    """Steps of the sampler for the fresh images."""
    guidance: float = 3.0
    """Classifier-free guidance of the fresh images."""
    sampler: str = "dpmsolver++"
    """The sampler of the fresh images."""
    resume: bool = False
    """Go on in a directory that holds some of the searches: those that have ended are kept."""
    loading: Annotated[Loading, tyro.conf.arg(name="")] = field(default_factory=Loading)
    """How to load the models."""

    def run(self) -> None:
        """Load the models, attack, write the results and sum up."""
        from fdiv_jax.cli._attack_material import attacks_named, campaign_for
        from fdiv_jax.cli._candidates import find_candidates, pipeline_directory
        from fdiv_jax.terminal import Console

        if not self.unlearned:
            raise ValueError("no unlearned model given; expected at least one, such as a run directory")
        attacks = attacks_named(self.with_)
        for name in ("budget", "number", "fresh", "steps", "batch_size", "accumulation"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
        if self.batch_size % self.accumulation:
            raise ValueError(f"--accumulation {self.accumulation}, expected a divisor of {self.batch_size}")
        console = Console(stderr=True)
        with console.waiting(f"loading {self.base}"):
            base = self.loading.load(pipeline_directory(self.base))
            found = find_candidates(self.unlearned, base, self.loading)
            own_floor = () if self.floor in ("upside-down", "none") else (self.floor,)
            floors = find_candidates(own_floor, base, self.loading)
            campaign, told = campaign_for(
                base,
                self.target,
                attacks,
                prompts=self.prompts,
                folder=self.images,
                number=self.number,
                budget=self.budget,
                seeds=self.seeds,
                drawing=(self.fresh, self.steps, self.guidance, self.sampler),
                batch=(self.batch_size, self.accumulation),
                clip=self.clip,
                against=self.against,
            )
            models = {word: each.load() for word, each in zip(self.unlearned, found, strict=True)}
            floor = floors[0].load() if floors else None
        for line in told:
            console.print(line, highlight=False)
        self._attack(base, models, floor, campaign, console)

    def _attack(
        self,
        base: "TextToImagePipeline",
        models: "dict[str, TextToImagePipeline]",
        floor: "TextToImagePipeline | None",
        campaign: "Campaign",
        console: "Console",
    ) -> None:
        from rich.progress import BarColumn, Progress, TimeElapsedColumn

        from fdiv_jax.evaluation.attacks import attack_models
        from fdiv_jax.evaluation.attacks.picture import save_curves
        from fdiv_jax.terminal import TextColumn

        upside_down = self.floor == "upside-down"
        if upside_down and _is_style(base, self.target):
            upside_down = False
            console.print("no floor: a style is the same upside down; --floor MODEL gives one")
        with Progress(
            BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"), console=console
        ) as bar:
            task = bar.add_task("")
            report = attack_models(
                base,
                models,
                campaign,
                self.output,
                floor=floor,
                upside_down=upside_down,
                resume=self.resume,
                display=lambda text, done, total: bar.update(
                    task, description=text, completed=done, total=total
                ),
                picture=_save_picture,
            )
        save_curves(report, self.output / "curves.png")
        for each in report.outcomes:
            print(each)
        print(self.output)


def _is_style(base: "TextToImagePipeline", target: str) -> bool:
    from fdiv_jax.unlearning.library import known_concepts

    concept = known_concepts(base.concepts).find(target)
    return concept is not None and concept.kind == "style"


def _save_picture(path: Path, before: np.ndarray, after: np.ndarray) -> None:
    from fdiv_jax.checkpoints import atomic_file
    from fdiv_jax.monitoring import contact_sheet

    sheet = contact_sheet(np.concatenate([before, after]), ["before the attack", "after it, same noise"])
    with atomic_file(path, overwrite=True) as temporary:
        sheet.save(temporary, format="png")
