"""A page about a run: `report.html`, which loads nothing else."""

from __future__ import annotations

import base64
import html
import io
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from fdiv_jax.files import read_bytes
from fdiv_jax.monitoring._command import changes, repeating
from fdiv_jax.monitoring._curves import curves
from fdiv_jax.monitoring._files import explained, write_file
from fdiv_jax.monitoring.sheets import FADING, PROMPTS, draw_at, shrunk, spread
from fdiv_jax.pipeline import TextToImagePipeline
from fdiv_jax.unlearning import UnlearningResult
from fdiv_jax.unlearning.result import Row, versions

__all__ = ["NAME", "Report", "page"]

NAME = "report.html"
"""The page, in the run directory."""

_SIDE, _LARGEST = 96, 224
"""Pixels that the side of an image is shown with at the least and at the most."""
_FIGURES = {"loss": "loss", "m": "m", "weight": "w_f(m)", "gradient_norm": "gradient norm"}
_STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #656d76; --line: #d8dee4; --card: #f6f8fa; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --soft: #9198a1; --line: #3d444d; --card: #161b22; }
  body { background: #0d1117; }
}
body { color: var(--ink); font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin-bottom: 0.2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 0.6rem; }
p { margin: 0.3rem 0; }
.soft, figcaption { color: var(--soft); }
figcaption { font-size: 0.85rem; }
.wide { overflow-x: auto; }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr)); gap: 1rem; }
figure { margin: 0; }
svg { width: 100%; height: auto; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
img { vertical-align: middle; margin: 1px; border-radius: 3px; }
img.sharp { image-rendering: pixelated; }
table { border-collapse: collapse; }
th, td { text-align: left; vertical-align: top; padding: 0.25rem 1rem 0.25rem 0; overflow-wrap: anywhere;
  border-bottom: 1px solid var(--line); font-weight: normal; }
th { min-width: 8rem; }
thead th { color: var(--soft); }
.numbers :is(td, thead th + th) { text-align: right; font-variant-numeric: tabular-nums; }
td.images { white-space: nowrap; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: 0.7rem;
  white-space: pre-wrap; overflow-wrap: anywhere; }
code, pre { font-size: 0.85rem; }
"""


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
        _section("To repeat it", f"<pre>{_text(repeating(result.model, config))}</pre>"),
        _made_with(result),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(section for section in sections if section)
        + "\n</body>\n</html>\n"
    )


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
    told = "".join(f'<p class="soft">{_text(line)}</p>' for line in lines)
    return f"<h1>{_text(title)}</h1>{told}"


def _changed(result: UnlearningResult) -> str:
    rows = [(f"<code>{_text(name)}</code>", _value(value)) for name, value in changes(result.config).items()]
    return _section("Settings that are not the defaults", _table(("setting", "value"), rows))


def _value(value: object) -> str:
    if isinstance(value, list):
        return "<br>".join(_value(entry) for entry in value) or '<span class="soft">none</span>'
    if isinstance(value, dict):
        return _text(", ".join(f"{name}: {entry}" for name, entry in value.items() if entry))
    return _text(value) if value != "" else '<span class="soft">(empty)</span>'


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
    table = _table(("mean of", *(_FIGURES[name] for name in names)), rows, numbers=True)
    skipped = int(np.sum(history["skipped"])) if "skipped" in history else 0
    told = f"<p>{skipped} steps were not finite and changed nothing.</p>" if skipped else ""
    told += "".join(f"<p><strong>{_text(warning)}.</strong></p>" for warning in result.summary()["warnings"])
    return _section("Figures", table + told)


def _mean(values: np.ndarray) -> str:
    values = values[np.isfinite(values)]
    return f"{values.mean():.4g}" if values.size else "—"


def _curves(result: UnlearningResult) -> str:
    history = result.history
    if not len(history.get("step", ())):
        return ""
    figures = "".join(
        f"<figure>{svg}<figcaption>{_text(title)}</figcaption></figure>" for title, svg in curves(history)
    )
    notes = ["Thin or pale: single steps; thick: means of those around."]
    if np.any(history["warmup"]):
        notes.append("Shaded: the critic alone learns.")
    if np.any(history.get("skipped", False)):
        notes.append("Red marks: steps that were not finite and changed nothing.")
    return _section("Curves", f'<div class="curves">{figures}</div><p class="soft">{" ".join(notes)}</p>')


def _fading(strip: bytes) -> str:
    picture = f'<img src="{_source(strip)}" alt="The same noise at the target prompts, step by step">'
    return _section("The concept as it fades", f'<div class="wide">{picture}</div>')


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
            tags = "".join(_image(picture, f"{when}: {prompt}") for picture in pictures[i])
            cells.append(f'<td class="images">{tags}</td>')
        told = f'{_prompt(pair.target)}<br><span class="soft">→ {_prompt(pair.anchor)}</span>'
        body.append(f"<tr><th>{told}</th>{''.join(cells)}</tr>")
    names = ("target → anchor prompt", "target, before", "target, after", "anchor, before")
    head = "".join(f"<th>{name}</th>" for name in names)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    note = '<p class="soft">From the same noise.</p>'
    return _section("Before and after", f'<div class="wide">{table}</div>{note}')


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
            tags = "".join(_image(picture, f"{when}: {prompt}") for picture in pictures[i])
            cells += f'<td class="images">{tags}</td>'
        rows.append(f"<tr><th>{_prompt(prompt)}</th>{cells}</tr>")
    head = "".join(f"<th>{name}</th>" for name in ("retained prompt", "before", "after"))
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return _section("What was to stay", f'<div class="wide">{table}</div>')


def _image(picture: np.ndarray, told: str) -> str:
    from PIL import Image

    image = shrunk(Image.fromarray(picture), _LARGEST)
    factor = max(1, -(-_SIDE // max(image.size)))
    buffer = io.BytesIO()
    image.save(buffer, "png")
    width, height = (factor * side for side in image.size)
    sharp = ' class="sharp"' if factor > 1 else ""
    source = _source(buffer.getvalue())
    return f'<img{sharp} src="{source}" width="{width}" height="{height}" alt="{_text(told)}">'


def _pairs(result: UnlearningResult) -> str:
    rows = [(_prompt(pair.target), _prompt(pair.anchor)) for pair in result.pairs]
    table = _table(("target prompt", "anchor prompt"), rows)
    retained = ""
    if result.retained:
        entries = "".join(f"<li>{_prompt(prompt)}</li>" for prompt in result.retained)
        summary = f"{len(result.retained)} retained prompts"
        retained = f"<details><summary>{summary}</summary><ul>{entries}</ul></details>"
    return _section("Prompts, as resolved", table + retained)


def _made_with(result: UnlearningResult) -> str:
    rows = [
        ("model", _text(result.model.get("name") or "—")),
        ("sha256 of its parameters", f"<code>{_text(result.model.get('sha256', '—'))}</code>"),
        ("devices", _text(", ".join(result.devices) or "—")),
        *((_text(name), _text(version)) for name, version in versions().items()),
    ]
    return _section("Made with", _table((), rows))


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>{content}</section>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = False) -> str:
    """A table of cells that are HTML already; the first cell of a row is its heading."""
    lines = [f"<tr><th>{first}</th>{''.join(f'<td>{c}</td>' for c in rest)}</tr>" for first, *rest in rows]
    top = f"<thead><tr>{''.join(f'<th>{name}</th>' for name in head)}</tr></thead>" if head else ""
    opening = '<table class="numbers">' if numbers else "<table>"
    return f"{opening}{top}<tbody>{''.join(lines)}</tbody></table>"


def _prompt(prompt: str) -> str:
    return _text(prompt) or '<span class="soft">(empty prompt)</span>'


def _text(value: object) -> str:
    return html.escape(str(value))


def _source(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
