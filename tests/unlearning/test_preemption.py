"""SIGTERM is a request to end, once; the second ends the process."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from fdiv_jax.unlearning import preemption
from fdiv_jax.unlearning.preemption import Preempted, TerminationGuard


def test_sigterm_is_a_request_once():
    received = []
    former = signal.signal(signal.SIGTERM, lambda *_: received.append(1))
    try:
        handler = signal.getsignal(signal.SIGTERM)
        with TerminationGuard() as guard:
            assert not guard.requested
            os.kill(os.getpid(), signal.SIGTERM)
            assert guard.requested
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) is handler
        with pytest.raises(Preempted), TerminationGuard():
            raise Preempted("asked to end")
        assert signal.getsignal(signal.SIGTERM) is handler
        assert received == []
    finally:
        signal.signal(signal.SIGTERM, former)
    assert Preempted.exit_code == 128 + signal.SIGTERM


TWICE = """
import importlib.util, os, signal, sys
spec = importlib.util.spec_from_file_location("preemption", sys.argv[1])
preemption = importlib.util.module_from_spec(spec)
spec.loader.exec_module(preemption)
with preemption.TerminationGuard() as guard:
    os.kill(os.getpid(), signal.SIGTERM)
    print(guard.requested, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    print("still here", flush=True)
"""


def test_the_second_sigterm_ends_the_process():
    command = [sys.executable, "-c", TWICE, preemption.__file__]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGTERM, "True\n", "")


def test_outside_the_main_thread_signals_are_left_alone():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def guarded():
        with TerminationGuard() as guard:
            seen.append((guard.requested, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=guarded)
    thread.start()
    thread.join()
    assert seen == [(False, before)]
    assert signal.getsignal(signal.SIGTERM) is before
