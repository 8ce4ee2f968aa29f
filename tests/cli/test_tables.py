"""Tables in narrow terminals: whole numbers or none, and the names of the columns that are not there."""

import pytest
from rich.cells import cell_len

from fdiv_jax.cli._tables import print_table
from fdiv_jax.terminal import Console

COLUMNS = [
    "divergence",
    "loss",
    "anchor",
    "seed",
    "final loss",
    "final m",
    "target accuracy",
    "retained items",
]
ROWS = [
    ["squared_hellinger", "closed", "near", "0", "0.012345", "0.1234567", "0.05", "0.97777"],
    ["jensen_shannon", "closed", "near", "1", "1.234e-05", "0.7654321", "0.15", "0.92222"],
]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_a_number_is_whole_or_not_there(width, capsys):
    print_table(Console(width=width), "a table", COLUMNS, ROWS, first=["target accuracy"], elsewhere="t.csv")
    lines = capsys.readouterr().out.splitlines()
    assert all(cell_len(line) <= width for line in lines)
    text = "\n".join(lines)
    assert "…" not in text
    told = " ".join(text.partition("no room for: ")[2].split())
    left = told.partition(" (see")[0].split(", ") if told else []
    for place, name in enumerate(COLUMNS):
        shown = [row[place] in text for row in ROWS]
        assert all(shown) or name in left
        assert name in text or name in left
    assert "divergence" not in left
    assert "target accuracy" not in left
    if width >= 80:
        assert set(left) <= {"loss", "anchor", "final m", "retained items", "final loss"}
    assert bool(left) == (width < 120)
    assert ("t.csv" in told) == bool(left)


def test_what_is_the_same_in_every_row_goes_first(capsys):
    columns = ["name", "aaaa", "bbbb", "cccc"]
    rows = [["x", "same", "1111", "2222"], ["y", "same", "3333", "4444"]]
    print_table(Console(width=23), "", columns, rows)
    assert capsys.readouterr().out.endswith("no room for: aaaa\n")
    print_table(Console(width=23), "", columns, rows, first=["aaaa"])
    assert capsys.readouterr().out.endswith("no room for: cccc\n")


def test_a_table_of_one_column_is_folded(capsys):
    print_table(Console(width=20), "", ["a long heading of a column"], [["x" * 50]])
    text = capsys.readouterr().out
    assert sum(line.count("x") for line in text.splitlines()) == 50
