"""The tab Explore without its page: an expression in, HTML out."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING

from fdiv_jax.app.charts import panels
from fdiv_jax.app.links import LONGEST
from fdiv_jax.explore import Grid, Line, Section, all_facts, comparison, latex, pair_facts, sections_of
from fdiv_jax.explore.wording import short
from fdiv_jax.files import JsonObject

if TYPE_CHECKING:
    from fdiv_jax.divergences import Divergence

__all__ = ["EXAMPLES", "Explored", "answers", "explore", "message"]

EXAMPLES: tuple[tuple[str, str, str], ...] = (
    ("squared Hellinger", "squared_hellinger", ""),
    ("KL against χ²", "kl", "pearson_chi2"),
    ("Jensen–Shannon", "t*log(t) - (t+1)*log((t+1)/2)", ""),
    ("Le Cam", "(t-1)**2/(t+1)", "squared_hellinger"),
    ("α = 1/2 against α = 3", "alpha(0.5)", "alpha(3)"),
    ("total variation", "total_variation", ""),
    ("a mixture", "t*log(t) + (t-1)**2/4", "kl"),
)
"""Label, generator and the one beside it, to click."""

_RENDERED = ("f(t)", "g(v)")
"""Rows of the comparison that are formulas, which stand above it."""

_ROWS = (
    ("The generator", ("generator", "derivatives", "conjugate")),
    ("Between Gaussians", ("value", "weight", "clock")),
    ("The min-max game", ("rate", "spectrum", "phases")),
)


@dataclass(frozen=True)
class Explored:
    """What the tab shows, each part as HTML.

    Attributes:
        summary: the names and a few numbers.
        formulas: with $$ around what is LaTeX.
        charts: the panels.
        details: everything that `fdiv-jax explore` prints but the formulas.
    """

    summary: str
    formulas: str
    charts: str
    details: str


def answers(text: str, against: str = "") -> Iterator[Explored]:
    """What is known at once, with empty places for the charts, and then everything; see `explore`."""
    found, _ = _told(text, against)
    yield found
    yield explore(text, against)


@functools.lru_cache(maxsize=64)
def explore(text: str, against: str = "") -> Explored:
    """Everything about one generator, or about two side by side.

    Raises:
        ValueError: an expression that is too long, or that the library refuses; its message says why.
    """
    found, both = _told(text, against)
    return replace(found, charts=_rows(panels(*both)))


@functools.lru_cache(maxsize=64)
def _told(text: str, against: str) -> tuple[Explored, list[Divergence]]:
    """Everything but the charts, and the divergences that they show.

    Raises:
        ValueError: an expression that is too long, or that the library refuses; its message says why.
    """
    from fdiv_jax.divergences import divergence

    for each in (text, against):
        if len(each) > LONGEST:
            raise ValueError(f"an expression of {len(each)} characters, expected at most {LONGEST}")
    both = [divergence(each) for each in (text, against) if each.strip() or each is text]
    if len(both) == 2:
        pair = pair_facts(both[0], both[1], latex)
        facts, details = [pair["first"], pair["second"]], _compared(pair)
    else:
        facts = [all_facts(both[0], latex)]
        first, *others = sections_of(facts[0])
        told = [replace(first, title="Curvature and symmetry"), *others]
        details = "".join(_section(section) for section in told)
    formulas = "".join(_formulas(each, place) for place, each in enumerate(facts))
    found = Explored(
        "".join(_summary(each, place) for place, each in enumerate(facts)),
        f'<div class="fx-both">{formulas}</div>',
        _rows({}),
        details,
    )
    return found, both


def message(error: BaseException) -> str:
    """The library's own message, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _summary(facts: JsonObject, place: int) -> str:
    """The name, and the numbers that matter most."""
    about = f"<span>{escape(facts['description'])}</span>" if facts["description"] else ""
    tiles = "".join(
        f'<div class="fx-tile"><dt>{escape(label)}</dt><dd title="{escape(text)}">{_broken(text)}</dd></div>'
        for label, text in _tiles(facts)
    )
    name = f"<i></i><code>{escape(facts['name'])}</code>"
    return (
        f'<section class="fx-summary fx-of-{place}"><h2>{name}{about}</h2>'
        f'<dl class="fx-tiles">{tiles}</dl></section>'
    )


def _tiles(facts: JsonObject) -> Iterator[tuple[str, str]]:
    exact, value = facts["curvature"]["exact"], facts["curvature"]["value"]
    yield "curvature f″(1)", _infinite(exact if len(exact) < 9 else short(value))
    tails, step, near = (facts["gaussian"].get(key) for key in ("tails", "step", "nearest"))
    if tails is None:
        yield "between Gaussians", "beyond quadrature"
        return
    yield "far samples", tails["class"]
    yield "bounded by", tails["bounded_by"] or "∞"
    longest = step["on_the_way"]
    yield "stable step × k", _infinite(longest if isinstance(longest, str) else f"{longest:.3g}")
    if near:
        yield "nearest", near[0]["name"]


def _broken(text: str) -> str:
    """A name that may go on in another line after an underscore."""
    return escape(text).replace("_", "_<wbr>")


def _infinite(text: str) -> str:
    return text.replace("oo", "∞")


def _formulas(facts: JsonObject, place: int) -> str:
    lines = [part for section in sections_of(facts) for part in section.parts if isinstance(part, Line)]
    rows = "".join(_formula(line) for line in lines if line.is_formula)
    return f'<dl class="fx-formulas fx-of-{place}">{rows}</dl>'


def _formula(line: Line) -> str:
    label = f"$${line.label.replace('f*', 'f^*')}$$" if line.label else ""
    where = line.where and ("otherwise" if line.where == "otherwise" else f"$${line.where}$$")
    condition = f'<span class="fx-where">{escape(where)}</span>' if where else ""
    return f"<dt>{label}</dt><dd>$$\\displaystyle {escape(line.text)}$${condition}</dd>"


def _rows(charts: Mapping[str, str]) -> str:
    """The charts by their names; the place of one that is not drawn yet has its size."""
    pending = '<div class="fx-chart fx-pending"></div>'
    return "".join(_row(title, [charts.get(name, pending) for name in names]) for title, names in _ROWS)


def _row(title: str, charts: Sequence[str]) -> str:
    figures = "".join(f"<figure>{chart}</figure>" for chart in charts)
    return f'<section class="fx-row"><h3>{escape(title)}</h3><div>{figures}</div></section>'


def _section(section: Section) -> str:
    parts = [part for part in section.parts if isinstance(part, Grid) or not part.is_formula]
    return _details(section.title, "".join(map(_part, parts))) if parts else ""


def _part(part: Line | Grid) -> str:
    if isinstance(part, Grid):
        return _table(part)
    return f'<p class="fx-line"><b>{escape(part.label)}</b> {escape(part.text)}</p>'


def _compared(pair: JsonObject) -> str:
    tables, last = comparison(pair)
    shown = [
        (title, Grid(g.headings, tuple(r for r in g.rows if r[0] not in _RENDERED))) for title, g in tables
    ]
    body = "".join(_details(title, _table(grid)) for title, grid in shown)
    return f'{body}<p class="fx-line">{escape(last)}</p>'


def _details(title: str, body: str) -> str:
    return f'<details class="fx-details"><summary>{escape(title)}</summary><div>{body}</div></details>'


def _table(grid: Grid) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in grid.headings)
    rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in grid.rows)
    return f'<div class="fx-scroll"><table class="fx-table"><tr>{head}</tr>{rows}</table></div>'
