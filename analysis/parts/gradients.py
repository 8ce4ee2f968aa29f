"""Gradient norms along real unlearning, of the losses as they are and at equal curvature."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fdiv_jax.divergences import divergence
from fdiv_jax.files import JsonObject

from ..style import INK, curve_style, legend_below, log_ticks, panel_letters, panels
from ..trials import Laboratory, Trial, TrialResult

if TYPE_CHECKING:
    from ..runner import Context

__all__ = ["run"]

ORDER = ("squared_hellinger", "kl", "pearson_chi2")
"""The order that the paper claims, from small to large norms; kl is the mean squared error."""
_SMOOTHED = 9  # steps of the running median that is drawn over the single steps


def _smooth(values: np.ndarray) -> np.ndarray:
    """Running median."""
    reach = _SMOOTHED // 2
    padded = np.pad(values, reach, mode="edge")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1), axis=1)


def _share(norms: dict[str, np.ndarray]) -> float:
    """The share of steps at which all three norms are in the claimed order."""
    small, middle, large = (norms[name] for name in ORDER)
    return float(np.mean((small < middle) & (middle < large)))


def run(context: Context) -> JsonObject:
    """Unlearn once with each divergence on the same batches and compare the norms step by step."""
    laboratory = Laboratory.open(context)
    allowed = laboratory.budget
    names = [
        n for n in ("squared_hellinger", "kl", "pearson_chi2", "jensen_shannon") if n in allowed.formulas
    ]
    results: dict[str, TrialResult] = {}
    for name in context.progress(names, "unlearning runs"):
        results[name] = laboratory.run(Trial(name, "exact" if name == "jensen_shannon" else "closed"))
    raw = {name: result.gradient_norm for name, result in results.items()}
    equal = {name: norm / float(divergence(name).curvature) for name, norm in raw.items()}
    steps = np.arange(1, allowed.steps + 1)

    figure, axes = panels(1, 3, height=2.3)
    for name in names:
        look = curve_style(name)
        faint = {"color": look["color"], "linewidth": 0.5, "alpha": 0.35}
        for axis, values in ((axes[0], raw[name]), (axes[1], equal[name] / equal["kl"])):
            axis.plot(steps, values, **faint)
            axis.plot(steps, _smooth(values), **look)
        axes[2].plot(steps, results[name].m, **faint)
        axes[2].plot(results[name].held_out_steps, results[name].held_out, **look)
    axes[0].set(yscale="log", title="gradient norm ‖∇D$_f$‖")
    axes[1].set(yscale="log", title="over f''(1), and over KL")
    axes[1].axhline(1.0, color=INK, linewidth=0.6, zorder=1)
    axes[2].set(yscale="log", title="distance m")
    for axis in axes:
        axis.set(xlabel="step", xlim=(0, allowed.steps))
        log_ticks(axis.yaxis)
    panel_letters(axes)
    legend_below(figure, axes, 4)

    share, share_equal = _share(raw), _share(equal)
    ratios = {name: float(np.median(raw[name] / raw["kl"])) for name in names}
    first = {name: float(raw[name][0] / raw["kl"][0]) for name in names}
    context.figure(
        "gradients",
        figure,
        shows=f"Unlearning {laboratory.frozen.name}'s sneaker towards its neighbour for {allowed.steps} "
        "steps of AdamW, the same batches for all. The norms of the losses as they are differ by their "
        "curvature first: squared_hellinger : mse : chi2 = "
        f"{first['squared_hellinger']:.2f} : 1 : {first['pearson_chi2']:.2f} at the first step. Divided by "
        "f''(1) what is left is the weight w$_f$(m)/w$_f$(0): AdamW does not see a loss's scale, so that "
        "the paths are those of equal curvature. Thin: every step, its batch; thick: in (a, b) the running "
        f"median of {_SMOOTHED} steps, in (c) images that no step sees. KL is the mean squared error.",
        rows={"step": steps}
        | {f"gradient_norm_{name}": raw[name] for name in names}
        | {f"m_{name}": results[name].m for name in names},
    )
    context.evidence(
        "C3",
        f"Each loss along its own run: squared_hellinger < mse < chi2 at {share:.1%} of {allowed.steps} "
        f"steps (median ratio to mse: {ratios['squared_hellinger']:.2f} and {ratios['pearson_chi2']:.2f}); "
        f"at equal curvature, f divided by f''(1), at {share_equal:.1%}.",
    )
    return {
        "gradient_order_holds": share == 1.0,
        "gradient_order_share": share,
        "gradient_order_share_equal_curvature": share_equal,
        "gradient_norm_over_mse": ratios,
        "gradient_norm_over_mse_first_step": first,
    }
