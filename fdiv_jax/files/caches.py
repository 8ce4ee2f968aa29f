"""Where files are kept that may be lost: drawn images and compiled programs."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

__all__ = ["default_cache", "keep_programs"]

_CPUS = Path("/proc/cpuinfo")


def default_cache() -> Path:
    """FDIV_JAX_CACHE, else fdiv-jax in the user's cache directory."""
    named = os.environ.get("FDIV_JAX_CACHE")
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fdiv-jax"


def keep_programs() -> None:
    """Have JAX keep what it compiles, for later processes; to be called before JAX is imported.

    It is JAX's persistent compilation cache, in `default_cache() / "programs"`, one folder for each kind of
    processor, because programs for a CPU use the instructions of the one that they were compiled on.
    JAX_COMPILATION_CACHE_DIR names another place, and JAX_ENABLE_COMPILATION_CACHE=false keeps nothing.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(default_cache() / "programs" / _processor())


def _processor() -> str:
    """A name for the instructions that this machine's processors have."""
    try:
        lines = _CPUS.read_text().splitlines()
    except OSError:
        lines = [platform.processor()]
    told = sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    return f"{platform.machine()}-{hashlib.sha256(repr(told or lines).encode()).hexdigest()[:12]}"
