"""The end of `fdiv-jax unlearn`: figures, speed, warnings, and what the judge counted."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from fdiv_jax import cli
from fdiv_jax.cli._summary import report_counts, summarise
from fdiv_jax.terminal import Console
from fdiv_jax.unlearning import PromptPair, UnlearningConfig
from fdiv_jax.unlearning.outcome import outcome_of
from fdiv_jax.unlearning.result import UnlearningResult
from fdiv_jax.worlds.erasure_scores import ErasureCounts


def result(m, **changes):
    """What `summarise` reads of a result, with m along its steps."""
    steps = len(m)
    fields = {
        "history": {
            "step": np.arange(1, steps + 1),
            "m": np.asarray(m, float),
            **{name: np.full(steps, 0.5) for name in ("loss", "weight", "gradient_norm")},
            **{name: np.zeros(steps, bool) for name in ("warmup", "skipped")},
        },
        "config": UnlearningConfig("sneaker", learning_rate=7.0),
        "pairs": tuple(PromptPair(f"a [b]sneaker[/b] {i}", f"a shoe {i}") for i in range(5)),
        "selection": "cross-attn: 8 tensors",
        "divergence": {"name": "kl"},
        "devices": ("cpu:0",),
        "seconds": 75.0,
        "images_per_second": 12.34,
        "resumed_at": 0,
    }
    made = SimpleNamespace(**fields | changes)
    made.outcome = outcome_of(made.history, made.config.learning_rate)
    made.summary = lambda: UnlearningResult.summary(made)
    return made


def told(capsys, made, width=80):
    summarise(Console(width=width, stderr=True), made)
    return " ".join(capsys.readouterr().err.split())


def test_a_run_that_went_well(capsys):
    text = told(capsys, result(np.geomspace(1, 0.01, 50)))
    assert "12.3 images/s once compiled" in text
    assert "50 steps of 16 on 1 device(s) in 00:01:15" in text
    assert "a [b]sneaker[/b] 2" in text
    assert "and 2 more prompts" in text
    assert "warning" not in text


@pytest.mark.parametrize(
    ("m", "message"),
    [
        (np.geomspace(0.1, 20, 50), "warning: m rose"),
        (np.full(50, 0.3), "warning: m hardly fell, from 0.3 in the first steps to 0.3 in the last"),
    ],
)
def test_a_run_that_went_wrong(m, message, capsys):
    text = told(capsys, result(m))
    assert message in text
    assert "learning rate than 7" in text


def test_what_is_unknown_is_not_said(capsys):
    assert "images/s" not in told(capsys, result([1.0, 0.5], images_per_second=0.0))
    assert "solved in 00:01:15" in told(capsys, result([], history={}))


def test_the_counts_are_said_and_kept(tmp_path, capsys):
    before, after = ErasureCounts(20, 20, 44, 45), ErasureCounts(1, 20, 43, 45)
    (tmp_path / "result.json").write_text('{"steps": 3}')
    report_counts(Console(width=400), tmp_path, before, after)
    text = capsys.readouterr().out
    assert "the target in 1 of 20 images at its prompts (20 before)" in text
    assert "in 43 of 45 images at other prompts what was asked for (44 before)" in text
    kept = json.loads((tmp_path / "result.json").read_text())
    assert kept == {"steps": 3, "judged": {"before": before._asdict(), "after": after._asdict()}}


@pytest.mark.slow
def test_a_run_in_the_world_ends_with_the_judge(tmp_path, capsys):
    words = "--target sneaker --anchor near --steps 2 --batch-size 2 --images.number 5 --images.steps 2"
    output = tmp_path / "run"
    command = ["unlearn", "fashion", *words.split(), "--no-report", "--output", str(output)]
    assert cli.main([*command, "--cache", str(tmp_path / "cache")]) == 0
    assert "images at its prompts" in " ".join(capsys.readouterr().err.split())
    counts = json.loads((output / "result.json").read_text())["judged"]
    assert counts["before"]["target_shown"] >= 18  # of 20: the frozen model draws sneakers
    assert counts["after"]["target_images"] == counts["before"]["target_images"] == 20
    assert counts["after"]["retained_images"] == 45
