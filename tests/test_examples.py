"""The scripts that people copy run, on tiny models, and write what they say."""

import runpy
import sys

import pytest

from tests.pages import ROOT, quickly_compiled
from tests.tiny import tiny_pipeline

EXAMPLES = {
    "unlearn_own_model": (
        ["model", "--target", "a cat", "--anchor", "a dog", "--prompts", "a cat", "--retained", "a bird"]
        + ["--steps", "2", "--batch-size", "2", "--images", "2", "--sampling-steps", "2", "--output", "out"],
        ["before-after-1.png", "pytorch_lora_weights.safetensors", "pipeline/model_index.json"],
    ),
    "sweep_divergences": (
        ["model", "--target", "sneaker", "--anchor", "near", "--divergences", "kl", "pearson_chi2"]
        + ["--steps", "2", "--batch-size", "2", "--images", "2", "--seeds", "0", "--output", "out"],
        ["curves.png", "table.csv"],
    ),
    "own_divergence": (
        ["(t-1)**2/(t+1)", "--model", "model", "--steps", "2", "--batch-size", "2", "--images", "2"]
        + ["--output", "out"],
        ["result.json", "pipeline/model_index.json"],
    ),
}


def test_every_example_is_run():
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(EXAMPLES)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name, tmp_path, monkeypatch, capsys):
    arguments, written = EXAMPLES[name]
    tiny_pipeline().save(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FDIV_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    with quickly_compiled():
        runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    assert capsys.readouterr().out
    for file in written:
        assert (tmp_path / "out" / file).is_file(), file
