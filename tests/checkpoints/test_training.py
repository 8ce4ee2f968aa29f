"""Checkpoints of a run outlive kills, full disks and damage."""

import contextlib
import dataclasses
import errno
import fcntl
import importlib.util
import json
import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fdiv_jax.checkpoints import training
from fdiv_jax.checkpoints.training import TrainingCheckpoints

SAVER = Path(__file__).with_name("saver.py")
specification = importlib.util.spec_from_file_location("saver", SAVER)
saver = importlib.util.module_from_spec(specification)
specification.loader.exec_module(saver)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    step: jax.Array
    trained: dict
    optimiser: tuple
    opponent: object


def state_of(step):
    parameters = {
        "unet.conv.weight": jax.random.normal(jax.random.key(step), (3, 3, 4)),
        "unet.conv.bias": jnp.array([np.nan, -0.0, np.inf, 1e-45], jnp.float32),
        "text.half": jax.random.normal(jax.random.key(step), (5,)).astype(jnp.bfloat16),
        "nothing": jnp.zeros((0, 3)),
    }
    optimiser = optax.inject_hyperparams(optax.adamw)(learning_rate=1e-3)
    moments = optimiser.init(parameters)
    key = jax.random.key_data(jax.random.key(step))
    return State(jnp.asarray(step, jnp.int32), parameters, moments, (key, None, np.array([True, False])))


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert isinstance(a, np.ndarray)
        b = np.asarray(b)
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def files_of(directory):
    return sorted(path for path in directory.rglob("*") if path.is_file())


def contents(directory):
    return {path: path.read_bytes() for path in files_of(directory)}


def fill(directory, *steps, **options):
    checkpoints = TrainingCheckpoints(directory, **options)
    for step in steps:
        checkpoints.save(step, {"x": np.full(3, step, np.float32)}, {"step": step}, {"m": b"%d" % step})
    return checkpoints


LIKE = {"x": np.zeros(3, np.float32)}


def test_every_bit_comes_back_in_its_structure(tmp_path):
    checkpoints = TrainingCheckpoints(tmp_path / "deep" / "checkpoints")
    extra = {"batches": {"epoch": 3, "position": [1, 2]}, "rate": 0.1, "none": None}
    path = checkpoints.save(7, state_of(7), extra, {"metrics.jsonl": b'{"a": 1}\n\xff\x00', "empty": b""})
    assert path == tmp_path / "deep" / "checkpoints" / "step-00000007"
    restored = TrainingCheckpoints(path.parent).restore(state_of(0))
    assert restored.step == 7
    assert restored.extra == extra
    assert restored.files == {"metrics.jsonl": b'{"a": 1}\n\xff\x00', "empty": b""}
    assert_same(restored.state, state_of(7))
    abstract = jax.eval_shape(lambda: {"x": jnp.zeros(3)})
    assert_same(fill(tmp_path / "other", 1).restore(abstract).state, {"x": np.ones(3, np.float32)})


def test_no_checkpoints_and_no_arrays(tmp_path):
    checkpoints = TrainingCheckpoints(tmp_path / "checkpoints")
    assert checkpoints.restore(LIKE) is None
    assert checkpoints.steps() == []
    assert not (tmp_path / "checkpoints").exists()
    checkpoints.save(0, {"empty": np.zeros((0, 2), np.int32), "none": None}, {})
    restored = checkpoints.restore({"empty": np.zeros((0, 2), np.int32), "none": None})
    assert_same(restored.state, {"empty": np.zeros((0, 2), np.int32), "none": None})
    assert restored.files == {}


def test_arrays_on_several_devices_are_gathered(tmp_path):
    mesh = Mesh(np.asarray(jax.local_devices()[:4]), ("batch",))
    value = np.arange(32, dtype=np.float32).reshape(8, 4)
    state = {
        "cut": jax.device_put(value, NamedSharding(mesh, PartitionSpec("batch"))),
        "copied": jax.device_put(value, NamedSharding(mesh, PartitionSpec())),
    }
    assert len(state["cut"].sharding.device_set) == 4
    checkpoints = TrainingCheckpoints(tmp_path)
    checkpoints.save(1, state, {})
    assert_same(checkpoints.restore(state).state, {"cut": value, "copied": value})


