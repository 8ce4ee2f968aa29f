"""The parts of the analysis, in the order they run. To add one: a module with `run(context)`, a line here."""

from analysis.framework import Part

__all__ = ["PARTS"]

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
)
"""In order. Names are what `--only` takes."""
