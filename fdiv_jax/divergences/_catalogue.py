"""The named divergences: generator and, where known, closed forms of conjugate and activation.

Each line was derived from f (`theory` of the conjugate: solve f'(t) = s), and the tests compare it with a
numerical supremum; what is not given here is derived by the same code as for a user's expression.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sympy

from fdiv_jax.divergences._activation import IDENTITY, Activation
from fdiv_jax.divergences._exact import real_value
from fdiv_jax.divergences._legendre import S
from fdiv_jax.divergences._parse import T

if TYPE_CHECKING:
    from fdiv_jax.divergences._conjugate_values import ConjugateFunctions

_half = sympy.Rational(1, 2)
_exp, _log, _sqrt = sympy.exp, sympy.log, sympy.sqrt


@dataclass(frozen=True)
class Entry:
    """Known facts of one generator.

    conjugate, inverse: f* and t* = f*' in s on the slopes that f takes on t > 0. numeric: gives the same as
    JAX functions that neither overflow early nor cancel. stable: f written so that it keeps its digits, where
    the generator as it stands does not.
    """

    generator: sympy.Expr
    conjugate: sympy.Expr | None = None
    inverse: sympy.Expr | None = None
    activation: Activation | None = None
    numeric: Callable[[], ConjugateFunctions] | None = None
    description: str = ""
    stable: sympy.Expr | None = None


def _exponential(upper: sympy.Expr | int, scale: sympy.Expr | int = 1) -> Activation:
    return Activation("exponential", upper=sympy.sympify(upper), scale=sympy.sympify(scale), reach=0.97)


def _values(name: str) -> Callable[[], ConjugateFunctions]:
    """Functions of `_conjugate_values`, which is imported with JAX when numbers are wanted."""

    def functions() -> ConjugateFunctions:
        from fdiv_jax.divergences import _conjugate_values

        return getattr(_conjugate_values, name)

    return functions


_W = sympy.LambertW(_exp(1 - S))

CATALOGUE: dict[str, Entry] = {
    "kl": Entry(
        T * _log(T),
        _exp(S - 1),
        _exp(S - 1),
        IDENTITY,
        _values("KL"),
        "Kullback-Leibler KL(P||Q), the MSE member",
    ),
    "reverse_kl": Entry(
        -_log(T),
        -1 - _log(-S),
        -1 / S,
        _exponential(0),
        _values("REVERSE_KL"),
        "Kullback-Leibler with the arguments swapped",
    ),
    "jeffreys": Entry(
        (T - 1) * _log(T),
        S - 2 + _W + 1 / _W,
        1 / _W,
        IDENTITY,
        _values("JEFFREYS"),
        "symmetric KL, the sum of both directions",
    ),
    "squared_hellinger": Entry(
        (_sqrt(T) - 1) ** 2,
        S / (1 - S),
        (1 - S) ** -2,
        _exponential(1),
        _values("SQUARED_HELLINGER"),
        "bounded by 2",
    ),
    "pearson_chi2": Entry(
        (T - 1) ** 2, S**2 / 4 + S, S / 2 + 1, IDENTITY, _values("PEARSON_CHI2"), "Pearson's chi squared"
    ),
    "neyman_chi2": Entry(
        (1 - T) ** 2 / T,
        2 - 2 * _sqrt(1 - S),
        1 / _sqrt(1 - S),
        _exponential(1),
        _values("NEYMAN_CHI2"),
        "Neyman's chi squared, Pearson's with the arguments swapped",
    ),
    "jensen_shannon": Entry(
        T * _log(T) - (T + 1) * _log((T + 1) / 2),
        -_log(2 - _exp(S)),
        _exp(S) / (2 - _exp(S)),
        Activation("softplus", upper=_log(2)),
        _values("JENSEN_SHANNON"),
        "twice the Jensen-Shannon divergence, bounded by 2 log 2",
    ),
    "gan": Entry(
        T * _log(T) - (T + 1) * _log(T + 1) + 2 * _log(2),
        -_log(1 - _exp(S)) - 2 * _log(2),
        _exp(S) / (1 - _exp(S)),
        Activation("softplus", upper=sympy.S.Zero),
        _values("GAN"),
        "jensen_shannon up to (t - 1) log 2: the GAN's own objective",
    ),
    "le_cam": Entry(
        (T - 1) ** 2 / (T + 1),
        4 - S - 4 * _sqrt(1 - S),
        2 / _sqrt(1 - S) - 1,
        _exponential(1),
        _values("LE_CAM"),
        "triangular discrimination, bounded by 2",
    ),
    "total_variation": Entry(
        sympy.Abs(T - 1) / 2,
        activation=Activation("tanh", lower=-_half, upper=_half),
        description="half the L1 distance; a kink at t = 1, no curvature",
    ),
}


def alpha_entry(a: sympy.Expr) -> Entry:
    """The alpha divergence, f'' = t^(a - 2), for real a other than 0 and 1."""
    conjugate = ((1 + (a - 1) * S) ** (a / (a - 1)) - 1) / a
    inverse = (1 + (a - 1) * S) ** (1 / (a - 1))
    generator = (T**a - a * T + a - 1) / (a * (a - 1))
    text = "the power family, f''(t) = t^(a-2)"
    # The generator cancels as a -> 0 or 1; here only (t - 1)^2 is left to cancel, as for every f.
    kept = sympy.UnevaluatedExpr
    if abs(float(a)) < 0.5:
        stable = kept((T**a - 1) / a) / (a - 1) - kept(T - 1) / (a - 1)
    else:
        stable = T * kept((T ** (a - 1) - 1) / (a - 1)) / a - kept(T - 1) / a
    upper = 1 / (1 - a)
    activation = IDENTITY if float(a - 1) > 0 else _exponential(upper, upper)

    def numeric() -> ConjugateFunctions:
        from fdiv_jax.divergences._conjugate_values import alpha_functions

        return alpha_functions(real_value(a, 40), real_value(a - 1, 40))

    return Entry(generator, conjugate, inverse, activation, numeric, text, stable)


# The Csiszar functions of tfp.vi (TensorFlow Probability) whose names are not those above: another name, or a
# generator, less its value at 1. Its jeffreys is half of the one here.
FURTHER_NAMES = {
    "kl_forward": "kl",
    "kl_reverse": "reverse_kl",
    "pearson": "pearson_chi2",
    "triangular": "le_cam",
    "chi_square": "t**2 - 1",
    "arithmetic_geometric": "(1 + t)*log((1 + t)/(2*sqrt(t)))",
    "modified_gan": "log((1 + t)/(2*t))",
    "log1p_abs": "Max(t, 1/t) - 1",
}
