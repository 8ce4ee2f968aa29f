"""A run's directory holds each step once, one process at a time, whatever ends that process."""

import contextlib
import errno
import json
import os
import resource
import shutil
import socket
import subprocess
from collections import deque
from pathlib import Path

import numpy as np
import pytest

from tests.unlearning.run_directories import (
    DESCRIPTION,
    LIKE,
    begin,
    contents,
    read_rows,
    state,
    write_result,
)


def changed(**changes):
    """The description with `part__key=value` changed."""
    description = json.loads(json.dumps(DESCRIPTION))
    for name, value in changes.items():
        *parts, key = name.split("__")
        place = description
        for part in parts:
            place = place[part]
        place[key] = value
    return description


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_a_new_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with begin("deep/run") as run:
        path = tmp_path / "deep" / "run"
        assert run.path == path
        assert json.loads((path / "config.json").read_text()) == json.loads(json.dumps(DESCRIPTION))
        assert json.loads((path / ".lock").read_text()) == {"host": socket.gethostname(), "pid": os.getpid()}
        assert run.checkpoints.directory == path / "checkpoints"
        assert not run.resumed
        assert not run.finished
        assert run.rows == []
        assert run.saved is None
        assert run.restore(LIKE) is None
        run.log({"step": 1, "loss": float("inf")})
        run.log({"step": 2, "loss": 0.1, "warmup": True})
        assert (path / "metrics.jsonl").read_bytes() == run.metrics_bytes()
        assert run.rows == [{"step": 1, "loss": float("inf")}, {"step": 2, "loss": 0.1, "warmup": True}]
    assert names(path) == ["config.json", "metrics.jsonl"]


