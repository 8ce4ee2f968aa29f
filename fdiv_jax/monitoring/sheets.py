"""Contact sheets: what a model draws, before, after and on the way."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from fdiv_jax.files import JsonObject, parse_json, read_bytes
from fdiv_jax.monitoring._files import explained, write_file
from fdiv_jax.pages import shrunk
from fdiv_jax.pipeline import TextToImagePipeline
from fdiv_jax.unlearning import UnlearningResult
from fdiv_jax.unlearning.result import Row

if TYPE_CHECKING:
    from PIL import Image, ImageFont

__all__ = [
    "FADING",
    "PROMPTS",
    "SampleSheets",
    "contact_sheet",
    "draw_at",
    "spread",
]

PROMPTS = 6
"""Prompts that a sheet of a run shows at the most."""
FADING = Path("samples", "fading.png")
"""The strip of all the sheets, in the run directory."""

_GAP, _BAND, _FONT, _TILE = 4, 20, 13, 128
_LONGEST = 640
"""Pixels of a label that a sheet is widened for."""
_STRIP = 160
"""The longer side of a picture in the strip, at the most."""
_KEY = "fdiv-jax"
"""The text in a sheet's PNG that says what it shows and where."""
_NAME = re.compile(r"step-(\d{6,})\.png")

T = TypeVar("T")


