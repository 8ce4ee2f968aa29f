"""Several processes that make one run: they find each other, agree, and end together.

JAX's own runtime does the work: process 0 hosts its coordination service. The first process is the leader,
the only one that writes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import jax
from jax._src.distributed import global_state  # a barrier with a timeout has no public name

__all__ = ["LostProcessError", "barrier", "connected", "environment", "hear", "is_leader", "tell"]

PATIENCE = 300.0
"""Seconds to wait for the other processes at the beginning, when they load their model."""
_HEARTBEAT = 20
"""Seconds of silence after which a process counts as dead."""
_LONGEST = 24 * 3600.0
_COORDINATOR, _COUNT, _OWN = "FDIV_JAX_COORDINATOR", "FDIV_JAX_PROCESSES", "FDIV_JAX_PROCESS"


class LostProcessError(RuntimeError):
    """Another process of the run ended, or did not come to where all were to meet.

    Attributes:
        exit_code: of this process.
    """

    exit_code = 1


def is_leader() -> bool:
    """Whether this process writes for all."""
    return jax.process_index() == 0


def environment(coordinator: str, count: int, own: int) -> dict[str, str]:
    """The variables by which `connected` finds the other processes, where no cluster tells it.

    Args:
        coordinator: host and port of process 0.
        count: how many processes there are.
        own: which one this is, from 0.
    """
    return {_COORDINATOR: coordinator, _COUNT: str(count), _OWN: str(own)}


@contextlib.contextmanager
def connected(asked: bool = False) -> Iterator[None]:
    """Join the other processes of the run for the time of the block, at whose end they wait for each other.

    The processes are those of `fdiv-jax launch`, or, where it is asked for, those that JAX finds: of a Slurm
    or Open MPI job, of a Cloud TPU slice or a job on GKE. Before the block nothing may have used a device.

    Raises:
        ValueError: they are asked for and there is no such job, or the variables of `environment` are wrong.
        LostProcessError: another process ended before this one.
    """
    if not asked and _COORDINATOR not in os.environ:
        yield
        return
    _initialise()
    try:
        yield
        barrier("end", _LONGEST)
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        reason = str(error).splitlines()[0]
        raise LostProcessError(f"{_lost()} ({reason})") from error


def _initialise() -> None:
    timeouts: dict[str, Any] = {
        "initialization_timeout": int(PATIENCE),
        "heartbeat_timeout_seconds": _HEARTBEAT,
        "shutdown_timeout_seconds": _HEARTBEAT,
    }
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if _COORDINATOR in os.environ:
        try:
            numbers = {
                "num_processes": int(os.environ[_COUNT]),
                "process_id": int(os.environ[_OWN]),
            }
        except (KeyError, ValueError) as error:
            raise ValueError(f"{_COORDINATOR} without {_COUNT} and {_OWN}; expected two integers") from error
        method = {"coordinator_address": os.environ[_COORDINATOR], "cluster_detection_method": "deactivate"}
        jax.distributed.initialize(**method, **numbers, **timeouts)
        return
    try:
        jax.distributed.initialize(**timeouts)
    except ValueError as error:
        raise ValueError(
            f"no job of several processes found ({error}); expected one of Slurm, Open MPI, Cloud TPU or "
            "GKE, or fdiv-jax launch"
        ) from error


def barrier(name: str, seconds: float = PATIENCE) -> None:
    """Wait until all processes have come here; nothing where there is one.

    Args:
        name: of the place, used once in a run.
        seconds: how long to wait.

    Raises:
        LostProcessError: the others did not come in time, or one has ended.
    """
    if jax.process_count() == 1:
        return
    try:
        _service().wait_at_barrier(f"fdiv-jax/{name}", int(1000 * seconds))
    except jax.errors.JaxRuntimeError as error:
        raise LostProcessError(f"{_lost()} ({name}: waited {seconds:g} s at most)") from error


def tell(name: str, value: str) -> None:
    """Tell the other processes something; the leader does, once for a name. Nothing where there are none."""
    if jax.process_count() > 1:
        _service().key_value_set(f"fdiv-jax/{name}", value)


def hear(name: str, seconds: float = PATIENCE) -> str:
    """What the leader tells under a name, as soon as it does.

    Raises:
        LostProcessError: it told nothing in time, or has ended.
    """
    try:
        return _service().blocking_key_value_get(f"fdiv-jax/{name}", int(1000 * seconds))
    except jax.errors.JaxRuntimeError as error:
        raise LostProcessError(f"{_lost()} ({name}: waited {seconds:g} s at most)") from error


def _service() -> Any:
    """The client of JAX's coordination service."""
    return global_state.client


def _lost() -> str:
    return (
        f"process {jax.process_index()} of {jax.process_count()}: another process of the run ended or does "
        "not answer; its own output says why. Resume the run from its last checkpoint"
    )
