"""Accelerators by name, and the TPU slices that a compiler can be asked about without having one."""

from __future__ import annotations

import difflib
import importlib.util
import math
import os
import re
from dataclasses import dataclass
from typing import Any

__all__ = ["CHIPS", "Chip", "Topology", "topology_of", "tpu_devices"]

_GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """What an accelerator can do at most, each figure for one chip.

    Attributes:
        platform: tpu or gpu.
        bfloat16: FLOP/s of products in bfloat16, without sparsity.
        float32: FLOP/s of products of float32 at JAX's default precision: bfloat16 passes on a TPU, TF32 on
            a GPU.
        memory: bytes that a program can have.
        bandwidth: bytes/s of the memory.
        link: bytes/s that it sends to its neighbours, all links together, one way.
        source: of the figures.
    """

    platform: str
    bfloat16: float
    float32: float
    memory: int
    bandwidth: float
    link: float
    source: str

    def peak(self, dtype: str) -> float:
        """FLOP/s of products that are computed in this dtype."""
        return self.float32 if dtype == "float32" else self.bfloat16


def _tpu(teraflops: float, gib: float, gigabytes: float, link: float, page: str) -> Chip:
    # The memory is what the compiler of libtpu 0.0.42 says is available, a little less than is built in.
    flops = teraflops * 1e12
    source = f"https://cloud.google.com/tpu/docs/{page}"
    return Chip("tpu", flops, flops, int(gib * _GIB), gigabytes * 1e9, link * 1e9, source)


def _gpu(teraflops: float, gb: float, gigabytes: float, link: float, sheet: str) -> Chip:
    # TF32 has half the rate of bfloat16; NVLink's figure is of both directions.
    flops = teraflops * 1e12
    return Chip("gpu", flops, flops / 2, int(gb * 1e9), gigabytes * 1e9, link * 1e9 / 2, sheet)


CHIPS: dict[str, Chip] = {
    "v4": _tpu(275, 30.75, 1200, 300, "v4"),
    "v5e": _tpu(197, 15.75, 819, 200, "v5e"),
    "v5p": _tpu(459, 95.74, 2765, 600, "v5p"),
    "v6e": _tpu(918, 31.25, 1638, 400, "v6e"),
    "a100-40gb": _gpu(312, 40, 1555, 600, "NVIDIA A100 Tensor Core GPU, data sheet (SXM)"),
    "a100": _gpu(312, 80, 2039, 600, "NVIDIA A100 Tensor Core GPU, data sheet (SXM, 80 GB)"),
    "h100": _gpu(989, 80, 3350, 900, "NVIDIA H100 Tensor Core GPU, data sheet (SXM)"),
    "h200": _gpu(989, 141, 4800, 900, "NVIDIA H200 Tensor Core GPU, data sheet (SXM)"),
}
"""The accelerators that a run can be planned for."""

_AXES = {"v4": 3, "v5p": 3, "v5e": 2, "v6e": 2}
_HOST = {2: 8, 3: 4}
"""Chips of a host by the axes of the slice: a slice of up to so many is one host's."""


@dataclass(frozen=True)
class Topology:
    """Chips of one kind that are linked.

    Attributes:
        name: of the kind, a key of `CHIPS`.
        shape: of the slice, chips along each axis; of GPUs, their number.
    """

    name: str
    shape: tuple[int, ...]

    @property
    def chip(self) -> Chip:
        """What one of them can do."""
        return CHIPS[self.name]

    @property
    def count(self) -> int:
        """How many chips there are."""
        return math.prod(self.shape)

    def __str__(self) -> str:
        return f"{self.name}:{'x'.join(map(str, self.shape))}"


def topology_of(text: str) -> Topology:
    """The topology that a text such as v5e:2x4, v4:2x2x1, h100 or h100:8 names.

    Raises:
        ValueError: an unknown chip, or a shape that it does not have; says what is known.
    """
    name, colon, shape = text.strip().lower().partition(":")
    if name not in CHIPS:
        near = difflib.get_close_matches(name, CHIPS, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(
            f"topology {text!r}: there is no chip {name!r}{hint}; expected one of {', '.join(CHIPS)}, a TPU "
            "with the shape of its slice, such as v5e:2x4 or v4:2x2x1, a GPU with their number, as h100:8"
        )
    axes = _AXES.get(name, 1)
    if not colon:
        return Topology(name, (1,) * axes)
    if not re.fullmatch(r"[1-9]\d{0,3}(x[1-9]\d{0,3})*", shape) or shape.count("x") + 1 != axes:
        example = {1: "8", 2: "2x4", 3: "2x2x1"}[axes]
        raise ValueError(
            f"topology {text!r}: shape {shape!r}, expected {axes} whole number{'s' if axes > 1 else ''} "
            f"from 1 on, such as {name}:{example}"
        )
    return Topology(name, tuple(int(size) for size in shape.split("x")))


def tpu_devices(topology: Topology) -> list[Any]:
    """Devices of a TPU slice to compile for; none of them is there.

    Raises:
        NotImplementedError: without libtpu, the TPU compiler.
        ValueError: a slice that there is not.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise NotImplementedError(
            f"the plan for {topology} is the TPU compiler's, which is not installed: install fdiv-jax[tpu]"
        )
    # Without these libtpu asks the metadata server of a cloud machine, and complains that there is none.
    # It also allows one process at a time, because a TPU would belong to it.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    import jax
    from jax.experimental import topologies

    options: dict[str, Any] = {}
    if topology.count <= _HOST[len(topology.shape)]:
        options["chips_per_host_bounds"] = (*topology.shape, 1)[:3]
    if topology.name == "v4":
        options["chip_config_name"] = "megacore"  # both cores of a chip as one device, as JAX has them
    try:
        found = topologies.get_topology_desc(topology_name=str(topology), platform="tpu", **options)
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"topology {topology}: {error}") from error
    return list(found.devices)
