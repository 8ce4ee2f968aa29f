"""What a compiler says of a program that it made: memory, arithmetic, and what devices send each other."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import jax

__all__ = ["COLLECTIVES", "Program", "collective_bytes", "compiled_figures", "wire_bytes"]

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
"""The operations by which devices send each other arrays."""

_RESULT = re.compile(rf"= (\(*[a-z].*?) ({'|'.join(COLLECTIVES)})(-start)?\(")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+)\[([\d,]*)\]")
_NEEDED = re.compile(r"\((\d+(?:\.\d+)?)([KMGT]?)\) exceeds available|Used (\d+(?:\.\d+)?)([KMGT]?) of")
_LEAST_EFFORT = {"compiler_options": {"exec_time_optimization_effort": -1.0}}
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Program:
    """A compiled program on one device; bytes, FLOPs.

    Attributes:
        arguments: of its arrays.
        temporaries: the most that it stores at once beside them.
        outputs: of its results, less those that take the place of arguments.
        code: of the program itself.
        flops: that it executes; a loop counts once.
        moved: to and from memory; a loop counts once.
        collectives: bytes of the results of each kind of collective.
        fits: whether the compiler found room; where not, there are no results, FLOPs and bytes moved.
    """

    arguments: int
    temporaries: int
    outputs: int
    code: int
    flops: float
    moved: float
    collectives: dict[str, int]
    fits: bool = True

    @property
    def memory(self) -> int:
        """Bytes in all."""
        return self.arguments + self.temporaries + self.outputs + self.code


def compiled_figures(lowered: Any, held: int = 0, *, quick: bool = False) -> Program:
    """Compile a lowered program and read what the compiler says of it.

    Args:
        lowered: by `jax.jit(...).lower`.
        held: bytes of a device's arguments, for a program for which there is no room.
        quick: with the compiler's least effort to make it fast.

    Raises:
        jax.errors.JaxRuntimeError: it does not compile, for another reason than its memory.
    """
    try:
        compiled = lowered.compile(**(_LEAST_EFFORT if quick else {}))
    except jax.errors.JaxRuntimeError as error:
        needed = _NEEDED.search(str(error))
        if "RESOURCE_EXHAUSTED" not in str(error) or needed is None:
            raise
        number, unit = needed[1] or needed[3], needed[2] or needed[4] or ""
        return Program(held, int(float(number) * _UNITS[unit]), 0, 0, 0.0, 0.0, {}, fits=False)
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    rest = memory.argument_size_in_bytes + outputs + memory.generated_code_size_in_bytes
    return Program(
        memory.argument_size_in_bytes,
        # A TPU's compiler leaves some temporaries out of their sum, which its peak has in it.
        max(memory.temp_size_in_bytes, getattr(memory, "peak_memory_in_bytes", 0) - rest),
        outputs,
        memory.generated_code_size_in_bytes,
        float(cost.get("flops", 0.0)),
        float(cost.get("bytes accessed", 0.0)),
        collective_bytes(compiled.as_text()),
    )


def collective_bytes(program: str) -> dict[str, int]:
    """Bytes of the results of each kind of collective in the text of a compiled program; a loop counts once.

    One that is begun and awaited names its arguments before its results: the second half counts.
    """
    found = {str(kind): 0 for kind in COLLECTIVES}
    for line in program.splitlines():
        match = _RESULT.search(line)
        if match:
            arrays = _ARRAY.findall(match[1])
            if match[3] and match[2] != "all-reduce":  # arguments, results, flags of the hardware
                arrays = [each for each in arrays if each[1]]
                arrays = arrays[len(arrays) // 2 :]
            sizes = [_size(kind, shape) for kind, shape in arrays]
            found[match[2]] += sum(sizes)
    return found


def wire_bytes(collectives: dict[str, int], devices: int) -> float:
    """Bytes that each device sends for collectives whose results have so many bytes, around a ring.

    Source: Thakur, Rabenseifner, Gropp, Optimization of collective communication operations in MPICH, 2005.
    """
    if devices == 1:
        return 0.0
    share = (devices - 1) / devices
    factors = {"all-reduce": 2 * share, "reduce-scatter": devices - 1.0, "collective-permute": 1.0}
    return sum(factors.get(kind, share) * size for kind, size in collectives.items())


def _size(kind: str, shape: str) -> int:
    bits = 8 if kind == "pred" else int(re.sub(r"\D", "", kind.split("e")[0]) or 8)
    return math.prod(int(n) for n in shape.split(",") if n) * bits // 8
