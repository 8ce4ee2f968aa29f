"""Tables that fit the terminal: columns are left out, numbers are never cut."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from fdiv_jax.files import JsonObject

if TYPE_CHECKING:
    from fdiv_jax.terminal import Console


__all__ = ["Report", "print_report", "print_table"]


class Report(Protocol):
    """What a command found."""

    def facts(self) -> JsonObject:
        """Everything, ready for JSON."""
        ...

    def show(self, console: Console) -> None:
        """For a person."""
        ...


def print_report(report: Report, *, as_json: bool) -> None:
    """Print a report on stdout."""
    from fdiv_jax.terminal import Console

    if as_json:
        print(json.dumps(report.facts(), indent=2))
    else:
        report.show(Console(highlight=False))


def print_table(
    console: Console,
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    first: Sequence[str] = (),
    elsewhere: str = "",
) -> None:
    """Print a table, without the columns for which there is no room, and say which those are.

    Columns whose cells are all the same are left out first, then those on the right.

    Args:
        console: of rich.
        title: the line above it.
        columns: the headings; the first column is always kept.
        rows: the cells.
        first: headings of columns that are left out last of all, the most important one first.
        elsewhere: where all columns are, for the line below.
    """
    from rich.table import Table

    kept = _kept(columns, rows, first, console.width)
    table = Table(title=title)
    for place in kept:
        table.add_column(columns[place], justify="left" if place == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(row[place] for place in kept))
    console.print(table)
    left = [columns[place] for place in range(len(columns)) if place not in kept]
    if left:
        console.print(f"no room for: {', '.join(left)}{f' (see {elsewhere})' if elsewhere else ''}")


def _kept(
    columns: Sequence[str], rows: Sequence[Sequence[str]], first: Sequence[str], width: int
) -> list[int]:
    """The places of the columns that fit, in order."""
    from rich.cells import cell_len

    def priority(place: int) -> tuple[int, int, int]:
        constant = len(rows) > 1 and len({row[place] for row in rows}) == 1
        named = list(first).index(columns[place]) if columns[place] in first else len(first)
        return named, int(constant), place

    sizes = [
        max(cell_len(text) for text in (columns[i], *(row[i] for row in rows))) for i in range(len(columns))
    ]
    kept, room = [0], width - sizes[0] - 4  # two borders and a space to either side
    for place in sorted(range(1, len(columns)), key=priority):
        if sizes[place] + 3 <= room:
            kept.append(place)
            room -= sizes[place] + 3
    return sorted(kept)
