"""`fdiv-jax explore EXPR`: everything that follows from one generator."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from fdiv_jax.explore import Grid, Line, Section
    from fdiv_jax.files import JsonObject
    from fdiv_jax.terminal import Console

__all__ = ["Command"]


@dataclass(frozen=True)
class Command:
    """Derive everything from a generator f: curvature, conjugate, activation, tails, Gaussian weight,
    convergence."""

    expression: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="GENERATOR")]
    """The generator: a name (kl), alpha(a), symmetrise(NAME), or an expression in t such as "t*log(t)", in
    quotes."""
    against: str | None = None
    """A second generator to set beside the first, at equal curvature."""
    plot: Path | None = None
    """File to draw a picture to; its ending chooses the format (.png, .pdf, .svg)."""
    json: bool = False
    """Print JSON instead of text."""

    def run(self) -> None:
        """Check the generator, print what follows from it, part by part, and draw it if asked."""
        # A terminal wants the answer, not the search for accelerators.
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        from fdiv_jax.divergences import divergence
        from fdiv_jax.explore import all_facts, pair_facts, sections
        from fdiv_jax.terminal import Console

        if self.plot is not None:
            _check_format(self.plot)
        d = divergence(self.expression)
        other = None if self.against is None else divergence(self.against)
        console = Console(highlight=False)
        if self.json:
            print(json.dumps(all_facts(d) if other is None else pair_facts(d, other), indent=2))
        elif other is not None:
            _show_pair(console, pair_facts(d, other))
        else:
            for section in sections(d):
                _show(console, section)
        if self.plot is not None:
            from fdiv_jax.explore.pictures import draw

            draw(d, self.plot, other)
            if not self.json:
                print(f"\n{self.plot}: written")


def _check_format(path: Path) -> None:
    formats = (".png", ".pdf", ".svg", ".jpg", ".webp")
    if path.suffix.lower() not in formats:
        raise ValueError(f"--plot must end in one of {', '.join(formats)}, got {path.name!r}")
    if not path.parent.is_dir():
        raise ValueError(f"--plot names the directory {path.parent}, which does not exist")


def _show(console: "Console", section: "Section") -> None:
    """A heading, and its lines with the labels in one column."""
    from rich.text import Text

    from fdiv_jax.explore import Grid

    console.print(Text(f"\n{section.title}", "bold"))
    for part in section.parts:
        if isinstance(part, Grid):
            lines = [("", row) for row in _rows(part)]
        else:
            lines = [(part.label, _text(part, section.parts))]
        for label, text in lines:
            console.print(f"  {label:<12} {text}", soft_wrap=True)


def _text(line: "Line", parts: "Sequence[Line | Grid]") -> str:
    """The text of a line; the conditions of formulas stand in one column."""
    from fdiv_jax.explore import Grid

    if not line.where:
        return line.text
    width = max(len(part.text) for part in parts if not isinstance(part, Grid) and part.where)
    return f"{line.text:<{width}}   {line.where}"


def _rows(grid: "Grid") -> list[str]:
    """Headings and numbers, set right."""
    table = [grid.headings, *grid.rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in table]


def _show_pair(console: "Console", pair: "JsonObject") -> None:
    """Two generators in two columns."""
    from rich import box
    from rich.table import Table

    from fdiv_jax.explore import comparison

    tables, last = comparison(pair)
    for title, grid in tables:
        made = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
        for heading in grid.headings:
            made.add_column(heading, overflow="fold")
        for row in grid.rows:
            made.add_row(*row)
        console.print(made)
    console.print(last)
