"""The frame of the command line: help, suggestions, errors in one line, arguments that begin with a dash."""

import json
import subprocess
import sys
from dataclasses import dataclass
from types import ModuleType

import pytest
import tyro

from fdiv_jax import cli


@pytest.fixture
def command(monkeypatch):
    """Stands in for a command named `divergences`; `command.action` is what its run does with it."""
    module = ModuleType("fdiv_jax.cli.divergences")

    @dataclass(frozen=True)
    class Command:
        """Do something."""

        word: tyro.conf.Positional[str] = ""
        """A word."""
        flag: bool = False
        """A flag."""

        def run(self):
            return module.action(self)

    module.__dict__["Command"] = Command
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def test_help_has_a_line_for_each_command(capsys):
    assert cli.main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in cli.COMMANDS:
        assert sum(line.split()[:1] == [name] and len(line.split()) > 1 for line in lines) == 1


def test_no_arguments_is_a_usage_error(capsys):
    assert cli.main([]) == 2
    assert "usage" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "meant"), [("exlore", "explore"), ("unlern", "unlearn"), ("samples", "sample")]
)
def test_an_unknown_command_suggests_the_nearest(typed, meant, capsys):
    assert cli.main([typed]) == 2
    assert f"did you mean '{meant}'" in capsys.readouterr().err


def test_a_command_like_no_other_lists_them_all(capsys):
    assert cli.main(["zzz"]) == 2
    message = capsys.readouterr().err
    assert all(name in message for name in cli.COMMANDS)


@pytest.mark.parametrize("error", [ValueError, TypeError, NotImplementedError, FileNotFoundError])
def test_a_mistake_is_one_line_and_exit_code_2(error, command, capsys):
    def action(_):
        raise error("f(1) = 2,\n  expected 0")

    command.action = action
    assert cli.main(["divergences"]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", "fdiv-jax: f(1) = 2, expected 0\n")


def test_the_traceback_is_there_for_who_asks(command, monkeypatch):
    def action(_):
        raise ValueError("wrong")

    command.action = action
    monkeypatch.setenv("FDIV_JAX_TRACEBACK", "1")
    with pytest.raises(ValueError, match="wrong"):
        cli.main(["divergences"])


def test_a_bug_is_not_hidden(command):
    def action(_):
        raise KeyError("a bug of ours")

    command.action = action
    with pytest.raises(KeyError):
        cli.main(["divergences"])


def test_interruption(command, capsys):
    def action(_):
        raise KeyboardInterrupt

    command.action = action
    assert cli.main(["divergences"]) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["-log(t)", "--flag"], ["--flag", "-log(t)"], ["--flag", "--", "-log(t)"]]
)
def test_an_expression_may_begin_with_a_minus_sign(arguments, command, monkeypatch):
    monkeypatch.setitem(sys.modules, "fdiv_jax.cli.explore", command)
    seen = []
    command.action = seen.append
    assert cli.main(["explore", *arguments]) == 0
    assert seen[0].word == "-log(t)"
    assert seen[0].flag


def test_so_may_the_value_of_an_option(capsys):
    words = ["unlearn", "fashion", "--target", "sneaker", "--divergence", "-log(t)", "--loss", "exact"]
    assert cli.main([*words, "--print-config"]) == 0
    assert json.loads(capsys.readouterr().out)["divergence"] == "-log(t)"
    assert cli.main([*words, "--learning-rate", "-1e-3"]) == 2
    assert "learning_rate must be a finite number > 0, got -0.001" in capsys.readouterr().err


def test_only_the_command_asked_for_is_loaded():
    script = (
        "import sys\nfrom fdiv_jax.cli import main\nmain(['--help'])\nmain(['--version'])\n"
        "print('loaded:', *(m for m in ('jax', 'flax', 'tyro', 'numpy') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded:"


def test_sample_refuses_before_it_loads_a_model(capsys):
    assert cli.main(["sample", "no-such-model"]) == 2
    assert "no prompt" in capsys.readouterr().err
    assert cli.main(["sample", "no-such-model", "a shoe", "--output", "shoe.txt"]) == 2
    assert "shoe.txt" in capsys.readouterr().err
    assert cli.main(["sample", "no-such-model", "a shoe", "--images", "0"]) == 2
    assert "--images" in capsys.readouterr().err
