"""Two generators side by side, at equal curvature."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fdiv_jax.explore.game import game_facts
from fdiv_jax.explore.gaussian import distance_facts, gaussian_facts
from fdiv_jax.explore.generator import conjugate_facts, generator_facts
from fdiv_jax.explore.notation import Notation, shown
from fdiv_jax.explore.sections import Grid
from fdiv_jax.explore.wording import short
from fdiv_jax.files import JsonObject

if TYPE_CHECKING:
    from fdiv_jax.divergences import Divergence

__all__ = ["all_facts", "comparison", "pair_facts"]

Cell = Callable[[JsonObject], str]
"""What one entry of the table says of a divergence."""


def all_facts(d: Divergence, write: Notation = shown) -> JsonObject:
    """Everything about one generator; formulas are written by `write`."""
    return {
        **generator_facts(d, write),
        **conjugate_facts(d, write),
        "gaussian": gaussian_facts(d, write),
        "game": game_facts(d),
    }


def pair_facts(d: Divergence, other: Divergence, write: Notation = shown) -> JsonObject:
    """Everything about both, and how far they differ."""
    return {"first": all_facts(d, write), "second": all_facts(other, write), **distance_facts(d, other)}


def comparison(pair: JsonObject) -> tuple[list[tuple[str, Grid]], str]:
    """What `pair_facts` found as titled tables with one column per generator, and a closing line."""
    both = [pair["first"], pair["second"]]
    tables: list[tuple[str, Grid]] = []

    def add(title: str, rows: list[tuple[str, list[str]]]) -> None:
        headings = ("", *(facts["name"] for facts in both))
        tables.append((title, Grid(headings, tuple((label, *cells) for label, cells in rows))))

    add("Generators", [(label, [cell(facts) for facts in both]) for label, cell in _ROWS])
    known = all(facts["gaussian"]["table"] for facts in both)
    if known:
        scaled = all(_is_scaled(facts) for facts in both)
        title = "Weights between Gaussians, w_f(m)"
        add(f"{title}/w_f(0): at equal curvature" if scaled else title, _column(both, _weight(scaled)))
        noise = "Relative variance of a sample's variational gradient with the best critic, Q trained"
        add(noise, _column(both, lambda facts, row: _or_dash(row["noise_q"])))
    if all(facts["game"]["rates"] for facts in both):
        for key, name in (("direct", "T = v"), ("activated", "T = g(v)")):
            rows = zip(*(facts["game"]["rates"] for facts in both), strict=True)
            cells = [(f"q/k = {a['q_over_k']:g}", [short(a[key]), short(b[key])]) for a, b in rows]
            add(f"Rate of the min-max game, {name}, equal steps", cells)
    distance = pair["weight_distance"]
    if distance is None:
        return tables, f"No distance at equal curvature: {pair['note']}"
    return tables, f"Largest |difference of log w_f(m)/w_f(0)| up to m = 9: {distance:.6g}"


def _tail(key: str) -> Cell:
    def cell(facts: JsonObject) -> str:
        tails = facts["gaussian"].get("tails")
        return "-" if tails is None else short(tails[key])

    return cell


def _pull(facts: JsonObject) -> str:
    tails = facts["gaussian"].get("tails")
    if tails is None:
        return "-"
    peak = tails["largest_pull"]
    return "none" if peak is None else f"{peak['pull']:.4g} at m = {peak['m']:.4g}"


def _step(key: str, scaled: bool) -> Cell:
    def cell(facts: JsonObject) -> str:
        step, curvature = facts["gaussian"].get("step"), facts["curvature"]["value"]
        if step is None:
            return "-"
        if not scaled:
            return short(step[key])
        ends = (step[key], curvature)
        return (
            "-" if any(isinstance(x, str) for x in ends) or curvature == 0 else short(step[key] * curvature)
        )

    return cell


def _nearest(facts: JsonObject) -> str:
    found = facts["gaussian"].get("nearest")
    return f"{found[0]['name']} ({found[0]['distance']:.3g})" if found else "-"


_ROWS: list[tuple[str, Cell]] = [
    ("f(t)", lambda facts: facts["f"]),
    ("f''(1)", lambda facts: short(facts["curvature"]["value"])),
    ("s0 = f'(1)", lambda facts: short(facts["s0"])),
    ("g(v)", lambda facts: facts["activation"]),
    ("f(0)", _tail("value_at_zero")),
    ("f'(oo)", _tail("slope_at_infinity")),
    ("D_f bounded by", _tail("bounded_by")),
    ("log w_f(m) / m at oo", _tail("growth_rate")),
    ("largest w_f(m) sqrt(m)", _pull),
    ("class", _tail("class")),
    ("stable step k h at the minimum", _step("at_minimum", False)),
    ("from m = 9", _step("on_the_way", False)),
    ("from m = 9, f divided by f''(1)", _step("on_the_way", True)),
    ("nearest named divergence", _nearest),
]


def _column(
    both: list[JsonObject], cell: Callable[[JsonObject, JsonObject], str]
) -> list[tuple[str, list[str]]]:
    rows = zip(*(facts["gaussian"]["table"] for facts in both), strict=True)
    return [
        (f"m = {pair[0]['m']:g}", [cell(facts, row) for facts, row in zip(both, pair, strict=True)])
        for pair in rows
    ]


def _is_scaled(facts: JsonObject) -> bool:
    curvature = facts["curvature"]["value"]
    return not isinstance(curvature, str) and curvature > 0


def _weight(scaled: bool) -> Callable[[JsonObject, JsonObject], str]:
    def cell(facts: JsonObject, row: JsonObject) -> str:
        weight = row["weight"]
        return short(
            weight / facts["curvature"]["value"] if scaled and not isinstance(weight, str) else weight
        )

    return cell


def _or_dash(value: float | str) -> str:
    return "-" if value == "nan" else short(value)
