"""The free memory, and the refusal of work that would need more."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol, runtime_checkable

import jax

__all__ = ["free_bytes", "require_room", "spelled"]

SWITCH = "FDIV_JAX_MEMORY_CHECK"
"""The environment variable that switches the refusal off by the value 0."""


@runtime_checkable
class Device(Protocol):
    """What is asked of a JAX device."""

    @property
    def platform(self) -> str:
        """cpu, gpu or tpu."""
        ...

    def memory_stats(self) -> dict[str, int] | None:
        """Sizes in bytes by name."""
        ...


_PROC, _CGROUP = Path("/proc"), Path("/sys/fs/cgroup")


def free_bytes(device: Device | None = None) -> int | None:
    """Bytes that this process can still have on a device; None where that is not known.

    On an accelerator: its limit less the bytes in use. On a CPU: the bytes that the system can give without
    swapping, and no more than the limits of the process's control groups (version 1 or 2) leave.
    """
    device = jax.local_devices()[0] if device is None else device
    if device.platform != "cpu":
        told = device.memory_stats() or {}
        if "bytes_limit" not in told:
            return None
        return max(0, told["bytes_limit"] - told.get("bytes_in_use", 0))
    found = [value for value in (_available(), *_left_by_groups()) if value is not None]
    return min(found, default=None)


def require_room(needed: int, what: str, advice: str, device: Device | None = None) -> None:
    """Check that there is memory for some work.

    Args:
        needed: bytes, beside those already in use.
        what: the work, for the beginning of the message.
        advice: how to need less memory.
        device: the device; None: the first local one.

    Raises:
        MemoryError: too little memory; says how much is needed, how much is free, and what would help.
    """
    free = free_bytes(device)
    if free is None or needed <= free or os.environ.get(SWITCH) == "0":
        return
    raise MemoryError(
        f"{what} needs about {spelled(needed)} of memory, {spelled(free)} are free; {advice} "
        f"({SWITCH}=0 tries it anyway)"
    )


def spelled(size: int) -> str:
    """A number of bytes as text, such as 31 GB."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}" if size < 1e15 else f"{size / scale:,.0f} {unit}"
    return f"{size} bytes"


def _available() -> int | None:
    try:
        for line in (_PROC / "meminfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return int(value.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _left_by_groups() -> list[int]:
    """Bytes left by the limits of this process's control groups and of those above them."""
    try:
        lines = (_PROC / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    left = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory") and "memory" not in controllers.split(","):
            continue
        root = _CGROUP / "memory" if controllers else _CGROUP
        names = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            if controllers
            else ("memory.max", "memory.current", "inactive_file")
        )
        place = root / path.lstrip("/")
        while True:  # in a container the path may be that outside; the root is then the container's own
            left += _left(place, *names)
            if place == root:
                break
            place = place.parent
    return left


def _left(place: Path, limit: str, usage: str, cache: str) -> list[int]:
    try:
        most, used = (place / limit).read_text().strip(), int((place / usage).read_text())
        told = dict(line.split() for line in (place / "memory.stat").read_text().splitlines())
        return [] if most == "max" else [max(0, int(most) - used + int(told.get(cache, 0)))]
    except (OSError, ValueError):
        return []
