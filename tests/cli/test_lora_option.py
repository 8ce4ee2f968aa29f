"""`--lora FILE[:STRENGTH]`: on every command that loads a model, as often as one likes."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

import fdiv_jax as fj
from fdiv_jax import cli
from fdiv_jax.checkpoints import state_dict
from fdiv_jax.cli._loading import Files, lora_argument
from tests.pipeline.test_loras import weights, written
from tests.tiny import tiny_pipeline


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """(the pipeline, its directory, two LoRA files)."""
    directory = tmp_path_factory.mktemp("lora")
    pipe = tiny_pipeline(3)
    files = [written(directory / f"{name}.safetensors", pipe, i) for i, name in enumerate(("one", "two"), 1)]
    return pipe, pipe.save(directory / "model"), files


@pytest.mark.parametrize(
    ("text", "file", "strength"),
    [
        ("a.safetensors", "a.safetensors", 1.0),
        ("a.safetensors:0.8", "a.safetensors", 0.8),
        ("a.safetensors:-.5", "a.safetensors", -0.5),
        ("a.safetensors:2e-1", "a.safetensors", 0.2),
        ("there:1", "there:1", 1.0),
        ("there:1:0.5", "there:1", 0.5),
        ("C:/loras/a.safetensors", "C:/loras/a.safetensors", 1.0),
        ("style:v2.safetensors", "style:v2.safetensors", 1.0),
        ("style:v2.safetensors:3", "style:v2.safetensors", 3.0),
        ("nowhere:", "nowhere:", 1.0),
    ],
)
def test_a_strength_stands_behind_the_last_colon(text, file, strength, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("there:1").touch()
    assert lora_argument(text) == (Path(file), strength)


@pytest.mark.parametrize("text", ["a:nan", "a:inf", ":1"])
def test_a_strength_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match=rf"--lora {text}: expected FILE or FILE:STRENGTH"):
        lora_argument(text)


def test_files_are_added_in_their_order(model):
    pipe, directory, (one, two) = model
    loaded = Files(lora=(f"{one}:0.5", str(two))).load(directory)
    assert loaded.loras == ((str(one), 0.5), (str(two), 1.0))
    expected = weights(pipe.with_lora(one, 0.5).with_lora(two))
    assert all(np.array_equal(value, expected[name]) for name, value in weights(loaded).items())


def test_export_writes_the_model_with_them(model, tmp_path, capsys):
    pipe, directory, (one, two) = model
    command = ["export", str(directory), "--format"]
    loras = ["--lora", f"{one}:0.5", "--lora", str(two)]
    assert cli.main([*command, "diffusers", *loras, "--output", str(tmp_path / "out")]) == 0
    expected = weights(pipe.with_lora(one, 0.5).with_lora(two))
    found = weights(fj.load_pipeline(tmp_path / "out"))
    assert all(np.array_equal(value, expected[name]) for name, value in found.items())
    delta = tmp_path / "delta.safetensors"
    assert cli.main([*command, "delta", *loras, "--base", str(directory), "--output", str(delta)]) == 0
    applied = fj.checkpoints.apply_delta(delta, pipe.components)
    for component, module in applied.items():
        assert all(np.array_equal(v, expected[f"{component}.{n}"]) for n, v in state_dict(module).items())


@pytest.mark.slow
def test_sample_draws_with_them(model, tmp_path, monkeypatch):
    _, directory, (one, _) = model
    monkeypatch.chdir(tmp_path)
    command = ["sample", str(directory), "--images", "1", "--steps", "1"]
    assert cli.main([*command, "--lora", f"{one}:0.9", "a bag", "--output", "with.png"]) == 0
    assert cli.main([*command, "a bag", "--output", "without.png"]) == 0
    assert Path("with.png").read_bytes() != Path("without.png").read_bytes()


COMMANDS = {
    "sample": ["a bag"],
    "unlearn": ["--target", "sneaker"],
    "sweep": ["--target", "sneaker", "--divergences", "kl"],
    "export": ["--format", "diffusers"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_file_that_is_not_there_is_told_before_the_model_is_read(name, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("fdiv_jax.load_pipeline", lambda *_, **__: pytest.fail("the model was read"))
    output = tmp_path / ("x.png" if name == "sample" else "new")
    lora = ["--lora", "here:there.safetensors:0.5"]
    assert cli.main([name, "fashion", *lora, *COMMANDS[name], "--output", str(output)]) == 2
    assert "--lora here:there.safetensors: no such file" in capsys.readouterr().err
    assert not os.listdir(tmp_path)


@pytest.mark.slow
def test_a_run_says_which_files_its_model_had_and_export_takes_them_off_again(model, tmp_path, monkeypatch):
    pipe, directory, (one, _) = model
    monkeypatch.chdir(tmp_path)
    options = ["--target", "sneaker", "--anchor", "a sandal", "--steps", "1", "--batch-size", "2"]
    images = ["--images.number", "2", "--images.steps", "1", "--no-tensorboard", "--no-report"]
    lora = ["--lora", f"{one}:0.5"]
    assert cli.main(["unlearn", str(directory), *lora, *options, *images, "--output", "run"]) == 0
    recorded = json.loads(Path("run/config.json").read_text())["model"]
    assert recorded["loras"] == [[str(one), 0.5]]
    assert cli.main(["export", "run", "--format", "delta", "--output", "delta.safetensors"]) == 0
    tuned = weights(fj.load_pipeline("run/pipeline"))
    applied = fj.checkpoints.apply_delta("delta.safetensors", pipe.with_lora(one, 0.5).components)
    for component, module in applied.items():
        assert all(np.array_equal(v, tuned[f"{component}.{n}"]) for n, v in state_dict(module).items())
