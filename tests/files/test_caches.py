"""Where drawn images and compiled programs are kept."""

import os
import subprocess
import sys

import pytest

from fdiv_jax.files import caches


@pytest.fixture
def places(monkeypatch, tmp_path):
    """A home of its own, and no place named for programs."""
    for name in ("FDIV_JAX_CACHE", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(caches, "_CPUS", tmp_path / "cpuinfo")
    return tmp_path


def programs(monkeypatch, cpuinfo=None):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    if cpuinfo is not None:
        caches._CPUS.write_text(cpuinfo)
    caches.keep_programs()
    return os.environ["JAX_COMPILATION_CACHE_DIR"]


def test_programs_of_unlike_processors_are_kept_apart(places, monkeypatch):
    unknown = programs(monkeypatch)
    one = programs(monkeypatch, "model name : A\nflags : sse avx\ncpu MHz : 1000\n")
    assert one.startswith(str(places / "fdiv-jax" / "programs"))
    assert programs(monkeypatch, "model name : A\nflags : sse avx\ncpu MHz : 2000\n" * 4) == one
    assert len({unknown, one, programs(monkeypatch, "model name : A\nflags : sse\ncpu MHz : 1000\n")}) == 3


def test_a_place_that_was_named_is_kept(places, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    caches.keep_programs()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "elsewhere"
    monkeypatch.setenv("FDIV_JAX_CACHE", str(places / "own"))
    assert programs(monkeypatch).startswith(str(places / "own" / "programs"))


@pytest.mark.slow
def test_commands_keep_their_programs(tmp_path):
    """A second process compiles nothing that takes long: it finds no new program to keep."""
    settings = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    settings |= {"FDIV_JAX_CACHE": str(tmp_path / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    command = "sample fashion sneaker --steps 1 --images 1 --output"
    kept = []
    for name in ("a.png", "b.png"):
        words = [sys.executable, "-m", "fdiv_jax.cli", *command.split(), str(tmp_path / name)]
        subprocess.run(words, env=settings, check=True, capture_output=True)
        kept.append({path.name for path in (tmp_path / "cache" / "programs").glob("*/*-cache")})
    assert kept[0]
    assert kept[0] == kept[1]
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