def test_the_newest_are_kept(tmp_path):
    checkpoints = fill(tmp_path, 100_000_000, keep=1)
    fill(tmp_path / "a", 1, 2, 3, 10)
    assert names(tmp_path / "a") == ["step-00000003", "step-00000010"]
    assert fill(tmp_path / "b", 1, 2, 3, 10, keep=3).steps() == [2, 3, 10]
    assert checkpoints.restore(LIKE).step == 100_000_000
    with pytest.raises(ValueError, match="keep 0, expected at least 1"):
        TrainingCheckpoints(tmp_path, keep=0)


def test_a_run_that_went_back_leaves_its_former_future_behind(tmp_path):
    checkpoints = fill(tmp_path, 1, 2, 3, keep=3)
    checkpoints.save(2, {"x": np.full(3, 20, np.float32)}, {})
    assert checkpoints.steps() == [1, 2]
    assert_same(checkpoints.restore(LIKE).state, {"x": np.full(3, 20, np.float32)})
    assert names(tmp_path) == ["step-00000001", "step-00000002"]


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"x": np.zeros(4, np.float32)}, r"state\['x'\] has shape \(3,\), expected \(4,\)"),
        ({"x": np.zeros(3, np.int32)}, r"state\['x'\] has dtype float32, expected int32"),
        ({"y": np.zeros(3, np.float32)}, r"has state\['x'\], which the state of this run does not have"),
        (
            {"x": LIKE["x"], "z": LIKE["x"]},
            r"step-00000002 lacks state\['z'\], which the state of this run has",
        ),
        ([np.zeros(3, np.float32)], r"has state\['x'\]"),
    ],
)
def test_another_structure_is_refused_by_name(like, message, tmp_path):
    checkpoints = fill(tmp_path, 1, 2)
    with pytest.raises(ValueError, match=message):
        checkpoints.restore(like)


@pytest.mark.parametrize(
    ("state", "extra", "files", "error", "message"),
    [
        ({"k": jax.random.key(0)}, {}, {}, TypeError, r"state\['k'\] is a random key"),
        ({"k": 1.5}, {}, {}, TypeError, r"state\['k'\] is of type float, expected an array"),
        (LIKE, {"x": np.zeros(3)}, {}, TypeError, "not JSON serializable"),
        (LIKE, {}, {"../metrics": b""}, ValueError, "expected a name without directories"),
        (LIKE, {}, {"..": b""}, ValueError, "expected a name without directories"),
    ],
)
def test_what_cannot_be_saved_is_refused_before_writing(state, extra, files, error, message, tmp_path):
    checkpoints = fill(tmp_path / "c", 1)
    before = contents(tmp_path)
    with pytest.raises(error, match=message):
        checkpoints.save(2, state, extra, files)
    with pytest.raises(ValueError, match="step -1"):
        checkpoints.save(-1, LIKE, {})
    assert contents(tmp_path) == before


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def extend(path):
    path.write_bytes(path.read_bytes() + b"\n")


DAMAGES = {"truncated": truncate, "flipped": flip, "longer": extend, "missing": os.unlink}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damage_of_any_file_is_seen_and_the_one_before_used(damage, tmp_path):
    checkpoints = fill(tmp_path, 1, 2)
    files = files_of(tmp_path / "step-00000002")
    assert len(files) >= 8
    for file in files:
        content = file.read_bytes()
        damage(file)
        with pytest.warns(RuntimeWarning, match="step-00000002 is damaged: .*step-00000001 is used") as seen:
            restored = checkpoints.restore(LIKE)
        assert len(seen) == 1
        assert "\n" not in str(seen[0].message)
        name = file.relative_to(tmp_path / "step-00000002").as_posix()
        assert name in str(seen[0].message)
        assert restored.step == 1
        assert_same(restored.state, {"x": np.ones(3, np.float32)})
        file.write_bytes(content)
    assert checkpoints.restore(LIKE).step == 2


def test_every_bit_of_the_manifest_counts(tmp_path):
    checkpoints = fill(tmp_path, 1)
    manifest = tmp_path / "step-00000001" / "manifest.json"
    content = manifest.read_bytes()
    for place in range(0, len(content), 7):
        changed = bytearray(content)
        changed[place] ^= 1 << (place % 7)
        manifest.write_bytes(changed)
        with pytest.raises(ValueError, match=r"step-00000001 is damaged: manifest\.json"):
            checkpoints.restore(LIKE)


def test_a_file_too_many_and_a_wrong_name_are_damage(tmp_path):
    checkpoints = fill(tmp_path, 1, 2)
    (tmp_path / "step-00000002" / "state" / "more").write_text("")
    (tmp_path / "step-00000002").rename(tmp_path / "step-00000003")
    with pytest.warns(RuntimeWarning, match=r"step-00000003 is damaged: manifest.json is that of step 2"):
        assert checkpoints.restore(LIKE).step == 1
    (tmp_path / "step-00000003").rename(tmp_path / "step-00000002")
    with pytest.warns(RuntimeWarning, match=r"step-00000002 is damaged: unexpected file state/more"):
        assert checkpoints.restore(LIKE).step == 1


