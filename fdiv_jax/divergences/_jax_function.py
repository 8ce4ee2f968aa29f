"""Sympy expressions as JAX functions, in the stable form where a function has one (log1p, W0(e^x))."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import ClassVar

import jax
import jax.numpy as jnp
import sympy

from fdiv_jax.divergences._evaluate import Arithmetic, Function, build, fold
from fdiv_jax.divergences._names import Formula, Value
from fdiv_jax.divergences._special import lambert_w_exp


def _softplus(x):
    return jnp.logaddexp(x, 0)


def _logarithm(base: Formula) -> tuple[Formula, Callable]:
    """(x, log or log1p) with log(base) = the function of x."""
    if isinstance(base, sympy.Add) and sympy.S.One in base.args:
        return base - 1, jnp.log1p
    return base, jnp.log


def _power_minus(base: jax.Array, log: jax.Array, exponent: float, less: float) -> jax.Array:
    """base^exponent - less for base >= 0, by its logarithm where the power of the rounded base, or the
    difference, would lose digits."""
    close = (jnp.abs(log) < 1) | (jnp.abs(exponent * log) < 1)
    small = exponent * jnp.where(close, log, 0)
    near = jnp.expm1(small) if less else jnp.exp(small)
    return jnp.where(close, near, jnp.power(jnp.where(close, 1, base), exponent) - less)


class _Jax(Arithmetic):
    functions: ClassVar[Mapping[str, Callable[..., Value]]] = {
        "log": jnp.log, "exp": jnp.exp, "Abs": jnp.abs, "sign": jnp.sign, "sin": jnp.sin, "cos": jnp.cos,
        "atan": jnp.arctan, "asinh": jnp.arcsinh, "sinh": jnp.sinh, "cosh": jnp.cosh, "tanh": jnp.tanh,
        "erf": jax.scipy.special.erf, "erfc": jax.scipy.special.erfc,
        "Max": lambda *a: fold(jnp.maximum, a), "Min": lambda *a: fold(jnp.minimum, a),
        "Heaviside": lambda x, *_: jnp.where(x > 0, 1.0, jnp.where(x < 0, 0.0, 0.5)),
    }  # fmt: skip

    def power(self, base, exponent):
        if exponent.is_Integer:
            return jax.lax.integer_pow(base, int(exponent))
        if exponent == sympy.Rational(1, 2):
            return jnp.sqrt(base)
        if exponent == -sympy.Rational(1, 2):
            return 1 / jnp.sqrt(base)
        return jnp.power(base, float(exponent))

    def general_power(self, base, exponent):
        return jnp.power(base, exponent)

    def log(self, argument: Formula, walk):
        if isinstance(argument, sympy.Add) and sympy.S.One in argument.args:
            rest: Formula = argument - 1
            if isinstance(rest, sympy.exp):
                exponent: Formula = rest.args[0]
                inner = walk(exponent)
                return lambda x: _softplus(inner(x))
            inner = walk(rest)
            return lambda x: jnp.log1p(inner(x))
        return super().log(argument, walk)

    def without_cancellation(self, node: Formula, walk):
        if isinstance(node, sympy.Pow) and node.exp.is_number and abs(float(node.exp)) > 64:
            return self._power_minus(node.base, float(node.exp), 0.0, walk)
        if not (isinstance(node, sympy.Add) and len(node.args) == 2):
            return None
        other: Formula = node.args[1]
        factor, power = other.as_coeff_Mul()  # c (x^p - 1), c (e^x - 1)
        if not node.args[0].is_number or node.args[0] != -factor:
            return None
        scale = float(factor)
        if isinstance(power, sympy.exp):
            argument: Formula = power.args[0]
            inner = walk(argument)
            return lambda x: scale * jnp.expm1(inner(x))
        if isinstance(power, sympy.Pow) and power.exp.is_number:
            exponent = float(power.exp)
            if not power.exp.is_Integer or abs(exponent) > 64:
                difference = self._power_minus(power.base, exponent, 1.0, walk)
                return lambda x: scale * difference(x)
        return None

    def _power_minus(self, base: Formula, exponent: float, less: float, walk):
        inner, (argument, log) = walk(base), _logarithm(base)
        rest = walk(argument)
        return lambda x: _power_minus(inner(x), log(rest(x)), exponent, less)

    def lambert_w(self, argument, walk):
        exponent = sympy.expand_log(sympy.log(argument), force=True)
        if exponent.has(sympy.I):
            raise NotImplementedError(f"no numerical form of W of the negative {argument}")
        inner = walk(exponent)
        return lambda x: lambert_w_exp(inner(x))


@lru_cache(maxsize=2048)
def jax_function(expr: sympy.Expr, symbol: sympy.Symbol) -> Function:
    """JAX function of one array; constants follow the dtype of the argument."""
    function = build(expr, symbol, _Jax())

    def evaluate(x: jax.Array) -> jax.Array:
        return jnp.broadcast_to(jnp.asarray(function(x), dtype=x.dtype), x.shape)

    return evaluate
