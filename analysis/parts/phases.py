"""Which divergence converges fastest, over damping per coupling and the ratio of the two speeds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from fdiv_jax.divergences import Divergence
from fdiv_jax.files import JsonObject
from fdiv_jax.theory import PhaseDiagram, mode_rate, phase_diagram

from ..simulate import flow, two_poles
from ..style import INK, label, legend_below, line_style, panel_letters, panels
from ..toy_games import line_game, smooth_divergences

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..runner import Context

__all__ = ["run"]

MARGIN = 0.02
_NODES = 24
_START = 1e-5
_STOP = 1e-4  # of the start: nine times e, and still far above rounding
_SAMPLES = 60


def _simulate(d: Divergence, activation: bool, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Rates of the played game on the grid, in units of k sqrt(a b): (n_y, n_x).

    q/k = x is realised by s = sqrt(x) (q = s^2, k = 1), b/a = y by a = 1/sqrt(y), b = sqrt(y), so that k
    sqrt(a b) = 1. Each cell is played for 60 of its own fastest time scales.
    """
    cells_x, cells_y = (grid.ravel() for grid in np.meshgrid(x, y))
    slope = d.activation_slope if activation else 1.0
    beta = np.sqrt(cells_y) * slope**2 / float(d.curvature) * cells_x
    tau = 1.0 / np.maximum(beta, 2 * slope)
    substeps = 5

    def one(qk: jax.Array, ba: jax.Array, stride: jax.Array) -> jax.Array:
        s = jnp.sqrt(qk)
        game = line_game(d, s, activation=activation, model_step=ba**-0.5, critic_step=ba**0.5, count=_NODES)
        origin = game.equilibrium
        start = origin.at[0].add(_START * s)
        states = flow(game.field, start, stride / substeps, _SAMPLES * substeps, substeps)
        return (states - origin)[:, :2]

    paths = np.asarray(jax.jit(jax.vmap(one))(jnp.asarray(cells_x), jnp.asarray(cells_y), jnp.asarray(tau)))
    rates = [two_poles(_above_rounding(path), step) for path, step in zip(paths, tau, strict=True)]
    return np.array(rates).reshape(len(y), len(x))


def _above_rounding(path: np.ndarray) -> np.ndarray:
    """The samples until the distance has fallen to _STOP of the first, at least 8."""
    size = np.linalg.norm(path, axis=1)
    gone = np.flatnonzero(size < _STOP * size[0])
    return path[: max(8, gone[0])] if gone.size else path


def _agreement(diagram: PhaseDiagram, simulated: np.ndarray) -> JsonObject:
    """How often the divergence that won the played game is the predicted one (or ties with it)."""
    winner = simulated.argmax(0)
    agrees = np.take_along_axis(diagram.ties, winner[None], axis=0)[0]
    clear = diagram.boundary_distance > MARGIN
    return {
        "winner": winner,
        "agrees": agrees,
        "clear": clear,
        "agreement": float(agrees[clear].mean()),
        "agreement_everywhere": float(agrees.mean()),
        "cells": int(clear.sum()),
        "rate_error": float(np.max(np.abs(simulated / diagram.rates - 1))),
    }


def _winners(diagram: PhaseDiagram) -> list[tuple[str, ...]]:
    """Names that tie as winners, in the order of the diagram from small to large (q/k) sqrt(b/a)."""
    if not diagram.boundaries:
        return [tuple(n for n, tie in zip(diagram.names, diagram.ties[:, 0, 0], strict=True) if tie)]
    return [diagram.boundaries[0].below, *(boundary.above for boundary in diagram.boundaries)]


def _text(names: tuple[str, ...]) -> str:
    return ", ".join(label(name) for name in names)