def test_all_damaged_are_listed(tmp_path):
    checkpoints = fill(tmp_path, 1, 2)
    truncate(tmp_path / "step-00000002" / "extra.json")
    shutil.rmtree(tmp_path / "step-00000001")
    (tmp_path / "step-00000001").mkdir()
    message = r"no checkpoint that is whole: step-00000002 .*extra\.json.*; step-00000001 .*no manifest\.json"
    with pytest.raises(ValueError, match=message):
        checkpoints.restore(LIKE)


def test_a_later_format_is_not_taken_for_damage(tmp_path, monkeypatch):
    with monkeypatch.context() as later:
        later.setattr(training, "_FORMAT", 2)
        fill(tmp_path, 1)
    with pytest.raises(NotImplementedError, match="checkpoint of format 2; supported: 1"):
        TrainingCheckpoints(tmp_path).restore(LIKE)


def test_what_dead_runs_left_is_removed_and_what_live_ones_write_is_not(tmp_path):
    fill(tmp_path, 1, 2)
    stale, live = (tmp_path / f".step-00000003.tmp-{word}" for word in ("deaddead", "beefbeef"))
    for path in (stale, live):
        (path / "state").mkdir(parents=True)
    descriptor = os.open(live, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        checkpoints = TrainingCheckpoints(tmp_path)
        assert not stale.exists()
        assert live.exists()
    finally:
        os.close(descriptor)
    checkpoints.save(3, LIKE, {})
    assert names(tmp_path) == ["step-00000002", "step-00000003"]


def test_one_put_aside_comes_back(tmp_path):
    fill(tmp_path, 1, 2)
    (tmp_path / "step-00000002").rename(tmp_path / ".step-00000002.old-1a2b3c4d")
    shutil.copytree(tmp_path / "step-00000001", tmp_path / ".step-00000001.old-1a2b3c4d")
    assert TrainingCheckpoints(tmp_path).restore(LIKE).step == 2
    assert names(tmp_path) == ["step-00000001", "step-00000002"]


@contextlib.contextmanager
def unharmed(checkpoints, number, step):
    """The save in the block fails with this errno, in one line; the older checkpoints are as they were."""
    before = contents(checkpoints.directory)
    newest = checkpoints.steps()[-1]
    with pytest.raises(OSError) as caught:
        yield
    assert caught.value.errno == number
    text = str(caught.value)
    assert "\n" not in text
    for part in (str(checkpoints.directory), f"step {step} ", f"step-{newest:08d}", os.strerror(number)):
        assert part in text
    assert contents(checkpoints.directory) == before
    assert names(checkpoints.directory) == [f"step-{each:08d}" for each in checkpoints.steps()]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of two megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    mounts = os.geteuid() == 0 and shutil.which("mount") is not None
    if not mounts or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root and the permission to mount")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.parametrize("known", [True, False], ids=["seen before writing", "seen while writing"])
def test_a_full_disk(known, small_disk, monkeypatch):
    if not known:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 0, 10**9))
    checkpoints = TrainingCheckpoints(small_disk / "run" / "checkpoints")
    state = {"x": np.random.default_rng(0).standard_normal(200_000).astype(np.float32)}
    checkpoints.save(1, state, {})
    checkpoints.save(2, state, {})
    with unharmed(checkpoints, errno.ENOSPC, 3):
        checkpoints.save(3, state, {})
    assert_same(checkpoints.restore(state).state, state)
    checkpoints.save(4, {"x": state["x"][:10]}, {})
    assert checkpoints.steps() == [2, 4]


