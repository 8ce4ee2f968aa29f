"""f-divergences from their generators: conjugate, activation, curvature, Gaussian value and gradient
weight."""

from fdiv_jax.divergences._checks import GeneratorError, InfiniteDivergenceError
from fdiv_jax.divergences._divergence import Divergence
from fdiv_jax.divergences._make import catalogue, divergence, reversed, symmetrise
from fdiv_jax.divergences._on_host import gaussian_log_moment
from fdiv_jax.divergences._parse import ExpressionError, parse_expression
from fdiv_jax.divergences._unequal import unequal_gaussian_divergence
from fdiv_jax.divergences.switch import DivergenceFunctions, DivergenceSwitch, SwitchedDivergence
from fdiv_jax.divergences.variational import variational_value

__all__ = [
    "Divergence",
    "DivergenceFunctions",
    "DivergenceSwitch",
    "ExpressionError",
    "GeneratorError",
    "InfiniteDivergenceError",
    "SwitchedDivergence",
    "catalogue",
    "divergence",
    "gaussian_log_moment",
    "parse_expression",
    "reversed",
    "symmetrise",
    "unequal_gaussian_divergence",
    "variational_value",
]
