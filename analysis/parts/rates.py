"""The rate predicted from the curvature, against the rate that the played game shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from fdiv_jax.divergences import Divergence
from fdiv_jax.files import JsonObject
from fdiv_jax.theory import damping_ratio, game_rate, mode_eigenvalues

from ..files import Row
from ..simulate import double_root, flow, one_pole, two_poles
from ..style import INK, Style, curve_style, legend_below, line_style, panel_letters, panels
from ..toy_games import catalogue_entries, line_game, smooth_divergences

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..runner import Context

__all__ = ["run"]

BAR, CRITICAL_BAR = 0.01, 0.03
_ALPHAS = (0.3, 3.0)
_NODES = 24  # exact for the linear part; keeps |x| below 9 s, inside the range of f* for a small critic
_SMALL = 1e-4  # start of theta, in units of s: close, so that what is measured is the local rate
_SAMPLES = 400
_FOLDS = 5.0
_ROUNDING = float(np.finfo(float).eps)  # an error of exactly 0 is drawn here


def _play(
    d: Divergence, activation: bool, cases: np.ndarray, start: float, horizon: np.ndarray, steps: int
) -> np.ndarray:
    """Flow of every case (s, a, b) from theta = start * s: (cases, samples, 2), theta and w."""

    def one(case: jax.Array, time: jax.Array) -> jax.Array:
        s, a, b = case
        game = line_game(d, s, activation=activation, model_step=a, critic_step=b, count=_NODES)
        origin = game.equilibrium
        states = flow(game.field, origin.at[0].add(start * s), time / steps, steps, steps // _SAMPLES)
        return (states - origin)[:, :2]

    return np.asarray(jax.jit(jax.vmap(one))(jnp.asarray(cases), jnp.asarray(horizon)))


def _fit(path: np.ndarray, tau: float, zeta: float) -> tuple[str, float]:
    """The rate that the trajectory shows, with the form that its damping calls for."""
    if abs(zeta - 1) < 1e-6:
        return "double root", double_root(path, tau)
    return "two poles", two_poles(path, tau)


def _cases(quick: bool) -> np.ndarray:
    scales = (0.7, 1.0, 2.0) if quick else (0.5, 0.7, 1.0, 1.4, 2.0, 3.0)
    steps = ((1.0, 1.0),) if quick else ((1.0, 1.0), (0.5, 2.0), (2.0, 0.5))
    return np.array([(s, a, b) for a, b in steps for s in scales])


def _measure(d: Divergence, activation: bool, quick: bool) -> list[Row]:
    cases = _cases(quick)
    modes = [{"damping": s**2, "coupling": 1.0, "model_step": a, "critic_step": b} for s, a, b in cases]
    predicted = np.array([game_rate(d, **mode, activation=activation) for mode in modes])
    zeta = np.array([damping_ratio(d, **mode, activation=activation) for mode in modes])
    slope = d.activation_slope if activation else 1.0
    fastest = np.array(
        [
            np.abs(mode_eigenvalues(b * slope**2 / float(d.curvature) * s**2, np.sqrt(a * b) * slope)).max()
            for s, a, b in cases
        ]
    )
    horizon = _FOLDS / predicted
    # Runge-Kutta: a fifth of the period's scale per step where the mode circles; where the fast root only has
    # to die out, one time scale of it. A multiple of the number of samples.
    needed = horizon * fastest / np.where(zeta > 1, 1.0, 0.2)
    steps = int(np.ceil(needed.max() / _SAMPLES)) * _SAMPLES
    paths = _play(d, activation, cases, _SMALL, horizon, steps)
    rows = []
    for (s, a, b), path, rate, ratio, time in zip(cases, paths, predicted, zeta, horizon, strict=True):
        form, found = _fit(path, time / _SAMPLES, ratio)
        rows.append(
            {
                "divergence": d.name,
                "activation": activation,
                "s": s,
                "model_step": a,
                "critic_step": b,
                "damping_ratio": ratio,
                "form": form,
                "predicted": rate,
                "measured": found,
                "relative_error": abs(found / rate - 1),
                "plain_line_error": abs(one_pole(path[_SAMPLES // 4 :], time / _SAMPLES) / rate - 1),
            }
        )
    return rows


def _kink_drift(d: Divergence, activation: bool, quick: bool) -> float:
    """Largest rate, per unit of the frequency, at which a game without damping gains or loses."""
    cases = _cases(quick)
    slope = d.activation_slope if activation else 1.0
    frequency = np.sqrt(cases[:, 1] * cases[:, 2]) * slope
    horizon = 40 / frequency
    paths = _play(d, activation, cases, _SMALL, horizon, 8 * _SAMPLES)
    rates = [two_poles(path, time / _SAMPLES) for path, time in zip(paths, horizon, strict=True)]
    return float(np.abs(np.array(rates) / frequency).max())


def _from_afar(d: Divergence, quick: bool) -> np.ndarray:
    """(theta, w) from theta = 1 (one standard deviation), with the activation, s = a = b = 1, to time 60."""
    case = np.array([(1.0, 1.0, 1.0)])
    return _play(d, True, case, 1.0, np.array([60.0]), (4 if quick else 10) * _SAMPLES)[0]


def _draw_paths(axis: Axes, paths: dict[str, np.ndarray], divergences: list[Divergence]) -> None:
    """|(theta, w)| from afar, with the predicted slope beside it."""
    time = np.linspace(0, 60, _SAMPLES + 1)
    drawn = []
    for d in divergences:
        distance = np.linalg.norm(paths[d.name], axis=1)
        axis.plot(time, distance, **curve_style(d.name))
        if not d.is_smooth:
            continue
        rate = game_rate(d, damping=1.0, coupling=1.0, activation=True)
        if any(abs(rate / other - 1) < 1e-9 for other in drawn):
            continue
        drawn.append(rate)
        meet = int(np.argmin(np.abs(distance - 1e-3)))
        slope = 0.2 * distance[meet] * np.exp(-rate * (time[meet:] - time[meet]))
        axis.plot(time[meet:], slope, color=INK, linewidth=0.8, linestyle=":")
    axis.set(yscale="log", xlim=(0, 60), ylim=(1e-9, 4), xlabel="time", ylabel="distance ‖(θ, w)‖")
    axis.set_xticks([0, 20, 40, 60])
    axis.set_yticks([1e-8, 1e-6, 1e-4, 1e-2, 1])
    axis.set_title("from one σ away, T = g(v)")


def _draw_rates(axis: Axes, rows: list[Row]) -> None:
    """Predicted and measured rates of all games."""
    for row in rows:
        axis.plot(row["predicted"], row["measured"], **_mark(row))
    span = [0.6 * min(r["predicted"] for r in rows), 1.6 * max(r["predicted"] for r in rows)]
    axis.plot(span, span, color=INK, linewidth=0.8, zorder=1)
    ticks = [tick for tick in (0.03, 0.1, 0.3, 1.0) if span[0] < tick < span[1]]
    for set_ticks in (axis.set_xticks, axis.set_yticks):
        set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set(xlim=span, ylim=span, xlabel="predicted rate", ylabel="measured rate")
    axis.set_title(f"{len(rows)} games")


def _draw_errors(axis: Axes, rows: list[Row]) -> None:
    """The error of every game's rate; at critical damping also that of a plain line."""
    for row in rows:
        axis.plot(row["damping_ratio"], max(row["relative_error"], _ROUNDING), **_mark(row))
        if row["form"] == "double root":
            axis.plot(row["damping_ratio"], row["plain_line_error"], "x", color=INK, markersize=4)
    axis.axhline(BAR, color=INK, linestyle="--", linewidth=0.9)
    lowest = max(min(row["relative_error"] for row in rows), _ROUNDING)
    axis.set(ylim=(lowest / 4, 3), ylabel="relative error", title="error of the measured rate")
    axis.set(xlabel="damping ratio ζ", xlim=(0.02, 30))
    axis.set_xticks([0.1, 1, 10], ["0.1", "1", "10"])
    axis.set_yticks([tick for tick in (1e-15, 1e-12, 1e-9, 1e-6, 1e-3, 1) if tick > lowest / 4])


