"""A sweep by a Ray cluster of two workers, one of which is killed, gives what one process gives."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fdiv_jax.pipeline import load_pipeline
from fdiv_jax.unlearning import AnchorImagesConfig, UnlearningConfig
from fdiv_jax.unlearning.sweep import cells_of, sweep

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not here"),
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the workers in /proc"),
]
SEEDS, STEPS = (0, 1), 60
DIVERGENCES = ("kl", "exact:le_cam")


@pytest.fixture(scope="module")
def swept(pipe, tmp_path_factory):
    """The model's directory, the cache, and the finished sweep of one process."""
    place = tmp_path_factory.mktemp("sweeps")
    model = pipe.save(place / "model")
    base = UnlearningConfig(
        "sneaker",
        steps=STEPS,
        batch_size=4,
        learning_rate=1e-2,
        retained=(),
        images=AnchorImagesConfig(number=4, steps=2),
    )
    cells = cells_of(base, DIVERGENCES, seeds=SEEDS)
    sweep(load_pipeline(str(model)), cells, place / "here", progress=False, cache=place / "cache")
    return place


def files(place):
    """The content of each file, but for the times of a run."""
    paths = [path for path in place.rglob("*") if path.is_file() and path.name != "result.json"]
    return {str(path.relative_to(place)): path.read_bytes() for path in paths}


def descendants(process):
    """The running processes that a process started, and those that they did: command line by number."""
    parents, words = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                words[int(entry.name)] = (entry / "cmdline").read_text()
            except OSError:  # it has ended
                continue
    found = {process}
    while more := {each for each, parent in parents.items() if parent in found} - found:
        found |= more
    return {each: words.get(each, "") for each in found}


def wait_for_worker(process, cell):
    """The number of the worker that has a cell, whose name Ray makes its title."""
    while process.poll() is None:
        for number, title in descendants(process.pid).items():
            if title.startswith(f"ray::{cell}"):
                return number
        time.sleep(0.05)
    return pytest.fail(f"ended before a worker had {cell}: {process.communicate()}")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_is_killed_changes_nothing(number, swept, tmp_path):
    """Bit for bit, on one machine."""
    words = ["--target", "sneaker", "--divergences", *DIVERGENCES, "--seeds", *map(str, SEEDS)]
    words += ["--steps", str(STEPS), "--batch-size", "4", "--learning-rate", "1e-2", "--retained"]
    words += ["--images.number", "4", "--images.steps", "2", "--score-images", "0"]
    words += ["--cache", str(swept / "cache"), "--output", str(tmp_path / "out")]
    process = subprocess.Popen(
        [sys.executable, "-m", "fdiv_jax.cli", "sweep", str(swept / "model"), *words]
        + ["--executor", "ray", "--tasks-per-machine", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    worker = wait_for_worker(process, "closed-kl-superclass-1")
    time.sleep(0.5)
    assert descendants(process.pid)[worker].startswith("ray::closed-kl")  # it still has the cell
    os.kill(worker, number)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert output == f"{tmp_path / 'out' / 'table.csv'}\n"
    assert "ray" not in errors.lower().replace(str(tmp_path).lower(), "")
    assert files(tmp_path / "out") == files(swept / "here")
    assert len(files(tmp_path / "out")) > 4 * len(SEEDS) * len(DIVERGENCES)
