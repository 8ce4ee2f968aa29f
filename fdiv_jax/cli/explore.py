"""`fdiv-jax explore EXPR`: everything that follows from one generator."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from fdiv_jax.divergences import Divergence

__all__ = ["Command"]


@dataclass(frozen=True)
class Command:
    """Derive everything from a generator f: curvature, conjugate, activation, Gaussian weight,
    convergence."""

    expression: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="GENERATOR")]
    """The generator: a name (kl), alpha(a), or an expression in t such as "t*log(t)", in quotes."""
    plot: Path | None = None
    """File to draw a picture to; its ending chooses the format (.png, .pdf, .svg)."""
    json: bool = False
    """Print JSON instead of text."""

    def run(self) -> None:
        """Check the generator, print what follows from it, part by part, and draw it if asked."""
        # A terminal wants the answer, not the search for accelerators.
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        from fdiv_jax.cli._divergence_facts import (
            conjugate_facts,
            game_facts,
            gaussian_facts,
            generator_facts,
        )
        from fdiv_jax.divergences import divergence

        if self.plot is not None:
            _check_format(self.plot)
        d = divergence(self.expression)
        if self.json:
            facts: dict[str, Any] = {
                **generator_facts(d),
                **conjugate_facts(d),
                "gaussian": gaussian_facts(d),
                "game": game_facts(d),
            }
            print(json.dumps(facts, indent=2))
        else:
            report = _Report()
            report.generator(generator_facts(d))
            report.conjugate(conjugate_facts(d))
            report.gaussian(gaussian_facts(d))
            report.game(d, game_facts(d))
        if self.plot is not None:
            from fdiv_jax.cli._divergence_picture import draw

            draw(d, self.plot)
            if not self.json:
                print(f"\n{self.plot}: written")


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

    def generator(self, facts: dict[str, Any]) -> None:
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

    def conjugate(self, facts: dict[str, Any]) -> None:
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
            "at P = Q", f"s0 = f'(1) = {_short(facts['s0'])}, v0 = {_short(v0)}, g'(v0) = {_short(slope)}"
        )

    def gaussian(self, facts: dict[str, Any]) -> None:
        self._heading("Between Gaussians of one covariance at squared distance m")
        if "note" in facts:
            self._line("D_f(m)", f"{facts['closed_form'] or 'no closed form'}; no table: {facts['note']}")
            return
        self._line("D_f(m)", facts["closed_form"] or "no closed form: quadrature, exact to rounding")
        rows = facts["table"]
        first = rows[0]["weight"]
        self._line("", f"{'m':>8} {'D_f(m)':>14} {'w_f(m)':>14} {'w_f(m)/w_f(0)':>14}")
        for row in rows:
            known = not isinstance(first, str) and not isinstance(row["weight"], str) and first > 0
            relative = f"{row['weight'] / first:.6g}" if known else "-"
            cells = (
                f"{row['m']:>8g} {_short(row['divergence']):>14} {_short(row['weight']):>14} {relative:>14}"
            )
            self._line("", cells)
        self._line("", "w_f multiplies the squared error's gradient: grad D_f = w_f(m)/2 grad m")

    def game(self, d: "Divergence", facts: dict[str, Any]) -> None:
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
                cells.append(f"{_short(own):>10} {_short(kl):>10} {ratio:>7}  ")
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


def _range(part: dict[str, Any]) -> str:
    low, high = part["from"], part["to"]
    if high == "oo":
        return f"q/k > {low:.4g}" if low else "every q/k"
    return f"{low:.4g} < q/k < {high:.4g}" if low else f"q/k < {high:.4g}"


def _short(value: float | str | None) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:.6g}"
