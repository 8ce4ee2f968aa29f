"""Intervals side by side as SVG that takes on the colours of the page around it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from fdiv_jax.evaluation import Interval
from fdiv_jax.pages import escaped

__all__ = ["Bar", "interval_plot"]

_WIDTH, _ROW, _TOP, _BOTTOM, _LEFT, _RIGHT = 480, 22, 6, 22, 150, 28
_COLOUR = "#3b7dd8"
_LETTERS = 22
"""Characters of a label, at most."""


class Bar(NamedTuple):
    """One row: a label, and a value with its interval, or without one."""

    label: str
    interval: Interval
    plain: bool = False
    """Of the base: drawn in the colour of the text."""


def interval_plot(title: str, bars: Sequence[Bar], *, bounds: tuple[float, float] | None = None) -> str:
    """One row per bar, on one axis.

    Args:
        title: what is shown, for those who do not see it.
        bars: the rows.
        bounds: the ends of the axis; None: what the intervals span.
    """
    low, high, ticks = _axis(bars, bounds)
    height = _TOP + _ROW * len(bars) + _BOTTOM
    span = _WIDTH - _LEFT - _RIGHT

    def x(value: float) -> str:
        return f"{_LEFT + span * (min(max(value, low), high) - low) / (high - low):.1f}"

    foot = height - _BOTTOM
    parts = [
        f'<line x1="{x(tick)}" x2="{x(tick)}" y1="{_TOP}" y2="{foot}" stroke="currentColor" opacity="0.15"/>'
        f'<text x="{x(tick)}" y="{height - 7}" text-anchor="middle">{tick:g}</text>'
        for tick in ticks
    ]
    for number, (label, interval, plain) in enumerate(bars):
        y = _TOP + _ROW * (number + 0.5)
        colour = "currentColor" if plain else _COLOUR
        short = label if len(label) <= _LETTERS else f"…{label[1 - _LETTERS :]}"
        told = f"{label}: {_told(interval)}"
        parts.append(
            f"<g><title>{escaped(told)}</title>"
            f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{escaped(short)}</text>'
            f'<line x1="{x(interval.low)}" x2="{x(interval.high)}" y1="{y}" y2="{y}" stroke="{colour}" '
            'stroke-width="3" stroke-linecap="round" opacity="0.6"/>'
            f'<circle cx="{x(interval.value)}" cy="{y}" r="4.5" fill="{colour}"/></g>'
        )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" font-size="12" fill="currentColor" role="img" '
        f'aria-label="{escaped(title)}">{"".join(parts)}</svg>'
    )


def _told(interval: Interval) -> str:
    return f"{interval.value:.4g} [{interval.low:.4g}, {interval.high:.4g}]"


def _axis(bars: Sequence[Bar], bounds: tuple[float, float] | None) -> tuple[float, float, list[float]]:
    """Ends and ticks: multiples of 1, 2 or 5 of a power of ten."""
    if bounds is None:
        ends = [end for bar in bars for end in (bar.interval.low, bar.interval.value, bar.interval.high)]
        finite = [end for end in ends if math.isfinite(end)] or [0.0]
        low, high = min(0.0, *finite), max(0.0, *finite)
        if high <= low:
            low, high = low - 0.5, high + 0.5
    else:
        low, high = bounds
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [round(i * step, 12) for i in range(first, last + 1)]
    return (ticks[0], ticks[-1], ticks)
