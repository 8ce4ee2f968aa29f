"""`fdiv-jax explore EXPR`: everything that follows from one generator."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fdiv_jax.cli._wording import growth_words, pull_words, short, step_words
from fdiv_jax.files import JsonObject

if TYPE_CHECKING:
    from fdiv_jax.divergences import Divergence

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

        if self.plot is not None:
            _check_format(self.plot)
        d = divergence(self.expression)
        other = None if self.against is None else divergence(self.against)
        if self.json:
            print(json.dumps(_facts(d) if other is None else _pair(d, other), indent=2))
        elif other is not None:
            from fdiv_jax.cli._side_by_side import show

            show(_pair(d, other))
        else:
            _show(d)
        if self.plot is not None:
            from fdiv_jax.cli._divergence_picture import draw

            draw(d, self.plot, other)
            if not self.json:
                print(f"\n{self.plot}: written")


def _facts(d: "Divergence") -> JsonObject:
    from fdiv_jax.cli._divergence_facts import conjugate_facts, game_facts, generator_facts
    from fdiv_jax.cli._gaussian_facts import gaussian_facts

    return {
        **generator_facts(d),
        **conjugate_facts(d),
        "gaussian": gaussian_facts(d),
        "game": game_facts(d),
    }


def _pair(d: "Divergence", other: "Divergence") -> JsonObject:
    from fdiv_jax.cli._gaussian_facts import distance_facts

    return {"first": _facts(d), "second": _facts(other), **distance_facts(d, other)}


def _show(d: "Divergence") -> None:
    from fdiv_jax.cli._divergence_facts import conjugate_facts, game_facts, generator_facts
    from fdiv_jax.cli._gaussian_facts import gaussian_facts

    report = _Report()
    report.generator(generator_facts(d))
    report.conjugate(conjugate_facts(d))
    facts = gaussian_facts(d)
    report.gaussian(facts)
    if "tails" in facts:
        report.shape(facts)
    report.game(d, game_facts(d))


def _check_format(path: Path) -> None:
    formats = (".png", ".pdf", ".svg", ".jpg", ".webp")
    if path.suffix.lower() not in formats:
        raise ValueError(f"--plot must end in one of {', '.join(formats)}, got {path.name!r}")
    if not path.parent.is_dir():
        raise ValueError(f"--plot names the directory {path.parent}, which does not exist")


class _Report:
    """The facts as text, printed part by part as they are worked out."""

    def __init__(self) -> None:
        from fdiv_jax.terminal import Console

        self.console = Console(highlight=False)

    def _heading(self, text: str) -> None:
        from rich.text import Text

        self.console.print(Text(f"\n{text}", "bold"))

    def _line(self, label: str, text: str) -> None:
        self.console.print(f"  {label:<12} {text}", soft_wrap=True)

    def _cases(self, label: str, cases: list[dict[str, str]]) -> None:
        width = max(len(c["formula"]) for c in cases)
        for i, case in enumerate(cases):
            text = f"{case['formula']:<{width}}   {case['where']}" if case["where"] else case["formula"]
            self._line(label if i == 0 else "", text)

    def generator(self, facts: JsonObject) -> None:
        about = f": {facts['description']}" if facts["description"] else ""
        self._heading(facts["name"] + about)
        self._line("f(t)", facts["f"])
        self._cases("f'(t)", facts["first_derivative"])
        self._cases("f''(t)", facts["second_derivative"])
        for kink in facts["kinks"]:
            self._line("", f"and a kink at t = {kink['t']}, where f' jumps by {kink['jump']}")
        exact, value = facts["curvature"]["exact"], facts["curvature"]["value"]
        self._line(
            "f''(1)", exact if isinstance(value, str) or exact == f"{value:g}" else f"{exact} = {value:.6g}"
        )
        reverse = "itself: symmetric in P and Q" if facts["symmetric"] else facts["reversed"]
        self._line("t f(1/t)", f"{reverse}")

    def conjugate(self, facts: JsonObject) -> None:
        self._heading("Conjugate and activation")
        if facts["conjugate_is_numeric"]:
            self._line("f*(s)", "no closed form found: numerical Legendre transform, exact derivatives")
        else:
            self._cases("f*(s)", [c for c in facts["conjugate"] if c["formula"] != "oo"])
        constant = f", constant below f'(0+) = {facts['constant_below']}" if facts["constant_below"] else ""
        self._line("finite on", facts["conjugate_domain"] + constant)
        self._line("g(v)", facts["activation"])
        v0, slope = facts["v0"], facts["activation_slope"]
        self._line(
            "at P = Q", f"s0 = f'(1) = {short(facts['s0'])}, v0 = {short(v0)}, g'(v0) = {short(slope)}"
        )

    def gaussian(self, facts: JsonObject) -> None:
        self._heading("Between Gaussians of one covariance at squared distance m")
        if "note" in facts:
            self._line("D_f(m)", f"{facts['closed_form'] or 'no closed form'}; no table: {facts['note']}")
            return
        self._line("D_f(m)", facts["closed_form"] or "no closed form: quadrature, exact to rounding")
        rows = facts["table"]
        first = rows[0]["weight"]
        header = (
            f"{'m':>8} {'D_f(m)':>14} {'w_f(m)':>14} {'w_f(m)/w_f(0)':>14} {'noise, Q':>12} {'noise, P':>12}"
        )
        self._line("", header)
        for row in rows:
            known = not isinstance(first, str) and not isinstance(row["weight"], str) and first > 0
            relative = f"{row['weight'] / first:.6g}" if known else "-"
            cells = f"{row['m']:>8g} {short(row['divergence']):>14} {short(row['weight']):>14} {relative:>14}"
            noises = " ".join(
                f"{short(row[key]) if row[key] != 'nan' else '-':>12}" for key in ("noise_q", "noise_p")
            )
            self._line("", f"{cells} {noises}")
        self._line("", "w_f multiplies the squared error's gradient: grad D_f = w_f(m)/2 grad m")
        self._line(
            "",
            "noise: relative variance of a sample's variational gradient, the best critic, Q or P trained",
        )

    def shape(self, facts: JsonObject) -> None:
        tails, step = facts["tails"], facts["step"]
        self._heading("Tails, and descent on D_f")
        self._line(
            "f(0)", f"{tails['value_at_zero']}: {_cost(tails['value_at_zero'], 'P misses a part of Q')}"
        )
        end = tails["slope_at_infinity"]
        self._line("f'(oo)", f"{end}: {_cost(end, 'P lies where Q is 0')}")
        if tails["bounded_by"]:
            self._line("", f"bounded: D_f <= f(0) + f'(oo) = {tails['bounded_by']}")
        self._line("growth", growth_words(tails))
        self._line("pull", pull_words(tails["largest_pull"]))
        self._line("class", tails["class"])
        self._line("stable step", f"times the kernel's eigenvalue: {step_words(step)}")
        if facts["nearest"]:
            closest = ", ".join(f"{near['name']} ({near['distance']:.3g})" for near in facts["nearest"][:3])
            self._line("nearest", f"{closest}: largest |difference of log w_f(m)/w_f(0)| up to m = 9")

    def game(self, d: "Divergence", facts: JsonObject) -> None:
        self._heading("Min-max game: predicted rate of convergence, equal steps")
        if facts["rates"]:
            header = (
                f"{'q/k':>8} {'T = v':>10} {'kl':>10} {'ratio':>7}   {'T = g(v)':>10} {'kl':>10} {'ratio':>7}"
            )
            self._line("", header)
        for row in facts["rates"]:
            cells = [f"{row['q_over_k']:>8g}"]
            for key in ("direct", "activated"):
                own, kl = row[key], row[f"{key}_kl"]
                ratio = "-" if own is None else f"{own / kl:.3g}"
                cells.append(f"{short(own):>10} {short(kl):>10} {ratio:>7}  ")
            self._line("", " ".join(cells))
        if "note" in facts:
            self._line("phases", facts["note"])
            return
        self._line(
            "phases",
            f"critically damped at q/k = 2 f''(1) = {facts['critically_damped_at']:.4g}, its own fastest; "
            "below it under-damped, above it over-damped",
        )
        if facts["fastest_here"]:
            for part in facts["fastest_here"]:
                rivals = [name for name in part["fastest"] if name != d.name]
                tie = f", together with {', '.join(rivals)}" if rivals else ""
                self._line("", f"fastest of the catalogue for {_range(part)}{tie}")
        else:
            best = "; ".join(f"{_range(p)}: {', '.join(p['fastest'])}" for p in facts["phases"])
            self._line("", f"nowhere the fastest of the catalogue ({best})")


def _range(part: JsonObject) -> str:
    low, high = part["from"], part["to"]
    if high == "oo":
        return f"q/k > {low:.4g}" if low else "every q/k"
    return f"{low:.4g} < q/k < {high:.4g}" if low else f"q/k < {high:.4g}"


def _cost(value: str, event: str) -> str:
    return f"{'infinite' if value == 'oo' else 'finite'} where {event}"
