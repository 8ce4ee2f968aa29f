"""Runs the two sides in turn and writes the ratios; see the package."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from benchmarks.step_time.cases import CASES, ON_A_CPU, ON_A_GPU, network_directory
from benchmarks.step_time.clock import load
from fdiv_jax.files import JsonObject

Side = Literal["ours", "pytorch", "pytorch-compiled"]


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """How to measure."""

    cases: tuple[str, ...] = ()
    """Cases; by default those that suit the device."""
    losses: tuple[str, ...] = ("closed", "exact", "variational")
    """Families of losses. PyTorch has no exact loss: the exact one is compared with its closed one."""
    sweeps: tuple[int, ...] = ()
    """Numbers of divergences that share one frozen pass."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the arithmetic."""
    compiled: bool = False
    """Also measure PyTorch with torch.compile."""
    rounds: int = 5
    """Processes of each side, in turn."""
    quick: bool = False
    """Two rounds of the closed loss at the two small cases."""
    loaded: bool = False
    """Measure although other programs are running."""
    json: Path = Path("benchmarks/results/step_time.json")
    """Where the result goes."""
    work: Path | None = None
    """Where random weights are kept; by default a temporary folder."""
    worker: str | None = None
    """Internal: one side, measured in this process."""


def main(config: BenchmarkConfig) -> None:
    """Measure, print one line for each case and loss, write the result."""
    if config.worker is not None:
        print(json.dumps(_work(json.loads(config.worker))))
        return
    if not config.loaded and load() > 0.5:
        sys.exit(
            f"the machine is busy ({load():.1f} processes in the last minute), and times would say nothing; "
            "wait, or add --loaded"
        )
    if config.quick:
        config = dataclasses.replace(config, cases=("fashion", "medium"), losses=("closed",), rounds=2)
    on_gpu = Path("/proc/driver/nvidia").exists()
    cases = config.cases or (ON_A_GPU if on_gpu else ON_A_CPU)
    unknown = set(cases) - set(CASES)
    if unknown:
        sys.exit(f"no case {', '.join(sorted(unknown))}; expected some of {', '.join(CASES)}")
    runs: list[JsonObject] = []
    with tempfile.TemporaryDirectory() as temporary:
        place = config.work or Path(temporary)
        for case in cases:
            network_directory(case, place)
            jobs = [(loss, 1) for loss in config.losses] + [("exact", k) for k in config.sweeps if k > 1]
            for loss, sweep in jobs:
                runs.append(_compare(config, case, loss, sweep, place))
                print(_line(runs[-1]), flush=True)
                config.json.parent.mkdir(parents=True, exist_ok=True)
                config.json.write_text(json.dumps(_result(config, runs), indent=1) + "\n")


def _compare(config: BenchmarkConfig, case: str, loss: str, sweep: int, place: Path) -> JsonObject:
    """One row: medians over processes in turn, and quartiles of the ratio of neighbours."""
    sides: list[Side] = ["ours", "pytorch"] + (["pytorch-compiled"] if config.compiled else [])
    found: dict[str, list[JsonObject]] = {side: [] for side in sides}
    for _ in range(config.rounds):
        for side in sides:
            found[side].append(_process(side, case, loss, config.dtype, place, sweep))
    medians = {side: [float(np.median(one["seconds"])) for one in all_] for side, all_ in found.items()}
    ours, theirs = np.array(medians["ours"]), np.array(medians["pytorch"])
    ratio = np.percentile(ours / sweep / theirs, (25, 50, 75))
    first = found["ours"][0]
    flops, seconds = first["flops"], float(np.median(ours))
    peak_flops = max(one["peak_flops"] for one in found["ours"])
    row = {
        "case": case,
        "loss": loss,
        "divergences": sweep,
        "dtype": config.dtype,
        "batch": CASES[case].batch,
        "device": first["device"],
        "ours_s": seconds,
        "pytorch_s": float(np.median(theirs)),
        "ratio": float(ratio[1]),
        "ratio_quartiles": [float(ratio[0]), float(ratio[2])],
        "compile_s": float(np.median([one["compile_s"] for one in found["ours"]])),
        "flops": flops,
        "peak_flops": peak_flops,
        "peak_fraction": flops / seconds / peak_flops,
        "peak_memory": max(one["peak_memory"] for one in found["ours"]),
        "pytorch_peak_memory": max(one["peak_memory"] for one in found["pytorch"]),
        "temporary_memory": first["temporary_bytes"],
        "processes": config.rounds,
    }
    if config.compiled:
        compiled = np.array(medians["pytorch-compiled"])
        row["pytorch_compiled_s"] = float(np.median(compiled))
        row["ratio_to_compiled"] = float(np.median(ours / sweep / compiled))
    return row


def _process(side: Side, case: str, loss: str, dtype: str, place: Path, sweep: int) -> JsonObject:
    job = {"side": side, "case": case, "loss": loss, "dtype": dtype, "place": str(place), "sweep": sweep}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.step_time", "--worker", json.dumps(job)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{side}, {case}, {loss}: the process ended with {done.returncode}\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _work(job: JsonObject) -> JsonObject:
    place = Path(job["place"])
    if job["side"] == "ours":
        from benchmarks.step_time import ours

        found = ours.run(job["case"], job["loss"], job["dtype"], place, job["sweep"])
    else:
        from benchmarks.step_time import pytorch

        compiled = job["side"] == "pytorch-compiled"
        found = pytorch.run(job["case"], job["loss"], job["dtype"], place, compiled)
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {**found, "peak_memory": found["device_peak_bytes"] or host}


def _line(row: JsonObject) -> str:
    low, high = row["ratio_quartiles"]
    compiled = f", {row['ratio_to_compiled']:.2f} of torch.compile" if "ratio_to_compiled" in row else ""
    several = f" x {row['divergences']}" if row["divergences"] > 1 else ""
    return (
        f"{row['case']}, {row['loss']}{several}, {row['dtype']}: {row['ours_s']:.3f} s, "
        f"PyTorch {row['pytorch_s']:.3f} s, ratio {row['ratio']:.2f} ({low:.2f} to {high:.2f}){compiled}; "
        f"{100 * row['peak_fraction']:.0f} % of the measured peak, compiled in {row['compile_s']:.0f} s"
    )


def _result(config: BenchmarkConfig, runs: Sequence[JsonObject]) -> JsonObject:
    import jax
    import torch

    versions = {"jax": jax.__version__, "torch": torch.__version__}
    return {"cores": os.cpu_count(), "loaded": config.loaded, "versions": versions, "runs": list(runs)}


if __name__ == "__main__":
    main(tyro.cli(BenchmarkConfig))
