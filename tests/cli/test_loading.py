"""The same options of loading on every command that loads a model, passed on in the same words."""

import json

import pytest

import fdiv_jax
from fdiv_jax import cli
from fdiv_jax.checkpoints.weight_files import has_weights
from tests.tiny import tiny_pipeline

WORDS = [
    "--variant",
    "fp16",
    "--revision",
    "v2",
    "--offline",
    "--param-dtype",
    "bfloat16",
    "--config",
    "other/model",
    "--vae",
    "vae.safetensors",
    "--prediction-type",
    "v_prediction",
]
READ = {
    "config": "other/model",
    "vae": "vae.safetensors",
    "prediction_type": "v_prediction",
    "variant": "fp16",
    "revision": "v2",
    "offline": True,
    "param_dtype": "bfloat16",
    "weights": True,
}
NOTHING = {"variant": None, "revision": None, "offline": False, "param_dtype": "float32", "dtype": "float32"}
NOTHING |= {"config": None, "vae": None, "prediction_type": None, "weights": True}
COMMANDS = {
    "sample": ["a bag"],
    "unlearn": ["--target", "sneaker"],
    "sequence": ["--target", "sneaker", "--sequential"],
    "sweep": ["--target", "sneaker", "--divergences", "kl"],
    "export": ["--format", "diffusers"],
}


@pytest.fixture
def asked(monkeypatch):
    """What `load_pipeline` is called with; it gives nothing."""
    calls = []

    def load(model, **options):
        calls.append((str(model), options))
        raise FileNotFoundError("stop here")

    monkeypatch.setattr(fdiv_jax, "load_pipeline", load)
    return calls


def run(name, *more, output):
    command = "unlearn" if name == "sequence" else name
    return cli.main([command, "someone/model", *COMMANDS[name], "--output", str(output), *more])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_them(name, asked, tmp_path, capsys):
    output = tmp_path / ("x.png" if name == "sample" else "new")
    computes = name != "export"  # there --dtype is the precision to write
    more = [*WORDS, "--dtype", "bfloat16"]
    assert run(name, *more, output=output) == run(name, output=output) == 2
    assert "stop here" in capsys.readouterr().err
    assert asked == [
        ("someone/model", {**READ, "dtype": "bfloat16" if computes else "float32"}),
        ("someone/model", NOTHING),
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_precision_is_refused(name, asked, tmp_path, capsys):
    assert run(name, "--param-dtype", "int8", output=tmp_path / "new.png") == 2
    assert "--param-dtype must be one of float32, bfloat16, float16, got 'int8'" in capsys.readouterr().err
    assert not asked


@pytest.mark.slow
def test_a_variant_of_the_base_alone(tmp_path, capsys):
    base = tiny_pipeline().save(tmp_path / "base")
    tuned = tiny_pipeline(1).save(tmp_path / "tuned")
    for file in base.rglob("*.safetensors"):
        file.rename(file.with_suffix(".fp16.safetensors"))
    output = tmp_path / "x.safetensors"
    options = ["--format", "delta", "--base", str(base), "--output", str(output)]
    assert cli.main(["export", str(tuned), *options, "--variant", "fp16"]) == 0
    assert output.is_file()
    assert has_weights(base / "unet", "fp16")
    assert cli.main(["export", str(tuned), *options, "--overwrite", "--variant", "non_ema"]) == 2
    assert "name no variant" in capsys.readouterr().err


def test_the_base_of_a_run_is_loaded_as_the_run_loaded_it(monkeypatch, tmp_path):
    """What completed its model of one file is in the run's config.json; MODEL itself has all of it inside."""
    calls = {}

    def load(model, **options):
        calls[str(model)] = options
        if len(calls) == 2:
            raise FileNotFoundError("stop here")

    monkeypatch.setattr(fdiv_jax, "load_pipeline", load)
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "model_index.json").write_text("{}")
    beside = {"vae": "vae.safetensors", "prediction_type": "v_prediction"}
    (tmp_path / "config.json").write_text(json.dumps({"model": {"name": "base.safetensors", **beside}}))
    output = ["--output", str(tmp_path / "x.safetensors")]
    assert cli.main(["export", str(tmp_path), "--format", "delta", *output]) == 2
    options = ("config", "vae", "prediction_type")
    found = [{key: each[key] for key in options} for each in calls.values()]
    assert found == [dict.fromkeys(options), {"config": None, **beside}]