def _mark(row: Row) -> Style:
    """Filled with T = v, open with T = g(v)."""
    look = line_style(row["divergence"])
    return {
        "color": look["color"],
        "marker": look["marker"],
        "linestyle": "",
        "markersize": 3.4,
        "markerfacecolor": "none" if row["activation"] else look["color"],
        "markeredgewidth": 0.7,
    }


def _explain(axis: Axes, rows: list[Row], shown: list[Divergence]) -> None:
    """What the legend has to say besides the divergences of the first panel."""
    named = {d.name for d in shown}
    for name in dict.fromkeys(row["divergence"] for row in rows if row["divergence"] not in named):
        axis.plot([], [], **dict(line_style(name), linestyle=""))
    plain: Style = {"color": INK, "linestyle": ""}
    axis.plot([], [], **plain, marker="o", label="T = v (b, c)")
    axis.plot([], [], **plain, marker="o", markerfacecolor="none", label="T = g(v) (b, c)")
    axis.plot([], [], color=INK, linestyle=":", label="predicted slope (a)")
    axis.plot([], [], color=INK, linestyle="--", label="1% (c)")
    axis.plot([], [], **plain, marker="x", label="fitted plain line, ζ = 1 (c)")


def run(context: Context) -> JsonObject:
    """All smooth entries and alpha members, both parameterisations, scales, speeds; total variation apart."""
    divergences = smooth_divergences(context.quick, _ALPHAS)
    kinks = [d for d in catalogue_entries() if not d.is_smooth]
    jobs = [(d, activation) for d in divergences for activation in (False, True)]
    shown = divergences[:5] + kinks if context.quick else catalogue_entries()
    undamped = [(d, activation) for d in kinks for activation in (False, True)]
    with jax.enable_x64(True):
        measured = context.cells(jobs, "games played", lambda job: _measure(*job, context.quick))
        drifts = context.cells(
            undamped, "games without damping", lambda job: _kink_drift(*job, context.quick)
        )
        afar = context.cells(shown, "games from afar", lambda d: _from_afar(d, context.quick))
    rows: list[Row] = [row for some in measured for row in some]
    drift = max(drifts, default=0.0)
    paths = {d.name: path for d, path in zip(shown, afar, strict=True)}

    figure, axes = panels(1, 3, height=3.1)
    _draw_paths(axes[0], paths, shown)
    for axis in axes[1:]:
        axis.set(xscale="log", yscale="log")
        axis.minorticks_off()
    _draw_rates(axes[1], rows)
    _draw_errors(axes[2], rows)
    _explain(axes[2], rows, shown)
    panel_letters(axes)
    legend_below(figure, axes)
    critical = [r for r in rows if r["form"] == "double root"]
    outside = max(r["relative_error"] for r in rows if r["form"] != "double root")
    at = max(r["relative_error"] for r in critical)
    plain = max(r["plain_line_error"] for r in critical)
    context.figure(
        "rates",
        figure,
        shows="The rate computed from f''(1) and g'(v₀) alone is the rate at which the simulated game "
        f"converges: within {outside:.1e} of it, and within {at:.1e} at critical damping, where a plain line "
        f"would be off by {plain:.0%} and the double root has to be fitted. Total variation, without "
        "curvature, has no rate: it circles. Marks and curves of divergences of one curvature and one g'(v₀) "
        "lie on each other, as the rate depends on nothing else.",
        rows=rows,
    )
    arrived = {d.name: float(np.linalg.norm(paths[d.name][-1])) for d in divergences if d.name in paths}
    slowest, quickest = (
        pick(
            [(game_rate(d, damping=1.0, coupling=1.0, activation=True), d.name) for d in shown if d.is_smooth]
        )
        for pick in (min, max)
    )
    left = max(arrived.values())
    context.evidence(
        "C2",
        "From one standard deviation away every smooth divergence ends at the same equilibrium (largest "
        f"distance left at time 60: {left:.1g}), at rates from {slowest[0]:.3g} ({slowest[1]}) to "
        f"{quickest[0]:.3g} ({quickest[1]}).",
    )
    return {
        "rates_max_relative_error": outside,
        "rates_max_relative_error_at_critical_damping": at,
        "rates_plain_line_error_at_critical_damping": plain,
        "rates_max_relative_error_by_divergence": {
            name: max(r["relative_error"] for r in rows if r["divergence"] == name)
            for name in dict.fromkeys(row["divergence"] for row in rows)
        },
        "rates_within_bar": bool(outside <= BAR and at <= CRITICAL_BAR),
        "rates_count": len(rows),
        "undamped_drift_per_frequency": drift,
    }
