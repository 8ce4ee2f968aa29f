"""Event files as TensorBoard itself reads them; Weights & Biases through a stand-in."""

import errno
import json
import math
import struct
import sys

import numpy as np
import pytest

from fdiv_jax.monitoring import TensorBoardEvents, WandbEvents
from fdiv_jax.monitoring._event_file import record, restart_event, scalar_event, version_event


def row(step, loss, **more):
    return {"step": step, "warmup": step < 3, "loss": loss, "gradient_norm": 1e-9 * step, **more}


def read(directory):
    """{tag: [(step, value), ...]}, as TensorBoard shows them."""
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulators.EventAccumulator(str(directory / "tensorboard"))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_every_figure_of_every_step(tmp_path):
    watcher = TensorBoardEvents(tmp_path)
    losses = [0.1, math.nan, math.inf, 1e39, -2.5, 0.0]
    for i, loss in enumerate(losses):
        watcher.row(row(i + 1, loss, skipped=i == 1, note="text", nothing=None))
    shown = read(tmp_path)
    assert set(shown) == {"warmup", "loss", "gradient_norm", "skipped"}
    steps, values = zip(*shown["loss"], strict=True)
    assert steps == (1, 2, 3, 4, 5, 6)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(np.float32(values), np.float32(losses))
    assert [value for _, value in shown["warmup"]] == [1, 1, 0, 0, 0, 0]
    assert [value for _, value in shown["skipped"]] == [0, 1, 0, 0, 0, 0]


def test_a_resumed_run_shows_every_step_once(tmp_path):
    first = TensorBoardEvents(tmp_path)
    for step in range(1, 8):
        first.row(row(step, float(step)))
    second = TensorBoardEvents(tmp_path)  # from a checkpoint of step 4
    for step in range(5, 10):
        second.row(row(step, 100.0 + step))
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    expected = [(step, float(step if step < 5 else 100 + step)) for step in range(1, 10)]
    assert read(tmp_path)["loss"] == expected


def test_a_torn_last_record_costs_nothing_else(tmp_path):
    watcher = TensorBoardEvents(tmp_path)
    for step in (1, 2, 3):
        watcher.row(row(step, 0.5))
    (file,) = (tmp_path / "tensorboard").iterdir()
    file.write_bytes(file.read_bytes()[:-5])
    TensorBoardEvents(tmp_path).row(row(3, 0.25))
    assert read(tmp_path)["loss"] == [(1, 0.5), (2, 0.5), (3, 0.25)]


def test_messages_against_the_protocol():
    messages = pytest.importorskip("tensorboard.compat.proto.event_pb2")
    event = messages.Event.FromString(scalar_event(12.5, 70_000_000_000, {"m": 0.125, "ä": -1.0}))
    assert (event.wall_time, event.step) == (12.5, 70_000_000_000)
    assert [(v.tag, v.simple_value) for v in event.summary.value] == [("m", 0.125), ("ä", -1.0)]
    event = messages.Event.FromString(restart_event(1.0, 300))
    assert event.step == 300
    assert event.session_log.status == messages.SessionLog.START
    assert messages.Event.FromString(version_event(1.0)).file_version == "brain.Event:2"


def test_the_checksum_of_a_record():
    message = b"123456789"  # the check value of CRC-32C is that of these nine bytes
    crc = 0xE3069283
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32
    assert record(message)[-4:] == struct.pack("<I", masked)
    assert record(message)[:8] == struct.pack("<Q", 9)


def test_a_full_disk_is_told_in_one_line(tmp_path, monkeypatch):
    watcher = TensorBoardEvents(tmp_path)
    watcher.row(row(1, 0.5))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("fdiv_jax.monitoring.events.open_own", full)
    with pytest.raises(OSError, match=r"cannot write .*tfevents.*: No space left on device") as caught:
        watcher.row(row(2, 0.5))
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert read(tmp_path)["loss"] == [(1, 0.5)]


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "tensorboard").write_text("")
    with pytest.raises(OSError, match=r"cannot write .*tensorboard"):
        TensorBoardEvents(tmp_path).row(row(1, 0.5))


STAND_IN = """
import json
calls = []
class Run:
    def log(self, figures, step): calls.append(["log", step, figures])
    def finish(self): calls.append(["finish"])
def init(**options):
    calls.append(["init", options])
    return Run()
"""


@pytest.fixture
def wandb(tmp_path, monkeypatch):
    """A stand-in for the package; gives what it was asked for."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "wandb.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    yield lambda: sys.modules["wandb"].calls
    sys.modules.pop("wandb", None)


def test_weights_and_biases_goes_on_with_the_run(wandb, tmp_path, result):
    finished = result(steps=2)
    for first in (1, 2):
        watcher = WandbEvents(tmp_path / "run", "a project", finished.config)
        watcher.row(row(first, 0.5))
        watcher.end(finished)
    begun = [options for name, *options in wandb() if name == "init"]
    assert len(begun) == 2
    assert begun[0] == begun[1]
    options = begun[0][0]
    assert options["project"] == "a project"
    assert options["name"] == "run"
    assert options["resume"] == "allow"
    assert json.loads(json.dumps(options["config"])) == finished.config.to_dict()
    logged = ["log", 1, {"warmup": 1.0, "loss": 0.5, "gradient_norm": 1e-9}]
    assert wandb()[1:3] == [logged, ["finish"]]


def test_weights_and_biases_that_is_not_there(tmp_path, monkeypatch, result):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(NotImplementedError, match="needs the package wandb"):
        WandbEvents(tmp_path, "project", result().config)
