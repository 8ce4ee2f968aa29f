"""The figures of the parts as they come from a quick run: fit for print, nothing left out."""

import importlib

import jax
import numpy as np
import pytest

from analysis import toy_games
from analysis.parts import rates, real_game
from analysis.parts.generators import _conjugate
from analysis.runner import Context
from analysis.style import COLUMN, figure_faults, panels
from fdiv_jax.divergences import catalogue


@pytest.mark.slow
@pytest.mark.parametrize("name", ["weights", "generators", "spectra", "rates", "steps", "phases"])
def test_a_part_draws_one_figure_that_is_fit_for_print(name, tmp_path, monkeypatch):
    monkeypatch.setattr(toy_games, "_QUICK", ("kl", "squared_hellinger", "jensen_shannon"))
    context = Context(name, True, tmp_path / "figures", tmp_path / "work")
    importlib.import_module(f"analysis.parts.{name}").run(context)
    assert [figure["name"] for figure in context.figures] == [name]
    assert context.faults == []
    header = (tmp_path / "figures" / f"{name}.png").read_bytes()[16:20]
    assert int.from_bytes(header, "big") == 2025  # 6.75 inches at 300 dots


def test_the_figure_of_the_real_game_is_fit_for_print():
    steps = np.arange(0, 81, 10)
    held_out = {name: 0.1 * np.exp(-steps / (40 + 5 * i)) for i, name in enumerate(catalogue()) if i < 9}
    near = [
        {
            "divergence": name,
            "ratio": ratio,
            "predicted": 0.02 * (1 + i),
            "measured": 0.021 * (1 + i),
            "distance": np.exp(-0.02 * (1 + i) * np.arange(61)),
        }
        for ratio in real_game.RATIOS
        for i, name in enumerate(("kl", "squared_hellinger", "pearson_chi2"))
    ]
    figure = real_game._draw(steps, held_out, near)
    assert figure_faults(figure) == []
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(names) == len(set(names)) == 9 + 3


@pytest.mark.parametrize("smallest", [0.0, 3e-14, 1e-9])
def test_no_error_of_a_rate_is_left_out(smallest):
    errors = [smallest, 1e-9, 4e-6]
    rows = [
        {
            "divergence": "kl",
            "activation": False,
            "form": form,
            "damping_ratio": 0.5,
            "relative_error": error,
            "plain_line_error": 0.3,
        }
        for error, form in zip(errors, ("two poles", "two poles", "double root"), strict=True)
    ]
    figure, axis = panels(1, 1, COLUMN)
    axis.set(xscale="log", yscale="log")
    rates._draw_errors(axis, rows)
    marks = [line.get_ydata()[0] for line in axis.lines if line.get_linestyle() == "None"]
    low, high = axis.get_ylim()
    assert len(marks) == 4  # three games, and the plain line at critical damping
    assert all(low < mark < high for mark in marks)
    assert sorted(marks)[1:3] == errors[1:]
    assert figure_faults(figure) == []


def test_conjugates_are_drawn_to_the_end_of_their_domain():
    """The ends by hand: le_cam's f*(1) = 3, neyman's 2, total variation's 1/2; the others' are infinite."""
    ends = {"le_cam": (1.0, 3.0), "neyman_chi2": (1.0, 2.0), "total_variation": (0.5, 0.5)}
    for name, d in catalogue().items():
        with jax.enable_x64(True):
            s, values, stops = _conjugate(d)
        assert np.isfinite(values).all(), name
        assert stops == (name in ends), name
        if stops:
            np.testing.assert_allclose((s[-1], values[-1]), ends[name], rtol=1e-6)
        elif 2 not in d.conjugate_domain:  # leaves the window before its domain ends
            assert values[-1] > 3.3, name
