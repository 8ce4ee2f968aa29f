"""Sympy expressions as functions of numbers: one walk of the tree, one kind of arithmetic for each.

`numpy_function` for quick scans of a grid, `mp_function` for arbitrary precision; `jax_function`, for users,
is in a module of its own, so that nothing here waits for JAX. Sympy's `lambdify` generates Python source;
walking the tree needs no code generation and lets the JAX side use the stable form of a function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import ClassVar

import mpmath
import numpy as np
import sympy

from fdiv_jax.divergences._constants import evaluated
from fdiv_jax.divergences._names import Context, Formula, Value

Function = Callable[[Value], Value]
_MAX_BITS = 20_000
_WHOLE_BITS = 64
_NEAR = 8
"""|log t| up to which as many digits as e^|log t| has may be taken."""


class Arithmetic:
    """Constants, powers and named functions over one number type."""

    functions: Mapping[str, Callable[..., Value]]

    def constant(self, value: sympy.Expr) -> Value:
        return float(value)

    def power(self, base: Value, exponent: sympy.Expr) -> Value:
        raise NotImplementedError

    def general_power(self, base: Value, exponent: Value) -> Value:
        return base**exponent

    def lambert_w(self, argument: Formula, walk: Callable[[sympy.Expr], Function]) -> Function:
        raise NotImplementedError

    def without_cancellation(self, node: Formula, walk: Callable[[sympy.Expr], Function]) -> Function | None:
        """A stable form of the node, where there is one."""
        return None

    def log(self, argument: Formula, walk: Callable[[sympy.Expr], Function]) -> Function:
        inner, log = walk(argument), self.functions["log"]
        return lambda x: log(inner(x))


class _Numpy(Arithmetic):
    functions: ClassVar[Mapping[str, Callable[..., Value]]] = {
        "log": np.log, "exp": np.exp, "Abs": np.abs, "sign": np.sign, "sin": np.sin, "cos": np.cos,
        "atan": np.arctan, "asinh": np.arcsinh, "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh,
        "erf": np.vectorize(math.erf, otypes=[float]), "erfc": np.vectorize(math.erfc, otypes=[float]),
        "Max": lambda *a: fold(np.maximum, a), "Min": lambda *a: fold(np.minimum, a),
        "Heaviside": lambda x, *_: np.heaviside(x, 0.5),
    }  # fmt: skip

    def constant(self, value):
        return float(value) if value.is_Rational else _real_or_nan(value)

    def power(self, base, exponent):
        return np.power(base, float(exponent))

    def general_power(self, base, exponent):
        return np.power(base, exponent)

    def lambert_w(self, argument, walk):
        inner = walk(argument)
        return lambda x: np.vectorize(lambda y: float(mpmath.mp.lambertw(y).real), otypes=[float])(inner(x))


class _Mp(Arithmetic):
    """Arbitrary precision in its own context, so that no other thread changes the number of digits."""

    def __init__(self, context: Context):
        self.context = context

        def ordered(function: Function) -> Function:
            # Complex numbers have no order.
            def of_reals(*values: Value) -> Value:
                reals = [context.re(value) for value in values]
                return function(*reals) if all(context.im(value) == 0 for value in values) else context.nan

            return of_reals

        def within(function: Function, reach: float) -> Function:
            return ordered(lambda x: function(min(max(x, -reach), reach)))

        def exponential(function: Function) -> Function:
            # mpmath takes a whole power of e by squaring, once for each of its bits: a long way round for
            # t^40, which is a whole number where t is large.
            def evaluate(x: Value) -> Value:
                if context.isint(x) and context.mag(x) > _WHOLE_BITS:
                    x = context.fadd(x, context.ldexp(1, -context.prec - 20), exact=True)
                return function(x)

            return evaluate

        def unless_huge(function: Function, beyond: Function) -> Function:
            # mpmath works with as many bits as its argument has before the point.
            return lambda x: beyond(x) if context.isfinite(x) and context.mag(x) > _MAX_BITS else function(x)

        def lost(x: Value) -> Value:
            return context.nan

        def power_of_e(x: Value) -> Value:
            return context.inf if context.re(x) > 0 else context.zero

        self.exp = unless_huge(exponential(context.exp), power_of_e)
        self.functions = {
            "log": context.log, "exp": self.exp, "Abs": abs, "sign": ordered(context.sign),
            "atan": context.atan,
            "sin": unless_huge(context.sin, lost), "cos": unless_huge(context.cos, lost),
            "sinh": unless_huge(exponential(context.sinh), ordered(lambda x: context.inf * context.sign(x))),
            "cosh": unless_huge(exponential(context.cosh), lambda x: context.inf),
            "tanh": within(context.tanh, 1e6),
            "asinh": context.asinh, "erf": within(context.erf, 1e6), "erfc": within(context.erfc, 1e6),
            "Max": ordered(max), "Min": ordered(min),
            "Heaviside": ordered(lambda x, *_: context.mpf(1 if x > 0 else 0 if x < 0 else 0.5)),
        }  # fmt: skip

    def constant(self, value):
        if value.is_Rational:
            p, q = int(value.p), int(value.q)  # pyright: ignore[reportAttributeAccessIssue]
            return _Deferred(lambda: self.context.mpf(p) / q)

        kept: dict[int, Value] = {}

        def number() -> Value:
            # SymPy's evaluation takes far longer than the arithmetic around it: done once in 16 digits.
            digits = (int(self.context.dps) + 5) // 16 * 16 + 16
            if digits not in kept:
                found = evaluated(value, digits)
                if found is sympy.nan:
                    return self.context.nan
                parts = (sympy.Float(x, digits)._mpf_ for x in found.as_real_imag())
                real, imaginary = map(self.context.make_mpf, parts)  # not rounded to the present digits
                kept[digits] = self.context.mpc(real, imaginary) if imaginary else real
            return kept[digits]

        return _Deferred(number)

    def power(self, base, exponent):
        if exponent.is_Integer:
            return base ** int(exponent)
        return self.context.power(base, _now(self.constant(exponent)))

    def general_power(self, base, exponent):
        return self.exp(exponent * self.context.log(base))

    def lambert_w(self, argument, walk):
        inner = walk(argument)
        return lambda x: self.context.lambertw(inner(x))


def _real_or_nan(value: Value) -> float:
    number = complex(value)
    return math.nan if number.imag else number.real


class _Deferred:
    """A constant evaluated in the precision in force when it is used."""

    __slots__ = ("get",)

    def __init__(self, get: Callable[[], Value]):
        self.get = get


def _now(value: Value) -> Value:
    return value.get() if isinstance(value, _Deferred) else value


def fold(function: Callable, values: tuple) -> Value:
    result = values[0]
    for value in values[1:]:
        result = function(result, value)
    return result


def _over_and_under(product: Formula) -> tuple[list[Formula], list[Formula]]:
    """Factors of the numerator and of the denominator: dividing rounds once less than a reciprocal.

    Exponentials stay where they are (1/e^x overflows), and so do the parts of a sum.
    """
    over: list[Formula] = []
    under: list[Formula] = []
    for factor in product.args:
        if factor.is_Rational and max(abs(factor.p), factor.q) < 2**53:
            over.append(sympy.Integer(factor.p))
            under.append(sympy.Integer(factor.q))
        elif isinstance(factor, sympy.Pow) and factor.exp.is_number and factor.exp.is_negative:
            under.append(factor.base ** (-factor.exp))
        else:
            over.append(factor)
    return [f for f in over if f != 1] or [sympy.S.One], [f for f in under if f != 1]


_RECIPROCALS: dict[type[sympy.Basic], type[sympy.Basic]] = {
    sympy.coth: sympy.tanh,
    sympy.csch: sympy.sinh,
    sympy.sech: sympy.cosh,
}


def build(expr: Formula, symbol: sympy.Symbol, arithmetic: Arithmetic, *, once: bool = False) -> Function:
    """The formula as a function of one value of the arithmetic.

    Args:
      expr: the formula.
      symbol: the one it depends on.
      arithmetic: what its operations are.
      once: compute equal parts once a call, and keep their last values.
    """
    made: dict[Formula, Function] = {}

    def walk(node: Formula) -> Function:
        if not once or node == symbol or not node.free_symbols:
            return fresh(node)
        if node not in made:
            made[node] = _remembering(fresh(node))
        return made[node]

    def fresh(node: Formula) -> Function:
        if node == symbol:
            return lambda x: x
        if node.is_number and not node.is_Function and not node.free_symbols:
            value = arithmetic.constant(node)
            if isinstance(value, _Deferred):
                return lambda x: value.get()
            return lambda x: value
        if not node.free_symbols:
            value = arithmetic.constant(node)
            return lambda x: _now(value)
        stable = arithmetic.without_cancellation(node, walk)
        if stable is not None:
            return stable
        if isinstance(node, sympy.UnevaluatedExpr):
            return walk(node.args[0])
        if isinstance(node, sympy.Add):
            terms = [walk(a) for a in node.args]
            return lambda x: fold(lambda a, b: a + b, tuple(f(x) for f in terms))
        if isinstance(node, sympy.Mul):
            above, below = _over_and_under(node)
            over = [walk(a) for a in above]
            if not below:
                return lambda x: fold(lambda a, b: a * b, tuple(f(x) for f in over))
            under = [walk(a) for a in below]

            def quotient(x):
                top, bottom = (fold(lambda a, b: a * b, tuple(f(x) for f in fs)) for fs in (over, under))
                return top / bottom

            return quotient
        if isinstance(node, sympy.Pow):
            base, exponent = node.args
            if not exponent.free_symbols:
                inner = walk(base)
                return lambda x: arithmetic.power(inner(x), exponent)
            low, high = walk(base), walk(exponent)
            return lambda x: arithmetic.general_power(low(x), high(x))
        if isinstance(node, sympy.LambertW):
            return arithmetic.lambert_w(node.args[0], walk)
        if isinstance(node, sympy.log):
            return arithmetic.log(node.args[0], walk)
        if isinstance(node, tuple(_RECIPROCALS)):
            divisor = walk(_RECIPROCALS[node.func](*node.args))
            return lambda x: arithmetic.power(divisor(x), sympy.S.NegativeOne)
        name = node.func.__name__
        if name not in arithmetic.functions:
            raise NotImplementedError(f"no numerical form of the function {name}")
        function, arguments = arithmetic.functions[name], [walk(a) for a in node.args]
        return lambda x: function(*(f(x) for f in arguments))

    return walk(expr)


def _remembering(function: Function) -> Function:
    """The function, which keeps its last argument and value, as one pair for the sake of threads."""
    last: tuple[Value, Value] = (None, None)

    def call(x: Value) -> Value:
        nonlocal last
        before, value = last
        if before is not x:
            value = function(x)
            last = x, value
        return value

    return call


@lru_cache(maxsize=2048)
def numpy_function(expr: sympy.Expr, symbol: sympy.Symbol) -> Function:
    """NumPy function of one array; overflow gives inf and a non-real value nan, without warnings."""
    function = build(expr, symbol, _Numpy())

    def evaluate(x: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.broadcast_to(np.asarray(function(x), dtype=x.dtype), x.shape)

    return evaluate


def mp_context(digits: int = 40) -> Context:
    """A private mpmath context with so many decimal digits."""
    context = mpmath.MPContext()  # pyright: ignore[reportAttributeAccessIssue]
    context.dps = digits
    return context


def mp_far_value(function: Function, context: Context, log_t: float, reach: int) -> Value:
    """The value of an `mp_function` of `context` at t = e^log_t, |log_t| about `reach`; nan where it is lost
    in rounding, which, unlike a value, changes with the number of digits, and infinite where it overflows."""
    digits = [60 + 2 * reach, 90 + 2 * reach]
    if reach <= _NEAR:
        digits += [int(math.exp(reach)), 30 + int(math.exp(reach))]  # so that e^t + 1 - e^t is 1
    before = context.nan
    for context.dps in digits:
        value = context.re(function(context.exp(log_t)))
        if abs(value - before) < 1e-6 * abs(value) or (context.isinf(value) and value == before):
            return value
        before = value
    return context.nan


def mp_real_function(expr: sympy.Expr, symbol: sympy.Symbol, context: Context) -> Function:
    """`mp_function` with nan in the place of what is not real."""
    function = mp_function(expr, symbol, context)

    def evaluate(x: Value) -> Value:
        value = function(x)
        return context.re(value) if context.im(value) == 0 else context.nan

    return evaluate


def mp_function(expr: sympy.Expr, symbol: sympy.Symbol, context: Context) -> Function:
    """Function of one mpmath number in the context's precision at the time of the call; nan at a pole, and
    where rounding makes one."""
    function = build(expr, symbol, _Mp(context))

    def evaluate(x: Value) -> Value:
        try:
            return function(x)
        except (ZeroDivisionError, OverflowError, ValueError):
            return context.nan

    return evaluate
