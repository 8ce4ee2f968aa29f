"""f-divergences from their generators: conjugate, activation, curvature, Gaussian value and gradient
weight.

JAX is imported when the first of its functions is asked for: what is worked out by SymPy and NumPy (the
curvature, the formulas, `gaussian_log_moment`, and all of `fdiv_jax.theory`) does not wait for it.
"""

import importlib
from typing import TYPE_CHECKING

from fdiv_jax.divergences._checks import GeneratorError, InfiniteDivergenceError
from fdiv_jax.divergences._divergence import Divergence
from fdiv_jax.divergences._make import catalogue, divergence, reversed, symmetrise
from fdiv_jax.divergences._on_host import gaussian_log_moment
from fdiv_jax.divergences._parse import ExpressionError, parse_expression

if TYPE_CHECKING:
    from fdiv_jax.divergences._unequal import unequal_gaussian_divergence
    from fdiv_jax.divergences.switch import DivergenceFunctions, DivergenceSwitch, SwitchedDivergence
    from fdiv_jax.divergences.variational import variational_value

_WITH_JAX = {
    "DivergenceFunctions": "switch",
    "DivergenceSwitch": "switch",
    "SwitchedDivergence": "switch",
    "unequal_gaussian_divergence": "_unequal",
    "variational_value": "variational",
}
"""Names whose modules need JAX, and these modules."""

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


def __getattr__(name: str):
    if name not in _WITH_JAX:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_WITH_JAX[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
