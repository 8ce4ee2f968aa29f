"""`fdiv-jax sample MODEL PROMPT...`: draw images and write them as one contact sheet."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tyro

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Command", "contact_sheet"]


@dataclass(frozen=True)
class Command:
    """Draw images from a model at one or more prompts: a contact sheet with a row for each prompt."""

    model: tyro.conf.Positional[str]
    """`fashion` (the embedded world), a diffusers directory, or a hub id."""
    prompts: tyro.conf.Positional[tuple[str, ...]]
    """One or more prompts; quote each, e.g. "a sneaker, sketch style"."""
    seed: int = 0
    """The seed of the initial noise (and of the sampler's, where it uses any)."""
    seeds: tuple[int, ...] = ()
    """One seed an image of a row instead: every prompt is drawn with each of them."""
    steps: int = 25
    """Steps of the sampler."""
    guidance: float = 6.0
    """Classifier-free guidance; 1 is none."""
    negative_prompt: str | None = None
    """What to be guided away from."""
    sampler: str = "ddim"
    """The sampler: ddim, dpm++, dpmsolver++karras, euler, euler_karras or euler_a."""
    eta: float | None = None
    """The share of fresh noise a step, 0 to 1, of ddim and euler_a; by default the sampler's own."""
    size: tuple[int, int] | None = None
    """Height and width in pixels; by default the model's own."""
    images: int = 4
    """Images for each prompt, side by side."""
    output: Path = Path("sample.png")
    """The picture to write; its ending chooses the format."""

    def run(self) -> None:
        """Load the model, draw, write the sheet and say where it is."""
        from PIL import Image
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        if not self.prompts:
            raise ValueError("no prompt given; expected at least one, e.g. 'a sneaker, sketch style'")
        if self.images < 1:
            raise ValueError(f"--images must be at least 1, got {self.images}")
        suffix = self.output.suffix.lower()
        if suffix not in Image.registered_extensions():
            raise ValueError(
                f"--output must end in a picture format such as .png or .jpg, got {self.output.name!r}"
            )

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
            import fdiv_jax

            pipe = fdiv_jax.load_pipeline(self.model)
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
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
        sheet = contact_sheet(np.asarray(pictures), self.prompts)
        self.output.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(self.output)
        print(f"{self.output}: {len(every)} images, {sheet.width} x {sheet.height} pixels")


def contact_sheet(pictures: np.ndarray, labels: Sequence[str], *, tile: int = 128) -> "Image.Image":
    """One picture of many, a labelled row for each label.

    `pictures` is uint8, n h w 3, with n a multiple of the number of labels: the first n / len(labels) belong
    to the first label, and so on. Small pictures are enlarged by a whole factor until their sides reach
    `tile` pixels, so that single pixels stay sharp.

    Raises ValueError for another shape or dtype, or a number of pictures that does not fit.
    """
    from PIL import Image, ImageDraw, ImageFont

    if pictures.ndim != 4 or pictures.shape[-1] != 3 or pictures.dtype != np.uint8:
        raise ValueError(
            f"pictures must be uint8 of shape (n, h, w, 3), got {pictures.dtype} {pictures.shape}"
        )
    if not labels or len(pictures) == 0 or len(pictures) % len(labels):
        raise ValueError(
            f"the number of pictures must be a multiple of the {len(labels)} labels, got {len(pictures)}"
        )
    columns = len(pictures) // len(labels)
    factor = max(1, math.ceil(tile / max(pictures.shape[1:3])))
    height, width = pictures.shape[1] * factor, pictures.shape[2] * factor
    gap, band = 4, 20
    font = ImageFont.load_default(size=13)
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    widest = max(math.ceil(measure.textlength(label, font=font)) for label in labels)
    size = (max(columns * (width + gap) + gap, widest + 2 * gap), len(labels) * (band + height + gap) + gap)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for row, label in enumerate(labels):
        top = gap + row * (band + height + gap)
        draw.text((gap, top + 1), label, fill="black", font=font)
        for column in range(columns):
            picture = Image.fromarray(pictures[row * columns + column])
            enlarged = picture.resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (gap + column * (width + gap), top + band))
    return sheet
