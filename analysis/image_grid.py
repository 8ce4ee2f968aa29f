"""Rows of small pictures with their names before and their numbers behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .style import INK, PAGE, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_image_grid"]

_GAP = 2
_BETWEEN = 10
_LEFT, _RIGHT, _ABOVE, _BELOW = 1.04, 1.0, 0.78, 0.04
"""Inches for the names, for the numbers, for the heads, and under the last row."""

Row = tuple[str, Sequence[Sequence[np.ndarray]], Sequence[str]]


def draw_image_grid(
    rows: Sequence[Row], blocks: Sequence[tuple[str, Sequence[str]]], *, end: str, ends: Sequence[str]
) -> Figure:
    """A figure of images in rows, as wide as the page, cut into blocks of columns.

    Args:
        rows: (name, images of each block, texts at the end), the images uint8 h w 3 of one size.
        blocks: (title, a head for every column) of each block.
        end: what the texts at the end are.
        ends: a head for each of them.
    """
    size = rows[0][1][0][0].shape[0]
    pitch = size + _GAP
    lefts: list[list[int]] = []
    x = 0
    for _, heads in blocks:
        lefts.append([x + i * pitch for i in range(len(heads))])
        x += len(heads) * pitch + _BETWEEN
    canvas = np.full((len(rows) * pitch - _GAP, x - _BETWEEN - _GAP, 3), 255, np.uint8)
    for place, (_, images, _) in enumerate(rows):
        for block, places in zip(images, lefts, strict=True):
            for image, left in zip(block, places, strict=True):
                canvas[place * pitch : place * pitch + size, left : left + size] = image
    tall, wide = canvas.shape[:2]
    pixel = (PAGE - _LEFT - _RIGHT) / wide  # inches
    height = tall * pixel + _ABOVE + _BELOW
    figure, axis = panels(1, 1, height=height)
    figure.set_layout_engine("none")
    axis.set_position((_LEFT / PAGE, _BELOW / height, wide * pixel / PAGE, tall * pixel / height))
    axis.imshow(canvas, interpolation="nearest", aspect="auto")
    axis.set_axis_off()
    beside = [wide + (0.12 + 0.44 * i) / pixel for i in range(len(ends))]
    for place, (name, _, texts) in enumerate(rows):
        middle = place * pitch + size / 2
        axis.text(-0.05 / pixel, middle, name.replace(", ", ",\n"), ha="right", va="center", fontsize=7)
        for text, column in zip(texts, beside, strict=True):
            axis.text(column, middle, text, va="center", fontsize=7)
    for (title, heads), places in zip(blocks, lefts, strict=True):
        for head, left in zip(heads, places, strict=True):
            axis.text(left + size / 4, -4, head, rotation=48, ha="left", va="bottom", fontsize=7, color=INK)
        centre = (places[0] + places[-1] + size) / 2
        axis.text(centre, -0.74 / pixel, title, ha="center", va="top", fontsize=8)
    for head, column in zip(ends, beside, strict=True):
        axis.text(column, -4, head, ha="left", va="bottom", fontsize=7, color=INK)
    axis.text(wide + 0.94 / pixel, -0.74 / pixel, end, ha="right", va="top", fontsize=7, color=INK)
    return figure
