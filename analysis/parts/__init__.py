"""The parts of the analysis, in the order they run. To add one: a module with `run(context)`, a line here."""

from ..framework import Part

__all__ = ["PARTS"]

_WORLD = ("fdiv_jax/assets/fashion/**/*", "fdiv_jax/assets/fashion_judge/*")

PARTS = (
    Part("generators", f"{__name__}.generators", "generators, conjugates and curvature"),
    Part("weights", f"{__name__}.weights", "what each divergence does to the MSE gradient"),
    Part(
        "spectra",
        f"{__name__}.spectra",
        "the game's Jacobian: predicted roots and automatic differentiation",
    ),
    Part("rates", f"{__name__}.rates", "convergence rates: predicted and simulated"),
    Part("steps", f"{__name__}.steps", "discrete steps: rate per iteration and stable range"),
    Part("phases", f"{__name__}.phases", "which divergence is fastest: phase diagram"),
    Part("real_game", f"{__name__}.real_game", "the min-max game on a real UNet", _WORLD),
    Part("gradients", f"{__name__}.gradients", "gradient norms along real unlearning", _WORLD),
    Part("erasure", f"{__name__}.erasure", "before and after, by divergence", _WORLD),
    Part("anchors", f"{__name__}.anchors", "anchors compared", _WORLD),
)
"""In order. Names are what `--only` takes."""
