"""Real runs that are killed, asked to end, run out of disk or find a damaged checkpoint end as if nothing had
been: the same parameters and the same metrics, bit for bit."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fdiv_jax.checkpoints.atomic import LEFTOVER
from fdiv_jax.unlearning import UnlearningConfig, unlearn

RUN = Path(__file__).with_name("real_run.py")
CLOSED = {
    "target": "sneaker",
    "steps": 12,
    "batch_size": 4,
    "learning_rate": 1e-2,
    "images": {"number": 4, "steps": 2},
    "retained": [],
}
GAME = {
    **CLOSED,
    "steps": 60,
    "loss": "variational",
    "divergence": "jensen_shannon",
    "critic": {"warmup": 10, "hidden_channels": [8], "head_channels": 8, "learning_rate": 1e-3},
    "optimiser": {"ema": 0.9, "schedule": "cosine", "warmup_steps": 5},
    "retained": None,
}
"""Everything that a checkpoint has to hold: critic, moments, average, schedule, position in the data."""
LONG = {**CLOSED, "steps": 120}

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks and kills processes")


class Host:
    """The process that forks the runs, one at a time."""

    def __init__(self, place):
        environment = {**os.environ, "PYTHONPATH": str(RUN.parents[2])}
        environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # of programs that run for some seconds
        self.place, self.log = place, place / f"log-{id(self)}"
        self.process = subprocess.Popen(
            [sys.executable, str(RUN)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def start(self, config, output, *, job=None, **options):
        """Begin a run, or go on with it; returns its process id. `job`: more of what `real_run.py` reads."""
        place = {"config": config, "output": str(output), "place": str(self.place), "log": str(self.log)}
        self.process.stdin.write(json.dumps({**place, "options": options, **(job or {})}) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def end(self):
        """Wait for the end of the run: its exit status, 128 + the signal that ended it."""
        return int(self.process.stdout.readline())

    def finish(self, config, output, **options):
        """A run that ends well; returns what it said on standard error."""
        self.start(config, output, **options)
        status = self.end()
        assert status == 0, self.log.read_text()
        return self.log.read_text()

    def signalled(self, number, config, output, least, delay=0.0, **options):
        """A run that gets a signal when its metrics have `least` lines; returns its exit status."""
        process = self.start(config, output, **options)
        self.wait_for(output, least)
        time.sleep(delay)
        os.kill(process, number)
        return self.end()

    def wait_for(self, output, least):
        """Till the metrics have so many lines."""
        deadline = time.monotonic() + 240
        while len(lines(output)) < least:
            time.sleep(0.002)
            assert time.monotonic() < deadline, self.log.read_text()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """What all runs share: compiled functions and anchor images."""
    return tmp_path_factory.mktemp("place")


@contextlib.contextmanager
def hosting(place):
    host = Host(place)
    try:
        yield host
    finally:
        host.process.stdin.close()
        host.process.wait(timeout=60)
        host.process.stdout.close()


@pytest.fixture(scope="module")
def host(place):
    with hosting(place) as host:
        yield host


@pytest.fixture(scope="module")
def uninterrupted(host, place):
    """The directory of a configuration's run that nothing happened to."""
    made = {}

    def run(config):
        key = json.dumps(config)
        if key not in made:
            made[key] = place / f"uninterrupted-{len(made)}"
            host.finish(config, made[key])
        return made[key]

    return run


def lines(output):
    path = output / "metrics.jsonl"
    return path.read_bytes().splitlines() if path.exists() else []


def checkpoints(output):
    return sorted((output / "checkpoints").glob("step-*"))


def contents(output):
    """What a finished run is, but for its config.json."""
    assert sorted(path.name for path in output.iterdir()) == [
        "config.json",
        "metrics.jsonl",
        "pipeline",
        "result.json",
    ]
    files = [output / "metrics.jsonl", *sorted(p for p in (output / "pipeline").rglob("*") if p.is_file())]
    return {str(path.relative_to(output)): path.read_bytes() for path in files}


