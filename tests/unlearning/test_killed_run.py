"""A run in a process of its own that is killed ends as if it had not been."""

import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

RUN = Path(__file__).with_name("killed_run.py")
specification = importlib.util.spec_from_file_location("killed_run", RUN)
killed_run = importlib.util.module_from_spec(specification)
specification.loader.exec_module(killed_run)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="watches processes in /proc")
def test_killed_again_and_again_a_run_ends_as_if_it_had_not_been(tmp_path):
    """SIGKILL up to ten times; at the end every step is in the metrics once, and no lock was in the way."""
    directory = tmp_path / "run"
    generator = random.Random(1)
    environment = {**os.environ, "PYTHONPATH": str(RUN.parents[2])}
    command = [sys.executable, "-W", "ignore", str(RUN), str(directory)]
    kills = 0
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        deadline = time.monotonic() + 120
        while not (directory / "pipeline").exists():
            parent.stdin.write("\n")
            parent.stdin.flush()
            process = int(parent.stdout.readline())
            end = time.monotonic() + (generator.uniform(0.1, 0.6) if kills < 10 else 120)
            while time.monotonic() < end and Path(f"/proc/{process}").exists():
                time.sleep(0.005)
            if Path(f"/proc/{process}").exists():
                os.kill(process, signal.SIGKILL)
                kills += 1
            while Path(f"/proc/{process}").exists():
                time.sleep(0.005)
            assert time.monotonic() < deadline
        parent.stdin.close()
    assert kills >= 5
    found = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert found == [killed_run.row(step) for step in range(1, killed_run.STEPS + 1)]
    assert sorted(path.name for path in directory.iterdir()) == ["config.json", "metrics.jsonl", "pipeline"]
