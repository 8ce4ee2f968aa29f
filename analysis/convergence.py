"""Theory against measurement, from the generators to the figures.

    python -m analysis.convergence                        all parts but the long ones, into paper_figures/
    python -m analysis.convergence --all                  the long ones too
    python -m analysis.convergence --quick                smaller grids, into paper_figures/quick/
    python -m analysis.convergence --only spectra rates   these parts; the others' results stay

Where the package is installed it is `fdiv-jax reproduce`, and paper_figures/ is in the working directory.

Results that are still good are kept (by the source they depend on, the settings and the versions); --force
computes them again. Exit status: 0, 1 when a part failed, 2 for wrong arguments, 130 when interrupted.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .part import Part

__all__ = ["Command", "main"]

_REPOSITORY = "." not in (__package__ or "")
"""Whether this is the repository's `analysis`; it is `fdiv_jax.analysis` everywhere else."""
_HOME = Path(__file__).resolve().parents[1] if _REPOSITORY else Path()


@dataclass(frozen=True)
class Command:
    """Measure what the theory says: figures, their numbers, and the table of the paper's claims.

    What is finished and still good is kept. An interrupted run goes on where it was.
    """

    quick: bool = False
    """Smaller grids and fewer divergences, a few minutes in all; no verdicts on the claims."""
    only: tuple[str, ...] = ()
    """The parts to run; the results of the others stay. One of: generators, weights, spectra, rates, steps,
    phases, real_game, gradients, erasure, anchors, interference, verdicts, game_verdicts, real_spectrum,
    regimes, served, plateau, advice."""
    all: bool = False
    """The long parts too, of which a usual run keeps the results that are there: interference, verdicts,
    game_verdicts, real_spectrum, regimes, served, plateau, advice."""
    output: Path | None = None
    """The folder for figures and numbers; by default paper_figures, for a quick run paper_figures/quick."""
    work: Path | None = None
    """The folder for what an interrupted run goes on from; by default .analysis."""
    force: bool = False
    """Compute again what is still good."""

    def run(self) -> int:
        """Run the parts; returns the exit status."""
        _share_cores()
        from .parts import PARTS
        from .runner import Settings, run_parts

        _check_names(self.only, PARTS)
        output = self.output or _HOME / "paper_figures" / ("quick" if self.quick else "")
        settings = Settings(output, self.work or _HOME / ".analysis", self.quick, self.force)
        chosen = [
            part for part in PARTS if (part.name in self.only if self.only else self.all or not part.long)
        ]
        if self.quick:
            _check_free(output)
        quick, full = (_minutes(sum(part.seconds[kind] for part in chosen)) for kind in (1, 0))
        kind = f"quick run, no verdicts, {quick} (a full run: {full})" if self.quick else f"full run, {full}"
        print(f"{kind} on two cores; into {output}", file=sys.stderr)
        started = time.monotonic()
        try:
            failed = run_parts(PARTS, settings, [part.name for part in chosen])
        except KeyboardInterrupt:
            raise KeyboardInterrupt("interrupted; the same command goes on from what is finished") from None
        taken = _minutes(time.monotonic() - started)
        print(f"wrote {output}/README.md and summary.json after {taken}", file=sys.stderr)
        return 1 if failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    from fdiv_jax.cli import run_command

    words = sys.argv[1:] if arguments is None else arguments
    return run_command(Command, words, "python -m analysis.convergence", ends=arguments is None)


def _check_names(only: Sequence[str], parts: Sequence[Part]) -> None:
    names = [part.name for part in parts]
    unknown = [name for name in only if name not in names]
    if unknown:
        wrong, known = ", ".join(map(repr, unknown)), ", ".join(names)
        raise ValueError(f"unknown part {wrong}; the parts are: {known}")


def _check_free(output: Path) -> None:
    """Raises where a quick run would take the place of a full one's results."""
    from .files import read_json

    states = read_json(output / "summary.json").get("parts", {})
    full = [name for name, state in states.items() if not state.get("quick")]
    if full:
        raise FileExistsError(
            f"--output {output} has the results of a full run ({', '.join(full)}), which a quick one would "
            "replace; name another --output"
        )


def _minutes(seconds: float) -> str:
    return f"about {seconds:.0f} s" if seconds < 100 else f"about {seconds / 60:.0f} min"


def _share_cores() -> None:
    """Show a CPU to JAX as one device per core, up to 8, before JAX starts: the batches of unlearning and
    sampling are cut over devices, which is nearly twice as fast on two cores as threads inside one device."""
    flags = os.environ.get("XLA_FLAGS", "")
    if "jax" not in sys.modules and "host_platform_device_count" not in flags:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        devices = 1 << min(3, cores.bit_length() - 1)
        os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={devices}".strip()


if __name__ == "__main__":
    sys.exit(main())