def assert_the_same(output, expected):
    found, wanted = contents(output), contents(expected)
    assert found.keys() == wanted.keys()
    assert any("unet" in name and name.endswith(".safetensors") for name in wanted)
    different = [name for name in wanted if found[name] != wanted[name]]
    assert not different


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_nothing_had_been(host, uninterrupted, pipe, tmp_path):
    """While it lives, another run in its directory is refused; when it is dead, one goes on."""
    output = tmp_path / "run"
    process = host.start(CLOSED, output)
    host.wait_for(output, 5)
    os.kill(process, signal.SIGSTOP)
    with pytest.raises(BlockingIOError, match=f"is in use by process {process} on"):
        unlearn(pipe, UnlearningConfig.from_dict(CLOSED), output, resume=True, progress=False, cache=False)
    os.kill(process, signal.SIGKILL)
    assert host.end() == 128 + signal.SIGKILL
    assert checkpoints(output)
    assert not (output / "pipeline").exists()
    host.finish(CLOSED, output)
    assert_the_same(output, uninterrupted(CLOSED))
    assert len(lines(output)) == CLOSED["steps"]


@pytest.mark.slow
@pytest.mark.parametrize("config", [GAME, LONG], ids=["critic and average", "closed"])
def test_killed_ten_times_at_random_moments(config, host, uninterrupted, tmp_path):
    output = tmp_path / "run"
    generator = random.Random(5)
    total = config["steps"] + config.get("critic", {}).get("warmup", 0)
    for kill in range(10):
        begun = int(checkpoints(output)[-1].name[5:]) if checkpoints(output) else 0
        process = host.start(config, output)
        time.sleep(0.2)
        if kill == 4:
            time.sleep(generator.uniform(0, 2))  # while it begins
        else:
            deadline = time.monotonic() + 240
            aim = min(begun + generator.randint(2, 11), total - 2)
            before = (output / "metrics.jsonl").stat().st_mtime_ns if kill else 0
            while len(lines(output)) < aim or (output / "metrics.jsonl").stat().st_mtime_ns == before:
                time.sleep(0.002)
                assert time.monotonic() < deadline, host.log.read_text()
            time.sleep(generator.uniform(0, 0.03))
        os.kill(process, signal.SIGKILL)
        assert host.end() == 128 + signal.SIGKILL, host.log.read_text()
    host.finish(config, output)
    assert_the_same(output, uninterrupted(config))
    assert [json.loads(line)["step"] for line in lines(output)] == list(range(1, total + 1))


