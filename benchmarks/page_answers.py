"""How long the page `fdiv-jax app` takes to answer a generator that it has not seen.

    python -m benchmarks.page_answers

In one process that has answered once, as a server has: wall seconds until the formulas and tables are there,
and until the charts are.
"""

from __future__ import annotations

import statistics
import time

from fdiv_jax.app.explorer import EXAMPLES, answers

OTHERS = (
    *("reverse_kl", "jeffreys", "neyman_chi2", "gan", "le_cam", "alpha(1.5)"),
    *("t**1.5 - 1", "sqrt(1 + t**2) - sqrt(2)", "log(cosh(t-1))", "t*atan(t) - pi/4", "abs(t-1)**1.5"),
    *("0.3*t*log(t) - (0.7+0.3*t)*log(0.7+0.3*t)", "exp(-t) - exp(-1)", "1/t - 1 + t*log(t)"),
    *("-log(1-exp(-t)) + log(1-exp(-1))", "t*log(t) + 0.1*log(cosh(10*(t-1)))", "max(t-2,0) + (t-1)**2"),
    *("(sqrt(t)-1)**4", "cosh(log(t)) - 1", "t*log(t) + 1/t - 1"),
)
"""Beside the page's examples: the rest of the catalogue, and generators of every kind of tail."""


def main() -> None:
    """Print a table in Markdown, the slowest first."""
    list(answers("kl"))
    rows = []
    for f, against in [*((f, against) for _, f, against in EXAMPLES), *((f, "") for f in OTHERS)]:
        began = time.perf_counter()
        times = [time.perf_counter() - began for _ in answers(f, against)]
        rows.append((*reversed(times), f"{f} against {against}" if against else f))
    print("| generator | formulas and tables | charts too |\n|---|---|---|")
    for whole, first, told in sorted(rows, reverse=True):
        print(f"| `{told}` | {first:.2f} s | {whole:.2f} s |")
    whole, first = ([row[column] for row in rows] for column in (0, 1))
    for name, times in (("formulas and tables", first), ("charts too", whole)):
        late = sum(t > 1 for t in times)
        print(f"\n{name}: median {statistics.median(times):.2f} s, {late} of {len(times)} over 1 s")


if __name__ == "__main__":
    main()