def _draw_plane(axis: Axes, diagram: PhaseDiagram, result: JsonObject) -> None:
    """Predicted regions as colour, the simulated winner of a cell as a dot, boundaries, critical lines."""
    x = np.geomspace(diagram.damping_over_coupling[0] * 0.85, diagram.damping_over_coupling[-1] / 0.85, 50)
    low, high = diagram.step_ratio[0] * 0.75, diagram.step_ratio[-1] / 0.75
    edges = [boundary.ratio for boundary in diagram.boundaries]
    regions = _winners(diagram)
    for names, below, above in zip(regions, [1e-9, *edges], [*edges, 1e9], strict=True):
        colour = line_style(names[0])["color"]
        bottom, top = np.clip((below / x) ** 2, low, high), np.clip((above / x) ** 2, low, high)
        axis.fill_between(x, bottom, top, color=colour, alpha=0.22, linewidth=0)
    for ratio in edges:
        axis.plot(x, (ratio / x) ** 2, color=INK, linewidth=1.2)
    grid_x, grid_y = np.meshgrid(diagram.damping_over_coupling, diagram.step_ratio)
    for names in regions:
        won = np.isin(result["winner"], [diagram.names.index(name) for name in names])
        look = dict(line_style(names[0]), linestyle="", label="")
        axis.plot(grid_x[won], grid_y[won], **look, markersize=1.9, markeredgewidth=0)
    wrong = ~result["agrees"]
    axis.plot(grid_x[wrong], grid_y[wrong], "x", color=INK, markersize=5)
    for ratio in sorted(set(np.round(diagram.critical_ratio, 9))):
        axis.plot(x, (ratio / x) ** 2, color=INK, linewidth=0.8, linestyle=":")
    axis.set(xscale="log", yscale="log", xlim=(x[0], x[-1]), ylim=(low, high))
    axis.set(xlabel="damping per coupling q/k", ylabel="speeds, critic over model b/a")
    axis.set_xticks([0.2, 1, 5], ["0.2", "1", "5"])
    axis.set_yticks([0.1, 1, 10], ["0.1", "1", "10"])
    axis.minorticks_off()
    axis.grid(visible=False)


