"""The min-max game on the real thing, far from its equilibrium as in training, and close to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import jax
import numpy as np

from fdiv_jax.divergences import divergence
from fdiv_jax.files import JsonObject
from fdiv_jax.theory import damping_ratio, discrete_rate

from ..equilibrium import critic_features, find_equilibrium, play, speeds
from ..files import Row
from ..simulate import two_poles
from ..style import INK, Style, label, legend_below, line_style, log_ticks, panel_letters, panels
from ..trials import TARGET, Laboratory, Trial, TrialResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..runner import Context

__all__ = ["run"]

CLAIMED = ("squared_hellinger", "jensen_shannon")
RATIOS = (0.6, 5.0)
"""(q/k) sqrt(b/a) of the two games near the equilibrium: every curvature under-damped, every one over-damped
or nearly so."""
_ANGLE = 0.15
_MODES = 4
_STOP = 1e-3  # of the push: what is smaller is left out of the fit


def _near_equilibrium(context: Context, laboratory: Laboratory) -> tuple[list[Row], JsonObject]:
    """Gram and K of the UNet at its self-anchored point, and orbits there: one row per game, with its
    path."""
    allowed, frozen = laboratory.budget, laboratory.frozen
    batch = laboratory.data(Trial("kl")).batch(0, 0, allowed.orbit_samples)
    prepared = laboratory.prepared(Trial("kl"))
    point = find_equilibrium(
        prepared.plan,
        prepared.frozen,
        batch,
        jax.random.key(2),
        critic_features(frozen.latent_shape[-1], jax.random.key(3)),
        min(_MODES, allowed.orbit_samples - 2),
    )
    members = [divergence(name) for name in allowed.orbits]
    jobs = [(ratio, i) for ratio in RATIOS for i in range(len(members))]
    coupling = float(point.couplings[0])
    games = [(i, *speeds(coupling, ratio, _ANGLE)) for ratio, i in jobs]
    game = play(point, members, games, steps=allowed.orbit_steps)
    rows = []
    paths = context.cells(range(len(jobs)), "games near the equilibrium", game)
    for (ratio, i), (_, a, b), path in zip(jobs, games, paths, strict=True):
        distance = np.sqrt(path[:, 0] ** 2 / a + path[:, 1] ** 2 / b)
        gone = np.flatnonzero(distance < _STOP * distance[0])
        readable = path[: max(10, gone[0])] if gone.size else path
        rows.append(
            {
                "divergence": members[i].name,
                "ratio": ratio,
                "damping_ratio": damping_ratio(
                    members[i], damping=1.0, coupling=coupling, model_step=a, critic_step=b, activation=True
                ),
                "predicted": discrete_rate(
                    members[i],
                    [[1.0]],
                    [[coupling]],
                    1.0,
                    scheme="alternating",
                    model_step=a,
                    critic_step=b,
                    activation=True,
                ),
                "measured": two_poles(readable * [1 / np.sqrt(a), 1 / np.sqrt(b)], 1.0),
                "distance": distance / distance[0],
            }
        )
    identity = float(np.abs(point.gram - np.eye(len(point.gram))).max())
    return rows, {"couplings": point.couplings.tolist(), "gram_minus_identity": identity}


def _order_kept(rows: list[Row], ratio: float) -> tuple[float, list[str]]:
    """The share of pairs whose predicted rates differ by 5 % that come in the predicted order; names, fast
    first."""
    some = [row for row in rows if row["ratio"] == ratio]
    pairs = [
        (one["measured"] - other["measured"]) * (one["predicted"] - other["predicted"]) > 0
        for i, one in enumerate(some)
        for other in some[:i]
        if abs(one["predicted"] / other["predicted"] - 1) > 0.05
    ]
    fastest = [row["divergence"] for row in sorted(some, key=lambda row: -row["measured"])]
    return float(np.mean(pairs)) if pairs else 1.0, fastest


def _draw_training(axis: Axes, steps: np.ndarray, held_out: dict[str, np.ndarray]) -> None:
    """m on the held-out images as the games go, one run each."""
    for name, m in held_out.items():
        axis.plot(steps, m, **line_style(name), markersize=3)
    axis.set(yscale="log", xlabel="step of the model", ylabel="m to the anchor, held out")
    axis.set_title("training against the critic, one seed")
    log_ticks(axis.yaxis)


def _draw_orbits(axis: Axes, rows: list[Row], ratio: float) -> None:
    """The measured distance to the equilibrium, and the slope of the predicted rate."""
    for row in rows:
        if row["ratio"] != ratio:
            continue
        look = dict(line_style(row["divergence"]), label="")
        steps = np.arange(len(row["distance"]))
        axis.plot(steps, row["distance"], **look, markersize=3, markevery=max(1, len(steps) // 8))
        late = len(steps) // 2
        line = row["distance"][late] * np.exp(-row["predicted"] * (steps - late))
        axis.plot(steps[late // 2 :], line[late // 2 :], color=look["color"], linewidth=0.8, linestyle=":")
    axis.set(yscale="log", xlabel="step", ylabel="distance to the equilibrium")
    axis.set_title(f"near the equilibrium, (q/k)√(b/a) = {ratio:g}")
    log_ticks(axis.yaxis)


def _draw_rates(axis: Axes, rows: list[Row]) -> None:
    for row in rows:
        look = dict(line_style(row["divergence"]), linestyle="none", label="")
        filled = look["color"] if row["ratio"] == RATIOS[0] else "none"
        axis.plot(row["predicted"], row["measured"], **look, markersize=5, markerfacecolor=filled)
    low = 0.7 * min(min(row["predicted"], row["measured"]) for row in rows)
    high = 1.4 * max(max(row["predicted"], row["measured"]) for row in rows)
    axis.plot([low, high], [low, high], color=INK, linewidth=0.8, zorder=1)
    axis.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    axis.set(xlabel="predicted rate per step", ylabel="measured rate per step")
    axis.set_title("rates near the equilibrium")
    log_ticks(axis.xaxis, axis.yaxis)
    plain: Style = {"color": INK, "linestyle": "none", "marker": "o"}
    axis.plot([], [], **plain, label=f"(q/k)√(b/a) = {RATIOS[0]:g} (b)")
    axis.plot([], [], **plain, markerfacecolor="none", label=f"(q/k)√(b/a) = {RATIOS[1]:g} (b)")
    axis.plot([], [], color=INK, linewidth=0.8, linestyle=":", label="predicted slope (c, d)")


def _draw(steps: np.ndarray, held_out: dict[str, np.ndarray], near: list[Row]) -> Figure:
    """The figure of the part."""
    figure, grid = panels(2, 2, height=4.8)
    axes = grid.ravel()
    _draw_training(axes[0], steps, held_out)
    _draw_rates(axes[1], near)
    for axis, ratio in zip(axes[2:], RATIOS, strict=True):
        _draw_orbits(axis, near, ratio)
    panel_letters(axes)
    legend_below(figure, axes, columns=4)
    return figure


def _twins(final: Mapping[str, float]) -> str:
    """What two runs of one game say of one run: Jensen-Shannon's T and GAN's differ by log 2."""
    ends = [final[name] for name in ("jensen_shannon", "gan") if name in final]
    if len(ends) < 2:
        return ""
    return (
        "Jensen–Shannon and GAN play one game, as their T differ by log 2 alone: what lies between their "
        f"ends, {ends[0]:.3g} and {ends[1]:.3g}, is rounding, and so may be any difference of that size. "
    )


def run(context: Context) -> JsonObject:
    """The training game with every divergence, then orbits around the self-anchored point."""
    laboratory = Laboratory.open(context)
    allowed = laboratory.budget
    results: dict[str, TrialResult] = {}
    for name in context.progress(allowed.games, "games against the critic"):
        results[name] = laboratory.run(Trial(name, "variational"))
    near, blocks = _near_equilibrium(context, laboratory)

    start = float(results["kl"].held_out[0])
    area = {n: float(np.mean(np.log(e.held_out[1:] / start))) for n, e in results.items()}
    ranked = sorted(area, key=lambda name: area[name])
    final = {n: float(e.held_out[-1]) for n, e in results.items()}
    error = max(abs(row["measured"] / row["predicted"] - 1) for row in near)
    kept = {ratio: _order_kept(near, ratio) for ratio in RATIOS}

    steps = results["kl"].held_out_steps
    held_out = {name: result.held_out for name, result in results.items()}
    context.figure(
        "real_game",
        _draw(steps, held_out, near),
        shows=f"(a) The UNet unlearning {TARGET} against the critic, same start, seed and batches: the "
        f"distance goes from {start:.3g} to between {min(final.values()):.3g} and {max(final.values()):.3g} "
        f"in {allowed.game_steps} steps; fastest {label(ranked[0])}, slowest {label(ranked[-1])} in "
        f"this one run of each. {_twins(final)}"
        "(b-d) Around the self-anchored point, pushed by a little, all "
        f"{laboratory.selection.count:,} trainable parameters against a linear read-out of "
        "the critic's features: the rate measured on the real "
        f"network is the one predicted from its Gram and K to {error:.1%}, and the order turns round with "
        "the damping, as the theory says (dotted: predicted slopes).",
        rows={"step": steps} | {f"m_{name}": m for name, m in held_out.items()},
        numbers={
            "near_equilibrium": [
                {key: value for key, value in row.items() if key != "distance"}
                | {"distance": np.asarray(row["distance"]).tolist()}
                for row in near
            ],
            **blocks,
        },
    )
    places = {name: ranked.index(name) + 1 for name in CLAIMED}
    under, over = (kept[ratio][1] for ratio in RATIOS)
    context.evidence(
        "C7",
        "On the UNet against the training critic (AdamW, "
        f"{allowed.game_steps} steps) squared_hellinger comes in at place {places['squared_hellinger']} and "
        f"jensen_shannon at {places['jensen_shannon']} of {len(ranked)} (first: {ranked[0]}, last: "
        f"{ranked[-1]}). Near the equilibrium {under[0]} is fastest under-damped and {over[0]} over-damped; "
        f"{np.mean([kept[ratio][0] for ratio in RATIOS]):.0%} of the pairs come in the order predicted from "
        f"the measured Gram and K, rates to {error:.1%}.",
    )
    return {
        "real_game_final_m": final,
        "real_game_mean_log_m": area,
        "real_game_order": ranked,
        "real_equilibrium_rate_max_relative_error": error,
        "real_equilibrium_order_kept": {str(ratio): kept[ratio][0] for ratio in RATIOS},
        "real_equilibrium_fastest": {str(ratio): kept[ratio][1][0] for ratio in RATIOS},
        "real_equilibrium_couplings": blocks["couplings"],
    }
