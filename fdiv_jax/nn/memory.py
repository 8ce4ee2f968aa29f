"""An estimate of the memory of a computation from the shapes of its arguments; nothing is allocated.

The computation is traced, and its values are followed from where they are made to where they are last used.
XLA does not store what it can compute on the way: a value made elementwise from others costs nothing until a
convolution, a product or a loop needs it as an array; until then it keeps its inputs alive.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Var

from fdiv_jax.arrays import PyTree

__all__ = ["BOUNDS", "MARGIN", "array_bytes", "inner_programs", "peak_bytes", "shapes_of"]

MARGIN = 1.4
"""Factor on the estimate. The tests hold the product within `BOUNDS` of XLA's own figures: networks come out
a little large; their gradients, whose convolutions make copies, a little small."""
BOUNDS = 0.7, 1.7
"""Least and most of the estimate, with its margin, over XLA's own figures."""

_STORED = frozenset(
    {
        "argmax",
        "concatenate",
        "conv_general_dilated",
        "cumsum",
        "dot_general",
        "gather",
        "random_bits",
        "reduce_max",
        "reduce_sum",
        "scatter",
        "scatter-add",
        "sort",
    }
)
"""Operations whose results XLA stores, beside those that run programs of their own (loops, branches)."""
_FUSED_INTO = frozenset({"argmax", "concatenate", "gather", "reduce_max", "reduce_sum"})
"""Operations of these that take arguments which are not stored."""
_CALLS = frozenset(
    {"jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "remat2", "checkpoint"}
)
"""Operations that stand for the program in them."""


def shapes_of(tree: PyTree) -> PyTree:
    """A pytree of arrays with a `jax.ShapeDtypeStruct` in the place of each."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def array_bytes(tree: PyTree) -> int:
    """Bytes of the arrays of a pytree, or of `jax.ShapeDtypeStruct`s in their place."""
    return sum(_bytes(leaf) for leaf in jax.tree.leaves(tree))


def peak_bytes(function: Callable[..., PyTree], *arguments: PyTree) -> int:
    """Bytes that a compiled call takes beside its arguments, its results among them; an estimate.

    Args:
        function: a pure function of arrays. One made by `jax.jit` is not traced again when it is called.
        arguments: arrays, or `jax.ShapeDtypeStruct`s in their place.
    """
    if hasattr(function, "trace"):
        program = function.trace(*arguments).jaxpr.jaxpr  # type: ignore[attr-defined]
    else:
        program = jax.make_jaxpr(function)(*arguments).jaxpr
    return round(MARGIN * _Walk(program).peak)


Stored = tuple[int, int]
"""A value of a program: its number, and its bytes."""
Names = dict[Var, Stored | None]
"""The value of each variable; None: a constant."""


class _Operation(NamedTuple):
    name: str
    inputs: tuple[Stored, ...]
    results: tuple[Stored, ...]
    programs: tuple[Jaxpr, ...]


def _flat(jaxpr: Jaxpr, names: Names, fresh: Iterator[int]) -> list[_Operation]:
    """The operations of a program, with called programs replaced by their operations.

    `names` is filled with the name of each variable in the whole.
    """
    found: list[_Operation] = []
    for equation in jaxpr.eqns:
        inputs = tuple(names.get(v) for v in equation.invars if not isinstance(v, Literal))
        programs = tuple(inner_programs(equation.params))
        if equation.primitive.name in _CALLS and programs:
            inner = programs[0]
            own: Names = {}
            for outer, variable in zip(equation.invars, inner.invars, strict=True):
                own[variable] = None if isinstance(outer, Literal) else names.get(outer)
            found += _flat(inner, own, fresh)
            for outer, variable in zip(equation.outvars, inner.outvars, strict=True):
                names[outer] = None if isinstance(variable, Literal) else own.get(variable)
            continue
        results = tuple((next(fresh), _bytes(variable.aval)) for variable in equation.outvars)
        names.update(zip(equation.outvars, results, strict=True))
        known = tuple(name for name in inputs if name is not None)
        found.append(_Operation(equation.primitive.name, known, results, programs))
    return found


class _Walk:
    """Follows the values of a program; a value is (number, bytes), None for a constant.

    Attributes:
        peak: largest number of bytes stored at once.
    """

    def __init__(self, jaxpr: Jaxpr):
        fresh = itertools.count()
        given = {v: (next(fresh), 0) for v in (*jaxpr.invars, *jaxpr.constvars)}
        names: Names = {**given}
        self._made_of: dict[Stored, frozenset[Stored]] = {value: frozenset() for value in given.values()}
        self._given = set(self._made_of)
        operations = _flat(jaxpr, names, fresh)
        results = [names.get(v) for v in jaxpr.outvars if not isinstance(v, Literal)]
        self._last: dict[Stored, int] = {}
        for step, operation in enumerate(operations):
            self._last.update(dict.fromkeys(operation.inputs, step))
        self._last.update(dict.fromkeys((r for r in results if r is not None), len(operations)))
        self._stored: set[Stored] = set()
        self._end: dict[Stored, int] = {}
        self._ending: dict[int, set[Stored]] = {}
        self._now = self.peak = 0
        for step, operation in enumerate(operations):
            self._take(step, operation)
            for value in self._ending.pop(step, ()):
                if self._end[value] == step and value in self._stored:
                    self._stored.remove(value)
                    self._now -= value[1]
        for result in results:
            if result is not None:
                self._store(len(operations), result)

    def _take(self, step: int, operation: _Operation) -> None:
        if operation.name not in _STORED and not operation.programs:
            behind = frozenset().union(*map(self._behind, operation.inputs))
            for value in operation.results:
                self._made_of[value] = behind
                for source in behind:
                    self._keep(source, self._last.get(value, step))
            return
        if operation.name not in _FUSED_INTO:
            for value in operation.inputs:
                self._store(step, value)
        within = max((_Walk(program).peak for program in operation.programs), default=0)
        self.peak = max(self.peak, self._now + within)
        for value in operation.results:
            self._store(step, value)

    def _behind(self, value: Stored) -> frozenset[Stored]:
        """The stored values that a value is computed from."""
        return frozenset({value}) if value in self._stored else self._made_of.get(value, frozenset())

    def _store(self, step: int, value: Stored) -> None:
        if value in self._stored or value in self._given:
            return
        self._stored.add(value)
        self._now += value[1]
        self.peak = max(self.peak, self._now)
        self._keep(value, max(step, self._last.get(value, step)))

    def _keep(self, value: Stored, step: int) -> None:
        if self._end.get(value, -1) < step:
            self._end[value] = step
            self._ending.setdefault(step, set()).add(value)


def inner_programs(parameters: Mapping[str, object]) -> Iterable[Jaxpr]:
    """The programs among the parameters of an operation: bodies of loops, branches, calls."""
    for value in parameters.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, ClosedJaxpr):
                yield one.jaxpr
            elif isinstance(one, Jaxpr):
                yield one


def _bytes(leaf: Any) -> int:
    return math.prod(map(int, leaf.shape)) * leaf.dtype.itemsize