def _draw_cut(
    axis: Axes, diagram: PhaseDiagram, simulated: np.ndarray, members: dict[str, Divergence]
) -> None:
    """Rates against (q/k) sqrt(b/a): predicted (lines), simulated (marks), boundaries."""
    ratio = np.geomspace(diagram.ratio.min(), diagram.ratio.max(), 600)
    for group in diagram.groups:
        look = dict(line_style(group[0]), label="")
        index = diagram.names.index(group[0])
        marks = dict(look, linestyle="", markersize=4.0, markerfacecolor="white")
        # Twenty of the cells are enough: the others lie on the same curve.
        cells = np.argsort(diagram.ratio, axis=None)
        one = cells[:: max(1, len(cells) // 20)]
        axis.plot(diagram.ratio.ravel()[one], simulated[index].ravel()[one], **marks)
        curve = mode_rate(ratio / float(members[group[0]].curvature), np.ones_like(ratio))
        axis.plot(ratio, curve, color=look["color"])
    for boundary in diagram.boundaries:
        axis.axvline(boundary.ratio, color=INK, linewidth=1.0)
    for critical in sorted(set(np.round(diagram.critical_ratio, 9))):
        axis.axvline(critical, color=INK, linewidth=0.8, linestyle=":")
    axis.set(xscale="log", yscale="log", ylim=(0.02, 2.0), xlim=(ratio[0], ratio[-1]))
    axis.set(xlabel="(q/k) √(b/a)", ylabel="rate / (k √(ab))", title="rates with T = v")
    axis.set_xticks([0.1, 1, 10], ["0.1", "1", "10"])
    axis.set_yticks([0.03, 0.1, 0.3, 1], ["0.03", "0.1", "0.3", "1"])
    axis.minorticks_off()


def _explain(
    axis: Axes, direct: PhaseDiagram, activated: PhaseDiagram, members: dict[str, Divergence]
) -> None:
    """The entries of the legend, which is one for all panels: areas, marks and lines of a class."""
    everywhere = {names[0]: names for names in _winners(activated)}
    for names in _winners(direct):
        both = tuple(name for name in names if name in everywhere.get(names[0], ()))
        alone = tuple(name for name in names if name not in both)
        text = _text(both) + (f"; with T = v also {_text(alone)}" if alone else "")
        text += f"  (f''(1) = {members[names[0]].curvature})"
        axis.plot([], [], **dict(line_style(names[0]), label=text, linestyle="-"))
    axis.plot([], [], color=INK, linewidth=1.0, label="predicted boundary")
    axis.plot([], [], color=INK, linestyle=":", linewidth=0.8, label="critical damping of a class")
    axis.plot([], [], "x", color=INK, label="another winner than predicted (a, b)")


def run(context: Context) -> JsonObject:
    """Play every smooth entry of the catalogue in every cell, in both parameterisations."""
    count = 9 if context.quick else 25
    x = np.geomspace(0.2, 10.0, count)
    y = np.geomspace(0.1, 10.0, count)
    divergences = smooth_divergences(context.quick)
    members = {d.name: d for d in divergences}
    jobs = [(d, activation) for activation in (False, True) for d in divergences]
    with jax.enable_x64(True):
        played = context.cells(jobs, "cells played", lambda job: _simulate(*job, x, y))
    simulated = {False: played[: len(divergences)], True: played[len(divergences) :]}
    figure, axes = panels(1, 3, height=2.9)
    results, rows = {}, []
    for axis, activation in ((axes[0], False), (axes[1], True)):
        diagram = phase_diagram(divergences, x, y, activation)
        rates = np.stack(simulated[activation])
        result = _agreement(diagram, rates)
        results[activation] = (diagram, result, rates)
        _draw_plane(axis, diagram, result)
        axis.set_title(f"fastest with T = {'g(v)' if activation else 'v'}")
        for (j, i), distance in np.ndenumerate(diagram.boundary_distance):
            rows.append(
                {
                    "activation": activation,
                    "damping_over_coupling": x[i],
                    "step_ratio": y[j],
                    "predicted": " ".join(
                        name for name, tie in zip(diagram.names, diagram.ties[:, j, i], strict=True) if tie
                    ),
                    "simulated": diagram.names[result["winner"][j, i]],
                    "boundary_distance": distance,
                    "agrees": bool(result["agrees"][j, i]),
                }
                | {f"rate_{name}": rates[n, j, i] for n, name in enumerate(diagram.names)}
            )
    direct, direct_result, direct_rates = results[False]
    activated, activated_result, _ = results[True]
    _draw_cut(axes[2], direct, direct_rates, members)
    _explain(axes[2], direct, activated, members)
    panel_letters(axes)
    legend_below(figure, axes[2:], columns=2)
    agreement = min(direct_result["agreement"], activated_result["agreement"])
    smallest = _winners(direct)[0]
    edges = [boundary.ratio for boundary in direct.boundaries]
    context.figure(
        "phases",
        figure,
        shows="No divergence is fastest everywhere: below (q/k)√(b/a) = "
        f"{edges[0]:.4g} a small curvature wins, above it the order turns round class by class (boundaries "
        f"at {', '.join(f'{edge:.4g}' for edge in edges)}). The simulated winner is the predicted one in "
        f"{agreement:.1%} of the cells more than {MARGIN:.0%} from a boundary. Areas and lines are "
        "predicted, marks played (in (c) 20 of the cells); the rates of divergences of one curvature "
        "(and one g'(v₀), with T = g(v)) are equal, so a class shares its colour.",
        rows=rows,
        numbers={
            name: {
                "boundaries": [
                    {"ratio": b.ratio, "below": b.below, "above": b.above} for b in diagram.boundaries
                ],
                "ties_everywhere": [group for group in diagram.groups if len(group) > 1],
                "critical_ratio": dict(zip(diagram.names, diagram.critical_ratio, strict=True)),
            }
            for name, diagram in (("direct", direct), ("activated", activated))
        },
    )
    below = direct.ratio < edges[0]
    won = np.isin(
        direct_result["winner"],
        [direct.names.index(name) for name in smallest],
    )
    last = _text(_winners(direct)[-1])
    hellinger_only = "jensen_shannon" not in _winners(activated)[0]
    context.evidence(
        "C7",
        f"With T = v {_text(smallest)} win while (q/k)√(b/a) < {edges[0]:.4g} ({won[below].mean():.0%} of "
        f"the simulated cells there); beyond it they win {won[~below].mean():.0%} and in the end {last} "
        "do, the order reversed."
        + (
            " With the activations only squared_hellinger keeps the advantage: jensen_shannon has "
            "g'(v₀) = 1/2, which divides its under-damped rate by four."
            if hellinger_only
            else ""
        ),
    )
    return {
        "phase_agreement": agreement,
        "phase_agreement_direct": direct_result["agreement"],
        "phase_agreement_activated": activated_result["agreement"],
        "phase_agreement_every_cell": min(
            direct_result["agreement_everywhere"], activated_result["agreement_everywhere"]
        ),
        "phase_cells": direct_result["cells"] + activated_result["cells"],
        "phase_rate_max_relative_error": max(direct_result["rate_error"], activated_result["rate_error"]),
        "phase_boundaries_direct": edges,
        "phase_boundaries_activated": [boundary.ratio for boundary in activated.boundaries],
    }
