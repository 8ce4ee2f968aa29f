"""Pages of HTML that load nothing else: their style, and their parts as text and pictures."""

from __future__ import annotations

import base64
import contextlib
import html
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "escaped",
    "image_tag",
    "page_of",
    "plain_figures",
    "png_source",
    "prompt_text",
    "section",
    "shrunk",
    "table",
]

_SIDE, _LARGEST = 96, 224
"""Pixels that the side of an image is shown with at the least and at the most."""
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


@contextlib.contextmanager
def plain_figures(settings: Mapping[str, Any]) -> Iterator[None]:
    """Draw with matplotlib's own defaults and these settings, whatever the process or the user has set."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings)  # pyright: ignore[reportArgumentType, reportCallIssue]
        yield


def page_of(title: str, sections: Iterable[str], *, style: str = "") -> str:
    """A whole page of sections that are HTML already; empty ones are left out.

    Args:
        title: plain text.
        sections: its content.
        style: CSS beside that of every page.
    """
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(title)}</title>\n<style>{_STYLE}{style}</style>\n</head>\n<body>\n"
        + "\n".join(each for each in sections if each)
        + "\n</body>\n</html>\n"
    )


def section(title: str, content: str) -> str:
    """A section with a heading; the content is HTML already."""
    return f"<section><h2>{title}</h2>{content}</section>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = False) -> str:
    """A table of cells that are HTML already; the first cell of a row is its heading."""
    lines = [f"<tr><th>{first}</th>{''.join(f'<td>{c}</td>' for c in rest)}</tr>" for first, *rest in rows]
    top = f"<thead><tr>{''.join(f'<th>{name}</th>' for name in head)}</tr></thead>" if head else ""
    opening = '<table class="numbers">' if numbers else "<table>"
    return f"{opening}{top}<tbody>{''.join(lines)}</tbody></table>"


def image_tag(picture: np.ndarray, told: str, *, side: int = _SIDE, largest: int = _LARGEST) -> str:
    """A picture (h w 3, uint8) as an element; `told` stands for it where it is not seen.

    Small ones are enlarged by a whole factor until a side reaches `side` pixels, with sharp pixels; large
    ones are reduced to `largest`.
    """
    from PIL import Image

    image = shrunk(Image.fromarray(picture), largest)
    factor = max(1, -(-side // max(image.size)))
    buffer = io.BytesIO()
    image.save(buffer, "png")
    width, height = (factor * length for length in image.size)
    sharp = ' class="sharp"' if factor > 1 else ""
    source = png_source(buffer.getvalue())
    return f'<img{sharp} src="{source}" width="{width}" height="{height}" alt="{escaped(told)}">'


def shrunk(picture: Image.Image, side: int) -> Image.Image:
    """The picture, or a smaller one whose longer side is `side` pixels."""
    if max(picture.size) <= side:
        return picture
    from PIL import Image

    width, height = (max(1, round(length * side / max(picture.size))) for length in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def prompt_text(prompt: str) -> str:
    """A prompt; the empty one in words."""
    return escaped(prompt) or '<span class="soft">(empty prompt)</span>'


def escaped(value: object) -> str:
    """Plain text as HTML."""
    return html.escape(str(value))


def png_source(png: bytes) -> str:
    """A PNG as the source of an image element."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
