"""What `fdiv-jax unlearn` says at the end: how the run went, and in the embedded world what it did."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fdiv_jax.cli._tables import print_table
from fdiv_jax.unlearning import UnlearningResult
from fdiv_jax.unlearning.result import record

if TYPE_CHECKING:
    from fdiv_jax.terminal import Console
    from fdiv_jax.worlds.erasure_scores import ErasureCounts

__all__ = ["report_counts", "summarise"]

_PAIRS = 3
"""Pairs of prompts that are shown at the most."""


def summarise(console: Console, result: UnlearningResult) -> None:
    """Figures, what was trained, how long it took, and what is wrong with it."""
    history = result.history
    if history:
        learning = ~history["warmup"] & ~history["skipped"]
        if np.any(learning):
            _figures(console, result, learning)
    console.print(f"trained {result.selection}")
    for pair in result.pairs[:_PAIRS]:
        console.print(f"  {pair.target!r} -> {pair.anchor!r}", highlight=False)
    if len(result.pairs) > _PAIRS:
        console.print(f"  and {len(result.pairs) - _PAIRS} more prompts, see config.json", highlight=False)
    spent = time.strftime("%H:%M:%S", time.gmtime(round(result.seconds)))
    steps = len(history.get("step", ()))
    if not steps:
        console.print(f"solved in {spent}")
        return
    resumed = f", {steps - result.resumed_at} of them here," if result.resumed_at else ""
    speed = f", {result.images_per_second:.1f} images/s once compiled" if result.images_per_second else ""
    console.print(
        f"{steps} steps of {result.config.batch_size} on {len(result.devices)} device(s){resumed} in "
        f"{spent}{speed}"
    )
    if np.any(history["skipped"]):
        console.print(f"{int(np.sum(history['skipped']))} steps were not finite and skipped")
    for warning in result.summary()["warnings"]:
        console.print(f"warning: {warning}", style="bold red", highlight=False)


def _figures(console: Console, result: UnlearningResult, learning: np.ndarray) -> None:
    """The first and the last tenth of the steps that learned."""
    history, config = result.history, result.config
    span = max(1, int(np.sum(learning)) // 10)
    targets = ", ".join(f"{each.target} -> {each.anchor}" for each in config.erasures)
    rows = []
    for label, part in (("first", slice(None, span)), ("last", slice(-span, None))):
        figures = [
            np.mean(history[name][learning][part]) for name in ("loss", "m", "weight", "gradient_norm")
        ]
        rows.append((f"{label} {span} steps", *(f"{figure:.4g}" for figure in figures)))
    title = f"{targets}: {result.divergence['name']}, {config.loss}"
    print_table(console, title, ("", "loss", "m", "w_f(m)", "gradient norm"), rows, first=("loss", "m"))


def report_counts(console: Console, output: Path, before: ErasureCounts, after: ErasureCounts) -> None:
    """Say what the judge counted, and add it to the run's result.json."""
    console.print(
        f"the judge sees the target in {after.target_shown} of {after.target_images} images at its prompts "
        f"({before.target_shown} before), and in {after.retained_right} of {after.retained_images} images at "
        f"other prompts what was asked for ({before.retained_right} before)",
        highlight=False,
    )
    record(output, judged={"before": before._asdict(), "after": after._asdict()})
