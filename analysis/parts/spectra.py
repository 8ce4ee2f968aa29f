"""Eigenvalues predicted from f''(1), against automatic differentiation of the training objective."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from fdiv_jax.divergences import Divergence
from fdiv_jax.files import JsonObject
from fdiv_jax.theory import game_spectrum, mode_eigenvalues

from ..compare import spectrum_error
from ..files import Row
from ..style import INK, Style, label, legend_below, line_style, panel_letters, panels
from ..toy_games import Game, line_game, smooth_divergences, wave_blocks, wave_game

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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


def _line_roots(d: Divergence, activation: bool, s: ArrayLike, a: float, b: float) -> np.ndarray:
    """The two roots of lambda^2 + b d s^2 lambda + a b c = 0 (k = 1)."""
    slope = d.activation_slope if activation else 1.0
    relaxation = slope**2 / float(d.curvature)
    return mode_eigenvalues(b * relaxation * np.asarray(s) ** 2, np.full(np.shape(s), np.sqrt(a * b) * slope))


def _measure(d: Divergence, activation: bool, quick: bool) -> list[Row]:
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


def _draw_roots(axis: Axes, measured: list[Row], members: dict[str, Divergence], activation: bool) -> None:
    """-Re(lambda) of both roots as s grows: predicted (lines), by automatic differentiation (marks)."""
    grid = np.geomspace(0.4, 3.6, 800)
    paths: dict[tuple[float, ...], list[str]] = {}
    for name, d in members.items():
        path = -np.real(_line_roots(d, activation, grid, 1.0, 1.0))
        paths.setdefault(tuple(np.round(path[::100].ravel(), 9)), []).append(name)
    for names in paths.values():
        look = line_style(names[0])
        path = -np.real(_line_roots(members[names[0]], activation, grid, 1.0, 1.0))
        axis.plot(grid, path[:, 0], color=look["color"])
        axis.plot(grid, path[:, 1], color=look["color"], linestyle="--")
        for row in measured:
            equal_speeds = row["model_step"] == row["critic_step"] == 1.0
            if row["game"] == "line" and row["divergence"] in names and equal_speeds:
                if row["activation"] != activation:
                    continue
                gauge = np.argmin(np.abs(row["measured"] - row["predicted"][-1]))
                coupled = np.delete(row["measured"], gauge)
                axis.plot([row["s"]] * 2, -np.real(coupled), look["marker"], color=look["color"])
    axis.set(xscale="log", yscale="log", xlim=(0.4, 3.6), ylim=(0.03, 30))
    axis.set_xlabel("s  (q = s², k = 1)")
    axis.set_xticks([0.5, 1, 2, 3], ["0.5", "1", "2", "3"])
    axis.set_yticks([0.1, 1, 10], ["0.1", "1", "10"])
    axis.minorticks_off()


def _classes(members: dict[str, Divergence]) -> dict[str, str]:
    """The first divergence of every class with one relaxation, and what the class is called in the legend."""
    found: dict[tuple[str, float], list[str]] = {}
    for name, d in members.items():
        if not name.startswith("alpha"):
            found.setdefault((str(d.curvature), float(d.activation_slope)), []).append(name)
    texts = {}
    for (curvature, slope), names in found.items():
        alike = f"f''(1) = {curvature}" + ("" if slope == 1 else f", g'(v₀) = {slope:g}")
        texts[names[0]] = f"{', '.join(label(name) for name in names)}  ({alike})"
    return texts


def _draw_errors(axis: Axes, measured: list[Row], names: list[str]) -> None:
    """A mark for every game: the error of its spectrum, in a row for each divergence."""
    for row in measured:
        look = line_style(row["divergence"])
        axis.plot(
            row["error"],
            names.index(row["divergence"]) + (0.2 if row["activation"] else -0.2),
            "o" if row["game"] == "line" else "s",
            color=look["color"],
            markersize=2.6,
            markerfacecolor="white" if row["activation"] else look["color"],
            markeredgewidth=0.6,
        )
    axis.axvline(BAR, color=INK, linestyle="--", linewidth=0.9)
    axis.axvline(np.finfo(float).eps, color=INK, linestyle=":", linewidth=0.9)
    axis.set_yticks(range(len(names)), [label(name) for name in names])
    axis.set(xscale="log", xlim=(1e-17, 1e-7), ylim=(len(names) - 0.4, -0.6))
    axis.set_xticks([1e-16, 1e-14, 1e-12, 1e-10, 1e-8])
    axis.set(xlabel="relative error", title="predicted and measured")


def _explain(axis: Axes, classes: dict[str, str]) -> None:
    """The entries of the legend, which is one for all panels."""
    for name, text in classes.items():
        axis.plot([], [], **dict(line_style(name), linestyle="-", label=text))
    dark: Style = {"color": INK, "linewidth": 1.0}
    plain: Style = {"color": INK, "linestyle": "none", "markersize": 3.4}
    axis.plot([], [], **dark, label="predicted, slow root (a, b)")
    axis.plot([], [], **dark, linestyle="--", label="predicted, fast root (a, b)")
    axis.plot([], [], **plain, marker="o", label="T = v (c)")
    axis.plot([], [], **plain, marker="o", markerfacecolor="white", label="T = g(v) (c)")
    axis.plot([], [], **plain, marker="s", label="8 × 8, Gram and KKᵀ do not commute (c)")
    axis.plot([], [], color=INK, linestyle=":", label="rounding, 2.2·10⁻¹⁶ (c)")
    axis.plot([], [], color=INK, linestyle="--", linewidth=0.9, label="largest error allowed, 10⁻⁸ (c)")


def run(context: Context) -> JsonObject:
    """Compare all smooth entries and alpha members, both parameterisations, several scales, two games."""
    divergences = smooth_divergences(context.quick, _ALPHAS)
    jobs = [(d, activation) for d in divergences for activation in (False, True)]
    with jax.enable_x64(True):
        found = context.cells(
            jobs, "Jacobians by automatic differentiation", lambda job: _measure(*job, context.quick)
        )
    measured: list[Row] = [row for rows in found for row in rows]
    members = {d.name: d for d in divergences}
    figure, axes = panels(1, 3, height=3.4)
    for axis, activation in ((axes[0], False), (axes[1], True)):
        _draw_roots(axis, measured, members, activation)
        axis.set_title(f"the two roots, T = {'g(v)' if activation else 'v'}")
    axes[0].set_ylabel("−Re λ")
    _draw_errors(axes[2], measured, list(members))
    _explain(axes[2], _classes(members))
    panel_letters(axes)
    legend_below(figure, axes[2:], columns=2)
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
        f"{worst:.1g}, also where Gram and K K^T do not commute and the block matrix is needed. A curve "
        "stands for all divergences of its curvature, which have the same roots with T = v; with T = g(v) "
        "the slope g'(v₀) = 1/2 sets Jensen–Shannon and GAN apart from squared Hellinger.",
        rows=rows,
    )
    by_divergence = {n: max(r["error"] for r in measured if r["divergence"] == n) for n in members}
    return {
        "spectra_max_relative_error": worst,
        "spectra_max_relative_error_by_divergence": by_divergence,
        "spectra_within_bar": worst <= BAR,
        "spectra_count": len(measured),
    }
