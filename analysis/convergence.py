"""Theory against measurement, from the generators to the figures.

    python -m analysis.convergence                        everything, into paper_figures/
    python -m analysis.convergence --quick                smaller grids
    python -m analysis.convergence --only spectra rates   these parts; the others' results stay

Results that are still good are kept (by the source they depend on, the settings and the versions); --force
computes them again. Exit status: 0, 1 when a part failed, 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from .framework import Part, Settings, run_parts
from .parts import PARTS
from .sources import ROOT

__all__ = ["main"]


def _arguments(parts: Sequence[Part]) -> argparse.ArgumentParser:
    listing = "\n".join(f"  {part.name:<14} {part.title}" for part in parts)
    parser = argparse.ArgumentParser(
        prog="python -m analysis.convergence",
        description="Theory against measurement: figures, their numbers, and the table of claims.",
        epilog=f"parts, in order:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="smaller grids, the same figures")
    parser.add_argument(
        "--only", metavar="NAME", nargs="+", action="extend", default=[], help="run these parts only"
    )
    parser.add_argument(
        "--output", type=Path, default=ROOT / "paper_figures", help="where figures and numbers go"
    )
    parser.add_argument(
        "--work", type=Path, default=ROOT / ".analysis", help="where the state for resuming is kept"
    )
    parser.add_argument("--force", action="store_true", help="compute again what is still good")
    return parser


def main(arguments: Sequence[str] | None = None, parts: Sequence[Part] = PARTS) -> int:
    """Run from the command line; returns the exit status."""
    asked = _arguments(parts).parse_args(arguments)
    names = [part.name for part in parts]
    unknown = [name for name in asked.only if name not in names]
    if unknown:
        wrong, known = ", ".join(map(repr, unknown)), ", ".join(names)
        print(f"unknown part {wrong}; the parts are: {known}", file=sys.stderr)
        return 2
    settings = Settings(asked.output, asked.work, asked.quick, asked.force)
    failed = run_parts(parts, settings, asked.only)
    print(f"wrote {asked.output}/README.md and summary.json", file=sys.stderr)
    return 1 if failed else 0


def _share_cores() -> None:
    """Show a CPU to JAX as one device a core, up to 8, before JAX starts: the batches of unlearning and
    sampling are cut over devices, which is nearly twice as fast on two cores as threads inside one device."""
    flags = os.environ.get("XLA_FLAGS", "")
    if "host_platform_device_count" not in flags:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        devices = 1 << min(3, cores.bit_length() - 1)
        os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={devices}".strip()


if __name__ == "__main__":
    _share_cores()
    sys.exit(main())
