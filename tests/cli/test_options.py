"""Arguments as people write them: values that begin with a dash, and what each mistake is told as."""

import dataclasses
import itertools
from pathlib import Path
from typing import Annotated, Literal

import pytest
import tyro

from fdiv_jax import cli


@dataclasses.dataclass(frozen=True)
class Inner:
    """A group of options."""

    number: float = 1.0
    """A number."""
    on: bool = True
    """A switch."""


@dataclasses.dataclass(frozen=True)
class Command:
    """Do something."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """The model."""
    words: tyro.conf.Positional[tuple[str, ...]] = ()
    """More words."""
    text: str = "text"
    """A text."""
    several: tuple[str, ...] = ()
    """Several texts."""
    seeds: tuple[int, ...] = ()
    """Whole numbers."""
    size: tuple[int, int] | None = None
    """Two whole numbers."""
    place: Path | None = None
    """A path."""
    kind: Literal["plain", "fancy"] = "plain"
    """One of two."""
    group: Inner = dataclasses.field(default_factory=Inner)
    """A group."""
    some_flag: bool = False
    """A switch."""

    def run(self):
        """Keep what came."""
        SEEN.append(self)


SEEN: list[Command] = []


def read(*arguments):
    SEEN.clear()
    assert cli.run_command(Command, arguments, "program") == 0
    return SEEN[0]


def refused(capsys, *arguments):
    assert cli.run_command(Command, arguments, "program") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("program: ")
    assert error.endswith("; program --help tells more\n")
    return error.removeprefix("program: ").removesuffix("; program --help tells more\n")


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        (["-log(t)"], {"model": "-log(t)"}),
        (["-t"], {"model": "-t"}),
        (["-1"], {"model": "-1"}),
        (
            ["m", "-a", "--several", "kl", "-log(t)", "-x"],
            {"words": ("-a",), "several": ("kl", "-log(t)", "-x")},
        ),
        (
            ["--several", "-log(t)", "--text", "-x", "m"],
            {"several": ("-log(t)",), "text": "-x", "model": "m"},
        ),
        (["m", "--text=-log(t)"], {"text": "-log(t)"}),
        (["m", "--text=--deep"], {"text": "--deep"}),
        (["m", "--text", "--(t)"], {"text": "--(t)"}),
        (["m", "--text", "-1e-3"], {"text": "-1e-3"}),
        (["m", "--place", "-file"], {"place": Path("-file")}),
        (["m", "--place", "None"], {"place": None}),
        (["m", "--group.number", "-1e-3", "--group.no-on"], {"group": Inner(-1e-3, False)}),
        (["m", "--group.number=-inf"], {"group": Inner(float("-inf"))}),
        (["m", "--seeds", "-1", "2", "--size", "3", "-4"], {"seeds": (-1, 2), "size": (3, -4)}),
        (["--seeds", "1", "2", "m", "w"], {"seeds": (1, 2), "model": "m", "words": ("w",)}),
        (["--several", "a", "b", "m"], {"several": ("a", "b"), "model": "m"}),
        (["--some_flag", "m", "w"], {"some_flag": True, "words": ("w",)}),
        (["m", "--no-some-flag", "--several"], {"some_flag": False, "several": ()}),
        (["--", "--text", "-w"], {"model": "--text", "words": ("-w",)}),
        (["m", "--text", ""], {"text": ""}),
        (["m", "--text", "a b\nc"], {"text": "a b\nc"}),
        (["m", "--text", "\ue000log"], {"text": "\ue000log"}),
    ],
)
def test_a_value_may_look_like_an_option(arguments, fields):
    found = read(*arguments)
    assert {name: getattr(found, name) for name in fields} == fields


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "MODEL is missing: The model"),
        (["m", "--txt", "a"], "there is no option --txt; did you mean --text?"),
        (["m", "--group.numbr", "1"], "there is no option --group.numbr; did you mean --group.number?"),
        (["m", "--zzz=1"], "there is no option --zzz"),
        (["m", "--text"], "--text needs a value: --text TEXT"),
        (["m", "--text", "--some-flag"], "--text needs a value: --text TEXT"),
        (["m", "--size", "1"], "--size needs 2 values: --size N N"),
        (["m", "--kind", "fanci"], "--kind must be one of plain, fancy, got 'fanci'; did you mean fancy?"),
        (["m", "--kind=-"], "--kind must be one of plain, fancy, got '-'"),
        (["m", "--group.number", "-q"], "--group.number must be a number, got '-q'"),
        (["m", "--seeds", "1.5"], "--seeds must be a whole number, got '1.5'"),
        (["m", "--some-flag=yes"], "--some-flag takes no value, got 'yes'"),
    ],
)
def test_each_mistake_is_one_plain_line(arguments, message, capsys):
    assert refused(capsys, *arguments) == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["unlearn", "fashion", "--target", "x", "--loss", "exakt"], "--loss must be one of closed, exact,"),
        (["unlearn", "fashion", "--target", "x", "--los", "exact"], "no option --los; did you mean --loss?"),
        (["sweep", "fashion", "--target", "x", "--output", "o"], "--divergences is missing"),
        (["export", "fashion", "--output", "o"], "--format is missing"),
        (["divergences", "kl"], "unexpected argument 'kl'"),
        (["explore"], "GENERATOR is missing"),
        (["sample"], "MODEL is missing"),
    ],
)
def test_the_commands_say_it_in_the_same_words(arguments, message, capsys):
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    words = error.lower().split()
    assert not any(one == other and one.isalpha() for one, other in itertools.pairwise(words))


def test_a_warning_is_a_message_without_its_place_in_the_code(capsys):
    import warnings

    @dataclasses.dataclass(frozen=True)
    class Warns:
        """Warn."""

        def run(self):
            with warnings.catch_warnings():
                warnings.simplefilter("default")
                warnings.warn("something\n  is odd", RuntimeWarning, stacklevel=1)

    before = warnings.formatwarning
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, category, *_: print(
            warnings.formatwarning(message, category, "", 1)
        )
        assert cli.run_command(Warns, [], "program") == 0
    assert capsys.readouterr().out == "program: warning: something is odd\n\n"
    assert warnings.formatwarning is before
