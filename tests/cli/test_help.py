"""The help pages: short first, everything on demand, and no more than a terminal's width."""

import dataclasses
import importlib
import re

import pytest

from fdiv_jax import cli
from fdiv_jax.cli._options import fields_help, options_of

PLACES = {
    "advise": "MODEL",
    "unlearn": "MODEL",
    "sweep": "MODEL",
    "sample": "MODEL PROMPT...",
    "export": "MODEL",
    "explore": "GENERATOR",
    "evaluate": "BASE UNLEARNED...",
}


def page(capsys, *words):
    assert cli.main(list(words)) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", cli.COMMANDS)
@pytest.mark.parametrize("columns", [60, 80, 200])
def test_a_page_fits_its_terminal_and_has_no_empty_defaults(name, columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    for option in ("--help", "--help-all", "-h"):
        text = page(capsys, name, option)
        assert max(map(len, text.splitlines())) <= columns
        assert not re.search(r"default:?\s*(\)|None|$)", text)
        assert not re.search(r"\bSTR\b", text)
        assert text.startswith(f"usage: fdiv-jax {name} {PLACES.get(name, '')}".rstrip())


def test_unlearn_shows_what_people_use_in_groups_and_the_rest_on_demand(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    short, long = page(capsys, "unlearn", "--help"), page(capsys, "unlearn", "--help-all")
    flags = [re.findall(r"^  (--[\w.-]+)", text, re.M) for text in (short, long)]
    assert 10 <= len(flags[0]) <= 15
    assert len(short.splitlines()) <= 65
    left = int(re.search(r"--help-all lists the other (\d+) options", short).group(1))
    assert len(flags[1]) == len(flags[0]) + left > 60
    assert set(flags[0]) <= set(flags[1])
    assert "--help-all" not in long
    headings = re.findall(r"^(\w[\w ]+):$", short, re.M)
    assert headings == ["what to unlearn", "how", "the run"]
    assert "critic:" in long.splitlines()


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_option_says_in_plain_words_what_it_is(name):
    module = importlib.import_module(f"fdiv_jax.cli.{name}")
    options = options_of(module.Command)
    for option in options:
        assert option.help.endswith("."), option
        assert not option.help.startswith(("Of ", "None")), option
    names = {option.name.removeprefix("--") for option in options}
    assert {word for words in getattr(module, "HELP", {}).values() for word in words} <= names


def test_help_texts_are_the_docstrings_below_the_fields():
    @dataclasses.dataclass(frozen=True)
    class Command:
        """Do."""

        one: int = 1
        """The one,
        on two lines."""
        two: int = 2
        three: int = 3
        """The third."""

    assert fields_help(Command) == {"one": "The one, on two lines.", "three": "The third."}
