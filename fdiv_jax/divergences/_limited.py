"""Symbolic work with a time limit."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


class _OutOfTime(BaseException):
    """Raised inside the worker; not an Exception, so that sympy's own handlers let it through."""


def time_limited(task: Callable[[], Result], seconds: float) -> Result | None:
    """Result of the task, or None when it fails or takes longer than so many seconds.

    The task runs in a thread of its own (signals work only in the main thread); when the time is over, an
    exception is raised inside that thread, which pure Python code such as sympy's obeys at its next bytecode.
    """
    results: list[Result] = []

    def work() -> None:
        try:
            results.append(task())
        except (Exception, _OutOfTime):
            return

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive() and thread.ident is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(_OutOfTime))
        thread.join(0.2)
    return results[0] if results else None
