"""An estimate of the memory of a computation from the shapes of its arguments; nothing is allocated.

The computation is traced, and its values are followed from where they are made to where they are last used.
XLA does not store what it can compute on the way: a value made elementwise from others costs nothing until a
convolution, a product or a loop needs it as an array, or until several others need it and it is expensive to
compute; until then it keeps its inputs alive. What is stored is written over an array that nothing needs any
more, if it was made of one of its size.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from fdiv_jax.arrays import PyTree

__all__ = ["BOUNDS", "MARGIN", "array_bytes", "inner_programs", "peak_bytes", "shapes_of"]

MARGIN = 1.4
"""Factor on the estimate. The tests hold the product within `BOUNDS` of XLA's own figures: networks come out
large, where the compiler for a CPU never stores what attention's products share."""
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
_EXPENSIVE = frozenset(
    {"div", "erf", "erfc", "exp", "log", "log1p", "logistic", "pow", "rsqrt", "sqrt", "tanh"}
)
"""Elementwise operations that XLA does not do twice: it stores what several others read."""
_AXES = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
"""Where the axes of image, kernel and result lie: n h w c, h w inputs outputs, n h w c."""
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
    copies: int


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
        found.append(_Operation(equation.primitive.name, known, results, programs, _copies(equation)))
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
        self._uses: Counter[Stored] = Counter()
        for step, operation in enumerate(operations):
            self._last.update(dict.fromkeys(operation.inputs, step))
            self._uses.update(set(operation.inputs))
        self._last.update(dict.fromkeys((r for r in results if r is not None), len(operations)))
        self._stored: set[Stored] = set()
        self._readers: defaultdict[Stored, set[Stored]] = defaultdict(set)
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
                    self._readers[source].add(value)
                    self._keep(source, self._last.get(value, step))
                if operation.name in _EXPENSIVE and self._uses[value] > 1:
                    self._store(step, value)
            return
        if operation.name not in _FUSED_INTO:
            for value in operation.inputs:
                self._store(step, value)
        within = max((_Walk(program).peak for program in operation.programs), default=operation.copies)
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
        free = self._release(step, self._made_of.pop(value, frozenset()))
        overwritten = value[1] if value[1] in {size for _, size in free} else 0
        self.peak = max(self.peak, self._now + sum(size for _, size in free) - overwritten)
        self._keep(value, max(step, self._last.get(value, step)))

    def _release(self, step: int, sources: frozenset[Stored]) -> list[Stored]:
        """Let go of what a value was made of, now that it is stored, where nothing else needs it; gives what
        is free. XLA writes the value over an array of its size."""
        free = []
        for source in sources & self._stored:
            waiting = (self._last.get(each, step) for each in self._readers[source] if each in self._made_of)
            self._end[source] = end = max(self._last.get(source, step), *waiting, step)
            if end > step:
                self._ending.setdefault(end, set()).add(source)
            else:
                self._stored.remove(source)
                self._now -= source[1]
                free.append(source)
        return free

    def _keep(self, value: Stored, step: int) -> None:
        if self._end.get(value, -1) < step:
            self._end[value] = step
            self._ending.setdefault(step, set()).add(value)


def _copies(equation: JaxprEqn) -> int:
    """Bytes of the copies that a convolution makes of arrays whose axes lie otherwise than it reads them, as
    the derivative for a kernel has them."""
    if equation.primitive.name != "conv_general_dilated":
        return 0
    axes = equation.params["dimension_numbers"]
    places = (axes.lhs_spec, axes.rhs_spec, axes.out_spec)
    arrays = (*equation.invars, *equation.outvars)
    return sum(
        _bytes(array.aval)
        for array, place, usual in zip(arrays, places, _AXES, strict=True)
        if place != usual
    )


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
