"""The first minutes of a newcomer: size and time of an installation, of an import, and of the first answers.

    python -m benchmarks.first_minutes              # what is installed here
    python -m benchmarks.first_minutes --install    # a fresh environment too, which downloads every package

Times are medians of fresh processes, after one that is not counted: seconds of the wall and of the processor.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SAYS = {
    "import fdiv_jax": ("-c", "import fdiv_jax"),
    "import fdiv_jax.divergences": ("-c", "import fdiv_jax.divergences"),
    "fdiv-jax --help": ("-m", "fdiv_jax.cli", "--help"),
    "fdiv-jax divergences": ("-m", "fdiv_jax.cli", "divergences"),
    "fdiv-jax explore squared_hellinger": ("-m", "fdiv_jax.cli", "explore", "squared_hellinger"),
    'fdiv-jax explore "t*log(t) - (t+1)*log((t+1)/2)"': (
        *("-m", "fdiv_jax.cli", "explore"),
        "t*log(t) - (t+1)*log((t+1)/2)",
    ),
}


def measured(arguments: Sequence[str], times: int) -> tuple[float, float]:
    """Median seconds of the wall and of the processor, of fresh interpreters."""
    rows = []
    for _ in range(times + 1):
        began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        rows.append((time.perf_counter() - began, spent))
    wall, processor = zip(*rows[1:], strict=True)
    return statistics.median(wall), statistics.median(processor)


def size(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def needed() -> set[str]:
    """The distributions that the package needs here, without extras."""
    found, left = set(), ["fdiv-jax"]
    while left:
        name = left.pop().lower().replace("_", "-")
        if name in found:
            continue
        try:
            requirements = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
        for line in requirements:
            if "extra ==" not in line:
                left.append("".join(c if c.isalnum() or c in "-_." else " " for c in line).split()[0])
    return found - {"fdiv-jax"}


def installed_size(names: set[str]) -> int:
    """Bytes of these distributions."""
    files = (file for name in names for file in importlib.metadata.files(name) or ())
    return sum(file.locate().stat().st_size for file in files if Path(str(file.locate())).is_file())


def fresh_install() -> tuple[float, int]:
    """Seconds and bytes of `pip install .` into a new environment, with the tested versions."""
    with tempfile.TemporaryDirectory() as place:
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        empty, began = size(Path(place)), time.perf_counter()
        pip = [f"{place}/bin/python", "-m", "pip", "install", "--quiet", "--no-cache-dir"]
        subprocess.run([*pip, "--constraint", str(ROOT / "constraints.txt"), str(ROOT)], check=True)
        return time.perf_counter() - began, size(Path(place)) - empty


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--install", action="store_true")
    options = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    print("| what | wall | processor |\n|---|---|---|")
    for told, arguments in SAYS.items():
        wall, processor = measured(arguments, options.times)
        print(f"| `{told}` | {wall:.2f} s | {processor:.2f} s |", flush=True)
    own, others = size(ROOT / "fdiv_jax"), needed()
    theirs = installed_size(others)
    print(f"\nthe package {own / 1e6:.0f} MB, the {len(others)} packages it needs {theirs / 1e6:.0f} MB")
    if options.install:
        seconds, bytes_ = fresh_install()
        print(f"a fresh installation: {seconds:.0f} s, {bytes_ / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
