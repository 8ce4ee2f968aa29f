"""The command attack: what it writes and prints, and what it refuses in one line."""

import json
import shutil

import pytest

from fdiv_jax import cli
from tests.tiny import tiny_pipeline


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_pipeline(latent=4).save(tmp_path_factory.mktemp("attack") / "model"))


BAD = {
    "unknown attack": (
        ["fashion"],
        "--target sneaker --with concept-inversoin",
        "did you mean 'concept-inversion'?",
    ),
    "no budget": (
        ["fashion"],
        "--target sneaker --with benign --budget 0",
        "--budget must be at least 1, got 0",
    ),
    "no fresh images": (
        ["fashion"],
        "--target sneaker --with benign --fresh 0",
        "--fresh must be at least 1",
    ),
    "unknown target": (["fashion"], "--target sneeker --with benign", "sneeker"),
    "no images": (["fashion"], "--target sneaker --with relearn --images {empty}", "no images"),
    "no folder": (["fashion"], "--target sneaker --with relearn --images {empty}/x", "no folder"),
    "no model": ([], "--target sneaker --with benign", "no unlearned model given"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_in_one_line(name, tmp_path, capsys):
    models, options, message = BAD[name]
    (tmp_path / "empty").mkdir()
    words = options.format(empty=tmp_path / "empty").split()
    code = cli.main(["attack", "fashion", *models, *words, "--output", str(tmp_path / "out")])
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 2
    assert message in told
    assert told.startswith("fdiv-jax")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (["{half}"], "half is a run directory without pipeline/, so that run is not finished"),
        (["fashion", "fashion"], "fashion is named twice"),
        (["{half}/config.json"], "config.json"),
    ],
)
def test_models_are_refused_as_evaluate_refuses_them(models, message, tmp_path, capsys):
    half = tmp_path / "half"
    half.mkdir()
    (half / "config.json").write_text('{"config": {}, "resolved": {}}')
    words = ["--target", "sneaker", "--with", "benign", "--output", str(tmp_path / "out")]
    assert cli.main(["attack", "fashion", *(each.format(half=half) for each in models), *words]) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_a_model_that_no_judge_knows_is_refused(model, tmp_path, capsys):
    words = ["--target", "sneaker", "--with", "benign", "--output", str(tmp_path / "out")]
    assert cli.main(["attack", model, model, *words]) == 2
    assert "no judge" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.data
def test_an_attack_from_end_to_end(tmp_path, capsys):
    """The frozen world as its own unlearned model: every attack finds what was never gone."""
    output = tmp_path / "out"
    words = "--target sneaker --with concept-inversion quantise --budget 2 --fresh 5 --number 5"
    command = ["attack", "fashion", "fashion", *words.split(), "--output", str(output)]
    assert cli.main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("concept-inversion on fashion: 1.00 -> ")
    assert "quantise on fashion: 1.00 -> 1.00" in lines[1]
    assert lines[-1] == str(output)
    result = json.loads((output / "result.json").read_text())
    assert {curve["model"] for curve in result["curves"]} == {"fashion", "frozen", "floor"}
    assert (output / "curves.png").exists()
    assert sorted(path.name for path in (output / "cells" / "quantise").iterdir()) == [
        f"{name}-0.{end}" for name in ("fashion", "floor", "frozen") for end in ("json", "png")
    ]
    shutil.rmtree(output / "cells" / "quantise")
    assert cli.main([*command, "--resume"]) == 0
    assert capsys.readouterr().out.splitlines() == lines
