"""The arithmetic of a computation, counted from the shapes of its arguments."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.extend.core import Jaxpr

from fdiv_jax.arrays import PyTree
from fdiv_jax.nn.memory import array_bytes, inner_programs

__all__ = ["Work", "work_of"]

_PASSES = frozenset(
    {
        "concatenate",
        "conv_general_dilated",
        "dot_general",
        "gather",
        "reduce_max",
        "reduce_sum",
        "scatter",
        "scatter-add",
        "sort",
    }
)
"""Operations that read their arguments from memory and write their results; others are made on the way."""


class Work(NamedTuple):
    """What a computation does.

    Attributes:
        flops: of its matrix products and convolutions, a multiplication and an addition being two.
        once: the same, where the body of a loop is counted once, and a fused kernel not at all, as XLA does.
        loops: FLOPs without those of fused kernels.
        moved: bytes that products, convolutions, sums and the like read and write.
    """

    flops: float
    once: float
    loops: float
    moved: float

    def __add__(self, other: Work) -> Work:  # type: ignore[override]
        return Work(*(a + b for a, b in zip(self, other, strict=True)))


def work_of(function: Callable[..., PyTree], *arguments: PyTree) -> Work:
    """The work of a pure function of arrays; nothing is computed.

    Of branches the one with most FLOPs counts; a loop whose length is not known counts once. Products with
    the zeros that pad or dilate the input of a convolution are left out.

    Args:
        function: of arrays.
        arguments: arrays, or `jax.ShapeDtypeStruct`s in their place.
    """
    return _work(jax.make_jaxpr(function)(*arguments).jaxpr)


def _work(jaxpr: Jaxpr) -> Work:
    total = Work(0.0, 0.0, 0.0, 0.0)
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        inner = [_work(program) for program in inner_programs(parameters)]
        if name == "scan":
            length = parameters["length"]
            body = inner[0]
            total += Work(length * body.flops, body.once, length * body.loops, length * body.moved)
        elif name == "pallas_call":  # a fused kernel: the same program for every place of a grid
            places = math.prod(parameters["grid_mapping"].grid)
            size = array_bytes([v.aval for v in (*equation.invars, *equation.outvars)])
            total += Work(places * inner[0].flops, 0.0, 0.0, float(size))
        elif name == "cond":
            total += max(inner)
        elif inner:
            for one in inner[: 1 if name.startswith("custom_") else None]:
                total += one
        elif name in _PASSES:
            size = array_bytes([v.aval for v in (*equation.invars, *equation.outvars)])
            flops = _flops(name, equation)
            total += Work(flops, flops, flops, float(size))
    return total


def _flops(name: str, equation: Any) -> float:
    shapes = [tuple(map(int, v.aval.shape)) for v in equation.invars]
    result = tuple(map(int, equation.outvars[0].aval.shape))
    if name == "dot_general":
        contracted = equation.params["dimension_numbers"][0][0]
        return 2.0 * math.prod(result) * math.prod(shapes[0][axis] for axis in contracted)
    if name == "conv_general_dilated":
        return _convolution(shapes[0], shapes[1], result, equation.params)
    return 0.0


def _convolution(
    inputs: tuple[int, ...], kernel: tuple[int, ...], result: tuple[int, ...], parameters: Any
) -> float:
    layout = parameters["dimension_numbers"]
    pairs = 1
    for place in range(len(inputs) - 2):
        pairs *= _taps(
            inputs[layout.lhs_spec[2 + place]],
            kernel[layout.rhs_spec[2 + place]],
            result[layout.out_spec[2 + place]],
            parameters["window_strides"][place],
            parameters["padding"][place][0],
            parameters["lhs_dilation"][place],
            parameters["rhs_dilation"][place],
        )
    # samples, channels out, and the channels in of a group; a batch in groups has the samples of one
    samples = result[layout.out_spec[0]]
    return 2.0 * samples * result[layout.out_spec[1]] * kernel[layout.rhs_spec[1]] * pairs


def _taps(size: int, kernel: int, result: int, stride: int, before: int, spread: int, apart: int) -> int:
    """Pairs of a place in the result and one in the kernel that meet a number of the input."""
    count = 0
    for tap in range(kernel):
        for place in range(result):
            at = place * stride + tap * apart - before
            count += at % spread == 0 and 0 <= at // spread < size
    return count
