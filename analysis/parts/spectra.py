"""Part 3: eigenvalues predicted from f''(1), against automatic differentiation of the training objective."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from fdiv_jax.divergences import Divergence
from fdiv_jax.theory import game_spectrum, mode_eigenvalues

from ..compare import spectrum_error
from ..style import INK, label, line_style, panel_letters, panels
from ..toy_games import Game, line_game, smooth_divergences, wave_blocks, wave_game

if TYPE_CHECKING:
    from ..runner import Context

__all__ = ["run"]

BAR = 1e-8
_ALPHAS = (-0.5, 0.3, 3.0)
_SCALES = (0.5, 0.7, 1.0, 1.3, 1.7, 2.2, 3.0)


def _jacobians(d: Divergence, activation: bool, make: Callable[..., Game], cases: np.ndarray) -> np.ndarray:
    """Jacobians by automatic differentiation for rows (s, a, b), with one compilation."""

    def one(case: jax.Array) -> jax.Array:
        game = make(d, case[0], activation=activation, model_step=case[1], critic_step=case[2])
        return jax.jacfwd(game.field)(game.equilibrium)

    return np.asarray(jax.jit(jax.vmap(one))(jnp.asarray(cases)))


def _line_roots(d: Divergence, activation: bool, s: Any, a: float, b: float) -> np.ndarray:
    """The two roots of lambda^2 + b d s^2 lambda + a b c = 0 (k = 1)."""
    slope = d.activation_slope if activation else 1.0
    relaxation = slope**2 / float(d.curvature)
    return mode_eigenvalues(b * relaxation * np.asarray(s) ** 2, np.full(np.shape(s), np.sqrt(a * b) * slope))


def _measure(d: Divergence, activation: bool, quick: bool) -> list[dict[str, Any]]:
    """Every game of one divergence and parameterisation: predicted and measured spectrum, their distance."""
    scales, steps = (_SCALES[::3], ((1.0, 1.0),)) if quick else (_SCALES, ((1.0, 1.0), (0.3, 2.0)))
    found = []
    cases = np.array([(s, a, b) for a, b in steps for s in scales])
    for (s, a, b), jacobian in zip(cases, _jacobians(d, activation, line_game, cases), strict=True):
        slope = d.activation_slope if activation else 1.0
        gauge = -b * slope**2 / float(d.curvature)
        predicted = np.append(_line_roots(d, activation, s, a, b), gauge)
        found.append(("line", s, a, b, predicted, np.linalg.eigvals(jacobian)))
    cases = np.array([(0.7, 1.0, 1.0), (1.2, 0.6, 1.7)])
    for (s, a, b), jacobian in zip(cases, _jacobians(d, activation, wave_game, cases), strict=True):
        spectrum = game_spectrum(d, *wave_blocks(s), a, b, activation)
        predicted = np.concatenate([spectrum.eigenvalues, spectrum.gauge])
        found.append(("waves", s, a, b, predicted, np.linalg.eigvals(jacobian)))
    return [
        {
            "game": name,
            "divergence": d.name,
            "activation": activation,
            "s": s,
            "model_step": a,
            "critic_step": b,
            "predicted": predicted,
            "measured": measured,
            "error": spectrum_error(predicted, measured),
        }
        for name, s, a, b, predicted, measured in found
    ]


def _draw_roots(
    axis: Any, measured: list[dict[str, Any]], members: dict[str, Divergence], activation: bool
) -> None:
    """-Re(lambda) of both roots as s grows: predicted (lines), by automatic differentiation (marks)."""
    grid = np.geomspace(0.4, 3.6, 800)
    paths: dict[tuple[float, ...], list[str]] = {}
    for name, d in members.items():
        path = -np.real(_line_roots(d, activation, grid, 1.0, 1.0))
        paths.setdefault(tuple(np.round(path[::100].ravel(), 9)), []).append(name)
    for names in paths.values():
        named = [name for name in names if not name.startswith("alpha")] or names
        look = line_style(named[0])
        path = -np.real(_line_roots(members[names[0]], activation, grid, 1.0, 1.0))
        text = ", ".join(label(name) for name in named)
        axis.plot(grid, path[:, 0], color=look["color"], linewidth=1.3, label=text)
        axis.plot(grid, path[:, 1], color=look["color"], linewidth=1.3, linestyle="--")
        for row in measured:
            equal_speeds = row["model_step"] == row["critic_step"] == 1.0
            if row["game"] == "line" and row["divergence"] in names and equal_speeds:
                if row["activation"] != activation:
                    continue
                gauge = np.argmin(np.abs(row["measured"] - row["predicted"][-1]))
                coupled = np.delete(row["measured"], gauge)
                axis.plot([row["s"]] * 2, -np.real(coupled), "o", color=look["color"], markersize=4)
    axis.set(xscale="log", yscale="log", xlim=(0.4, 3.6), ylim=(0.03, 40))
    axis.set_xlabel("s  (damping q = s², coupling k = 1)")
    axis.set_xticks([0.5, 1, 2, 3], ["0.5", "1", "2", "3"])
    axis.minorticks_off()
    axis.legend(loc="upper left", fontsize=7)


def run(context: Context) -> dict[str, Any]:
    """Compare all smooth entries and alpha members, both parameterisations, several scales, two games."""
    divergences = smooth_divergences(context.quick, _ALPHAS)
    jobs = [(d, activation) for d in divergences for activation in (False, True)]
    with jax.enable_x64(True):
        found = context.cells(
            jobs, "Jacobians by automatic differentiation", lambda job: _measure(*job, context.quick)
        )
    measured: list[dict[str, Any]] = [row for rows in found for row in rows]
    members = {d.name: d for d in divergences}
    figure, axes = panels(1, 3, width=11.0, height=4.6)
    for axis, activation in ((axes[0], False), (axes[1], True)):
        _draw_roots(axis, measured, members, activation)
        axis.set_title(f"the two roots, T = {'g(v)' if activation else 'v'}")
    axes[0].set_ylabel("−Re λ  (solid: slow root, dashed: fast root)")
    errors = axes[2]
    for place, name in enumerate(members):
        for row in measured:
            if row["divergence"] == name:
                errors.plot(
                    max(row["error"], 1e-17),
                    place + (0.16 if row["activation"] else -0.16),
                    "o" if row["game"] == "line" else "s",
                    color="#0072B2" if row["activation"] else "#D55E00",
                    markersize=3.4,
                    alpha=0.75,
                    markeredgewidth=0,
                )
    errors.axvline(BAR, color=INK, linestyle="--", linewidth=1)
    errors.text(BAR * 0.6, len(members) - 0.4, "$10^{-8}$", ha="right", va="bottom", fontsize=8, color=INK)
    errors.set_yticks(range(len(members)), [label(name) for name in members])
    errors.set(xscale="log", xlim=(5e-18, 1e-7), ylim=(-0.7, len(members)))
    errors.set_xlabel("relative error of the eigenvalues")
    errors.set_title("predicted and measured spectra")
    for marker, colour, text in (
        ("o", "#D55E00", "T = v"),
        ("o", "#0072B2", "T = g(v)"),
        ("o", "#888888", "one mode"),
        ("s", "#888888", "8 × 8, Gram and KKᵀ do not commute"),
    ):
        errors.plot([], [], marker, color=colour, markersize=4, label=text)
    errors.legend(loc="upper center", bbox_to_anchor=(0.4, -0.16), ncols=2, fontsize=7, columnspacing=1.0)
    panel_letters(axes)
    worst = max(row["error"] for row in measured)
    rows = [
        {key: value for key, value in row.items() if key not in ("predicted", "measured")}
        | {
            "predicted": " ".join(f"{value:.12g}" for value in row["predicted"]),
            "measured": " ".join(f"{value:.12g}" for value in row["measured"]),
        }
        for row in measured
    ]
    context.figure(
        "spectra",
        figure,
        shows="The curvature f''(1) and the slope of the activation give the eigenvalues of the game "
        "exactly: predicted (lines) and found by differentiating the training objective (marks) agree to "
        f"{worst:.1g}, also where Gram and K K^T do not commute and the block matrix is needed.",
        rows=rows,
    )
    by_divergence = {n: max(r["error"] for r in measured if r["divergence"] == n) for n in members}
    return {
        "spectra_max_relative_error": worst,
        "spectra_max_relative_error_by_divergence": by_divergence,
        "spectra_within_bar": worst <= BAR,
        "spectra_count": len(measured),
    }
