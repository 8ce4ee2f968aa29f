"""Ctrl-C that Python loses is heard at the next piece of work."""

import contextlib
import os
import signal
import subprocess
import sys
import threading

import pytest

from analysis.runner import Context
from fdiv_jax import interrupts

LOSES = """
import gc, os, signal
from fdiv_jax.interrupts import check_interrupted, hear_interrupts
hear_interrupts()
press = lambda phase, info: phase == "start" and os.kill(os.getpid(), signal.SIGINT)
gc.callbacks.append(press)
gc.collect()
gc.callbacks.remove(press)
print("lost", flush=True)
check_interrupted()
"""
"""A press within a callback of the garbage collector."""


def press():
    os.kill(os.getpid(), signal.SIGINT)
    threading.Event().wait(10)


@pytest.fixture
def heard(monkeypatch):
    """As in a process that hears Ctrl-C."""
    monkeypatch.setattr(interrupts, "_interrupted", threading.Event())
    before, hook = signal.getsignal(signal.SIGINT), sys.unraisablehook
    signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupts.hear_interrupts()
    yield
    signal.signal(signal.SIGINT, before)
    sys.unraisablehook = hook


def test_what_the_garbage_collector_loses_is_heard_at_the_next_check():
    done = subprocess.run([sys.executable, "-c", LOSES], capture_output=True, text=True, check=False)
    assert done.stdout == "lost\n", done.stderr
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")
    assert done.stderr.count("Traceback") == 1  # of the check, none of the callback
    assert done.returncode == -signal.SIGINT


def test_other_exceptions_that_python_ignores_are_reported_as_ever():
    code = "import fdiv_jax.interrupts as i; i.hear_interrupts(); i._interrupted.set()\n"
    code += "class Odd:\n    def __del__(self): raise ValueError('odd')\nOdd()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ValueError: odd" in done.stderr


def test_a_press_is_an_interrupt_as_ever(heard):
    interrupts.check_interrupted()
    with pytest.raises(KeyboardInterrupt):
        press()
    with pytest.raises(KeyboardInterrupt):
        interrupts.check_interrupted()


def test_a_part_of_the_analysis_ends_after_the_piece_in_which_it_was_lost(heard, tmp_path):
    pieces = Context("part", False, tmp_path, tmp_path).progress(range(5), "pieces")
    assert [next(pieces), next(pieces)] == [0, 1]
    with contextlib.suppress(KeyboardInterrupt):
        press()
    with pytest.raises(KeyboardInterrupt):
        next(pieces)


def test_other_handlers_stay():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        interrupts.hear_interrupts()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
