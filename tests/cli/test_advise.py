"""The advise command: what it prints, and what it refuses in one line."""

import json
import pkgutil

import pytest

from fdiv_jax import cli
from tests.tiny import tiny_pipeline


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_pipeline().save(tmp_path_factory.mktemp("advise") / "model"))


def once(function):
    """The function, whose first result serves for every later call: tables and JSON are of one look."""
    results = []

    def call(*arguments, **options):
        if not results:
            results.append(function(*arguments, **options))
        return results[0]

    return call


@pytest.mark.slow
def test_advice_is_printed_and_names_options_that_unlearn_takes(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    for place in ("advice.advise", "advice.damage_to", "critic_speed.leading_mode"):
        monkeypatch.setattr(
            f"fdiv_jax.unlearning.{place}", once(pkgutil.resolve_name(f"fdiv_jax.unlearning.{place}"))
        )
    target = ["--target", "phrase: [b]a sneaker", "--prompts", "[b]a sneaker :cat:", "--anchor", "a sandal"]
    small = ["--goal", "0.95", "--limit", "8", "--samples", "4", "--batch-size", "4", "--images.number", "2"]
    small += ["--images.steps", "1", "--cache", str(tmp_path), "--retained", "a shirt"]
    few = ["--divergences", "kl", "total_variation", "--critic.hidden-channels", "4"]
    assert cli.main(["advise", model, *target, *small, *few]) == 0
    told = capsys.readouterr().out
    for words in ("[b]a sneaker :cat:", "share of m", "steps to goal", "Recommended", "at critical damping"):
        assert words in told, told
    assert all(len(line) <= 100 for line in told.splitlines() if not line.startswith("  --"))
    assert cli.main(["advise", model, *target, *small, *few, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert {each["divergence"] for each in facts["predicted"]} == {"kl", "total_variation"}
    assert set(facts["damage"]) == {"sandal", "shirt", "sketch", "sneaker"}  # a phrase is no concept
    assert set(facts["critic"]["speed_ratio"]) == {"kl"}  # total variation has no linear rate
    options = [*target, *facts["recommended"], "--print-config"]
    assert cli.main(["unlearn", model, *options]) == 0
    config = json.loads(capsys.readouterr().out)
    assert config["optimiser"]["name"] == "sgd"
    assert config["divergence"] == facts["predicted"][0]["divergence"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "target must not be empty"),
        (["--target", "sneeker"], "did you mean 'sneaker'"),
        (["--target", "sneaker", "--trainable", "attn9"], "matches no parameter"),
        (["--target", "sneaker", "--goal", "1.5"], "goal must be"),
        (["--target", "sneaker", "--limit", "0"], "limit must be"),
        (["--target", "sneaker", "--others", "-1"], "--others must be at least 0"),
        (["--target", "sneaker", "--divergences", "helinger"], "helinger"),
        (["--target", "sneaker", "--method", "edit"], "closed form"),
        (["--target", "sneaker", "--reference", "current", "--retained-share", "0"], "'current'"),
    ],
)
def test_mistakes_are_one_line(model, options, message, capsys):
    assert cli.main(["advise", model, *options]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert len(told.strip().splitlines()) == 1
