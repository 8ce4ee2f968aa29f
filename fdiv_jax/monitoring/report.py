"""A page about a run: `report.html`, which loads nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fdiv_jax.files import read_bytes
from fdiv_jax.monitoring._command import changes, repeating
from fdiv_jax.monitoring._curves import curves
from fdiv_jax.monitoring._files import explained, write_file
from fdiv_jax.monitoring.sheets import FADING, PROMPTS, draw_at, spread
from fdiv_jax.pages import escaped, image_tag, page_of, png_source, prompt_text, section, table
from fdiv_jax.pipeline import TextToImagePipeline
from fdiv_jax.unlearning import UnlearningResult
from fdiv_jax.unlearning.result import Row, versions

__all__ = ["NAME", "Report", "page"]

NAME = "report.html"
"""The page, in the run directory."""

_FIGURES = {"loss": "loss", "m": "m", "weight": "w_f(m)", "gradient_norm": "gradient norm"}


class Report:
    """Writes `report.html` when a run is done: what was asked for, how it went, and what it did to images."""

    def __init__(self, pipe: TextToImagePipeline, directory: Path, *, images: int = 2):
        """Set up the report; nothing is drawn yet.

        Args:
            pipe: the frozen model.
            directory: of the run.
            images: drawn at each of the prompts that are shown, before, after and at the anchor; 0: none.
        """
        self._pipe, self._directory, self._images = pipe, Path(directory), images

    def row(self, row: Row) -> None:
        """Ignore the figures: the result has them."""

    def due(self, done: int) -> bool:
        """Never: the result has the model."""
        return False

    def model(self, done: int, pipeline: Callable[[], TextToImagePipeline]) -> None:
        """Ignore the model: the result has it."""

    def end(self, result: UnlearningResult) -> None:
        """Write the page.

        Raises:
            OSError: the disk is full or fails, or there is no permission.
        """
        path = self._directory / FADING
        with explained("read", path):
            strip = read_bytes(path, limit=1 << 30) if path.exists() else None
        text = page(self._pipe, result, strip=strip, images=self._images)
        data = text.encode("utf-8", "backslashreplace")
        write_file(
            self._directory / NAME, lambda temporary: temporary.write_bytes(data), within=self._directory
        )


def page(
    pipe: TextToImagePipeline, result: UnlearningResult, *, strip: bytes | None = None, images: int = 2
) -> str:
    """The page as HTML.

    Args:
        pipe: the frozen model.
        result: of the run.
        strip: the picture of the concept as it fades, a PNG; None: no picture.
        images: drawn at each of at most `PROMPTS` target prompts; 0: none.
    """
    config = result.config
    title = ", ".join(f"{each.target} → {each.anchor}" for each in config.erasures)
    sections = [
        _heading(title, result),
        _changed(result),
        _figures(result),
        _curves(result),
        "" if strip is None else _fading(strip),
        _compared(pipe, result, images) if images else "",
        _kept(pipe, result, images) if images else "",
        _pairs(result),
        section("To repeat it", f"<pre>{escaped(repeating(result.model, config))}</pre>"),
        _made_with(result),
    ]
    return page_of(title, sections)


def _heading(title: str, result: UnlearningResult) -> str:
    config, steps = result.config, len(result.history.get("step", ()))
    spent = time.strftime("%H:%M:%S", time.gmtime(round(result.seconds)))
    how = "closed-form edit" if config.method == "edit" else f"{config.divergence}, {config.loss} loss"
    here = f", {steps - result.resumed_at} of them" if result.resumed_at else ""
    taken = f"{steps} steps of {config.batch_size}{here} in {spent}" if steps else f"in {spent}"
    model = result.model.get("name") or "a model without a name"
    lines = [f"{how}; {model}; {taken}", f"Learned: {result.selection}"]
    if result.divergence and steps:
        d = result.divergence
        lines.append(f"f(t) = {d.get('generator')}, f″(1) = {d.get('curvature')}")
    told = "".join(f'<p class="soft">{escaped(line)}</p>' for line in lines)
    return f"<h1>{escaped(title)}</h1>{told}"


def _changed(result: UnlearningResult) -> str:
    rows = [
        (f"<code>{escaped(name)}</code>", _value(value)) for name, value in changes(result.config).items()
    ]
    return section("Settings that are not the defaults", table(("setting", "value"), rows))


def _value(value: object) -> str:
    if isinstance(value, list):
        return "<br>".join(_value(entry) for entry in value) or '<span class="soft">none</span>'
    if isinstance(value, dict):
        return escaped(", ".join(f"{name}: {entry}" for name, entry in value.items() if entry))
    return escaped(value) if value != "" else '<span class="soft">(empty)</span>'


def _figures(result: UnlearningResult) -> str:
    history = result.history
    if not len(history.get("step", ())):
        return ""
    learning = ~np.asarray(history["warmup"], bool)
    span = max(1, int(np.sum(learning)) // 10)
    names = [name for name in _FIGURES if name in history]
    rows = []
    for label, part in (("first", slice(None, span)), ("last", slice(-span, None))):
        cells = [_mean(np.asarray(history[name], np.float64)[learning][part]) for name in names]
        rows.append((f"{label} {span} step{'s' if span > 1 else ''}", *cells))
    found = table(("mean of", *(_FIGURES[name] for name in names)), rows, numbers=True)
    skipped = int(np.sum(history["skipped"])) if "skipped" in history else 0
    told = f"<p>{skipped} steps were not finite and changed nothing.</p>" if skipped else ""
    told += "".join(
        f"<p><strong>{escaped(warning)}.</strong></p>" for warning in result.summary()["warnings"]
    )
    return section("Figures", found + told)


def _mean(values: np.ndarray) -> str:
    values = values[np.isfinite(values)]
    return f"{values.mean():.4g}" if values.size else "—"


def _curves(result: UnlearningResult) -> str:
    history = result.history
    if not len(history.get("step", ())):
        return ""
    figures = "".join(
        f"<figure>{svg}<figcaption>{escaped(title)}</figcaption></figure>" for title, svg in curves(history)
    )
    notes = ["Thin or pale: single steps; thick: means of those around."]
    if np.any(history["warmup"]):
        notes.append("Shaded: the critic alone learns.")
    if np.any(history.get("skipped", False)):
        notes.append("Red marks: steps that were not finite and changed nothing.")
    return section("Curves", f'<div class="curves">{figures}</div><p class="soft">{" ".join(notes)}</p>')


def _fading(strip: bytes) -> str:
    picture = f'<img src="{png_source(strip)}" alt="The same noise at the target prompts, step by step">'
    return section("The concept as it fades", f'<div class="wide">{picture}</div>')


def _compared(pipe: TextToImagePipeline, result: UnlearningResult, images: int) -> str:
    pairs = spread(result.pairs, PROMPTS)
    targets, anchors = [pair.target for pair in pairs], [pair.anchor for pair in pairs]
    drawn = {
        "before": draw_at(pipe, result, targets, images),
        "after": draw_at(result.pipeline, result, targets, images),
        "anchor": draw_at(pipe, result, anchors, images),
    }
    body = []
    for i, pair in enumerate(pairs):
        cells = []
        for when, pictures in drawn.items():
            prompt = pair.anchor if when == "anchor" else pair.target
            tags = "".join(image_tag(picture, f"{when}: {prompt}") for picture in pictures[i])
            cells.append(f'<td class="images">{tags}</td>')
        told = f'{prompt_text(pair.target)}<br><span class="soft">→ {prompt_text(pair.anchor)}</span>'
        body.append(f"<tr><th>{told}</th>{''.join(cells)}</tr>")
    names = ("target → anchor prompt", "target, before", "target, after", "anchor, before")
    head = "".join(f"<th>{name}</th>" for name in names)
    grid = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    note = '<p class="soft">From the same noise.</p>'
    return section("Before and after", f'<div class="wide">{grid}</div>{note}')


def _kept(pipe: TextToImagePipeline, result: UnlearningResult, images: int) -> str:
    """What the model draws at retained prompts, before and after."""
    prompts = spread([prompt for prompt in result.retained if prompt.strip()], PROMPTS)
    if not prompts:
        return ""
    models = {"before": pipe, "after": result.pipeline}
    drawn = {when: draw_at(model, result, prompts, images) for when, model in models.items()}
    rows = []
    for i, prompt in enumerate(prompts):
        cells = ""
        for when, pictures in drawn.items():
            tags = "".join(image_tag(picture, f"{when}: {prompt}") for picture in pictures[i])
            cells += f'<td class="images">{tags}</td>'
        rows.append(f"<tr><th>{prompt_text(prompt)}</th>{cells}</tr>")
    head = "".join(f"<th>{name}</th>" for name in ("retained prompt", "before", "after"))
    grid = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return section("What was to stay", f'<div class="wide">{grid}</div>')


def _pairs(result: UnlearningResult) -> str:
    rows = [(prompt_text(pair.target), prompt_text(pair.anchor)) for pair in result.pairs]
    found = table(("target prompt", "anchor prompt"), rows)
    retained = ""
    if result.retained:
        entries = "".join(f"<li>{prompt_text(prompt)}</li>" for prompt in result.retained)
        summary = f"{len(result.retained)} retained prompts"
        retained = f"<details><summary>{summary}</summary><ul>{entries}</ul></details>"
    return section("Prompts, as resolved", found + retained)


def _made_with(result: UnlearningResult) -> str:
    rows = [
        ("model", escaped(result.model.get("name") or "—")),
        ("sha256 of its parameters", f"<code>{escaped(result.model.get('sha256', '—'))}</code>"),
        ("devices", escaped(", ".join(result.devices) or "—")),
        *((escaped(name), escaped(version)) for name, version in versions().items()),
    ]
    return section("Made with", table((), rows))
