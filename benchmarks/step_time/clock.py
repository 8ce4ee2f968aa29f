"""Timing one callable, and saying whether the machine is free to be measured."""

from __future__ import annotations

import os
import time
from collections.abc import Callable


def timed(step: Callable[[], object], steps: int, warm: int = 2) -> list[float]:
    """Seconds of each of `steps` calls after `warm` that are not counted; the call waits for its result."""
    for _ in range(warm):
        step()
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return seconds


def load() -> float:
    """Processes that wanted a processor in the last minute, on average."""
    return os.getloadavg()[0]
