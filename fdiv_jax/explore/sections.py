"""What follows from one generator in words: sections of labelled lines and tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fdiv_jax.explore.game import game_facts
from fdiv_jax.explore.gaussian import gaussian_facts
from fdiv_jax.explore.generator import conjugate_facts, generator_facts
from fdiv_jax.explore.wording import growth_words, pull_words, short, step_words
from fdiv_jax.files import JsonObject

if TYPE_CHECKING:
    from fdiv_jax.divergences import Divergence

__all__ = ["Grid", "Line", "Section", "sections", "sections_of"]


@dataclass(frozen=True)
class Line:
    """One line of a section.

    Attributes:
        label: what the line is about; empty where it goes on with the line above.
        text: words, or a formula.
        where: the condition under which a formula holds; empty where it always does.
        is_formula: whether the text is one formula, in the notation that was asked for.
    """

    label: str
    text: str
    where: str = ""
    is_formula: bool = False


@dataclass(frozen=True)
class Grid:
    """A table of numbers inside a section."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Section:
    """A heading with what is said below it."""

    title: str
    parts: tuple[Line | Grid, ...]


def sections(d: Divergence) -> Iterator[Section]:
    """The sections about one generator, each worked out when it is asked for."""
    yield _generator(generator_facts(d))
    yield _conjugate(conjugate_facts(d))
    yield from _between(gaussian_facts(d))
    yield _game(d.name, game_facts(d))


def sections_of(facts: JsonObject) -> Iterator[Section]:
    """The sections about one generator, from what `all_facts` found."""
    yield _generator(facts)
    yield _conjugate(facts)
    yield from _between(facts["gaussian"])
    yield _game(facts["name"], facts["game"])


def _generator(facts: JsonObject) -> Section:
    about = f": {facts['description']}" if facts["description"] else ""
    return Section(facts["name"] + about, tuple(_generator_lines(facts)))


def _conjugate(facts: JsonObject) -> Section:
    return Section("Conjugate and activation", tuple(_conjugate_lines(facts)))


def _between(facts: JsonObject) -> Iterator[Section]:
    title = "Between Gaussians of one covariance at squared distance m"
    yield Section(title, tuple(_gaussian_parts(facts)))
    if "tails" in facts:
        yield Section("Tails, and descent on D_f", tuple(_shape_lines(facts)))


def _game(name: str, facts: JsonObject) -> Section:
    title = "Min-max game: predicted rate of convergence, equal steps"
    return Section(title, tuple(_game_parts(name, facts)))


def _cases(label: str, cases: list[dict[str, str]]) -> Iterator[Line]:
    for i, case in enumerate(cases):
        yield Line("" if i else label, case["formula"], case["where"], is_formula=True)


def _generator_lines(facts: JsonObject) -> Iterator[Line]:
    yield Line("f(t)", facts["f"], is_formula=True)
    yield from _cases("f'(t)", facts["first_derivative"])
    yield from _cases("f''(t)", facts["second_derivative"])
    for kink in facts["kinks"]:
        yield Line("", f"and a kink at t = {kink['t']}, where f' jumps by {kink['jump']}")
    exact, value = facts["curvature"]["exact"], facts["curvature"]["value"]
    plain = isinstance(value, str) or exact == f"{value:g}"
    yield Line("f''(1)", exact if plain else f"{exact} = {value:.6g}")
    if facts["symmetric"]:
        yield Line("t f(1/t)", "itself: symmetric in P and Q")
    else:
        yield Line("t f(1/t)", facts["reversed"], is_formula=True)


def _conjugate_lines(facts: JsonObject) -> Iterator[Line]:
    if facts["conjugate_is_numeric"]:
        yield Line("f*(s)", "no closed form found: numerical Legendre transform, exact derivatives")
    else:
        yield from _cases("f*(s)", [c for c in facts["conjugate"] if c["formula"] not in ("oo", r"\infty")])
    constant = f", constant below f'(0+) = {facts['constant_below']}" if facts["constant_below"] else ""
    yield Line("finite on", facts["conjugate_domain"] + constant)
    yield Line("g(v)", facts["activation"], is_formula=True)
    at = f"s0 = f'(1) = {short(facts['s0'])}, v0 = {short(facts['v0'])}"
    yield Line("at P = Q", f"{at}, g'(v0) = {short(facts['activation_slope'])}")


