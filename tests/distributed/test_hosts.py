"""Several processes that make one run: they meet, they agree, and one that dies ends the others."""

import json
import re
import signal
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from fdiv_jax.cli import main
from fdiv_jax.distributed import launch as launching
from fdiv_jax.distributed.hosts import barrier, connected, environment, is_leader, tell
from fdiv_jax.distributed.launch import launch
from fdiv_jax.distributed.mesh import local_rows

ROOT = Path(__file__).parents[2]
RUN = Path(__file__).with_name("joint_run.py")


def test_one_process_waits_for_nobody():
    with connected():
        assert is_leader()
        barrier("here", 0.0)
        tell("something", "to nobody")
    assert local_rows(8) == slice(0, 8)


def test_rows_of_the_processes_make_the_batch(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    found = []
    for own in range(3):
        monkeypatch.setattr(jax, "process_index", lambda own=own: own)
        found += list(range(12))[local_rows(12)]
    assert found == list(range(12))


def test_variables_that_are_not_numbers_are_refused(monkeypatch):
    for name, value in environment("127.0.0.1:1", 2, 0).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FDIV_JAX_PROCESS", "first")
    with (
        pytest.raises(ValueError, match=r"FDIV_JAX_COORDINATOR without .*; expected two integers"),
        connected(),
    ):
        pass


def python(text):
    """A command that runs Python text, without JAX."""
    return [sys.executable, "-S", "-c", text]


def test_launched_processes_know_each_other(tmp_path):
    told = "import os; print({k: v for k, v in os.environ.items() if k.startswith('FDIV_JAX_')}, file=open(f"
    told += f"'{tmp_path}/' + os.environ['FDIV_JAX_PROCESS'], 'w'))"
    assert launch(python(told), 3) == 0
    found = [eval((tmp_path / str(own)).read_text()) for own in range(3)]
    assert {each["FDIV_JAX_COORDINATOR"] for each in found} == {found[0]["FDIV_JAX_COORDINATOR"]}
    assert [each["FDIV_JAX_PROCESS"] for each in found] == ["0", "1", "2"]
    assert {each["FDIV_JAX_PROCESSES"] for each in found} == {"3"}
    with pytest.raises(ValueError, match="0 processes, expected at least 1"):
        launch(python(""), 0)


def test_a_process_that_fails_ends_the_others(capfd):
    """The status is that of the first that failed; what does not end by itself is killed."""
    text = "import os, time\nif os.environ['FDIV_JAX_PROCESS'] == '1': os._exit(7)\ntime.sleep(600)"
    started = time.monotonic()
    assert launch(python(text), 3, grace=0.5) == 7
    assert time.monotonic() - started < 300  # of the 600 that the others would sleep
    assert "process 1 ended with status 7; the others have 0.5 s to end" in capfd.readouterr().err
    kills = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    assert launch(python(kills), 1) == 128 + signal.SIGKILL


def test_the_command_launch(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr("fdiv_jax.cli.launch.launch", lambda *given: seen.append(given) or 3)
    assert main(["launch", "-n", "4", "--", "unlearn", "fashion", "--target", "-n"]) == 3
    command = [sys.executable, "-m", "fdiv_jax.cli", "unlearn", "fashion", "--target", "-n"]
    assert seen == [(command, 4)]
    assert main(["launch", "-n", "4", "--", "sample", "fashion"]) == 2
    assert "launch sample: expected unlearn" in capsys.readouterr().err
    assert launching.launch is launch


@pytest.fixture
def joint(tmp_path, monkeypatch, capfd):
    """Runs joint_run.py in some processes, on 2 devices in all: exit status and standard error."""

    def run(output, processes, **environment):
        settings = {
            "PYTHONPATH": str(ROOT),
            "CACHE": str(tmp_path / "images"),
            "DEVICES": str(2 // processes),
            "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "programs"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        with monkeypatch.context() as patch:
            for name, value in (settings | environment).items():
                patch.setenv(name, value)
            status = launch([sys.executable, "-W", "ignore", str(RUN), str(output)], processes, grace=60)
        return status, capfd.readouterr().err

    return run


def rows(output):
    """The metrics so far."""
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_one_of_two_processes_is_asked_to_end_or_killed(joint, tmp_path):
    """One that is asked to end takes the other with it, after a checkpoint. Where one is killed, the other
    ends within a minute and says why. The run goes on, in two processes or in one."""
    output, whole = tmp_path / "run", tmp_path / "whole"
    status, said = joint(output, 2, ENDS_AT="2")
    assert status == 143, said
    step = int(re.findall(r"asked to end after step (\d+) of 20; the state is saved", said)[0])
    assert said.count(f"asked to end after step {step} of 20") == 2  # both after the same step
    assert (output / "checkpoints" / f"step-{step:08}").is_dir()
    dies_at = 4 * (step // 4 + 1)  # the checkpoint after that one
    status, said = joint(output, 2, DIES_AT=str(dies_at))
    assert Path(f"{output}.died").exists(), said
    elapsed = time.time() - Path(f"{output}.died").stat().st_mtime
    assert status == 128 + signal.SIGKILL, said
    assert elapsed < 60
    assert "another process of the run ended" in said
    assert sorted(path.name for path in (output / "checkpoints").iterdir())[-1] == f"step-{dies_at:08}"
    together = rows(output)[:dies_at]

    for place, processes in ((whole, 2), (output, 1)):
        status, said = joint(place, processes)
        assert status == 0, said
        assert (place / "pipeline").is_dir()
        assert [row["step"] for row in rows(place)] == list(range(1, 21))
    assert rows(output)[:dies_at] == together == rows(whole)[:dies_at]
    for row, expected in zip(rows(output), rows(whole), strict=True):
        np.testing.assert_allclose(row["loss"], expected["loss"], rtol=1e-4)