def test_resuming_what_is_not_there_begins_it(tmp_path):
    for place in (tmp_path / "new", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with begin(place, resume=True) as run:
            assert not run.resumed
            assert run.restore(LIKE) is None
            run.log({"step": 1})


def test_what_is_there_is_refused_and_left_as_it_is(tmp_path):
    used, file, alien = (tmp_path / name for name in ("used", "file", "alien"))
    with begin(used):
        pass
    alien.mkdir()
    (alien / "precious").write_text("precious")
    file.write_text("precious")
    before = contents(tmp_path)
    refused = [
        (used, False, FileExistsError, "used exists and is not empty; .*; --resume continues its run$"),
        (
            alien,
            False,
            FileExistsError,
            "alien exists and is not empty; expected an empty or a new directory$",
        ),
        (alien, True, FileNotFoundError, r"alien has no config\.json: it is not the directory of a run"),
        (file, False, NotADirectoryError, "file is a file"),
        (file, True, NotADirectoryError, "file is a file"),
        (file / "below", False, NotADirectoryError, "file is a file, expected a directory"),
    ]
    for path, resume, error, message in refused:
        with pytest.raises(error, match=message), begin(path, resume=resume):
            pass
    assert contents(tmp_path) == before
    assert names(used) == ["config.json", "metrics.jsonl"]


def test_what_a_process_killed_at_the_very_beginning_left_is_no_run(tmp_path):
    (tmp_path / ".lock").write_text("{")
    for name in ("config.json", "metrics.jsonl"):
        (tmp_path / f".{name}.tmp-1a2b3c4d").mkdir()
        (tmp_path / f".{name}.tmp-1a2b3c4d" / name).write_text("{")
    with begin(tmp_path) as run:
        assert not run.resumed
    assert names(tmp_path) == ["config.json", "metrics.jsonl"]


def test_resumed_with_another_configuration(tmp_path):
    with begin(tmp_path):
        pass
    before = contents(tmp_path)
    other = changed(
        config__learning_rate=0.2, config__optimiser__b1=0.8, model__sha256="def", config__new=[1]
    )
    del other["config"]["optimiser"]["name"]
    with pytest.raises(ValueError) as caught, begin(tmp_path, other, resume=True):
        pass
    text = str(caught.value)
    for part in (
        ": learning_rate: 0.1 -> 0.2;",
        " optimiser.b1: 0.9 -> 0.8;",
        ' optimiser.name: "adam" -> (absent);',
        " new: (absent) -> [1];",
        ' model.sha256: "abc" -> "def" (',
    ):
        assert part in text
    assert "target" not in text
    assert contents(tmp_path) == before
    with begin(tmp_path, other, resume=True, allow_changes=True) as run:
        assert run.resumed
        assert contents(tmp_path)[tmp_path / "config.json"] == before[tmp_path / "config.json"]
        run.restore(LIKE)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored.pop("earlier") == [json.loads(json.dumps(DESCRIPTION))]
    assert stored == other
    with begin(tmp_path, other, resume=True):
        pass
    with begin(tmp_path, DESCRIPTION, resume=True, allow_changes=True) as run:
        run.restore(LIKE)
    earlier = json.loads((tmp_path / "config.json").read_text())["earlier"]
    assert earlier == [json.loads(json.dumps(DESCRIPTION)), other]


def test_resumed_on_another_system(tmp_path):
    with begin(tmp_path):
        pass
    other = changed(versions__jax="0.11", devices=["tpu:0"])
    message = r'versions.jax: "0.10.2" -> "0.11"; devices: \["cpu:0"\] -> \["tpu:0"\] .*last bits'
    with pytest.warns(RuntimeWarning, match=message), begin(tmp_path, other, resume=True) as run:
        run.restore(LIKE)
    assert json.loads((tmp_path / "config.json").read_text())["versions"] == other["versions"]
    with begin(tmp_path, other, resume=True):  # no warning: it is the system of the last time
        pass


def test_a_run_goes_on_with_its_work_shared_out_otherwise(tmp_path):
    settings = DESCRIPTION["config"]
    begun = {**DESCRIPTION, "config": {**settings, "devices": "single"}}
    with begin(tmp_path, begun):
        pass
    other = {**DESCRIPTION, "config": {**settings, "devices": "all", "parallel": "fsdp"}}
    message = r'devices: "single" -> "all"; parallel: null -> "fsdp" .*last bits'
    with pytest.warns(RuntimeWarning, match=message), begin(tmp_path, other, resume=True) as run:
        run.restore(LIKE)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["config"]["parallel"] == "fsdp"
    assert stored["earlier"][0]["config"]["devices"] == "single"
    another = {**other, "config": {**other["config"], "learning_rate": 0.7}}
    with pytest.raises(ValueError, match="learning_rate"), begin(tmp_path, another, resume=True):
        pass


def test_changes_that_the_checkpoint_does_not_fit_leave_the_description(tmp_path):
    with begin(tmp_path) as run:
        run.log({"step": 1})
        run.save(1, state(1), {})
    before = (tmp_path / "config.json").read_bytes()
    other = changed(config__learning_rate=0.2)
    with begin(tmp_path, other, resume=True, allow_changes=True) as run, pytest.raises(ValueError):
        run.restore({"x": np.zeros(3, np.float32), "average": np.zeros(3, np.float32)})
    assert (tmp_path / "config.json").read_bytes() == before


@pytest.mark.parametrize("content", ["", '{"config": ', "[]x", "[1]"])
def test_a_damaged_description(content, tmp_path):
    with begin(tmp_path):
        pass
    (tmp_path / "config.json").write_text(content)
    with (
        pytest.raises(ValueError, match=r"config\.json.*; the run cannot be resumed"),
        begin(tmp_path, resume=True),
    ):
        pass


def rows(last):
    return [{"step": step, "loss": 1 / step} for step in range(1, last + 1)]


def test_a_resumed_run_has_each_step_once(tmp_path):
    with begin(tmp_path) as run:
        for row in rows(5):
            run.log(row)
            if row["step"] % 2 == 0:
                path = run.save(row["step"], state(row["step"]), {"position": row["step"]})
        assert path == tmp_path / "checkpoints" / "step-00000004"
        assert run.saved == 4
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 6, "lo')
    with begin(tmp_path, resume=True) as run:
        with pytest.raises(RuntimeError, match="restore comes before the first row"):
            run.log({"step": 6})
        restored = run.restore(LIKE)
        assert restored.extra == {"position": 4}
        np.testing.assert_array_equal(restored.state["x"], state(4)["x"])
        assert run.saved == 4
        assert run.rows == rows(4)
        assert (tmp_path / "metrics.jsonl").read_text() == "".join(json.dumps(r) + "\n" for r in rows(4))
        for row in rows(6)[4:]:
            run.log(row)
        assert run.rows == rows(6)
    assert read_rows(tmp_path) == rows(6)


def test_rows_come_back_though_the_file_is_lost(tmp_path):
    with begin(tmp_path) as run:
        run.log(rows(1)[0])
        run.save(1, state(1), {})
    (tmp_path / "metrics.jsonl").unlink()
    with begin(tmp_path, resume=True) as run:
        with pytest.warns(RuntimeWarning, match=r"metrics\.jsonl was removed or changed since .* step 1"):
            run.restore(LIKE)
        assert run.rows == rows(1)
    assert read_rows(tmp_path) == rows(1)


def test_a_run_without_a_checkpoint_starts_again(tmp_path):
    with begin(tmp_path) as run:
        run.log({"step": 1})
    with begin(tmp_path, resume=True) as run:
        assert run.resumed
        assert run.restore(LIKE) is None
        assert run.rows == []
        assert (tmp_path / "metrics.jsonl").read_bytes() == b""


def test_a_finished_run(tmp_path):
    with begin(tmp_path) as run:
        run.log({"step": 1})
        run.save(1, state(1), {})
        run.finish(write_result)
        assert run.finished
    found = ["config.json", "lora.safetensors", "metrics.jsonl", "pipeline"]
    assert names(tmp_path) == found
    assert (tmp_path / "pipeline" / "weights").read_text() == "learned"
    before = contents(tmp_path)
    with begin(tmp_path, resume=True) as run:
        assert run.finished
        for action in (
            lambda: run.log({}),
            lambda: run.restore(LIKE),
            lambda: run.save(2, state(2), {}),
            lambda: run.finish(write_result),
        ):
            with pytest.raises(FileExistsError, match="its run is finished; pipeline/ is there"):
                action()
    assert contents(tmp_path) == before


def test_a_finished_run_without_its_metrics_is_refused(tmp_path):
    with begin(tmp_path) as run:
        run.log({"step": 1})
        run.finish(write_result)
    (tmp_path / "metrics.jsonl").unlink()
    before = contents(tmp_path)
    for options in ({}, {"allow_changes": True}, {"takeover": True}):
        with (
            pytest.raises(
                FileNotFoundError, match=r"is finished, but metrics\.jsonl is missing; .* Put it back"
            ),
            begin(tmp_path, resume=True, **options),
        ):
            pass
    assert contents(tmp_path) == before


def test_a_run_of_no_steps_finishes_too(tmp_path):
    with begin(tmp_path) as run:
        run.finish(write_result)
    assert names(tmp_path) == ["config.json", "lora.safetensors", "metrics.jsonl", "pipeline"]
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""


def full(text):
    def write(path):
        write_result(path)
        raise RuntimeError(text)

    return write


def test_a_result_that_cannot_be_written(tmp_path, monkeypatch):
    with begin(tmp_path) as run:
        run.log({"step": 1})
        run.save(1, state(1), {})
        before = contents(tmp_path)
        with pytest.raises(OSError, match=r"the result could not be written to .*: No space left") as caught:
            run.finish(full("I/O error: No space left on device (os error 28)"))
        assert caught.value.errno == errno.ENOSPC
        with pytest.raises(RuntimeError, match="a mistake"):
            run.finish(full("a mistake"))
        assert contents(tmp_path) == before
        assert not run.finished

        replace = Path.replace

        def die(self, target):
            if self.name == "pipeline":
                raise KeyboardInterrupt
            return replace(self, target)

        with monkeypatch.context() as dying:
            dying.setattr(Path, "replace", die)
            with pytest.raises(KeyboardInterrupt):
                run.finish(write_result)
        assert not run.finished
    with begin(tmp_path, resume=True) as run:
        assert run.restore(LIKE).step == 1
        run.finish(write_result)
    assert names(tmp_path) == ["config.json", "lora.safetensors", "metrics.jsonl", "pipeline"]
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'


@pytest.mark.parametrize("fault", ["limit", "short write", "refused"])
def test_a_row_that_finds_the_disk_full(fault, tmp_path, monkeypatch):
    with begin(tmp_path) as run:
        run.log({"step": 1})
        before = (tmp_path / "metrics.jsonl").read_bytes()
        row = {"step": 2, "text": "x" * 1000}
        with contextlib.ExitStack() as stack:
            if fault == "limit":
                soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
                stack.callback(resource.setrlimit, resource.RLIMIT_FSIZE, (soft, hard))
                resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
            else:
                patch = stack.enter_context(monkeypatch.context())
                write, left = os.write, [300 if fault == "short write" else 0]

                def little(descriptor, content):
                    if not left[0]:
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    count, left[0] = write(descriptor, content[: left[0]]), 0
                    return count

                patch.setattr(os, "write", little)
            with pytest.raises(
                OSError, match=r"metrics\.jsonl: a row could not be added: .* are whole"
            ) as caught:
                run.log(row)
        assert caught.value.errno == (errno.EFBIG if fault == "limit" else errno.ENOSPC)
        assert (tmp_path / "metrics.jsonl").read_bytes() == before == run.metrics_bytes()
        run.log(row)
        assert run.rows == [{"step": 1}, row]
    assert read_rows(tmp_path) == [{"step": 1}, row]


def test_a_full_disk(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    mounts = os.geteuid() == 0 and shutil.which("mount") is not None
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if not mounts or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root and the permission to mount")
    try:
        with begin(place / "run") as run:
            run.log({"step": 1})
            run.save(1, state(1), {})
            steps = iter(range(2, 200))
            with pytest.raises(OSError, match="a row could not be added: No space left on device"):
                deque((run.log({"step": step, "text": "x" * 10_000}) for step in steps), maxlen=0)
            (place / "filling").write_bytes(b"x" * shutil.disk_usage(place).free)
            with pytest.raises(OSError, match=r"checkpoint of step 2 .* No space left .* is step-00000001"):
                run.save(2, state(2), {})
        with begin(place / "run", resume=True) as run:
            assert run.restore(LIKE).step == 1
            assert run.rows == [{"step": 1}]
            run.log({"step": 2})
        assert read_rows(place / "run") == [{"step": 1}, {"step": 2}]
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_configuration_from_before_a_setting_is_that_of_its_default(tmp_path):
    """A run of a version without `sigma` goes on with sigma 1, and with no other."""
    with begin(tmp_path / "run"):
        pass
    with begin(tmp_path / "run", changed(config__sigma=1.0), resume=True) as directory:
        assert directory.resumed
    with (
        pytest.raises(ValueError, match=r"begun otherwise: sigma: 1.0 -> 2.0"),
        begin(tmp_path / "run", changed(config__sigma=2.0), resume=True),
    ):
        pass
