"""Real runs that are killed, asked to end, run out of disk or find a damaged checkpoint end as if nothing had
been: the same parameters and the same metrics, bit for bit."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
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
LONG = {**CLOSED, "steps": 48}

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks and kills processes")


class Host:
    """The process that forks the runs."""

    def __init__(self, place):
        environment = {**os.environ, "PYTHONPATH": str(RUN.parents[2])}
        self.place, self.logs = place, {}
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
        log = self.place / f"log-{len(self.logs)}"
        place = {"config": config, "output": str(output), "place": str(self.place), "log": str(log)}
        self.latest = int(self.answer({**place, "options": options, **(job or {})}))
        self.logs[self.latest] = log
        return self.latest

    def answer(self, question):
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline()

    def end(self, process=None):
        """Wait for the end of a run, the latest one: its exit status, 128 + the signal that ended it."""
        return int(self.answer({"wait": process or self.latest}))

    def said(self, process=None):
        """What a run, the latest one, has said on standard error."""
        return self.logs[process or self.latest].read_text()

    def finish(self, config, output, **options):
        """A run that ends well; returns what it said on standard error."""
        self.start(config, output, **options)
        status = self.end()
        assert status == 0, self.said()
        return self.said()

    def signalled(self, number, config, output, step, **options):
        """A run that gets a signal when this step is in its metrics; returns its exit status."""
        self.start(config, output, job={"at": (step, number)}, **options)
        return self.end()

    def stopped_at(self, step, config, output):
        """A run that is stopped when this step is in its metrics; returns its process id."""
        assert self.signalled(signal.SIGSTOP, config, output, step) == 128 + signal.SIGSTOP, self.said()
        return self.latest


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """What all runs share: compiled functions and anchor images."""
    return tmp_path_factory.mktemp("place")


@pytest.fixture(scope="module")
def host(place):
    host = Host(place)
    try:
        yield host
    finally:
        host.process.stdin.close()
        host.process.wait(timeout=60)
        host.process.stdout.close()


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
    process = host.stopped_at(5, CLOSED, output)
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
def test_killed_again_and_again_it_ends_as_if_nothing_had_been(host, uninterrupted, tmp_path):
    """While it begins; in the warm-up of the critic; while a checkpoint is written, which leaves rows behind
    the last one; between two steps; and while the result is written."""
    output, kill = tmp_path / "run", 128 + signal.SIGKILL
    places = [
        {"dies_in": r"config\.json"},
        {"at": (5, signal.SIGKILL)},
        {"dies_in": r"step-0*12"},
        {"at": (35, signal.SIGKILL)},
        {"dies_in": r"\.result"},
    ]
    done = []
    for job in places:
        host.start(GAME, output, job=job)
        assert host.end() == kill, host.said()
        assert leftovers(output) or "at" in job
        done.append(int(checkpoints(output)[-1].name[5:]) if checkpoints(output) else 0)
        assert not (output / "pipeline").exists()
    total = GAME["steps"] + GAME["critic"]["warmup"]
    assert done == [0, 3, 9, 33, total - total % 3]
    host.finish(GAME, output)
    assert leftovers(output) == []
    assert_the_same(output, uninterrupted(GAME))
    assert [json.loads(line)["step"] for line in lines(output)] == list(range(1, total + 1))


@pytest.mark.slow
def test_asked_to_end_it_saves_and_says_so(host, uninterrupted, tmp_path):
    """SIGTERM, twice in the life of the run, with no other checkpoints at all."""
    output = tmp_path / "run"
    for least in (17, 40):
        assert host.signalled(signal.SIGTERM, GAME, output, least, checkpoint_every=0) == 143
        done = int(checkpoints(output)[-1].name[5:])
        assert len(lines(output)) == done >= least
        assert not (output / ".lock").exists()
    host.finish(GAME, output)
    assert_the_same(output, uninterrupted(GAME))


def truncate(checkpoint):
    os.truncate(largest(checkpoint), largest(checkpoint).stat().st_size // 2)


def change_a_bit(checkpoint):
    content = bytearray(largest(checkpoint).read_bytes())
    content[len(content) // 2] ^= 1
    largest(checkpoint).write_bytes(content)


def remove_the_manifest(checkpoint):
    (checkpoint / "manifest.json").unlink()


def largest(checkpoint):
    return max((path for path in checkpoint.rglob("*") if path.is_file()), key=lambda p: p.stat().st_size)


@pytest.mark.slow
def test_of_a_damaged_checkpoint_the_one_before_is_used(host, uninterrupted, tmp_path):
    """Three times in the life of one run, damaged otherwise each time."""
    output, said = tmp_path / "run", None
    for least, damage in ((10, truncate), (20, change_a_bit), (30, remove_the_manifest), (None, None)):
        if damage is None:
            host.finish(LONG, output)
        else:
            assert host.signalled(signal.SIGTERM, LONG, output, least) == 143
        if said is not None:
            for each in said:
                assert each in host.said()
        if damage is not None:
            before, newest = checkpoints(output)[-2:]
            damage(newest)
            said = f"{newest.name} is damaged", f"{before.name} is used instead"
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
        process = host.stopped_at(20, LONG, output)
        filling.write_bytes(b"x" * shutil.disk_usage(disk).free)
        os.kill(process, signal.SIGCONT)
        assert host.end() == 1
        said = host.said().splitlines()[-1]
        assert said.startswith("OSError: [Errno 28] ")
        assert "No space left on device" in said
        assert "Traceback" in host.said()
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
    assert "was begun otherwise: learning_rate: 0.01 -> 0.001; steps: 48 ->" in host.said()
    assert lines(output) == before
    host.finish(changed, output, allow_changes=True)
    assert len(lines(output)) == done + 5
    assert lines(output)[:done] == before == lines(uninterrupted(LONG))[:done]
    written = json.loads((output / "config.json").read_text())
    assert (written["config"]["steps"], written["earlier"][0]["config"]["steps"]) == (done + 5, 48)


@pytest.mark.slow
def test_a_run_that_was_taken_over_writes_nothing_more(host, uninterrupted, tmp_path):
    output = tmp_path / "run"
    former = host.stopped_at(10, LONG, output)
    host.start(LONG, output)
    assert host.end() == 1
    assert f"is in use by process {former} on" in host.said()
    host.finish(LONG, output, takeover=True)
    os.kill(former, signal.SIGCONT)
    assert host.end(former) == 1
    assert "BlockingIOError" in host.said(former)
    assert_the_same(output, uninterrupted(LONG))


@pytest.mark.slow
def test_a_killed_sweep_leaves_nothing_half_written_behind(host, tmp_path):
    """Killed while it writes either cell, scores and the table, it ends as one never killed."""
    whole, output = tmp_path / "whole", tmp_path / "killed"
    job = {"divergences": ["kl", "squared_hellinger"]}
    host.start(CLOSED, whole, job=job)
    assert host.end() == 0, host.said()
    for name in ("closed-kl-.*", "closed-squared_hellinger-.*", r"scores\.json", r"table\.json"):
        host.start(CLOSED, output, job={**job, "dies_in": name})
        assert host.end() == 128 + signal.SIGKILL, host.said()
        # the kill came in the middle, and took nothing with it but the process
        kinds = [LEFTOVER.fullmatch(path.name)["name"] for path in leftovers(output)]
        assert any(re.fullmatch(name, kind) for kind in kinds), kinds
    host.start(CLOSED, output, job=job)
    assert host.end() == 0, host.said()
    assert leftovers(output) == []
    assert files(output) == files(whole)


def leftovers(output):
    return [path for path in output.rglob("*") if LEFTOVER.fullmatch(path.name)]


def files(output):
    """Every file, but for the times in result.json."""
    found = {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*") if path.is_file()}
    return {name: b"" if name.endswith("result.json") else content for name, content in found.items()}
