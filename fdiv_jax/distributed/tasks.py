"""Work in pieces: done here, one after the other, or handed out to the machines of a Ray cluster."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol, TypeVar

__all__ = ["Executor", "RayExecutor", "here"]

Piece = TypeVar("Piece")
Result = TypeVar("Result")
_RETRIES = 3
_REACHABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": "^",  # no line of Ray's own among the output
    _REACHABLE: "0",  # a cluster of this machine alone is on its loopback address
}
"""What Ray reads from the environment when it is imported."""


class Executor(Protocol):
    """How the pieces of a work are done."""

    def __call__(
        self, work: Callable[[Piece], Result], pieces: Mapping[str, Piece]
    ) -> Iterator[tuple[str, Result]]:
        """Do the work on every piece; the results come as they are there, each with its piece's name.

        The work may be begun again on a piece, where the one who did it died: what it writes it must write
        whole or not at all, and what it finds done it must leave.
        """
        ...


def here(work: Callable[[Piece], Result], pieces: Mapping[str, Piece]) -> Iterator[tuple[str, Result]]:
    """Do the work in this process, one piece after the other."""
    for name, piece in pieces.items():
        yield name, work(piece)


@dataclass(frozen=True)
class RayExecutor:
    """Does the work in tasks of a Ray cluster: that of RAY_ADDRESS, else one of this machine, which ends with
    the work.

    A task has a GPU, where the cluster has some, or else a machine, or a share of it. A piece whose worker
    dies is given to another one, three times at most. The work and the pieces are pickled; files that they
    name must be the same on all machines.

    Attributes:
        per_machine: tasks on a machine at once, where there are no GPUs.
        again: errors after which a piece is given to another worker as well.

    Raises:
        ValueError: fewer than one task.
        NotImplementedError: Ray is not installed.
    """

    per_machine: int = 1
    again: tuple[type[Exception], ...] = ()

    def __post_init__(self) -> None:
        if self.per_machine < 1:
            raise ValueError(f"{self.per_machine} tasks on a machine, expected at least 1")
        if importlib.util.find_spec("ray") is None:
            raise NotImplementedError("Ray is not installed: pip install 'fdiv-jax[ray]'")

    def __call__(
        self, work: Callable[[Piece], Result], pieces: Mapping[str, Piece]
    ) -> Iterator[tuple[str, Result]]:
        """See `Executor`.

        Raises:
            ConnectionError: there is no cluster at RAY_ADDRESS.
            ChildProcessError: the workers of a piece died each time.
        """
        with _connected() as ray:
            share = self._share(ray)
            task = ray.remote(max_retries=_RETRIES, retry_exceptions=list(self.again), **share)(_do)
            shared = ray.put(work)
            names = {task.options(name=name).remote(shared, piece): name for name, piece in pieces.items()}
            waiting = list(names)
            while waiting:
                (done, *_), waiting = ray.wait(waiting)
                try:
                    result = ray.get(done)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from error
                except ray.exceptions.RayError as error:
                    raise ChildProcessError(
                        f"{names[done]}: its worker died {1 + _RETRIES} times, the last time with "
                        f"{type(error).__name__}"
                    ) from error
                yield names[done], result

    def _share(self, ray: ModuleType) -> dict[str, float]:
        """What a task has of the cluster."""
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if any(machine.get("GPU") for machine in machines):
            return {"num_gpus": 1}
        processors = [machine["CPU"] for machine in machines if machine.get("CPU")]
        return {"num_cpus": min(processors, default=1.0) / self.per_machine}


def _do(work: Callable[[Piece], Result], piece: Piece) -> Result:
    return work(piece)


@contextlib.contextmanager
def _connected() -> Iterator[ModuleType]:
    """Ray, connected to its cluster while the block runs, and as silent as it can be."""
    alone = "RAY_ADDRESS" not in os.environ
    for name, value in _SETTINGS.items():
        if alone or name != _REACHABLE:
            os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield ray
        return
    settings = {"address": "local", "include_dashboard": False} if alone else {}
    with warnings.catch_warnings():
        # Ray forks to start its own programs, which never come back to JAX.
        warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
        warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
        ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **settings)
    try:
        yield ray
    finally:
        ray.shutdown()
