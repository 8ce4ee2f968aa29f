"""Colours that every reader can tell apart, and figures that are fit for print."""

from itertools import combinations

import numpy as np
import pytest

from analysis import style
from analysis.style import COLUMN, PAGE, figure_faults, label, line_style, panels, series_style
from fdiv_jax.divergences import catalogue

LEAST = 20.0
"""CIELAB distance; 2.3 is what an eye notices side by side."""
VISION = {
    "everybody": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
"""Of linear RGB, at severity 1.0: Machado, Oliveira and Fernandes, IEEE TVCG 15 (2009), 1291-1298."""
XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
)
"""From linear RGB: IEC 61966-2-1, white D65."""


def lab(colour, vision="everybody"):
    """CIELAB (L, a, b) of "#rrggbb" as that vision sees it."""
    srgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    ratio = XYZ @ np.clip(np.asarray(VISION[vision]) @ linear, 0, 1) / XYZ.sum(1)
    x, y, z = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def too_close(colours, least=LEAST):
    """Pairs of names that some vision sees less than `least` apart."""
    found = []
    for vision in VISION:
        seen = {name: lab(colour, vision) for name, colour in colours.items()}
        for one, other in combinations(seen, 2):
            distance = float(np.linalg.norm(seen[one] - seen[other]))
            if distance < least:
                found.append(f"{one} and {other} for {vision}: {distance:.1f}")
    return found


def test_the_measure_is_cielab_and_sees_what_the_colour_blind_see():
    np.testing.assert_allclose(lab("#ff0000"), [53.24, 80.09, 67.20], atol=0.02)  # Lindbloom's calculator
    np.testing.assert_allclose(lab("#0000ff"), [32.30, 79.19, -107.86], atol=0.02)
    for vision in VISION:
        np.testing.assert_allclose(lab("#808080", vision), lab("#808080"), atol=0.1)  # greys stay
    assert too_close({"red": "#d62728", "green": "#2ca02c"}, 35) != []  # the classical trap
    assert all("everybody" not in line for line in too_close({"red": "#d62728", "green": "#2ca02c"}, 35))


def test_every_vision_tells_the_divergences_apart():
    names = [*catalogue(), "alpha(-0.5)", "alpha(0.3)", "alpha(3)"]
    looks = {name: line_style(name) for name in names}
    assert too_close({name: look["color"] for name, look in looks.items()}) == []
    markers = [looks[name]["marker"] for name in names]
    assert len(set(markers)) == len(markers)


def test_every_colour_stands_out_from_the_paper():
    for name in [*catalogue(), "alpha(-0.5)", "alpha(0.3)", "alpha(3)", "t*log(t)"]:
        for vision in VISION:
            assert lab(line_style(name)["color"], vision)[0] < 80, (name, vision)


def test_curves_that_coincide_have_different_dashes():
    for group in (
        ("kl", "reverse_kl", "jeffreys"),
        ("pearson_chi2", "neyman_chi2"),
        ("jensen_shannon", "gan"),
    ):
        dashes = [line_style(name)["linestyle"] for name in group]
        assert len(set(map(str, dashes))) == len(group), group


def test_series_have_colours_of_their_own():
    colours = {str(place): series_style(place)["color"] for place in range(8)}
    assert too_close(colours) == []
    with pytest.raises(ValueError, match="from 0 to 7, got 8"):
        series_style(8)
    assert "label" not in series_style(0)


def test_minus_signs_and_names():
    assert label("alpha(-0.5)") == "α = −0.5"
    assert label("t*log(t)") == "t*log(t)"


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ((0.008, 0.12), ["0.01", "0.03", "0.1"]),
        ((0.5, 200), ["1", "10", "100"]),
        ((11, 19), ["12", "14", "16", "18"]),
        ((1e-15, 3), ["$\\mathdefault{10^{-15}}$", None, None, None, None, "$\\mathdefault{10^{0}}$"]),
        ((5, 1e-1), ["0.1", "0.3", "1", "3"]),
    ],
)
def test_logarithmic_axes_have_round_ticks(limits, expected):
    figure, axis = panels(1, 1, COLUMN)
    axis.set(yscale="log", ylim=limits)
    style.log_ticks(axis.yaxis)
    figure.draw_without_rendering()
    found = [text.get_text() for text in style._tick_labels(axis.yaxis)]
    assert len(found) == len(expected)
    assert all(right in (None, text) for text, right in zip(found, expected, strict=True)), found
    assert figure_faults(figure) == []


def test_what_a_printer_sends_back_is_named():
    figure, axis = panels(1, 1, 5.0, 2.0)
    axis.plot([1, 2], [11, 19])
    axis.set(yscale="log", ylim=(5, 19), title="panel")
    axis.tick_params(which="minor", labelleft=False)
    axis.text(0.5, 0.5, "tiny", fontsize=5, transform=axis.transAxes)
    axis.text(1.9, 0.1, "far out", transform=axis.transAxes).set_in_layout(False)
    axis.text(0.2, 0.2, "first", transform=axis.transAxes)
    axis.text(0.21, 0.2, "second", transform=axis.transAxes)
    assert figure_faults(figure) == [
        "is 5 inches wide, expected 3.25 or 6.75",
        "has 'tiny' in 5 pt, expected 7",
        "has 'far out' beyond its edge",
        "has 'first' over 'second'",
        "has one tick on the y axis of 'panel': '$\\\\mathdefault{10^{1}}$'",
    ]


@pytest.mark.parametrize("width", [COLUMN, PAGE])
def test_an_ordinary_figure_is_fit_for_print(width):
    figure, axes = panels(1, 2, width)
    for axis in axes:
        axis.plot([0, 1], [0, 1], label="a line")
        axis.set(xlabel="x", ylabel="y", title="title")
    axes[1].set_axis_off()
    style.panel_letters(axes)
    style.legend_below(figure, axes)
    assert figure_faults(figure) == []
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a line"]
