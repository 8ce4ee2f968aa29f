"""Being asked to end: by SIGTERM, as schedulers send it before they kill, or by who started the run."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

import jax
from jax.experimental import multihost_utils

__all__ = ["Preempted", "TerminationGuard"]


class Preempted(Exception):
    """A run that was asked to end, and has saved its state.

    Attributes:
        exit_code: of the process, by the convention for SIGTERM.
    """

    exit_code = 143


class TerminationGuard:
    """While its block runs, the first SIGTERM sets `requested`; the second does what it does by default.

    Outside the main thread, where Python takes no signals, it does nothing. The handler that was there before
    comes back with the end of the block. Of several processes that make a run any may be asked; `asked` tells
    all of them after the same step, by JAX's preemption service, which takes the signal itself.
    """

    def __init__(self, stop: Callable[[], bool] | None = None) -> None:
        """stop: asked as well whether the run is to end, where it has one process; None: nobody else is."""
        self._signalled, self._stop = False, stop
        self._active = False
        self._former: signal.Handlers | Callable[..., object] | int | None = None

    def __enter__(self) -> TerminationGuard:
        if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
            self._former = signal.signal(signal.SIGTERM, self._request)
            self._active = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._active:  # None: a handler that was not set from Python
            signal.signal(signal.SIGTERM, signal.SIG_DFL if self._former is None else self._former)
            self._active = False

    @property
    def requested(self) -> bool:
        """Whether SIGTERM has come, or `stop` says that the run is to end."""
        return self._signalled or (self._stop is not None and self._stop())

    def asked(self, step: int) -> bool:
        """Whether the run is to end after this step, the same in all processes that make it."""
        if jax.process_count() == 1:
            return self.requested
        return multihost_utils.reached_preemption_sync_point(step)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