def _gaussian_parts(facts: JsonObject) -> Iterator[Line | Grid]:
    closed = facts["closed_form"]
    if closed is None:
        known = "no closed form" if "note" in facts else "no closed form: quadrature, exact to rounding"
        yield Line("D_f(m)", known)
    else:
        yield Line("D_f(m)", closed, is_formula=True)
        yield Line("w_f(m)", facts["weight_form"], is_formula=True)
    if "note" in facts:
        yield Line("", f"no table: {facts['note']}")
        return
    rows = facts["table"]
    first = rows[0]["weight"]
    cells = []
    for row in rows:
        known = not isinstance(first, str) and not isinstance(row["weight"], str) and first > 0
        relative = f"{row['weight'] / first:.6g}" if known else "-"
        noises = (short(row[key]) if row[key] != "nan" else "-" for key in ("noise_q", "noise_p"))
        cells.append((f"{row['m']:g}", short(row["divergence"]), short(row["weight"]), relative, *noises))
    yield Grid(("m", "D_f(m)", "w_f(m)", "w_f(m)/w_f(0)", "noise, Q", "noise, P"), tuple(cells))
    yield Line("", "w_f multiplies the squared error's gradient: grad D_f = w_f(m)/2 grad m")
    noise = "noise: relative variance of a sample's variational gradient, the best critic, Q or P trained"
    yield Line("", noise)


def _shape_lines(facts: JsonObject) -> Iterator[Line]:
    tails = facts["tails"]
    start, end = tails["value_at_zero"], tails["slope_at_infinity"]
    yield Line("f(0)", f"{start}: {_cost(start, 'P misses a part of Q')}")
    yield Line("f'(oo)", f"{end}: {_cost(end, 'P lies where Q is 0')}")
    if tails["bounded_by"]:
        yield Line("", f"bounded: D_f <= f(0) + f'(oo) = {tails['bounded_by']}")
    yield Line("growth", growth_words(tails))
    yield Line("pull", pull_words(tails["largest_pull"]))
    yield Line("class", tails["class"])
    yield Line("stable step", f"times the kernel's eigenvalue: {step_words(facts['step'])}")
    if facts["nearest"]:
        closest = ", ".join(f"{near['name']} ({near['distance']:.3g})" for near in facts["nearest"][:3])
        yield Line("nearest", f"{closest}: largest |difference of log w_f(m)/w_f(0)| up to m = 9")


def _cost(value: str, event: str) -> str:
    return f"{'infinite' if value == 'oo' else 'finite'} where {event}"


def _game_parts(name: str, facts: JsonObject) -> Iterator[Line | Grid]:
    if facts["rates"]:
        cells = []
        for row in facts["rates"]:
            line = [f"{row['q_over_k']:g}"]
            for key in ("direct", "activated"):
                own, kl = row[key], row[f"{key}_kl"]
                line += [short(own), short(kl), "-" if own is None else f"{own / kl:.3g}"]
            cells.append(tuple(line))
        yield Grid(("q/k", "T = v", "kl", "ratio", "T = g(v)", "kl", "ratio"), tuple(cells))
    if "note" in facts:
        yield Line("phases", facts["note"])
        return
    yield Line(
        "phases",
        f"critically damped at q/k = 2 f''(1) = {facts['critically_damped_at']:.4g}, its own fastest; "
        "below it under-damped, above it over-damped",
    )
    for part in facts["fastest_here"]:
        rivals = [other for other in part["fastest"] if other != name]
        tie = f", together with {', '.join(rivals)}" if rivals else ""
        yield Line("", f"fastest of the catalogue for {_range(part)}{tie}")
    if not facts["fastest_here"]:
        best = "; ".join(f"{_range(p)}: {', '.join(p['fastest'])}" for p in facts["phases"])
        yield Line("", f"nowhere the fastest of the catalogue ({best})")


def _range(part: JsonObject) -> str:
    low, high = part["from"], part["to"]
    if high == "oo":
        return f"q/k > {low:.4g}" if low else "every q/k"
    return f"{low:.4g} < q/k < {high:.4g}" if low else f"q/k < {high:.4g}"
