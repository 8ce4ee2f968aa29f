"""Symbolic work with a time limit."""

from __future__ import annotations

import inspect
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

Result = TypeVar("Result")

# A busy machine gives a thread less time than the clock shows.
_PATIENCE = 30.0


class _OutOfTime(BaseException):
    """Raised inside sympy; not an Exception, so that sympy's own handlers let it through."""


def time_limited(task: Callable[[], Result], seconds: float) -> Result | None:
    """Result of the task, or None when it fails or takes longer than so many seconds of processor time.

    The task runs in a thread of its own, traced: once the time is over, the next call of a sympy function
    raises. (Signals work only in the main thread, and an exception sent from outside may land in the
    garbage collector, where it is lost.) Processor time makes the outcome independent of what else the
    machine does.
    """
    results: list[Result] = []

    def watch(frame: FrameType, event: str, arg: Any) -> None:
        # A generator may be resumed by the collector to close it, and would lose the exception too.
        ordinary = not frame.f_code.co_flags & inspect.CO_GENERATOR and "sympy" in frame.f_code.co_filename
        if ordinary and time.thread_time() > seconds:
            raise _OutOfTime

    def work() -> None:
        sys.settrace(watch)
        try:
            results.append(task())
        except (Exception, _OutOfTime):
            return
        finally:
            sys.settrace(None)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(_PATIENCE * seconds)
    return results[0] if results else None
