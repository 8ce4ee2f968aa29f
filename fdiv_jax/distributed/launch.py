"""Several processes of one command on this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence

from fdiv_jax.distributed.hosts import environment

__all__ = ["launch"]

_GRACE = 30.0
"""Seconds that the others have to end by themselves, and say why, when one process has failed."""


def launch(command: Sequence[str], processes: int, *, grace: float = _GRACE) -> int:
    """Run a command in several processes, which find each other by `connected`, to their end.

    When one fails the others are given time to end, and are then killed. SIGTERM is passed on to all.

    Args:
        command: the program and its arguments.
        processes: how many.
        grace: seconds between the first failure and the end of the others.

    Returns:
        0, or the exit status of the process that failed first, 128 + the signal where one ended it.

    Raises:
        ValueError: less than one process.
    """
    if processes < 1:
        raise ValueError(f"{processes} processes, expected at least 1")
    coordinator = f"127.0.0.1:{_free_port()}"
    running = {
        number: subprocess.Popen(
            list(command), env={**os.environ, **environment(coordinator, processes, number)}
        )
        for number in range(processes)
    }
    try:
        with _passed_on(list(running.values())):
            return _watch(running, grace)
    finally:
        for process in running.values():
            if process.poll() is None:
                process.kill()
                process.wait()


def _watch(running: dict[int, subprocess.Popen[bytes]], grace: float) -> int:
    """Wait for all; returns the first failure's exit status."""
    status, deadline = 0, float("inf")
    left = dict(running)
    while left and time.monotonic() < deadline:
        for number, process in list(left.items()):
            code = process.poll()
            if code is None:
                continue
            del left[number]
            if code and not status:
                status = 128 - code if code < 0 else code
                how = f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"
                others = f"; the others have {grace:g} s to end" if left else ""
                print(f"fdiv-jax launch: process {number} {how}{others}", file=sys.stderr, flush=True)
                deadline = time.monotonic() + grace
        time.sleep(0.1)
    return status


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def _passed_on(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """SIGTERM goes to all of the processes for the time of the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def pass_on(number: int, frame: object) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    former = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if former is None else former)
