"""Rows of small pictures with their names before and their numbers behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .style import INK, panels

__all__ = ["draw_image_grid"]

_GAP = 2
_BETWEEN = 12

Row = tuple[str, Sequence[Sequence[np.ndarray]], str]


def draw_image_grid(
    rows: Sequence[Row], blocks: Sequence[tuple[str, Sequence[str]]], *, end: str, width: float = 11.5
) -> Any:
    """A figure of images in rows, cut into blocks of columns.

    Args:
        rows: (name, images of each block, text at the end), the images uint8 h w 3 of one size.
        blocks: (title, a head for every column) of each block.
        end: what the texts at the end are.
        width: of the figure, inches.
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
    edge = wide + 22  # clear of the slanted head of the last column
    figure, axis = panels(1, 1, width=width, height=width * 0.72 * tall / wide + 0.9)
    axis.imshow(canvas, interpolation="nearest", aspect="equal")
    axis.set_axis_off()
    for place, (name, _, text) in enumerate(rows):
        middle = place * pitch + size / 2
        axis.text(-6, middle, name, ha="right", va="center", fontsize=8.5)
        axis.text(edge, middle, text, ha="left", va="center", fontsize=8.5)
    for (title, heads), places in zip(blocks, lefts, strict=True):
        for head, left in zip(heads, places, strict=True):
            axis.text(left + 2, -4, head, rotation=35, ha="left", va="bottom", fontsize=7.5, color=INK)
        centre = (places[0] + places[-1] + size) / 2
        axis.text(centre, -1.35 * size, title, ha="center", va="bottom", fontsize=9)
    axis.text(edge, -4, end, ha="left", va="bottom", fontsize=8, color=INK)
    return figure
