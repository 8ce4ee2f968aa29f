"""Each divergence from its generator f: its convex conjugate and its curvature f''(1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import sympy

from fdiv_jax.divergences import Divergence
from fdiv_jax.files import JsonObject

from ..style import INK, curve_style, label, legend_below, line_style, panel_letters, panels
from ..toy_games import catalogue_entries

if TYPE_CHECKING:
    from ..runner import Context

__all__ = ["run"]

_T = sympy.Symbol("t", positive=True)


_LOW, _HIGH, _TOP = -3.0, 2.0, 3.3
"""The window in which conjugates are drawn."""


def _conjugate(d: Divergence) -> tuple[np.ndarray, np.ndarray, bool]:
    """s and f*(s) in the window, up to the end of the domain, and whether the domain ends there at a value.

    The points crowd at the end, where f* is steep.
    """
    end = float(d.slopes[1])
    high = min(end, _HIGH)
    s = high - (high - _LOW) * np.linspace(1, 0, 400) ** 4
    stops = end <= _HIGH and not d.conjugate_domain.right_open
    if end <= _HIGH and not stops:
        s = s[:-1]
    return s, np.asarray(d.conjugate(jnp.asarray(s))), stops


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


def run(context: Context) -> JsonObject:
    """Draw f, f* and f''(1) of the whole catalogue; check every conjugate by Legendre's identity."""
    entries = catalogue_entries()
    figure, axes = panels(1, 3, height=2.75)
    of_t, of_s, bars = axes
    t = np.concatenate([np.geomspace(1e-4, 0.02, 40), np.linspace(0.02, 4.0, 300)[1:]])
    rows, errors = [], {}
    with jax.enable_x64(True):
        for d in context.progress(entries, "generators"):
            look = curve_style(d.name, every=0.25)
            s0 = float(d.equilibrium[0])
            of_t.plot(t, np.asarray(d.f(jnp.asarray(t))) - s0 * (t - 1), **look)
            s, values, stops = _conjugate(d)
            of_s.plot(s, values, **dict(look, label=""))
            if stops:
                of_s.plot(s[-1], values[-1], "|", color=look["color"], markersize=9, markeredgewidth=1.6)
            of_s.plot(s0, s0, "o", color=INK, markersize=5, fillstyle="none", zorder=5)
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
    of_t.set(xlim=(0, 4), ylim=(-0.1, 3.0), xlabel="likelihood ratio t", xticks=range(5))
    of_t.set_title("f(t) − f'(1)(t − 1)")
    diagonal = {"color": INK, "linewidth": 0.8, "linestyle": ":", "zorder": 1}
    of_s.plot([_LOW, _TOP], [_LOW, _TOP], **diagonal, label="f*(s) = s")
    marked = {"color": INK, "linestyle": "none"}
    of_s.plot([], [], "o", **marked, markersize=5, fillstyle="none", label="equilibrium, f*(s₀) = s₀")
    of_s.plot([], [], "|", **marked, markersize=9, markeredgewidth=1.6, label="f* ends, infinite beyond")
    of_s.set(xlim=(_LOW, _HIGH), ylim=(_LOW, _TOP), xlabel="s", title="conjugate f*(s)")
    smooth = [d for d in entries if d.is_smooth]
    smooth.sort(key=lambda d: (float(d.curvature), d.name), reverse=True)
    for place, d in enumerate(smooth):
        look = line_style(d.name)
        bars.barh(place, float(d.curvature), color=look["color"], height=0.62)
        bars.text(float(d.curvature) + 0.06, place, str(d.curvature), va="center", fontsize=7, color=INK)
    bars.set_yticks(range(len(smooth)), [label(d.name) for d in smooth])
    kinks = ", ".join(label(d.name) for d in entries if not d.is_smooth)
    bars.set(xlim=(0, 2.4), title="curvature at 1")
    bars.set_xlabel("f''(1)" + (f";  {kinks}: infinite" if kinks else ""))
    bars.grid(axis="y", visible=False)
    panel_letters(axes)
    legend_below(figure, axes)
    context.figure(
        "generators",
        figure,
        shows="Everything follows from f: its conjugate (the critic's loss) touches the diagonal at the "
        "equilibrium, and its curvature there sorts the catalogue into three classes, 1/2, 1 and 2, besides "
        "the kink of total variation. In (a) the curves of GAN and Jensen–Shannon are one, as these two "
        "generators differ by a multiple of t − 1. Conjugates are drawn as far as they are finite.",
        rows=rows,
    )
    return {
        "curvature": {row["name"]: row["curvature"] for row in rows},
        "conjugate_max_error": max(errors.values()),
    }
