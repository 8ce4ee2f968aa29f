"""The ways to run a function on the devices at hand, by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import jax

from fdiv_jax.distributed.data_parallel import DataParallel, SingleDevice
from fdiv_jax.distributed.mesh import DataMesh, ShardedMesh

__all__ = ["Parallel", "Runner", "devices_of", "runner_of"]

Parallel = Literal["pmap", "data", "fsdp"]
Runner = SingleDevice | DataParallel | DataMesh


def devices_of(parallel: Parallel | None) -> tuple[Any, ...]:
    """The devices that take part: the first local one, the local ones, or those of all processes.

    Raises:
        ValueError: anything but a mesh where there are several processes.
    """
    if parallel in ("data", "fsdp"):
        return tuple(jax.devices())
    if jax.process_count() > 1:
        said = "a single device" if parallel is None else f"parallel {parallel!r}"
        raise ValueError(f"{said} in each of {jax.process_count()} processes; expected parallel data or fsdp")
    return tuple(jax.local_devices() if parallel == "pmap" else jax.local_devices()[:1])


def runner_of(devices: Sequence[Any] | None, parallel: Parallel | None) -> Runner:
    """What runs functions on these devices (None: on all) in this way; None: on the default device."""
    if parallel is None:
        return SingleDevice()
    kinds = {"pmap": DataParallel, "data": DataMesh, "fsdp": ShardedMesh}
    return kinds[parallel](devices)
