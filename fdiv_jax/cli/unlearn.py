"""`fdiv-jax unlearn MODEL --target ... --output DIR`: remove a concept and write the run directory."""

import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import tyro

from fdiv_jax.cli.sample import contact_sheet
from fdiv_jax.unlearning import UnlearningConfig, UnlearningResult, check_output, unlearn

if TYPE_CHECKING:
    from PIL import Image
    from rich.console import Console

    from fdiv_jax.pipeline import TextToImagePipeline

__all__ = ["Command"]

_SHEET = "before_after.png"
_ROWS = 6
"""Pairs of prompts that the sheet shows at the most."""


@dataclass(frozen=True)
class Command:
    """Unlearn a concept: draw the model at its prompts to the frozen model at anchor prompts.

    Writes a run directory: config.json (with versions, seed and the prompts as resolved), metrics.jsonl (a
    line a step), pipeline/ (a diffusers directory) and before_after.png; whole, or not at all.
    """

    model: tyro.conf.Positional[str]
    """`fashion` (the embedded world), a diffusers directory, or a hub id."""
    config: Annotated[UnlearningConfig, tyro.conf.arg(name="")]
    """What to unlearn and how."""
    output: Path | None = None
    """The run directory; must be new or empty. Default: runs/TARGET-ANCHOR-DIVERGENCE-LOSS-SEED."""
    images: Annotated[int, tyro.conf.arg(name="sheet-images")] = 4
    """Images for each prompt of the before/after sheet; 0 draws none."""
    cache: Path | None = None
    """Where anchor images are kept; default: FDIV_JAX_CACHE or the user's cache directory."""

    def run(self) -> None:
        """Load the model, unlearn, draw the sheet and sum up."""
        from rich.console import Console

        if self.images < 0:
            raise ValueError(f"--sheet-images must be at least 0, got {self.images}")
        output = check_output(self.output or default_output(self.config))
        console = Console(stderr=True)
        with console.status(f"loading {self.model}"):
            import fdiv_jax

            pipe = fdiv_jax.load_pipeline(self.model)
        result = unlearn(pipe, self.config, output, cache=self.cache)
        if self.images:
            with console.status("drawing the model before and after"):
                sheet = before_after(pipe, result, self.images)
                _write_picture(sheet, output / _SHEET)
        _summarise(console, result, output)
        print(output)


def default_output(config: UnlearningConfig) -> Path:
    """runs/TARGET-ANCHOR-DIVERGENCE-LOSS-SEED, made of characters that every file system takes."""
    parts = [config.target, config.anchor, config.divergence, config.loss, str(config.seed)]
    words = ["".join(c if c.isalnum() or c in "._" else "_" for c in part)[:40] for part in parts]
    return Path("runs") / "-".join(words)


def before_after(pipe: "TextToImagePipeline", result: UnlearningResult, images: int) -> "Image.Image":
    """Each target prompt before and after, from the same noise, and the frozen model at its anchor prompt."""
    rows, labels = [], []
    options = result.config.images
    for pair in result.pairs[:_ROWS]:
        for drawn, prompt, when in (
            (pipe, pair.target, "before"),
            (result.pipeline, pair.target, "after"),
            (pipe, pair.anchor, "anchor"),
        ):
            rows.append(
                drawn(
                    [prompt] * images,
                    seed=result.config.seed,
                    steps=options.steps,
                    guidance=options.guidance,
                    sampler=options.sampler,
                )
            )
            labels.append(f"{when}: {prompt or '(empty prompt)'}")
    return contact_sheet(np.concatenate(rows), labels, tile=96)


def _write_picture(picture: "Image.Image", path: Path) -> None:
    temporary = path.with_name(f".{path.stem}.tmp-{secrets.token_hex(4)}{path.suffix}")
    try:
        picture.save(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _summarise(console: "Console", result: UnlearningResult, output: Path) -> None:
    from rich.table import Table

    history, config = result.history, result.config
    learning = ~history["warmup"]
    span = max(1, int(np.sum(learning)) // 10)
    table = Table(title=f"{config.target} -> {config.anchor}: {result.divergence['name']}, {config.loss}")
    for heading in ("", "loss", "m", "w_f(m)", "gradient norm"):
        table.add_column(heading, justify="right" if heading else "left")
    for label, part in (("first", slice(None, span)), ("last", slice(-span, None))):
        figures = [
            np.mean(history[name][learning][part]) for name in ("loss", "m", "weight", "gradient_norm")
        ]
        table.add_row(f"{label} {span} steps", *(f"{figure:.4g}" for figure in figures))
    console.print(table)
    console.print(f"trained {result.selection}")
    for pair in result.pairs:
        console.print(f"  {pair.target!r} -> {pair.anchor!r}", highlight=False)
    spent = time.strftime("%H:%M:%S", time.gmtime(round(result.seconds)))
    steps = len(history["step"])
    console.print(
        f"{steps} steps of {config.batch_size} on {len(result.devices)} device(s) in {spent}, "
        f"{steps * config.batch_size / result.seconds:.1f} images/s"
    )
