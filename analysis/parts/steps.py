"""In discrete time: each scheme's factor per iteration and largest stable step, predicted, played."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from fdiv_jax.divergences import Divergence, divergence
from fdiv_jax.files import JsonObject
from fdiv_jax.theory import Scheme, discrete_rate, game_step_limit

from ..files import Row
from ..simulate import descend, one_pole, poles
from ..style import INK, Style, label, legend_below, panel_letters, panels, series_style
from ..toy_games import line_game

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..runner import Context

__all__ = ["run"]

SIDE = 0.02  # how far from the limit, to either side, the game is played
_NODES = 24
_SMALL = 1e-6
_STEPS = 600
_FRACTIONS = (0.1, 0.3, 0.5, 0.7, 0.9, 1 - SIDE, 1 + SIDE)
_QUICKEST = 0.3  # a distance that shrinks faster per iteration is lost in rounding before it can be fitted
_SCHEMES: tuple[tuple[str, Scheme, int], ...] = (
    ("simultaneous", "simultaneous", 1),
    ("alternating", "alternating", 1),
    ("alternating, 5 critic steps", "alternating", 5),
    ("extra-gradient", "extragradient", 1),
    ("optimistic", "optimistic", 1),
)


def _blocks(s: float) -> tuple[np.ndarray, np.ndarray]:
    """Gram and K of the game on a line, the constant of the critic included."""
    return np.diag([s**2, 1.0]), np.array([[1.0], [0.0]])


def _play(
    d: Divergence, activation: bool, scheme: Scheme, critic_steps: int, cases: np.ndarray
) -> np.ndarray:
    """Distance (theta, w, b0) to the equilibrium for every case (s, h): (cases, steps + 1, 3)."""

    def one(case: jax.Array) -> jax.Array:
        s, h = case
        game = line_game(d, s, activation=activation, count=_NODES)
        origin = game.equilibrium
        start = origin + _SMALL * jnp.array([1.0, 0.0, 0.5])
        return descend(game, start, h, _STEPS, scheme, critic_steps) - origin

    return np.asarray(jax.jit(jax.vmap(one))(jnp.asarray(cases)))


def _readable(path: np.ndarray, least: int) -> np.ndarray:
    """The iterations while the distance is 1e-7 to 30 times its start: linear, and above rounding."""
    size = np.abs(np.nan_to_num(path, nan=1.0)).max(1)
    gone = np.flatnonzero((size < 1e-7 * size[0]) | (size > 30 * size[0]))
    return path[: max(least, gone[0])] if gone.size else path


def _measure(
    d: Divergence, activation: bool, name: str, scheme: Scheme, critic_steps: int, quick: bool
) -> list[Row]:
    """Factors per iteration at fractions of the limit, and on which side the game is stable."""
    scales = (0.7, 1.6) if quick else (0.7, 1.0, 1.6, 2.5)
    game = {"scheme": scheme, "critic_steps": critic_steps, "activation": activation}
    limits = {s: game_step_limit(d, *_blocks(s), **game) for s in scales}
    # Without damping simultaneous and alternating steps have no stable range: played up to 1 all the same.
    cases = np.array([(s, fraction * (limits[s] or 1.0)) for s in scales for fraction in _FRACTIONS])
    rows = []
    for (s, h), path in zip(cases, _play(d, activation, scheme, critic_steps, cases), strict=True):
        predicted = float(np.exp(-discrete_rate(d, *_blocks(s), h, **game)))
        order = 4 if scheme == "optimistic" else 2
        measured = None
        if predicted > _QUICKEST:
            measured = float(np.exp(-poles(_readable(path[:, :2], order + 4), 1.0, order)))
        seen = _readable(path, 8)
        rows.append(
            {
                "scheme": name,
                "divergence": d.name,
                "activation": activation,
                "s": s,
                "step": h,
                "step_limit": limits[s],
                "inside_limit": bool(h < limits[s]),
                "shrinks": bool(one_pole(seen[len(seen) // 2 :], 1.0) > 0),
                "beside_limit": bool(limits[s] and abs(h / limits[s] - 1) < 1.5 * SIDE),
                "predicted_factor": predicted,
                "measured_factor": measured,
                "relative_error": None if measured is None else abs(measured / predicted - 1),
            }
        )
    return rows


def _draw_factors(axis: Axes, rows: list[Row]) -> None:
    for place, (name, *_) in enumerate(_SCHEMES):
        some = [row for row in rows if row["scheme"] == name and row["measured_factor"] is not None]
        axis.plot(
            [row["predicted_factor"] for row in some],
            [row["measured_factor"] for row in some],
            **dict(series_style(place), linestyle=""),
            markerfacecolor="none",
            markeredgewidth=0.8,
            label=name,
        )
    span = [0.9 * _QUICKEST, 1.1 * max(row["predicted_factor"] for row in rows)]
    axis.plot(span, span, color=INK, linewidth=0.7, zorder=1)
    axis.axvline(1.0, color=INK, linewidth=0.7, linestyle=":", zorder=1)
    axis.set(xscale="log", yscale="log", xlim=span, ylim=span)
    axis.set(xlabel="predicted factor", ylabel="measured factor", title="distance, factor per iteration")
    ticks = [tick for tick in (0.3, 0.5, 1, 2, 3) if tick < span[1]]
    for set_ticks in (axis.set_xticks, axis.set_yticks):
        set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()


def _draw_limits(axis: Axes, d: Divergence, rows: list[Row]) -> None:
    """Predicted limits (lines), and the two steps beside them that were played (rings: above)."""
    s = np.geomspace(0.4, 3.2, 80)
    for place, (name, scheme, critic_steps) in enumerate(_SCHEMES):
        look = series_style(place)
        limits = [game_step_limit(d, *_blocks(v), scheme=scheme, critic_steps=critic_steps) for v in s]
        axis.plot(s, limits, color=look["color"])
        for row in rows:
            mine = row["scheme"] == name and row["divergence"] == d.name and not row["activation"]
            if mine and row["beside_limit"]:
                size = 5.2 if row["step"] > row["step_limit"] else 2.4
                fill = look["color"] if row["shrinks"] else "none"
                mark = dict(look, linestyle="", markersize=size, markeredgewidth=0.8)
                axis.plot(row["s"], row["step"], **mark, markerfacecolor=fill)
    axis.set(xscale="log", yscale="log", xlim=(0.4, 3.2), ylim=(0.03, 2.6), xlabel="s  (q = s², k = 1)")
    axis.set_xticks([0.5, 1, 2, 3], ["0.5", "1", "2", "3"])
    axis.set_yticks([0.03, 0.1, 0.3, 1], ["0.03", "0.1", "0.3", "1"])
    axis.minorticks_off()
    axis.set_title(f"largest step, {label(d.name)}")


def _explain(axis: Axes) -> None:
    """What the legend has to say besides the schemes."""
    plain: Style = {"color": INK, "marker": "o", "linestyle": "", "markeredgewidth": 0.8}
    axis.plot([], [], color=INK, label="predicted limit (b, c)")
    axis.plot([], [], **plain, markersize=2.4, label=f"{SIDE:.0%} below it: came closer")
    axis.plot([], [], **plain, markersize=5.2, markerfacecolor="none", label=f"{SIDE:.0%} above: moved away")


def run(context: Context) -> JsonObject:
    """Each curvature and the kink with T = v, jensen_shannon with its activation, in five schemes."""
    games = [("squared_hellinger", False), ("pearson_chi2", False)]
    if not context.quick:
        games += [("kl", False), ("total_variation", False), ("jensen_shannon", True)]
    jobs = [(divergence(name), activation, scheme) for name, activation in games for scheme in _SCHEMES]
    with jax.enable_x64(True):
        found = context.cells(
            jobs, "games played in steps", lambda job: _measure(*job[:2], *job[2][:3], context.quick)
        )
    rows: list[Row] = [row for some in found for row in some]
    figure, axes = panels(1, 3, height=2.6)
    _draw_factors(axes[0], rows)
    for axis, which in ((axes[1], "squared_hellinger"), (axes[2], "pearson_chi2")):
        _draw_limits(axis, divergence(which), rows)
    axes[1].set_ylabel("step h")
    _explain(axes[2])
    panel_letters(axes)
    legend_below(figure, axes, columns=4)
    beside = [row for row in rows if row["beside_limit"]]
    held = float(np.mean([row["shrinks"] == row["inside_limit"] for row in beside]))
    worst = max(row["relative_error"] for row in rows if row["relative_error"] is not None)
    context.figure(
        "steps",
        figure,
        shows="In discrete time each scheme has its own update matrix, and the played game follows it: "
        f"factors per iteration agree to {worst:.1e}, and {held:.1%} of {len(beside)} games played "
        f"{SIDE:.0%} inside or outside the predicted limit come closer or move away as predicted (filled and "
        "open marks; the larger ones are outside). Divergences of one curvature share their limits.",
        rows=[{key: "" if value is None else value for key, value in row.items()} for row in rows],
    )
    return {
        "steps_max_relative_error": worst,
        "step_limits_hold": held,
        "step_limits_count": len(beside),
    }
