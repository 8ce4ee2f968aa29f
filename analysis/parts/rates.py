"""Part 4: the rate predicted from the curvature, against the rate that the played game shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from fdiv_jax.divergences import Divergence
from fdiv_jax.theory import damping_ratio, game_rate, mode_eigenvalues

from ..simulate import double_root, flow, one_pole, two_poles
from ..style import INK, line_style, panel_letters, panels
from ..toy_games import catalogue_entries, line_game, smooth_divergences

if TYPE_CHECKING:
    from ..runner import Context

__all__ = ["run"]

BAR, CRITICAL_BAR = 0.01, 0.03
_ALPHAS = (0.3, 3.0)
_NODES = 24  # exact for the linear part; keeps |x| below 9 s, inside the range of f* for a small critic
_SMALL = 1e-4  # start of theta, in units of s: close, so that what is measured is the local rate
_SAMPLES = 400
_FOLDS = 5.0


def _play(
    d: Divergence, activation: bool, cases: np.ndarray, start: float, horizon: np.ndarray, steps: int
) -> Any:
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


def _measure(d: Divergence, activation: bool, quick: bool) -> list[dict[str, Any]]:
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


def _draw_paths(axis: Any, paths: dict[str, np.ndarray], divergences: list[Divergence]) -> None:
    """|(theta, w)| from afar, with the predicted slope beside it."""
    time = np.linspace(0, 60, _SAMPLES + 1)
    for d in divergences:
        look = line_style(d.name) | {"marker": ""}
        distance = np.linalg.norm(paths[d.name], axis=1)
        axis.plot(time, distance, **look)
        if not d.is_smooth:
            continue
        rate = game_rate(d, damping=1.0, coupling=1.0, activation=True)
        meet = int(np.argmin(np.abs(distance - 1e-3)))
        span = time[meet:] - time[meet]
        slope = 0.55 * distance[meet] * np.exp(-rate * span)
        axis.plot(time[meet:], slope, color=look["color"], linewidth=0.7, alpha=0.8)
    axis.set(yscale="log", xlim=(0, 60), ylim=(1e-9, 4), xlabel="time")
    axis.set_ylabel("distance ‖(θ, w)‖ to the equilibrium")
    axis.set_title("from one σ away, T = g(v); thin: predicted")


def run(context: Context) -> dict[str, Any]:
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
    rows: list[dict[str, Any]] = [row for some in measured for row in some]
    drift = max(drifts, default=0.0)
    paths = {d.name: path for d, path in zip(shown, afar, strict=True)}

    figure, axes = panels(1, 3, width=11.0, height=4.5)
    _draw_paths(axes[0], paths, shown)
    for name in dict.fromkeys(row["divergence"] for row in rows):
        look = line_style(name)
        mine = [row for row in rows if row["divergence"] == name]
        for activation, fill in ((False, look["color"]), (True, "white")):
            some = [row for row in mine if row["activation"] == activation]
            mark = {
                "color": look["color"],
                "marker": look["marker"],
                "linestyle": "",
                "markersize": 4.5,
                "markerfacecolor": fill,
                "markeredgewidth": 0.9,
            }
            axes[1].plot([r["predicted"] for r in some], [r["measured"] for r in some], **mark)
            axes[2].plot(
                [r["damping_ratio"] for r in some], [max(r["relative_error"], 1e-9) for r in some], **mark
            )
    span = [0.6 * min(r["predicted"] for r in rows), 1.6 * max(r["predicted"] for r in rows)]
    axes[1].plot(span, span, color=INK, linewidth=0.8, zorder=1)
    axes[1].set(xscale="log", yscale="log", xlim=span, ylim=span)
    axes[1].set(xlabel="predicted rate", ylabel="measured rate")
    axes[1].set_title("filled: T = v, open: T = g(v)")
    critical = [r for r in rows if r["form"] == "double root"]
    axes[2].plot(
        [r["damping_ratio"] for r in critical],
        [r["plain_line_error"] for r in critical],
        "x",
        color=INK,
        markersize=5,
        label="plain line fit",
    )
    axes[2].axhline(BAR, color=INK, linestyle="--", linewidth=1)
    beside = {"transform": axes[2].get_yaxis_transform(), "ha": "right", "fontsize": 8, "color": INK}
    axes[2].text(0.985, BAR * 1.12, "1 %", **beside)
    axes[2].axvline(1.0, color=INK, linewidth=0.6, zorder=1)
    axes[2].set(
        xscale="log",
        yscale="log",
        xlim=(0.02, 30),
        ylim=(3e-10, 3),
        xlabel="damping ratio ζ = b d q / (2k√(abc))",
    )
    axes[2].set_ylabel("relative error of the rate")
    axes[2].set_title("relative error")
    axes[2].legend(loc="upper right", fontsize=8, handletextpad=0.2)
    panel_letters(axes)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=5)

    outside = max(r["relative_error"] for r in rows if r["form"] != "double root")
    at = max(r["relative_error"] for r in critical)
    plain = max(r["plain_line_error"] for r in critical)
    context.figure(
        "rates",
        figure,
        shows="The rate computed from f''(1) and g'(v₀) alone is the rate at which the simulated game "
        f"converges: within {outside:.1e} of it, and within {at:.1e} at critical damping, where a plain line "
        f"would be off by {plain:.0%} and the double root has to be fitted. Total variation, without "
        "curvature, has no rate: it circles.",
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
    context.claim(
        "C2",
        "holds" if left < 0.02 else "fails",
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
