"""`fdiv-jax launch -n 2 -- unlearn ...`: one command in several processes of this machine."""

import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from fdiv_jax.distributed.launch import launch

__all__ = ["SHORT", "Command"]

SHORT = {"-n": "--processes"}


@dataclass(frozen=True)
class Command:
    """Run a command in several processes of this machine that make one run together.

    Each has its own devices; process 0 writes. When one fails the others end, and its exit status is that
    of all. On a cluster, start one process on each host by its scheduler instead, with `unlearn --hosts`.

    Example: fdiv-jax launch -n 2 -- unlearn fashion --target sneaker --parallel data
    """

    words: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="COMMAND")]
    """The command with its arguments, behind `--`."""
    processes: int = 2
    """Number of processes (-n)."""

    def run(self) -> int:
        """Start them and wait."""
        if not self.words or self.words[0] != "unlearn":
            given = self.words[0] if self.words else "nothing"
            raise ValueError(
                f"launch {given}: expected unlearn, the command that several processes can share"
            )
        return launch([sys.executable, "-m", "fdiv_jax.cli", *self.words], self.processes)
