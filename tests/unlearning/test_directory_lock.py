"""One process at a time writes a run's directory, and one that has lost it is told how."""

import contextlib
import errno
import os
import shutil
import socket
import subprocess
import sys

import pytest

from fdiv_jax.unlearning import _lock
from tests.unlearning.run_directories import LIKE, begin, contents, read_rows, state, write_result

HOLD = """
import importlib.util, pathlib, sys
spec = importlib.util.spec_from_file_location("lock", sys.argv[1])
lock = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lock)
held = lock.DirectoryLock(pathlib.Path(sys.argv[2]))
held.acquire(False)
print("held", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def another_process_in(directory):
    command = [sys.executable, "-c", HOLD, _lock.__file__, str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_a_run_that_is_going_on_is_not_disturbed(tmp_path):
    with begin(tmp_path) as run:
        run.log({"step": 1})
    with another_process_in(tmp_path) as process:
        before = contents(tmp_path)
        holder = f"is in use by process {process.pid} on {socket.gethostname()}"
        with pytest.raises(BlockingIOError, match=holder), begin(tmp_path, resume=True):
            pass
        assert contents(tmp_path) == before
        process.kill()
        process.wait()
        assert (tmp_path / ".lock").exists()
        with begin(tmp_path, resume=True) as run:  # the lock died with its process
            assert run.resumed
    assert not (tmp_path / ".lock").exists()


def test_a_run_can_be_taken_over_and_the_former_one_notices(tmp_path):
    with begin(tmp_path) as former:
        former.log({"step": 1})
        former.save(1, state(1), {})
        with pytest.raises(BlockingIOError, match="in use"), begin(tmp_path, resume=True):
            pass
        with begin(tmp_path, resume=True, takeover=True) as run:
            assert run.restore(LIKE).step == 1
            for action in (
                lambda: former.log({"step": 2}),
                lambda: former.save(2, state(2), {}),
                lambda: former.finish(write_result),
            ):
                with pytest.raises(BlockingIOError, match=f"was taken over by process {os.getpid()} on"):
                    action()
            with another_attempt_is_refused(tmp_path):
                run.log({"step": 2})
        assert not (tmp_path / ".lock").exists()
    assert read_rows(tmp_path) == [{"step": 1}, {"step": 2}]


@contextlib.contextmanager
def another_attempt_is_refused(path):
    with pytest.raises(BlockingIOError, match="in use"), begin(path, resume=True):
        pass
    yield


def test_the_former_run_leaves_the_lock_of_the_one_that_took_over(tmp_path):
    with contextlib.ExitStack() as later:
        with begin(tmp_path):
            later.enter_context(begin(tmp_path, resume=True, takeover=True))
        assert (tmp_path / ".lock").exists()
        with another_attempt_is_refused(tmp_path):
            pass


def actions_of(run):
    """Everything that would write into the directory of a run."""
    return (lambda: run.log({"step": 2}), lambda: run.save(2, state(2), {}), lambda: run.finish(write_result))


def test_the_one_that_took_over_is_named_when_it_has_ended(tmp_path):
    with begin(tmp_path) as former:
        former.log({"step": 1})
        with begin(tmp_path, resume=True, takeover=True) as run:
            run.restore(LIKE)
        assert not (tmp_path / ".lock").exists()
        for action in actions_of(former):
            with pytest.raises(BlockingIOError, match=f"was taken over by process {os.getpid()} on"):
                action()
        with begin(tmp_path, resume=True) as run:
            run.restore(LIKE)
            run.finish(write_result)
        with pytest.raises(BlockingIOError, match="was taken over by process"):
            former.log({"step": 2})
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""


@pytest.mark.parametrize("after", ["nothing", "a new run", "taken over", "removed"])
def test_a_directory_that_is_moved_while_its_run_goes_on(after, tmp_path):
    place, moved = tmp_path / "run", tmp_path / "moved [b]"
    message, error = (
        rf"run was moved to {tmp_path}/moved \[b\] while its run went on; resume",
        FileNotFoundError,
    )
    with contextlib.ExitStack() as later:
        with begin(place) as run:
            run.log({"step": 1})
            place.rename(moved)
            if after == "a new run":
                later.enter_context(begin(place))
            elif after == "taken over":
                message, error = f"was taken over by process {os.getpid()} on", BlockingIOError
                later.enter_context(begin(moved, resume=True, takeover=True)).restore(LIKE)
            elif after == "removed":
                message = "run was moved or removed while its run went on"
                shutil.rmtree(moved)
            before = contents(tmp_path)
            for action in actions_of(run):
                with pytest.raises(error, match=message):
                    action()
            assert contents(tmp_path) == before
        assert place.exists() == (after == "a new run")
        assert (moved / ".lock").exists() == (after == "taken over")
        if after == "a new run":
            with another_attempt_is_refused(place):
                pass
    if after == "nothing":
        with begin(moved, resume=True) as run:
            assert run.resumed


@pytest.mark.parametrize("after", ["removed", "replaced", "copied back", "another run"])
def test_a_lock_file_that_is_removed_or_replaced_while_the_run_goes_on(after, tmp_path):
    lock = tmp_path / ".lock"
    message, error = "by which the run held .*, was replaced by another file; resume", FileNotFoundError
    with contextlib.ExitStack() as later:
        with begin(tmp_path) as run:
            run.log({"step": 1})
            content = lock.read_bytes()
            lock.unlink()
            if after == "removed":
                message = r"\.lock, by which the run held .*, was removed; resume the run"
            elif after == "another run":
                process = later.enter_context(another_process_in(tmp_path))
                message, error = f"was taken over by process {process.pid} on", BlockingIOError
            else:
                lock.write_bytes(content if after == "copied back" else b"")
            before = contents(tmp_path)
            for action in actions_of(run):
                with pytest.raises(error, match=message):
                    action()
            assert contents(tmp_path) == before
        assert lock.exists() == (after != "removed")  # what is not this run's is not removed
    with begin(tmp_path, resume=True) as run:
        assert run.resumed
    assert not lock.exists()


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(_lock.fcntl, "flock", none)
    with pytest.raises(OSError, match=r"no lock to be had .*; takeover goes on without one"), begin(tmp_path):
        pass
    with begin(tmp_path, takeover=True) as run:
        run.log({"step": 1})
