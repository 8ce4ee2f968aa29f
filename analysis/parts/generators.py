"""Part 1: each divergence from its generator f: its convex conjugate and its curvature f''(1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import sympy

from fdiv_jax.divergences import Divergence

from ..style import INK, label, line_style, panel_letters, panels
from ..toy_games import catalogue_entries

if TYPE_CHECKING:
    from ..runner import Context

__all__ = ["run"]

_T = sympy.Symbol("t", positive=True)


def _range(d: Divergence) -> tuple[float, float]:
    """Where to draw f*: its domain, cut to a readable window."""
    domain = d.conjugate_domain
    return max(float(domain.start), -3.0), min(float(domain.end), 2.0)  # type: ignore[union-attr]


def _conjugate_error(d: Divergence) -> float:
    """Largest |f*(f'(t)) - (t f'(t) - f(t))| relative to 1 + |f*|: Legendre's identity where it is attained.

    f and f' are evaluated from the symbols with 50 digits, apart from the library's own arithmetic.
    """
    points = [sympy.Float(t, 50) for t in np.geomspace(0.05, 20.0, 40)]  # an even number: not at a kink in 1
    first = sympy.diff(d.generator, _T)
    slopes = [first.subs(_T, t).evalf(50) for t in points]
    exact = np.array(
        [float(t * s - d.generator.subs(_T, t).evalf(50)) for t, s in zip(points, slopes, strict=True)]
    )
    found = np.asarray(d.conjugate(jnp.asarray([float(s) for s in slopes])))
    return float(np.max(np.abs(found - exact) / (1 + np.abs(exact))))


def run(context: Context) -> dict[str, Any]:
    """Draw f, f* and f''(1) of the whole catalogue; check every conjugate by Legendre's identity."""
    entries = catalogue_entries()
    figure, axes = panels(1, 3, height=4.3)
    of_t, of_s, bars = axes
    t = np.linspace(0.02, 4.0, 300)
    rows, errors = [], {}
    with jax.enable_x64(True):
        for d in context.progress(entries, "generators"):
            look = line_style(d.name) | {"marker": ""}
            s0 = float(d.equilibrium[0])
            of_t.plot(t, np.asarray(d.f(jnp.asarray(t))) - s0 * (t - 1), **look)
            low, high = _range(d)
            s = np.linspace(low, high, 402)[1:-1]
            values = np.asarray(d.conjugate(jnp.asarray(s)))
            of_s.plot(s, values, **look)
            of_s.plot([s0], [s0], "o", color=look["color"], markersize=4)
            errors[d.name] = _conjugate_error(d)
            rows.append(
                {
                    "name": d.name,
                    "generator": str(d.generator),
                    "curvature": str(d.curvature).replace("oo", "infinite"),
                    "s0": s0,
                    "v0": float(d.equilibrium[1]),
                    "activation_slope": float(d.activation_slope),
                    "conjugate_domain": str(d.conjugate_domain),
                    "symmetric": bool(d.is_symmetric),
                    "conjugate_error": errors[d.name],
                }
            )
    of_t.set(xlim=(0, 4), ylim=(-0.1, 3.0), xlabel="likelihood ratio t")
    of_t.set_title("generator f(t) − f'(1)(t − 1)")
    of_s.plot([-3, 2], [-3, 2], color=INK, linewidth=0.8, linestyle=":", zorder=1)
    of_s.set(xlim=(-3, 2), ylim=(-3, 3), xlabel="s", title="conjugate f*(s), dot: equilibrium f*(s₀) = s₀")
    smooth = [d for d in entries if d.is_smooth]
    smooth.sort(key=lambda d: (float(d.curvature), d.name), reverse=True)
    for place, d in enumerate(smooth):
        bars.barh(place, float(d.curvature), color=line_style(d.name)["color"], height=0.62)
        bars.text(float(d.curvature) + 0.04, place, str(d.curvature), va="center", fontsize=8, color=INK)
    bars.set_yticks(range(len(smooth)), [label(d.name) for d in smooth])
    kinks = ", ".join(label(d.name) for d in entries if not d.is_smooth)
    bars.set(xlim=(0, 2.4), xlabel="f''(1)", title=f"curvature ({kinks}: infinite)" if kinks else "curvature")
    bars.grid(axis="y", visible=False)
    panel_letters(axes)
    handles, names = of_t.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=5)
    context.figure(
        "generators",
        figure,
        shows="Everything follows from f: its conjugate (the critic's loss) touches the diagonal at the "
        "equilibrium, and its curvature there sorts the catalogue into three classes, 1/2, 1 and 2, besides "
        "the kink of total variation.",
        rows=rows,
    )
    return {
        "curvature": {row["name"]: row["curvature"] for row in rows},
        "conjugate_max_error": max(errors.values()),
    }
