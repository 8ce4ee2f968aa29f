"""`fdiv-jax divergences`: the catalogue, one line per divergence."""

import json
from dataclasses import dataclass

from fdiv_jax.files import JsonObject

__all__ = ["Command"]


@dataclass(frozen=True)
class Command:
    """List the named divergences: generator, curvature, conjugate, activation, value between Gaussians."""

    json: bool = False
    """Print JSON instead of a table."""

    def run(self) -> None:
        """Print the catalogue and say how to reach the others."""
        from fdiv_jax.divergences import catalogue
        from fdiv_jax.explore import conjugate_facts, generator_facts, shown

        entries = []
        for d in catalogue().values():
            entry: JsonObject = {**generator_facts(d), **conjugate_facts(d)}
            entry["closed_form"] = None if d.closed_form is None else shown(d.closed_form)
            entries.append(entry)
        if self.json:
            print(json.dumps(entries, indent=2))
            return
        from rich import box
        from rich.table import Table

        from fdiv_jax.terminal import Console

        def table(title: str, *columns: str) -> Table:
            made = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
            made.add_column("name", style="bold", no_wrap=True)
            for column in columns:
                made.add_column(column, overflow="fold")
            return made

        left = table("Generators; m is the squared distance of the means", "f(t)", "f''(1)", "D_f(m)")
        right = table("Conjugates and activations", "f*(s)", "finite on", "g(v)")
        for entry in entries:
            closed = entry["closed_form"] or "quadrature"
            left.add_row(entry["name"], entry["f"], entry["curvature"]["exact"], closed)
            formulas = "\n".join(_case(c) for c in entry["conjugate"] if c["formula"] != "oo")
            right.add_row(entry["name"], formulas, entry["conjugate_domain"], entry["activation"])
        console = Console()
        console.print(left)
        console.print(right)
        console.print(
            "Also alpha(a) for any real a, reversed(...) and symmetrise(...) of any of these, the names of\n"
            "TensorFlow Probability's Csiszar functions, and any convex expression in t with f(1) = 0:\n"
            "  fdiv-jax explore 'alpha(0.5)'      fdiv-jax explore 't*log(t) + (t - 1)**2'",
            highlight=False,
        )


def _case(case: dict[str, str]) -> str:
    where = case["where"]
    return case["formula"] if where in ("", "otherwise") else f"{case['formula']}  ({where})"
