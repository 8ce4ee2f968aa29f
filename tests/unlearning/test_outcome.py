"""What is said at the end of a run: a learning rate that damages the model, or one that moves nothing."""

import dataclasses
import json

import numpy as np
import pytest
from rich.cells import cell_len

from fdiv_jax.unlearning import unlearn
from fdiv_jax.unlearning._progress import Display, fitting
from fdiv_jax.unlearning.outcome import outcome_of


def history(m, warmup=0, skipped=()):
    m = np.asarray(m, float)
    steps = np.arange(len(m))
    return {"m": m, "warmup": steps < warmup, "skipped": np.isin(steps, skipped)}


def noisy(start, end, steps=100, seed=0):
    """m along a run from `start` to `end`, with batches that differ by 30 %."""
    return np.geomspace(start, end, steps) * np.exp(0.3 * np.random.default_rng(seed).standard_normal(steps))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("start", "end", "told"),
    [
        (0.3, 60.0, "fold"),
        (0.3, 0.9, "fold"),
        (0.3, 0.6, "m rose by"),
        (0.3, 0.45, "m rose by"),
        (0.3, 0.3, "m hardly fell"),
        (0.3, 0.29, "m hardly fell"),
        (0.3, 0.1, ""),
        (0.3, 0.01, ""),
    ],
)
def test_the_warning_says_what_m_did(start, end, told, seed):
    found = outcome_of(history(noisy(start, end, 300, seed)), 1e-3)
    assert bool(found.warning) == bool(told)
    assert told in found.warning
    assert found.span == 30


def test_only_steps_that_learned_count():
    m = [9.0] * 20 + [1.0] * 10 + [np.inf] * 3 + [0.1] * 10
    found = outcome_of(history(m, warmup=20, skipped=(30, 31, 32)), 1e-3)
    assert (found.first, found.last, found.span, found.warning) == (1.0, pytest.approx(0.1), 2, "")
    assert outcome_of(history([1.0]), 1e-3) is None
    assert outcome_of(history([1.0] * 5, warmup=4), 1e-3) is None
    assert outcome_of({}, 1e-3) is None
    assert outcome_of(history([0.0, 0.0]), 1e-3).warning == ""


def test_the_factor_is_the_ratio_of_the_means():
    found = outcome_of(history([0.1, 0.3, *[5.0] * 10, *[40.0] * 10]), 10.0)
    assert "m rose 200-fold, from 0.2 in the first steps to 40 in the last" in found.warning
    assert "smaller learning rate than 10" in found.warning


@pytest.mark.slow
@pytest.mark.parametrize(("learning_rate", "told"), [(1e3, "probably damaged"), (1e-9, "m hardly fell")])
def test_a_run_says_it_in_its_result(learning_rate, told, pipe, config, tmp_path):
    steps = 8
    asked = config(learning_rate=learning_rate, steps=steps, anchor="near", trainable="attn")
    result = unlearn(pipe, asked, tmp_path / "run", progress=False, cache=False)
    written = json.loads((tmp_path / "run" / "result.json").read_text())
    assert written == json.loads(json.dumps(result.summary()))
    assert written["steps"] == steps
    assert written["m_first"] == pytest.approx(np.mean(result.history["m"][: result.outcome.span]))
    assert written["m_last"] == pytest.approx(np.mean(result.history["m"][-result.outcome.span :]))
    (warning,) = written["warnings"]
    assert told in warning


@pytest.mark.slow
def test_numbers_that_json_has_no_word_for(pipe, config):
    result = unlearn(pipe, config(steps=2), progress=False, cache=False)
    odd = dataclasses.replace(result, history={**result.history, "m": np.array([1.0, np.inf])})
    assert json.loads(json.dumps(odd.summary(), allow_nan=False))["m_last"] is None


ROW = {"loss": -1.23e-5, "m": 1.23e-5, "gradient_norm": 1.2e-7, "warmup": False}


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 111, 200])
def test_a_line_of_progress_keeps_count_loss_and_time_left(columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "dumb")
    clock = iter(np.arange(0.0, 1e6, 20.0))
    monkeypatch.setattr("fdiv_jax.unlearning._progress.time.monotonic", lambda: float(next(clock)))
    with Display(True, 16) as display:
        for done in (1, 2, 3):
            display.step(done, 1500, ROW)
    lines = capsys.readouterr().err.splitlines()
    assert all(cell_len(line) <= columns for line in lines)
    (line,) = [line for line in lines if "loss" in line]
    assert "3/1500" in line
    assert "loss -1.23e-05" in line
    assert "…" not in line
    assert ":" in line.split()[-1]
    if columns >= 80:
        assert "m 1.23e-05" in line
        assert "images/s" in line


def test_what_fits():
    assert fitting(["loss 1", "m 2", "3 images/s", "|g| 4"], 40) == "loss 1 m 2 3 images/s |g| 4"
    assert fitting(["loss 1", "m 2", "3 images/s", "|g| 4"], 16) == "loss 1 m 2 |g| 4"
    assert fitting(["loss 1", "m 2", "3 images/s", "|g| 4"], 0) == "loss 1"


def test_the_speed_is_that_of_a_usual_step(monkeypatch):
    """The first step compiles for 100 s, the fourth draws a sheet for 50 s, the others take a second."""
    times = iter([100.0, 101.0, 102.0, 152.0, 153.0, 154.0])
    monkeypatch.setattr("fdiv_jax.unlearning._progress.time.monotonic", lambda: next(times))
    display = Display(False, 16)
    for done in range(1, 6):
        display.step(done, 5, ROW)
    display.step(5, 5, ROW)  # the last line once more
    assert display.speed == 16.0