def contact_sheet(
    pictures: np.ndarray, labels: Sequence[str], *, tile: int = _TILE, headings: Sequence[str] = ()
) -> Image.Image:
    """One picture of many, with one labelled row per label.

    Args:
        pictures: uint8, n h w 3, with n a multiple of the number of labels: the first n / len(labels) belong
            to the first label, and so on. Small ones are enlarged by a whole factor until their sides reach
            `tile` pixels, so that single pixels stay sharp.
        labels: one per row; those much wider than the row end in an ellipsis.
        tile: see above.
        headings: one per column, or none.

    Raises:
        ValueError: another shape or dtype, or numbers that do not fit.
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
    if len(headings) not in (0, columns):
        raise ValueError(f"expected no heading or one a column, {columns}, got {len(headings)}")
    boxes = _boxes(pictures.shape[1:3], len(labels), columns, tile, bool(headings))
    font = ImageFont.load_default(size=_FONT)
    content = boxes[-1][2] + _GAP
    labels = [_fitted(label, font, max(content, _LONGEST) - 2 * _GAP) for label in labels]
    widest = math.ceil(max(font.getlength(label) for label in labels))
    sheet = Image.new("RGB", (max(content, widest + 2 * _GAP), boxes[-1][3] + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for (left, _, right, _), heading in zip(boxes, headings, strict=False):
        text = _fitted(heading, font, right - left)
        draw.text((left, _GAP + 1), text, fill="#5f6368", font=font)
    for number, (box, picture) in enumerate(zip(boxes, pictures, strict=True)):
        left, top, right, bottom = box
        if number % columns == 0:
            draw.text((left, top - _BAND + 1), labels[number // columns], fill="black", font=font)
        enlarged = Image.fromarray(picture).resize((right - left, bottom - top), Image.Resampling.NEAREST)
        sheet.paste(enlarged, (left, top))
    return sheet


def draw_at(
    pipe: TextToImagePipeline, result: UnlearningResult, prompts: Sequence[str], images: int
) -> np.ndarray:
    """Images at prompts, drawn as the run's anchor images were: uint8, (prompts, images, h, w, 3).

    The noise is the same for every prompt.
    """
    options, seed = result.config.images.drawing(pipe), result.config.seed
    drawn = pipe(
        [prompt for prompt in prompts for _ in range(images)],
        seed=[seed + i for i in range(images)] * len(prompts),
        steps=options.steps,
        guidance=options.guidance,
        sampler=options.sampler,
    )
    return drawn.reshape(len(prompts), images, *drawn.shape[1:])


def spread(items: Sequence[T], most: int) -> list[T]:
    """All of `items`, or `most` of them at even distances, the first among them."""
    if len(items) <= most:
        return list(items)
    return [items[i * len(items) // most] for i in range(most)]


class SampleSheets:
    """Draws the same noise at the same prompts every so many steps: the concept as it fades.

    Writes `samples/step-000100.png` as the run goes on, and `samples/fading.png`: one column per step that
    was drawn and one row per prompt. A run that is resumed keeps the sheets of the steps before.
    """

    def __init__(
        self,
        pipe: TextToImagePipeline,
        prompts: Sequence[str],
        directory: Path,
        every: int,
        *,
        seed: int = 0,
        steps: int = 25,
        guidance: float = 6.0,
        sampler: str = "ddim",
    ):
        """Set up the sheets; nothing is drawn yet.

        Args:
            pipe: the frozen model.
            prompts: at most `PROMPTS` of them are drawn, one image each.
            directory: of the run.
            every: steps of the model between two sheets; step 0 and the last one have theirs too.
            seed: of the images.
            steps: of the sampler.
            guidance: classifier-free guidance of the images.
            sampler: its name.

        Raises:
            ValueError: no prompt, or no step between two sheets.
        """
        if every < 1 or not prompts:
            raise ValueError(f"expected prompts and a sheet every 1 step or more, got {prompts!r}, {every}")
        self.every = every
        self._pipe, self._prompts = pipe, spread(prompts, PROMPTS)
        self._path, self._strip = Path(directory) / FADING.parent, Path(directory) / FADING
        self._options = {"seed": seed, "steps": steps, "guidance": guidance, "sampler": sampler}
        self._begun = False
        self._read: dict[int, np.ndarray | None] = {}

    def row(self, row: Row) -> None:
        """Ignore the figures: a sheet shows none."""

    def due(self, done: int) -> bool:
        """At step 0 and every `every` steps."""
        return done % self.every == 0

    def model(self, done: int, pipeline: Callable[[], TextToImagePipeline]) -> None:
        """Draw the sheet of this step, if it is due.

        Raises:
            OSError: it cannot be written; those before it are whole.
        """
        self._begin(done)
        if done % self.every == 0:
            self._draw(done, pipeline())

    def end(self, result: UnlearningResult) -> None:
        """Draw the sheet of the last step, if it was not due, and the strip; nothing for the method `edit`,
        which has no steps.

        Raises:
            OSError: see `model`.
        """
        steps = result.config.steps
        if len(result.history) == 0:
            return
        self._begin(steps + 1)
        if self._tiles(steps) is None:
            self._draw(steps, result.pipeline)
        self._write_strip()

    def _begin(self, done: int) -> None:
        """Remove the sheets of steps that are to be taken again, and check that there is one of step 0."""
        if self._begun:
            return
        self._begun = True
        for step in self._steps():
            if step >= done:
                path = self._path / _name(step)
                with explained("remove", path):
                    path.unlink(missing_ok=True)
        if done > 0 and self._tiles(0) is None:
            self._draw(0, self._pipe)

    def _draw(self, step: int, pipe: TextToImagePipeline) -> None:
        from PIL.PngImagePlugin import PngInfo

        pictures = pipe(self._prompts, **self._options)
        sheet = contact_sheet(pictures, self._labels, headings=[f"step {step}"])
        text = PngInfo()
        boxes = _boxes(pictures.shape[1:3], len(self._prompts), 1, _TILE, True)
        text.add_text(_KEY, json.dumps({"step": step, "boxes": boxes, **self._shown}))
        write_file(
            self._path / _name(step),
            lambda temporary: sheet.save(temporary, pnginfo=text),
            within=self._path.parent,
        )
        self._read.pop(step, None)
        self._write_strip()

    @property
    def _labels(self) -> list[str]:
        return [prompt or "(empty prompt)" for prompt in self._prompts]

    @property
    def _shown(self) -> JsonObject:
        return {"prompts": self._prompts, "drawn": self._options}

    def _steps(self) -> list[int]:
        """Steps of which there is a sheet, in order."""
        names = [path.name for path in self._path.iterdir()] if self._path.is_dir() else []
        return sorted(int(match.group(1)) for match in map(_NAME.fullmatch, names) if match)

    def _write_strip(self) -> None:
        columns = {step: tiles for step in self._steps() if (tiles := self._tiles(step)) is not None}
        pictures = np.stack(list(columns.values()), axis=1)
        headings = [str(step) if step else "step 0" for step in columns]
        strip = contact_sheet(
            pictures.reshape(-1, *pictures.shape[2:]), self._labels, tile=1, headings=headings
        )
        write_file(self._strip, strip.save, within=self._path.parent)

    def _tiles(self, step: int) -> np.ndarray | None:
        """The images of a step, as large as the strip has them; None: there is no sheet of such images."""
        if step not in self._read:
            path = self._path / _name(step)
            with explained("read", path):
                self._read[step] = self._tiles_of(path) if path.exists() else None
        return self._read[step]

    def _tiles_of(self, path: Path) -> np.ndarray | None:
        from PIL import Image

        try:
            with Image.open(io.BytesIO(read_bytes(path, limit=1 << 30))) as sheet:
                told = parse_json(getattr(sheet, "text", {}).get(_KEY, "{}"), f"{path}: {_KEY}")
                if any(told.get(name) != value for name, value in self._shown.items()):
                    return None
                return np.stack([np.asarray(shrunk(sheet.crop(box), _STRIP)) for box in told["boxes"]])
        except (ValueError, TypeError, KeyError, AttributeError, SyntaxError):  # not a sheet of ours
            return None


def _name(step: int) -> str:
    return f"step-{step:06d}.png"


def _boxes(
    size: tuple[int, ...], rows: int, columns: int, tile: int, headed: bool
) -> list[tuple[int, int, int, int]]:
    """(left, top, right, bottom) of the pictures of a sheet, row after row."""
    factor = max(1, math.ceil(tile / max(size)))
    height, width = size[0] * factor, size[1] * factor
    first = _GAP + _BAND * (1 + headed)
    corners = [
        (_GAP + column * (width + _GAP), first + row * (_BAND + height + _GAP))
        for row in range(rows)
        for column in range(columns)
    ]
    return [(left, top, left + width, top + height) for left, top in corners]


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """The text in one line of `width` pixels, with an ellipsis where that is too little."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    text = text[: max(1, int(width))]  # no letter is narrower than a pixel
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
