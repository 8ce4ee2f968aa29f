"""From a string to a sympy expression in t, through a whitelist.

Sympy's own parser evaluates Python, so it never sees the text. Python's `ast` module gives a syntax tree,
and the tree is walked: only the nodes listed here become sympy objects. Sizes are limited before anything
is evaluated, so that a hostile string costs milliseconds. Abs, Max, Min and sign of what depends on t stay
unevaluated: sympy would search for their sign, for as long as that takes.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

import sympy

from fdiv_jax.divergences._assumptions import ours
from fdiv_jax.divergences._exact import bits, is_zero

T = ours(sympy.Symbol("t", positive=True))

MAX_LENGTH = 400
MAX_NODES = 200
MAX_DEPTH = 40
MAX_COMPARED = 16
MAX_DIGITS = 59
MAX_EXPONENT = 64
MAX_MAGNITUDE = 1e100
MAX_BITS = 2048

FUNCTIONS: dict[str, Callable[..., sympy.Expr]] = {
    "log": sympy.log,
    "ln": sympy.log,
    "log1p": lambda x: sympy.log(1 + x),
    "log2": lambda x: sympy.log(x) / sympy.log(2),
    "log10": lambda x: sympy.log(x) / sympy.log(10),
    "exp": sympy.exp,
    "expm1": lambda x: sympy.exp(x) - 1,
    "sqrt": sympy.sqrt,
    "cbrt": lambda x: x ** sympy.Rational(1, 3),
    "Abs": lambda x: switch(sympy.Abs, x),
    "abs": lambda x: switch(sympy.Abs, x),
    "sign": lambda x: switch(sympy.sign, x),
    "Max": lambda *x: switch(sympy.Max, *x),
    "max": lambda *x: switch(sympy.Max, *x),
    "Min": lambda *x: switch(sympy.Min, *x),
    "min": lambda *x: switch(sympy.Min, *x),
    "sin": sympy.sin,
    "cos": sympy.cos,
    "atan": sympy.atan,
    "asinh": sympy.asinh,
    "sinh": sympy.sinh,
    "cosh": sympy.cosh,
    "tanh": sympy.tanh,
    "erf": sympy.erf,
    "erfc": sympy.erfc,
}
_MANY = ("Max", "max", "Min", "min")
CONSTANTS: dict[str, sympy.Expr] = {"E": sympy.E, "e": sympy.E, "pi": sympy.pi}
ALLOWED = "allowed are numbers, t, E, pi, + - * / ** and parentheses, and the functions " + ", ".join(
    sorted(FUNCTIONS)
)

_FLOAT_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "log": math.log, "ln": math.log, "log1p": math.log1p, "log2": math.log2, "log10": math.log10,
    "exp": math.exp, "expm1": math.expm1, "sqrt": math.sqrt, "cbrt": math.cbrt, "Abs": abs, "abs": abs,
    "sign": lambda x: float(x > 0) - float(x < 0), "Max": max, "max": max, "Min": min, "min": min,
    "sin": math.sin, "cos": math.cos, "atan": math.atan, "asinh": math.asinh, "sinh": math.sinh,
    "cosh": math.cosh, "tanh": math.tanh, "erf": math.erf, "erfc": math.erfc,
}  # fmt: skip


class ExpressionError(ValueError):
    """The text is not an expression in t that this library reads; the message says why and what is
    allowed."""


def switch(kind: Callable[..., sympy.Expr], *arguments: sympy.Expr) -> sympy.Expr:
    """Abs, sign, Max or Min as it stands, worked out only where the arguments are numbers."""
    constants = [a for a in arguments if not a.free_symbols]
    if kind in (sympy.Abs, sympy.sign):
        (argument,) = arguments
        if not constants:
            return argument if kind is sympy.Abs and argument == T else kind(argument, evaluate=False)
        size = 0 if is_zero(argument) else float(argument)
        return (
            argument * (1 if size > 0 else -1)
            if kind is sympy.Abs
            else sympy.Integer((size > 0) - (size < 0))
        )
    if len(constants) > 1:
        constants = [(max if kind is sympy.Max else min)(constants, key=float)]
    kept = list(dict.fromkeys([*(a for a in arguments if a.free_symbols), *constants]))
    return kind(*kept, evaluate=False) if len(kept) > 1 else kept[0]


def _shorten(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:40]}... ({len(text)} characters)"


def _refuse(reason: str) -> ExpressionError:
    return ExpressionError(f"{reason}; {ALLOWED}")


def _tree(text: str) -> ast.expr:
    """Syntax tree of the text, within the limits on length, nesting and size."""
    if not text.strip():
        raise _refuse("the expression is empty")
    if len(text) > MAX_LENGTH:
        raise _refuse(f"the expression has {len(text)} characters, at most {MAX_LENGTH} are read")
    odd = next((c for c in text.strip() if not (c.isascii() and c.isprintable()) or c in "#\\"), None)
    if odd is not None:
        raise _refuse(f"unexpected character {odd!r}")
    if _RUN_ON.search(text):  # Python reads it as two words, and warns on the terminal
        raise _refuse(f"{_shorten(text)!r} is not an expression (a number runs into a word)")
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    if deepest > MAX_DEPTH:
        raise _refuse(f"brackets are nested {deepest} deep, at most {MAX_DEPTH} levels are read")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise _refuse(f"{_shorten(text)!r} is not an expression ({getattr(error, 'msg', error)})") from None
    nodes = compared = 0
    stack: list[tuple[ast.AST, int]] = [(tree, 1)]
    while stack:
        node, level = stack.pop()
        nodes += not isinstance(node, (ast.expr_context, ast.operator, ast.unaryop))
        if nodes > MAX_NODES:
            raise _refuse(f"the expression has more than {MAX_NODES} parts")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _MANY:
            compared += len(node.args)
        if compared > MAX_COMPARED:
            raise _refuse(f"Max and Min have more than {MAX_COMPARED} arguments")
        if level > MAX_DEPTH:
            raise _refuse(f"the expression is nested more than {MAX_DEPTH} levels deep")
        stack.extend((child, level + 1) for child in ast.iter_child_nodes(node))
    return tree


_RUN_ON = re.compile(r"(?<![A-Za-z_])[0-9][0-9A-Za-z_.]*?(?:and|else|for|if|in|is|not|or)")


class _Value:
    """A sympy expression and, where it is a constant, its float (None where it depends on t)."""

    __slots__ = ("expr", "number")

    def __init__(self, expr: sympy.Expr, number: float | None):
        if number is None and expr.is_Rational:  # 0*t, t/t
            number = _bounded(float(expr), "that is left without t")
        self.expr, self.number = expr, number


def _bounded(number: float, what: str) -> float:
    if not math.isfinite(number) or abs(number) > MAX_MAGNITUDE or 0 < abs(number) < 1 / MAX_MAGNITUDE:
        raise _refuse(f"the number {what} is too large or too small (limit {MAX_MAGNITUDE:g})")
    return number


def _literal(node: ast.Constant, source: str) -> _Value:
    value = node.value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _refuse(f"unexpected constant {_shorten(repr(value))}")
    text = source.replace("_", "")
    if len(text) > MAX_DIGITS:
        raise _refuse(f"the number {_shorten(text)} has more than {MAX_DIGITS} characters")
    number = _bounded(float(value), text)
    if number == 0 and any(digit in "123456789" for digit in text.lower().split("e")[0]):
        raise _refuse(f"the number {text} is too small")
    if isinstance(value, int):
        return _Value(sympy.Integer(value), number)
    try:
        return _Value(sympy.Rational(*Decimal(text).as_integer_ratio()), number)
    except InvalidOperation:
        raise _refuse(f"unexpected number {text!r}") from None


def _power(base: _Value, exponent: _Value) -> _Value:
    if exponent.number is not None and abs(exponent.number) > MAX_EXPONENT:
        raise _refuse(
            f"the exponent {exponent.number:g} is too large, at most {MAX_EXPONENT} in size is read"
        )
    if base.number is not None and exponent.number is not None:
        if base.number == 0 and exponent.number <= 0:
            raise _refuse("division by zero" if exponent.number < 0 else "0**0 is not defined")
        if base.number < 0 and not float(exponent.number).is_integer():
            raise _refuse(f"({base.number:g})**({exponent.number:g}) is not real")
        _check_bits(base.expr, abs(exponent.number))
        try:
            number = _bounded(math.pow(base.number, exponent.number), f"{base.number:g}**{exponent.number:g}")
        except OverflowError:
            raise _refuse(f"the number {base.number:g}**{exponent.number:g} is too large") from None
        return _Value(base.expr**exponent.expr, number)
    if exponent.number is not None:
        _check_bits(base.expr, abs(exponent.number))
    return _Value(base.expr**exponent.expr, None)


def _check_bits(base: sympy.Expr, exponent: float) -> None:
    """Numbers near 1 may be raised to a power again and again, and have more digits every time."""
    numbers = base.atoms(sympy.Rational)
    if max(map(bits, numbers), default=0) * max(exponent, 1) > MAX_BITS:
        raise _refuse(f"a power of numbers of many digits is too long, at most {MAX_BITS} bits are read")


def _sum(expr: sympy.Expr, number: float, size: float) -> _Value:
    """A sum of constants; 0 where it is 0 in another guise, as sqrt(2)**2 - 2."""
    if abs(number) < 1e-9 * size and is_zero(expr):
        return _Value(sympy.S.Zero, 0.0)
    return _Value(expr, _bounded(number, "of a sum"))


def _binary(node: ast.BinOp, left: _Value, right: _Value) -> _Value:
    constant = left.number is not None and right.number is not None
    a, b = left.number or 0.0, right.number or 0.0
    if isinstance(node.op, ast.Add):
        return (
            _sum(left.expr + right.expr, a + b, abs(a)) if constant else _Value(left.expr + right.expr, None)
        )
    if isinstance(node.op, ast.Sub):
        return (
            _sum(left.expr - right.expr, a - b, abs(a)) if constant else _Value(left.expr - right.expr, None)
        )
    if isinstance(node.op, ast.Mult):
        return _Value(left.expr * right.expr, _bounded(a * b, "of a product") if constant else None)
    if isinstance(node.op, ast.Div):
        if right.expr.is_zero:
            raise _refuse("division by zero")
        if constant and b == 0:
            raise _refuse("division by a number that rounds to zero")
        return _Value(left.expr / right.expr, _bounded(a / b, "of a quotient") if constant else None)
    if isinstance(node.op, ast.Pow):
        return _power(left, right)
    if isinstance(node.op, ast.BitXor):
        raise _refuse("powers are written ** and not ^")
    raise _refuse(f"the operator {type(node.op).__name__} is not allowed")


def _call(node: ast.Call, text: str) -> _Value:
    if not isinstance(node.func, ast.Name):
        raise _refuse("only plain function names can be called")
    name = node.func.id
    if name not in FUNCTIONS:
        raise _refuse(f"unknown function {_shorten(name)!r}")
    many = name in _MANY
    if node.keywords or any(isinstance(a, ast.Starred) for a in node.args):
        raise _refuse(f"{name} takes plain arguments only")
    if (len(node.args) < 2) if many else (len(node.args) != 1):
        raise _refuse(
            f"{name} takes {'two or more arguments' if many else 'one argument'}, got {len(node.args)}"
        )
    arguments = [_walk(a, text) for a in node.args]
    numbers = [a.number for a in arguments if a.number is not None]
    number = None
    if len(numbers) == len(arguments):
        try:
            number = _bounded(float(_FLOAT_FUNCTIONS[name](*numbers)), f"of {name}(...)")
        except (ValueError, OverflowError) as error:
            if isinstance(error, ExpressionError):
                raise
            raise _refuse(
                f"{name}({', '.join(f'{x:g}' for x in numbers)}) is not a finite real number"
            ) from None
    return _Value(FUNCTIONS[name](*(a.expr for a in arguments)), number)


def _walk(node: ast.expr, text: str) -> _Value:
    if isinstance(node, ast.Constant):
        return _literal(node, ast.get_source_segment(text, node) or repr(node.value))
    if isinstance(node, ast.Name):
        if node.id == "t":
            return _Value(T, None)
        if node.id in CONSTANTS:
            return _Value(CONSTANTS[node.id], float(CONSTANTS[node.id]))
        if node.id in FUNCTIONS:
            raise _refuse(f"the function {node.id} needs an argument")
        raise _refuse(f"unknown name {_shorten(node.id)!r}: the only variable is t")
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.UAdd, ast.USub)):
        value = _walk(node.operand, text)
        if isinstance(node.op, ast.UAdd):
            return value
        return _Value(-value.expr, None if value.number is None else -value.number)
    if isinstance(node, ast.BinOp):
        return _binary(node, _walk(node.left, text), _walk(node.right, text))
    if isinstance(node, ast.Call):
        return _call(node, text)
    names = {
        ast.Attribute: "attribute access",
        ast.Subscript: "indexing",
        ast.Lambda: "a lambda",
        ast.Compare: "a comparison",
    }
    raise _refuse(f"{names.get(type(node), type(node).__name__)} is not allowed")


def parse_expression(text: str) -> sympy.Expr:
    """Sympy expression of a text in t; decimals become exact rationals.

    Args:
      text: for instance "t*log(t)" or "(sqrt(t) - 1)**2".

    Returns:
      A sympy expression in the positive symbol t.

    Raises:
      ExpressionError: (a ValueError) anything else than the whitelist, or too large; the message lists
      what is allowed.

    >>> parse_expression("0.5*(t - 1)**2")
    (t - 1)**2/2
    """
    text = text.strip() if isinstance(text, str) else text
    tree = _tree(text)
    expr = _walk(tree, text).expr
    check_expression(expr)
    return expr


_ALLOWED_NODES = (
    sympy.Add, sympy.Mul, sympy.Pow, sympy.Rational, sympy.Float, sympy.exp, sympy.log, sympy.Abs,
    sympy.Max, sympy.Min, sympy.sign, sympy.sin, sympy.cos, sympy.atan, sympy.asinh, sympy.sinh,
    sympy.cosh, sympy.tanh, sympy.erf, sympy.erfc, sympy.Heaviside,
)  # fmt: skip


def check_expression(expr: sympy.Expr) -> None:
    """Refuse a sympy expression with other symbols than t, other functions than the whitelist, or huge
    exponents."""
    foreign = sorted(str(s) for s in expr.free_symbols if s != T)
    if foreign:
        raise ExpressionError(
            f"the only variable of a generator is t, got {', '.join(foreign)}; "
            "give numbers for the other symbols"
        )
    if expr.has(sympy.nan, sympy.zoo, sympy.oo, -sympy.oo, sympy.I):
        raise ExpressionError(f"the expression is not a finite real function: {expr}")
    for node in sympy.preorder_traversal(expr):
        if node == T or isinstance(node, sympy.NumberSymbol):
            continue
        if isinstance(node, sympy.Piecewise):
            raise _refuse("Piecewise is not allowed: write it with Max, Min and Abs")
        if not isinstance(node, _ALLOWED_NODES):
            raise _refuse(f"{getattr(node, 'func', type(node)).__name__} is not allowed")
        if isinstance(node, sympy.Pow) and node.exp.is_number and abs(float(node.exp)) > 4 * MAX_EXPONENT:
            raise _refuse(
                f"the exponent {float(node.exp):g} is too large, at most {4 * MAX_EXPONENT} in size is read"
            )
