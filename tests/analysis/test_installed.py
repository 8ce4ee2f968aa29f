"""The analysis as users have it: out of a wheel, and stopped by Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of the repository's tracked files."""
    source, place = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    names = [name for name in tracked.stdout.decode().split("\0") if name and (ROOT / name).is_file()]
    if tracked.returncode or not names:
        pytest.skip("not a git checkout")
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(place), str(source)], check=True, capture_output=True)
    (found,) = place.glob("*.whl")
    return found


def listing(folder):
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.slow
def test_a_wheel_has_one_package_with_all_of_its_modules(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"fdiv_jax"}
    for folder, inside in ((ROOT / "fdiv_jax", "fdiv_jax"), (ROOT / "analysis", "fdiv_jax/analysis")):
        modules = {f"{inside}/{path.relative_to(folder).as_posix()}" for path in folder.rglob("*.py")}
        assert modules <= names


@pytest.mark.slow
def test_a_wheel_reproduces_in_an_empty_folder_and_writes_nothing_into_itself(wheel, tmp_path):
    site, here = tmp_path / "site", tmp_path / "here"
    here.mkdir()
    zipfile.ZipFile(wheel).extractall(site)
    before = listing(site)
    command = [sys.executable, "-m", "fdiv_jax.cli", "reproduce", "--quick", "--only", "weights", "spectra"]
    settings = {"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command, cwd=here, env=os.environ | settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "into paper_figures/quick" in done.stderr
    assert listing(site) == before
    assert sorted(path.name for path in here.iterdir()) == [".analysis", "paper_figures"]
    figures = here / "paper_figures" / "quick"
    for name in ("weights", "spectra"):
        assert {path.suffix for path in figures.glob(f"{name}.*")} == {".csv", ".pdf", ".png"}
    assert json.loads((figures / "summary.json").read_text())["spectra_max_relative_error"] < 1e-8


@pytest.mark.slow
def test_ctrl_c_is_one_line_and_what_is_finished_stays(tmp_path):
    output, work = tmp_path / "figures", tmp_path / "work"
    command = [sys.executable, "-m", "analysis.convergence", "--quick", "--only", "spectra"]
    command += ["--output", str(output), "--work", str(work)]
    running = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    patience = time.monotonic() + 300
    while len(list(work.rglob("cells/*.json"))) < 2:
        assert running.poll() is None, running.stderr.read()
        assert time.monotonic() < patience
        time.sleep(0.05)
    told = ""
    running.send_signal(signal.SIGINT)
    while "interrupted" not in told:
        told += (line := running.stderr.readline())
        assert line, told
    while running.poll() is None:  # what an impatient person does while the interpreter closes down
        running.send_signal(signal.SIGINT)
        time.sleep(0.01)
    told += running.communicate()[1]
    assert running.returncode == 130, told
    assert [line for line in told.splitlines() if "quick run" not in line] == [
        "python -m analysis.convergence: interrupted; the same command goes on from what is finished"
    ]
    kept = {path: path.stat().st_mtime_ns for path in work.rglob("cells/*.json")}
    assert not list(tmp_path.rglob("*.tmp-*"))
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True)
    assert done.returncode == 0
    assert len(list(work.rglob("cells/*.json"))) > len(kept)
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items())
