"""One divergence in four pictures: generator, conjugate, gradient weight, rate of the game."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fdiv_jax.divergences import Divergence

_BLUE, _GREY, _RED = "#1f5fa8", "#9aa0a6", "#c0392b"
_ORANGE = "#d98324"
_OTHERS = {"kl": "-", "squared_hellinger": "--", "pearson_chi2": ":"}


def draw(d: Divergence, path: Path, second: Divergence | None = None) -> None:
    """Write the picture; the ending of the path chooses the format. second: one to set beside it."""
    import jax
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    style: Any = {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "legend.frameon": False,
        "legend.fontsize": 8,
    }
    with jax.enable_x64(True), plt.rc_context(style):
        figure, axes = plt.subplots(2, 2, figsize=(8.6, 7.4), layout="constrained")
        _generator(d, axes[0, 0], second)
        _conjugate(d, axes[0, 1], second)
        _weight(d, axes[1, 0], second)
        _rate(d, axes[1, 1], second)
        for axis in axes.flat:  # below the axes, where no curve is
            axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
        lines = "\n".join(title(x) for x in (d, second) if x is not None)
        figure.suptitle(lines, x=0.01, ha="left", fontsize=12, parse_math=False)
        figure.savefig(path, dpi=160)
        plt.close(figure)


def title(d: Divergence) -> str:
    """The name, and f''(1) exactly where that is short."""
    exact, value = str(d.curvature), float(d.curvature)
    return f"{_cut(d.name, 70)},   f''(1) = {exact if len(exact) <= 12 else f'{value:.6g}'}"


def _cut(name: str, length: int) -> str:
    return name if len(name) <= length else name[: length - 3] + "..."


def _generator(d: Divergence, axis: Axes, second: Divergence | None) -> None:
    t = np.linspace(1e-3, 3.5, 700)
    values = np.asarray(d.f(t))
    s0 = d.equilibrium[0]
    top = float(np.nanmax(values[(t > 0.05) & (t < 3.2)]))
    low = min(float(np.nanmin(values)), 0.0)
    span = max(top - low, 1e-6)
    axis.plot(t, values, color=_BLUE, lw=2, label=_cut(d.name, 24))
    if second is not None:
        axis.plot(t, np.asarray(second.f(t)), color=_ORANGE, lw=2, label=_cut(second.name, 24))
    axis.plot(t, s0 * (t - 1), color=_GREY, lw=1, ls="--", label=f"tangent at 1, slope s0 = {s0:.3g}")
    axis.plot([1], [0], "o", color=_BLUE, ms=5)
    for cut, _ in d.kinks:
        axis.axvline(float(cut), color=_RED, lw=0.8, ls=":", label=f"kink at t = {cut}")
    axis.set(
        title="generator f", xlabel="t = dP/dQ", xlim=(0, 3.5), ylim=(low - 0.08 * span, top + 0.08 * span)
    )


def _conjugate(d: Divergence, axis: Axes, second: Divergence | None) -> None:
    lowest, highest = (float(x) for x in d.slopes)
    s0 = d.equilibrium[0]
    right = s0 + 2.0 if math.isinf(highest) else highest
    left = max(s0 - 3.0, lowest - 0.5 * max(s0 - lowest, 1.0)) if math.isfinite(lowest) else s0 - 3.0
    s = np.linspace(left, right, 700)
    values = np.asarray(d.conjugate(s))
    finite = np.isfinite(values)
    axis.plot(s[finite], values[finite], color=_BLUE, lw=2, label=_cut(d.name, 24))
    if second is not None:
        others = np.asarray(second.conjugate(s))
        there = np.isfinite(others)
        axis.plot(s[there], others[there], color=_ORANGE, lw=2, label=_cut(second.name, 24))
    axis.plot(s, s, color=_GREY, lw=1, ls="--", label="f*(s) >= s, equal at s0")
    axis.plot([s0], [s0], "o", color=_BLUE, ms=5)
    bottom, top = float(np.min(values[finite])), min(float(np.max(values[finite])), s0 + 6.0)
    if math.isfinite(highest):
        axis.axvspan(highest, highest + 0.12 * (right - left), color=_RED, alpha=0.12, lw=0, label="infinite")
    if math.isfinite(lowest) and lowest > left:
        axis.axvline(lowest, color=_RED, lw=0.8, ls=":", label="f'(0+): constant to the left")
    pad = 0.08 * max(top - bottom, 1e-6)
    axis.set(title="conjugate f*", xlabel="s", ylim=(min(bottom, left) - pad, top + pad))


def _weight(d: Divergence, axis: Axes, second: Divergence | None) -> None:
    from fdiv_jax.divergences import divergence, gaussian_log_moment

    m = np.geomspace(1e-2, 30, 160)
    shown = [x for x in (d, second) if x is not None]
    scaled = all(0 < float(x.curvature) < math.inf for x in shown)

    def of(other: Divergence) -> np.ndarray:
        return np.exp(gaussian_log_moment(other, m)) / (float(other.curvature) if scaled else 1.0)

    for name, line in _OTHERS.items():
        if scaled and all(name != x.name for x in shown):
            axis.plot(m, of(divergence(name)), color=_GREY, ls=line, lw=1, label=name)
    title = "gradient weight w_f(m) / w_f(0)" if scaled else "gradient weight w_f(m)"
    axis.set(title=title, xlabel="squared distance m", xscale="log", yscale="log")
    try:
        curves = [of(x) for x in shown]
    except NotImplementedError:
        axis.set(ylim=(1e-2, 1e2))
        _say(axis, "beyond quadrature")
        return
    for x, values, color in zip(shown, curves, (_BLUE, _ORANGE), strict=False):
        axis.plot(m, values, color=color, lw=2, label=_cut(x.name, 24))
    weights = np.concatenate(curves)
    positive = weights[weights > 0]
    low = max(float(positive.min()), 1e-4) if positive.size else 1e-4
    high = min(max(float(weights.max()), 1.0), 1e4)
    axis.set(ylim=(low / 2, high * 2))


def _rate(d: Divergence, axis: Axes, second: Divergence | None) -> None:
    from fdiv_jax import theory

    ratio = np.geomspace(0.05, 50, 240)
    curvature = float(d.curvature)

    def rates(other: Divergence | str) -> list[float]:
        return [theory.game_rate(other, damping=q, coupling=1.0) for q in ratio]

    for name, line in _OTHERS.items():
        if name != d.name and (second is None or name != second.name):
            axis.plot(ratio, rates(name), color=_GREY, ls=line, lw=1, label=name)
    if (
        second is not None
        and 0 < float(second.curvature) < math.inf
        and second.slopes[1] != second.equilibrium_slope
    ):
        axis.plot(ratio, rates(second), color=_ORANGE, lw=2, label=_cut(second.name, 24))
    try:
        own = rates(d)
    except ValueError:  # as the text says
        _say(axis, "no linear rate: f''(1) = 0" if curvature == 0 else "no linear rate: f linear beyond 1")
    else:
        if math.isinf(curvature):
            _say(axis, "no linear rate: f''(1) is infinite")
        else:
            axis.plot(ratio, own, color=_BLUE, lw=2, label=_cut(d.name, 24))
            axis.axvline(2 * curvature, color=_RED, lw=0.8, ls=":", label="critical damping, q/k = 2 f''(1)")
    axis.set(
        title="predicted rate of the min-max game, T = v", xlabel="damping per coupling q/k", xscale="log"
    )
    axis.set_yscale("log")


def _say(axis: Axes, reason: str) -> None:
    """Why there is no curve of this f."""
    axis.text(0.5, 0.5, reason, transform=axis.transAxes, ha="center", color=_RED, backgroundcolor="white")
