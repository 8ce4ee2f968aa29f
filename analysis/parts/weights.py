"""Between these Gaussians a divergence is a weight on the gradient of the mean squared error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from fdiv_jax.files import JsonObject

from ..style import curve_style, legend_below, panel_letters, panels
from ..toy_games import catalogue_entries

if TYPE_CHECKING:
    from ..runner import Context

__all__ = ["run"]

_SHOWN_TOP = 1e3


def run(context: Context) -> JsonObject:
    """Draw w_f(m)/w_f(0) and the pull w_f(m) sqrt(m) of every divergence."""
    m = np.concatenate([[0.0], np.geomspace(1e-4, 30.0, 120 if context.quick else 400)])
    figure, (ratio, pull) = panels(1, 2, height=2.7)
    columns: JsonObject = {"m": m}
    constant: dict[str, float] = {}
    with jax.enable_x64(True):
        for d in context.progress(catalogue_entries(), "weights"):
            look = curve_style(d.name, every=0.3)
            at = m if d.is_smooth else m[1:]
            weight = np.asarray(d.gaussian_weight(jnp.asarray(at)), float)
            columns[f"weight_{d.name}"] = np.concatenate([[np.inf] * (len(m) - len(at)), weight])
            if d.is_smooth:
                curvature = float(d.curvature)
                ratio.plot(m, weight / curvature, **look)
                constant[d.name] = float(np.abs(weight / curvature - 1).max())
            pull.plot(at, weight * np.sqrt(at), **look)
            if d.name == "kl":
                value = np.asarray(d.gaussian_divergence(jnp.asarray(m)), float)
                kl_error = float(np.max(np.abs(value - m / 2) / np.where(m > 0, m / 2, 1.0)))
    ratio.set(xlim=(0, 16), yscale="log", ylim=(0.03, _SHOWN_TOP))
    pull.set(xlim=(0, 16), ylim=(0, 4.2))
    for axis in (ratio, pull):
        axis.set_xlabel("squared distance m = ‖μ$_P$ − μ$_Q$‖²/σ²")
    ratio.set_title("weight on the squared error, w$_f$(m) / w$_f$(0)")
    pull.set_title("pull of one sample, w$_f$(m) √m  ∝  ‖∇D$_f$‖")
    panel_letters([ratio, pull])
    legend_below(figure, [pull])
    context.figure(
        "weights",
        figure,
        shows="kl, reverse_kl and jeffreys are the mean squared error; squared_hellinger and its like let go "
        "of far samples, chi2 is governed by them, and total variation pulls equally however near it is, so "
        "it has no linear rate; its weight is infinite at m = 0, so that it is missing in (a). Where curves "
        "are one, the theory says so: KL, reverse KL and Jeffreys have a constant weight (for Jeffreys it is "
        "twice that of KL), Pearson and Neyman χ² are equal between these Gaussians, and the generators of "
        "GAN and Jensen–Shannon differ by a multiple of t − 1.",
        rows=columns,
    )
    names_of_mse = [name for name, spread in constant.items() if spread < 1e-9]
    context.claim(
        "C1",
        "holds" if kl_error < 1e-9 and "kl" in names_of_mse else "fails",
        f"D_kl = m/2 with a relative error of {kl_error:.1g}, and its weight on the MSE gradient is constant "
        f"to {constant['kl']:.1g}; so is that of {', '.join(n for n in names_of_mse if n != 'kl')}.",
        effect=kl_error,
        interval=(kl_error, kl_error),
        seeds=0,
    )
    hellinger, chi2 = columns["weight_squared_hellinger"], columns["weight_pearson_chi2"]
    return {
        "gradient_weight_order_holds": bool(np.all((hellinger < 1) & (chi2 > 1))),
        "divergences_equal_to_mse": names_of_mse,
        "kl_is_half_m_relative_error": kl_error,
    }
