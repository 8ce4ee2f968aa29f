"""`fdiv-jax sample MODEL PROMPT...`: draw images and write them as one contact sheet."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from fdiv_jax.cli._loading import Loading

__all__ = ["HELP", "Command"]

HELP = {
    "what to draw": ("images", "seed", "negative-prompt", "guidance"),
    "how": ("steps", "sampler", "size"),
    "the picture": ("output",),
}


@dataclass(frozen=True)
class Command:
    """Draw images from a model at one or more prompts: a contact sheet with one row per prompt."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """The model: `fashion` (the embedded world), a diffusers directory, one .safetensors file, or a hub
    id."""
    prompts: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="PROMPT")]
    """One or more prompts, each in quotes: "a sneaker, sketch style"."""
    seed: int = 0
    """The seed of the initial noise (and of the sampler's, where it uses any)."""
    seeds: tuple[int, ...] = ()
    """Seeds to draw every prompt with, one image per seed, instead of --seed and --images."""
    steps: int | None = None
    """The number of steps of the sampler; by default 25, or the model's own where it was distilled to draw in
    a few (turbo, LCM)."""
    guidance: float | None = None
    """Classifier-free guidance; 1 is no guidance. By default 6, or the model's own."""
    negative_prompt: str | None = None
    """The negative prompt, which the guidance leads away from."""
    sampler: str | None = None
    """The sampler: ddim, dpm++, dpmsolver++karras, euler, euler_karras, euler_a or lcm; by default ddim, or
    the model's own."""
    eta: float | None = None
    """The share of fresh noise per step, 0 to 1, for ddim and euler_a; by default the sampler's own."""
    size: tuple[int, int] | None = None
    """Height and width in pixels; by default the model's own."""
    tile: int | None = None
    """Decode in overlapping tiles of this side, in pixels, to save memory; by default whole images."""
    images: int = 4
    """The number of images for each prompt, side by side."""
    output: Path = Path("sample.png")
    """The picture to write; its ending chooses the format."""
    loading: Annotated[Loading, tyro.conf.arg(name="")] = field(default_factory=Loading)
    """How to load the model."""

    def run(self) -> None:
        """Load the model, draw, write the sheet and say where it is."""
        from PIL import Image
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        from fdiv_jax.terminal import Console, TextColumn

        if not self.prompts:
            raise ValueError("no prompt given; expected at least one, e.g. 'a sneaker, sketch style'")
        if self.images < 1:
            raise ValueError(f"--images must be at least 1, got {self.images}")
        suffix = self.output.suffix.lower()
        if Image.registered_extensions().get(suffix) not in Image.SAVE:  # some are only read
            raise ValueError(
                f"--output must end in a picture format such as .png or .jpg, got {self.output.name!r}"
            )
        self._check_place()

        columns = len(self.seeds) or self.images
        every = [prompt for prompt in self.prompts for _ in range(columns)]
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        with bar:
            task = bar.add_task(f"loading {self.model}", total=None)
            from fdiv_jax.checkpoints import atomic_file
            from fdiv_jax.monitoring import contact_sheet

            pipe = self.loading.load(self.model)
            bar.update(task, description=f"drawing {len(every)} images, sampler steps")
            pictures = pipe(
                every,
                seed=self.seeds * len(self.prompts) if self.seeds else self.seed,
                steps=self.steps,
                guidance=self.guidance,
                negative_prompt=self.negative_prompt,
                sampler=self.sampler,
                eta=self.eta,
                size=self.size,
                tile=self.tile,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
        sheet = contact_sheet(np.asarray(pictures), self.prompts)
        with atomic_file(self.output, overwrite=True) as temporary:
            sheet.save(temporary)
        print(f"{self.output}: {len(every)} images, {sheet.width} x {sheet.height} pixels")

    def _check_place(self) -> None:
        """Raise OSError where no picture can be, before drawing one."""
        from fdiv_jax.checkpoints import check_place

        if self.output.is_dir():
            raise IsADirectoryError(f"--output {self.output} is a directory, expected a picture's name")
        check_place(self.output)