def test_a_file_that_may_not_grow(tmp_path):
    """The quota of a process, which every system has: TensorStore's own exception becomes an OSError."""
    checkpoints = fill(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with unharmed(checkpoints, errno.EFBIG, 2):
            checkpoints.save(2, {"x": np.random.default_rng(0).standard_normal(100_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    checkpoints.save(2, LIKE, {})


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("call", [1, 4, 9])
def test_a_disk_that_fails_when_it_is_flushed(number, call, tmp_path, monkeypatch):
    checkpoints = fill(tmp_path, 1, 2)
    flush, count = os.fsync, 0

    def fail(descriptor):
        nonlocal count
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            count += 1
            if count == call:
                raise OSError(number, os.strerror(number))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    with unharmed(checkpoints, number, 3):
        checkpoints.save(3, LIKE, {})
    assert count == call


def test_the_newest_whole_one_is_named_when_the_newest_is_damaged(tmp_path, monkeypatch):
    checkpoints = fill(tmp_path, 1, 2)
    flip(tmp_path / "step-00000002" / "extra.json")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(OSError, match=r"the newest that is whole is step-00000001$"):
        checkpoints.save(3, LIKE, {})
    first = TrainingCheckpoints(tmp_path / "first")
    with pytest.raises(OSError, match=r"there is none before it$"):
        first.save(3, LIKE, {})
    assert names(tmp_path / "first") == []


def test_a_mistake_is_not_taken_for_a_full_disk(tmp_path, monkeypatch):
    def mistaken(*_):
        raise ValueError("a mistake")

    checkpoints = fill(tmp_path, 1)
    monkeypatch.setattr(training, "_write_arrays", mistaken)
    with pytest.raises(ValueError, match="a mistake"):
        checkpoints.save(2, LIKE, {})
    assert names(tmp_path) == ["step-00000001"]


@pytest.fixture(scope="module")
def start():
    """Begins a process that saves without end (or kills itself); gives its id."""
    command = [sys.executable, "-W", "ignore", str(SAVER)]
    environment = {**os.environ, "PYTHONPATH": str(SAVER.parents[2])}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:

        def begin(directory, crash=None):
            process.stdin.write(json.dumps({"directory": str(directory), "crash": crash}) + "\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        yield begin
        process.stdin.close()


def wait_for_the_end_of(process):
    deadline = time.monotonic() + 60
    while Path(f"/proc/{process}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def assert_it_is_whole(directory):
    """The checkpoint restored is the pure function of its step; returns the step."""
    restored = TrainingCheckpoints(directory).restore(saver.state(0))
    if restored is None:
        return 0
    assert restored.extra == {"step": restored.step}
    assert restored.files == {"metrics.jsonl": saver.metrics(restored.step)}
    assert_same(restored.state, saver.state(restored.step))
    return restored.step


needs_proc = pytest.mark.skipif(not Path("/proc/self").exists(), reason="watches processes in /proc")


@pytest.mark.slow
@needs_proc
def test_killed_at_any_moment(start, tmp_path):
    """Ten times SIGKILL while one save follows another; the run goes on from what it finds."""
    generator = random.Random(0)
    steps = [0]
    for _ in range(10):
        process = start(tmp_path)
        deadline = time.monotonic() + 60
        while not any(int(name[5:]) > steps[-1] for name in names(tmp_path) if name[0] != "."):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(generator.uniform(0, 0.3))
        os.kill(process, signal.SIGKILL)
        wait_for_the_end_of(process)
        steps.append(assert_it_is_whole(tmp_path))
    assert steps == sorted(set(steps))
    assert all(name.startswith("step-") for name in names(tmp_path))


@pytest.mark.slow
@needs_proc
def test_killed_at_each_call_that_touches_the_disk(start, tmp_path):
    """In the third save, which also deletes the first checkpoint: before the rename the second is found,
    after it the third."""
    found = []
    for call in range(1, 100):
        directory = tmp_path / str(call)
        wait_for_the_end_of(start(directory, call))
        hidden = [name for name in names(directory) if name.startswith(".")]
        found.append(assert_it_is_whole(directory))
        assert set(names(directory)) <= {f"step-0000000{k}" for k in (1, 2, 3)}
        if found[-1] == 3 and not hidden and len(names(directory)) == 2:
            break
    assert found == sorted(found)
    assert set(found) == {2, 3}
    assert len(found) > 15


def test_parts_of_a_state_that_are_called_otherwise_now_are_read(tmp_path):
    """Leaves by their former names, whole words alone; without that the state does not fit."""
    checkpoints = TrainingCheckpoints(tmp_path)
    checkpoints.save(3, {"old": {"a": np.arange(3)}, "older": np.ones(2)}, {})
    like = {"new": {"a": np.zeros(3, int)}, "older": np.zeros(2)}
    with pytest.raises(ValueError, match=r"has state\['old'\]\['a'\], which the state of this run does not"):
        checkpoints.restore(like)
    restored = checkpoints.restore(like, {"['old']": "['new']", "['older": "['newer"})
    np.testing.assert_array_equal(restored.state["new"]["a"], np.arange(3))
    np.testing.assert_array_equal(restored.state["older"], np.ones(2))