@pytest.mark.slow
def test_asked_to_end_it_saves_and_says_so(host, uninterrupted, tmp_path):
    """SIGTERM, twice in the life of the run, with no other checkpoints at all; once before the first step."""
    output = tmp_path / "run"
    for least in (17, 40):
        assert host.signalled(signal.SIGTERM, GAME, output, least, checkpoint_every=0) == 143
        done = int(checkpoints(output)[-1].name[5:])
        assert len(lines(output)) == done >= least
        assert not (output / ".lock").exists()
    host.finish(GAME, output)
    assert_the_same(output, uninterrupted(GAME))


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["truncated", "a bit", "no manifest"])
def test_of_a_damaged_checkpoint_the_one_before_is_used(damage, host, uninterrupted, tmp_path):
    output = tmp_path / "run"
    assert host.signalled(signal.SIGTERM, LONG, output, 20) == 143
    before, newest = checkpoints(output)[-2:]
    victim = max((path for path in newest.rglob("*") if path.is_file()), key=lambda p: p.stat().st_size)
    if damage == "truncated":
        os.truncate(victim, victim.stat().st_size // 2)
    elif damage == "a bit":
        content = bytearray(victim.read_bytes())
        content[len(content) // 2] ^= 1
        victim.write_bytes(content)
    else:
        (newest / "manifest.json").unlink()
    said = host.finish(LONG, output)
    assert f"{newest.name} is damaged" in said
    assert f"{before.name} is used instead" in said
    assert_the_same(output, uninterrupted(LONG))


@pytest.mark.slow
def test_a_full_disk_costs_nothing_but_time(host, uninterrupted, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounts = os.geteuid() == 0 and shutil.which("mount") is not None
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)]
    if not mounts or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root and the permission to mount")
    try:
        output, filling = disk / "run", disk / "filling"
        for least in (10, 50):
            process = host.start(LONG, output)
            host.wait_for(output, least)
            os.kill(process, signal.SIGSTOP)
            filling.write_bytes(b"x" * shutil.disk_usage(disk).free)
            os.kill(process, signal.SIGCONT)
            assert host.end() == 1
            said = host.log.read_text().splitlines()[-1]
            assert said.startswith("OSError: [Errno 28] ")
            assert "No space left on device" in said
            assert "Traceback" in host.log.read_text()
            assert checkpoints(output)
            assert not (output / "pipeline").exists()
            filling.unlink()
        host.finish(LONG, output)
        assert_the_same(output, uninterrupted(LONG))
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.slow
def test_another_configuration_is_refused_or_goes_on_where_that_is_allowed(host, uninterrupted, tmp_path):
    output = tmp_path / "run"
    assert host.signalled(signal.SIGTERM, LONG, output, 10) == 143
    done, before = len(lines(output)), lines(output)
    changed = {**LONG, "learning_rate": 1e-3, "steps": done + 5}
    host.start(changed, output)
    assert host.end() == 1
    assert "was begun otherwise: learning_rate: 0.01 -> 0.001; steps: 120 ->" in host.log.read_text()
    assert lines(output) == before
    host.finish(changed, output, allow_changes=True)
    assert len(lines(output)) == done + 5
    assert lines(output)[:done] == before == lines(uninterrupted(LONG))[:done]
    written = json.loads((output / "config.json").read_text())
    assert (written["config"]["steps"], written["earlier"][0]["config"]["steps"]) == (done + 5, 120)


@pytest.mark.slow
def test_a_run_that_was_taken_over_writes_nothing_more(host, place, uninterrupted, tmp_path):
    output = tmp_path / "run"
    former = host.start(LONG, output)
    host.wait_for(output, 10)
    os.kill(former, signal.SIGSTOP)
    with hosting(place) as other:
        other.start(LONG, output)
        assert other.end() == 1
        assert f"is in use by process {former} on" in other.log.read_text()
        other.finish(LONG, output, takeover=True)
    os.kill(former, signal.SIGCONT)
    assert host.end() == 1
    assert "BlockingIOError" in host.log.read_text()
    assert_the_same(output, uninterrupted(LONG))


@pytest.mark.slow
def test_a_killed_sweep_leaves_nothing_half_written_behind(host, tmp_path):
    """Killed again and again while it writes cells, scores and table, it ends as one never killed."""
    whole, output = tmp_path / "whole", tmp_path / "killed"
    job = {"divergences": ["kl", "squared_hellinger"]}
    host.start(CLOSED, whole, job=job)
    assert host.end() == 0, host.log.read_text()
    kinds = set()
    for dies_at in range(3, 43, 2):  # later each time, as every begin costs as much as many steps
        host.start(CLOSED, output, job={**job, "dies_at": dies_at})
        status = host.end()
        if status == 0:
            break
        assert status == 128 + signal.SIGKILL, host.log.read_text()
        left = leftovers(output)
        assert left  # the kill came in the middle, and took nothing with it but the process
        kinds |= {LEFTOVER.fullmatch(path.name)["name"] for path in left}
    assert status == 0
    assert len(kinds) > 2, kinds
    assert leftovers(output) == []
    assert files(output) == files(whole)


def leftovers(output):
    return [path for path in output.rglob("*") if LEFTOVER.fullmatch(path.name)]


def files(output):
    """Every file, but for the times in result.json."""
    found = {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*") if path.is_file()}
    return {name: b"" if name.endswith("result.json") else content for name, content in found.items()}
