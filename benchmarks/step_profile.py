"""Where the time of a step goes on a CPU, by kind of operation.

    python -m benchmarks.step_profile medium

One step of `benchmarks.step_time` (closed loss, float32) under JAX's profiler, after warming up. XLA names
what it runs by the instructions of the compiled program; each is counted as the costliest operation that it
holds. Operations may overlap, so that their sum is not the time of the step.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import jax
import tyro

from benchmarks.step_time import ours
from benchmarks.step_time.cases import CASES, network_directory

KINDS = (
    "convolution",
    "dot",
    "reduce",
    "erf",
    "exponential",
    "scatter",
    "gather",
    "transpose",
    "pad",
    "broadcast",
)
"""From the costliest on; what holds none of them is "elementwise"."""
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = \S+ ([\w-]+)\(")
_CALLS = re.compile(r"calls=%?([\w.-]+)")


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Settings of the benchmark."""

    case: tyro.conf.Positional[str] = "medium"
    """A case of `benchmarks.step_time`."""
    json: Path = Path("benchmarks/results/step_profile.json")


def kinds_of(program: str) -> dict[str, str]:
    """The kind of each instruction of the text of a compiled program."""
    inside: dict[str, set[str]] = collections.defaultdict(set)
    found: list[tuple[str, str, str | None]] = []
    here = ""
    for line in program.splitlines():
        if opening := _COMPUTATION.match(line):
            here = opening[1]
        elif instruction := _INSTRUCTION.match(line):
            name, operation = instruction.groups()
            inside[here].add(operation)
            called = _CALLS.search(line) if operation == "fusion" else None
            found.append((name, operation, called[1] if called else None))
    kinds = {}
    for name, operation, called in found:
        holds = inside[called] if called else {operation}
        kind = next((each for each in KINDS if each in holds), "elementwise")
        kinds[name] = f"{kind}, by YNNPACK" if name.startswith("ynn_fusion") else kind
    return kinds


def profiled(case: str, place: Path) -> tuple[float, Mapping[str, float]]:
    """Milliseconds of a step, and of its operations by kind."""
    programs: list[str] = []
    compile_, timed = jax.stages.Lowered.compile, ours.timed

    def compiled(lowered, *arguments, **named):
        done = compile_(lowered, *arguments, **named)
        programs.append(done.as_text())
        return done

    def traced(step, steps, *_):
        seconds = timed(step, steps)
        if not (place / "trace").exists():
            with jax.profiler.trace(place / "trace"):
                step()
        return seconds

    jax.stages.Lowered.compile, ours.timed = compiled, traced
    try:
        seconds = ours.run(case, "closed", "float32", place)["seconds"]
    finally:
        jax.stages.Lowered.compile, ours.timed = compile_, timed
    kinds = kinds_of(max(programs, key=len))
    total: collections.Counter[str] = collections.Counter()
    (path,) = (place / "trace").rglob("*.xplane.pb")
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
        for line in plane.lines:
            for event in line.events:
                if event.name in kinds:
                    total[kinds[event.name]] += event.duration_ns / 1e6
    return 1e3 * sorted(seconds)[len(seconds) // 2], dict(total.most_common())


def main(config: BenchmarkConfig) -> None:
    """Profile, print a line for each kind, write the result."""
    if config.case not in CASES:
        raise SystemExit(f"no case {config.case!r}; expected one of {', '.join(CASES)}")
    with tempfile.TemporaryDirectory() as temporary:
        network_directory(config.case, Path(temporary))
        step, kinds = profiled(config.case, Path(temporary))
    print(f"{config.case}: a step takes {step:.0f} ms; operations, in ms:")
    for kind, milliseconds in kinds.items():
        print(f"{milliseconds:9.1f}  {kind}")
    result = {"case": config.case, "jax": jax.__version__, "step_ms": step, "operations_ms": kinds}
    config.json.parent.mkdir(parents=True, exist_ok=True)
    config.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(BenchmarkConfig))
