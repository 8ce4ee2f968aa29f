"""Ctrl-C, heard where Python loses it.

A KeyboardInterrupt that is raised within a callback whose exceptions are ignored, as those of the garbage
collector (JAX has one) and of finalisers are, is gone, but for a traceback that Python prints. What runs
for long asks between its pieces; the traceback is not printed, since the interrupt is not ignored.
"""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType

__all__ = ["check_interrupted", "hear_interrupts"]

_interrupted = threading.Event()


def hear_interrupts() -> None:
    """Remember every Ctrl-C of this process; for its main thread, in a process that ends with it."""
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _remember)
        if sys.unraisablehook is sys.__unraisablehook__:
            sys.unraisablehook = _report


def check_interrupted() -> None:
    """End what runs if Ctrl-C has been pressed.

    Raises:
        KeyboardInterrupt: it has been.
    """
    if _interrupted.is_set():
        raise KeyboardInterrupt


def _remember(number: int, frame: FrameType | None) -> None:
    _interrupted.set()
    raise KeyboardInterrupt


def _report(lost: sys.UnraisableHookArgs) -> None:
    """Report an ignored exception as Python does, but for a Ctrl-C that is remembered."""
    if not (_interrupted.is_set() and issubclass(lost.exc_type, KeyboardInterrupt)):
        sys.__unraisablehook__(lost)
