"""The parts of the analysis, in the order they run. To add one: a module with `run(context)`, a line here."""

from analysis.framework import Part

__all__ = ["PARTS"]

_WORLD = ("fdiv_jax/worlds/fashion/**/*", "fdiv_jax/worlds/fashion_judge/*")

PARTS = (
    Part("generators", "analysis.parts.generators", "generators, conjugates and curvature"),
    Part("weights", "analysis.parts.weights", "what each divergence does to the MSE gradient"),
    Part(
        "spectra",
        "analysis.parts.spectra",
        "the game's Jacobian: predicted roots and automatic differentiation",
    ),
    Part("rates", "analysis.parts.rates", "convergence rates: predicted and simulated"),
    Part("steps", "analysis.parts.steps", "discrete steps: rate per iteration and stable range"),
    Part("phases", "analysis.parts.phases", "which divergence is fastest: phase diagram"),
    Part("real_game", "analysis.parts.real_game", "the min-max game on a real UNet", _WORLD),
    Part("gradients", "analysis.parts.gradients", "gradient norms along real unlearning", _WORLD),
    Part("erasure", "analysis.parts.erasure", "before and after, by divergence", _WORLD),
    Part("anchors", "analysis.parts.anchors", "anchors compared", _WORLD),
)
"""In order. Names are what `--only` takes."""
