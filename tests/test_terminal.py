"""User text on the terminal is text: no markup, no emoji codes, no control characters."""

import ast
import io
from pathlib import Path

import pytest
from rich.progress import Progress
from rich.table import Table

import fdiv_jax
from fdiv_jax import cli
from fdiv_jax.terminal import Console, TextColumn, printable
from tests.tiny import tiny_pipeline

NASTY = "a [/b] [red]dog[/red] :cat: to_[kv] \\[x] [link=file:///]y"
SOURCES = sorted(Path(fdiv_jax.__file__).parent.rglob("*.py"))


def recording(**options):
    return Console(file=io.StringIO(), width=400, color_system=None, **options)


def test_strings_in_every_place_come_out_as_they_are():
    console = recording()
    table = Table("head " + NASTY, title="title " + NASTY, caption="caption " + NASTY)
    table.add_row("cell " + NASTY)
    console.print("printed " + NASTY)
    console.print(table)
    console.log("logged " + NASTY)
    console.rule("ruled " + NASTY)
    shown = console.file.getvalue()
    for place in ("head", "title", "caption", "cell", "printed", "logged", "ruled"):
        assert f"{place} {NASTY}" in shown


def test_spinners_and_progress_bars():
    console = recording(force_terminal=True)
    with console.waiting("first " + NASTY) as tell:
        tell("then " + NASTY)
    with Progress(
        TextColumn("{task.description} {task.fields[figures]}"), console=console, auto_refresh=False
    ) as bar:
        bar.add_task("bar " + NASTY, figures="{task.id} " + NASTY)
    shown = console.file.getvalue()
    assert f"then {NASTY}" in shown
    assert f"bar {NASTY} {{task.id}} {NASTY}" in shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain, ü, 猫, a\ttab\n", "plain, ü, 猫, a\ttab\n"),
        ("\x1b]0;title\x07\x1b[2J", "\\x1b]0;title\\x07\\x1b[2J"),
        ("evil\rgood\x9b31m\x00", "evil\\rgood\\x9b31m\\x00"),
        ("a\u202egnp.exe", "a\\u202egnp.exe"),
        ("half \udcff", "half \\udcff"),
    ],
)
def test_control_characters_are_shown_and_not_obeyed(text, expected):
    assert printable(text) == expected
    console = recording()
    console.print(text)
    assert console.file.getvalue().split() == expected.split()


def rich_used(path):
    """Names of Rich that read markup, imported past `fdiv_jax.terminal`."""
    reads = {"Console", "TextColumn", "SpinnerColumn", "Status", "Spinner", "Prompt", "print", "track"}
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rich":
            found += [f"{path.name}:{node.lineno} {n.name}" for n in node.names if n.name in reads]
        if isinstance(node, ast.Attribute) and node.attr in ("from_markup", "render_markup"):
            found.append(f"{path.name}:{node.lineno} {node.attr}")
    return found


def test_nothing_passes_by_the_one_console():
    assert [use for path in SOURCES if path.name != "terminal.py" for use in rich_used(path)] == []
    assert rich_used(next(path for path in SOURCES if path.name == "terminal.py")) == []  # it imports modules


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_pipeline().save(tmp_path_factory.mktemp("model [") / "b] :cat: tiny [bold]"))


UNLEARN = [
    "--target",
    "sneaker",
    "--steps",
    "1",
    "--batch-size",
    "2",
    "--images.number",
    "2",
    "--images.steps",
    "1",
    "--no-report",
]


@pytest.mark.slow
def test_a_run_whose_anchor_pattern_and_paths_look_like_markup(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FDIV_JAX_CACHE", str(tmp_path / "cache"))
    output = tmp_path / "out [" / "i] :dog:"
    words = [*UNLEARN, "--anchor", "a [/b] d :o:", "--trainable", "attn2.to_[kv]"]
    assert cli.main(["unlearn", model, *words, "--output", str(output)]) == 0
    told = capsys.readouterr()
    assert "attn2.to_[kv]" in told.err
    assert "a [/b] d :o:" in told.err
    assert told.out.strip() == str(output)
    assert "MarkupError" not in told.err


@pytest.mark.slow
def test_a_sweep_and_its_table(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FDIV_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "240")
    output = tmp_path / "out [" / "i]"
    words = [*UNLEARN[:-1], "--divergences", "kl", "--anchors", "a [/b] dog", "--output", str(output)]
    assert cli.main(["sweep", model, *words]) == 0
    told = capsys.readouterr()
    assert "a [/b] dog" in told.err
    assert told.out.strip() == str(output / "table.csv")
    assert "i]/table.csv" in "".join(told.err.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["explore", "[/b]"],
        ["explore", "t*log(t) \x1b[31m"],
        ["sample", "no [/b] such"],
        ["sample", "no [/b] such", "x"],
        ["unlearn", "no [/b] such", "--target", "[/b]"],
        ["unlearn", "fashion", "--targe", "[/b]"],
        ["unlearn", "fashion", "--target", "sneaker", "--steps", "[/b]"],
        ["unlearn", "fashion", "--target", "sneaker", "--loss", "[/b]"],
        ["export", "no [/b] such", "--format", "[/b]", "--output", "x"],
        ["[/b]\x1b[31m"],
    ],
)
def test_mistakes_that_look_like_markup(arguments, capsys):
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    misspelt = "--targe" in arguments  # that one names the option meant, and not its value
    assert "[/b]" in error or "x1b" in error or misspelt or arguments[0] == "sample"
    assert "\x1b" not in error
    assert len([line for line in error.splitlines() if line.startswith("fdiv-jax: ")]) == 1
    assert "Traceback" not in error
