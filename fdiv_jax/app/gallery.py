"""A run as HTML: how far it is, m, the images before and now, what the judge counted."""

from __future__ import annotations

import io
from collections.abc import Sequence
from html import escape

import numpy as np

from fdiv_jax.app.charts import descent_chart
from fdiv_jax.app.runs import Sight
from fdiv_jax.pages import png_source

__all__ = ["show"]

_NAMES = {
    "waiting": "Waiting",
    "starting": "Starting",
    "learning": "Unlearning",
    "judging": "Judging",
    "done": "Done",
    "stopped": "Stopped",
}


def show(sight: Sight) -> str:
    """The card of a run."""
    if sight.phase == "refused":
        return f'<div class="fx-message" role="alert">{escape(sight.message)}</div>'
    done = 100 if sight.phase in ("judging", "done") else round(100 * len(sight.m) / max(1, sight.total))
    message = f' · <span class="fx-note">{escape(sight.message)}</span>' if sight.message else ""
    chart = descent_chart(sight.m, sight.total) if sight.m else ""
    return (
        f'<section class="fx-run" data-phase="{sight.phase}"><h3>{_NAMES[sight.phase]}{message}</h3>'
        f'<div class="fx-bar"><i style="width:{done}%"></i></div>'
        f'{_counts(sight)}<div class="fx-live">{_images(sight)}<div>{chart}</div></div></section>'
    )


def _counts(sight: Sight) -> str:
    if sight.counts is None:
        return ""
    before, after = sight.counts
    tiles = (
        ("target seen by the judge", before.target_shown, after.target_shown, after.target_images),
        ("other prompts drawn right", before.retained_right, after.retained_right, after.retained_images),
    )
    return (
        '<dl class="fx-counts">'
        + "".join(
            f'<div class="fx-tile"><dt>{label}</dt><dd>{was} → {now} of {of}</dd></div>'
            for label, was, now, of in tiles
        )
        + "</dl>"
    )


def _images(sight: Sight) -> str:
    if sight.before is None or sight.now is None:
        return ""
    now = "after" if sight.phase in ("judging", "done") else f"step {sight.at}"
    own, rest = slice(None, sight.shown), slice(sight.shown, None)
    parts = []
    for place in (own, rest):
        parts.append(_strip("before", sight.before[place], sight.prompts[place]))
        parts.append(_strip(now, sight.now[place], sight.prompts[place]))
        captions = "".join(f"<span>{escape(_short(prompt))}</span>" for prompt in sight.prompts[place])
        parts.append(f'<div class="fx-strip"><b></b>{captions}</div>')
    return f'<div class="fx-images">{"".join(parts)}</div>'


def _short(prompt: str) -> str:
    """The prompt without what all of them have."""
    return prompt.removeprefix("a ").removeprefix("an ").removesuffix(" style")


def _strip(label: str, images: np.ndarray, prompts: Sequence[str]) -> str:
    pictures = "".join(
        f'<img src="{_source(image)}" alt="{escape(prompt)}, {label}">'
        for image, prompt in zip(images, prompts, strict=True)
    )
    return f'<div class="fx-strip"><b>{escape(label)}</b>{pictures}</div>'


def _source(image: np.ndarray) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return png_source(file.getvalue())
