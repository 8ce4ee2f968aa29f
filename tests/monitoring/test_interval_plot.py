"""Intervals as pictures: places on the axis, ticks that hold all bars, and text that stays text."""

import re
from itertools import pairwise

import pytest

from fdiv_jax.evaluation import Interval
from fdiv_jax.monitoring._interval_plot import Bar, interval_plot


def numbers(pattern, svg):
    return [float(number) for number in re.findall(pattern, svg)]


def test_values_lie_where_the_ticks_say():
    bars = [Bar("base", Interval(0.2, 0.1, 0.3), True), Bar("model", Interval(0.9, 0.7, 1.0))]
    svg = interval_plot("ua", bars, bounds=(0.0, 1.0))
    ticks = {
        float(text): float(x) for x, text in re.findall(r'<text x="([\d.]+)"[^>]*middle">([^<]+)</text>', svg)
    }
    width = ticks[1.0] - ticks[0.0]
    centres = numbers(r'cx="([\d.]+)"', svg)
    for bar, centre in zip(bars, centres, strict=True):
        assert (centre - ticks[0.0]) / width == pytest.approx(bar.interval.value, abs=1e-3)
    ends = re.findall(r'<line x1="([\d.]+)" x2="([\d.]+)"[^>]*stroke-width="3"', svg)
    for bar, (low, high) in zip(bars, ends, strict=True):
        assert (float(low) - ticks[0.0]) / width == pytest.approx(bar.interval.low, abs=1e-3)
        assert (float(high) - ticks[0.0]) / width == pytest.approx(bar.interval.high, abs=1e-3)


@pytest.mark.parametrize("scale", [1e-6, 0.003, 1.0, 40.0, 1e5])
@pytest.mark.parametrize("interval", [(0.0, 0.0, 0.0), (1.0, 0.4, 1.7), (-0.2, -0.5, 0.1), (2.0, 1.9, 2.1)])
def test_the_axis_holds_every_bar_and_0(scale, interval):
    bar = Bar("m", Interval(*(scale * x for x in interval)))
    ticks = numbers(r'middle">([^<]+)</text>', interval_plot("x", [bar]))
    assert 2 <= len(ticks) <= 8
    assert ticks[0] <= min(0.0, bar.interval.low)
    assert ticks[-1] >= max(0.0, bar.interval.high)
    steps = {round((b - a) / (ticks[1] - ticks[0]), 6) for a, b in pairwise(ticks)}
    assert steps == {1.0}


def test_names_are_text_and_long_ones_are_cut():
    name = "<b>&" + "very/long/path/to/a/model" * 3
    svg = interval_plot("<x>", [Bar(name, Interval(0.5, 0.4, 0.6))])
    assert "<b>" not in svg
    assert "<x>" not in svg
    shown = re.search(r'end">([^<]+)</text>', svg).group(1)
    assert shown.startswith("…")
    assert len(shown) == 22
