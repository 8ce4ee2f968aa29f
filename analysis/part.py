"""What a part of the analysis is: its name, its module and what it reads."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Part"]


@dataclass(frozen=True)
class Part:
    """One part of the analysis.

    Attributes:
      name: what `--only` takes.
      module: the module with its `run`.
      title: one line about it.
      inputs: patterns of further files it reads, relative to the repository; a change recomputes the part.
      seconds: about how long a full and a quick run of it take on two cores.
      long: whether it runs only where it is asked for, by `--only` or `--all`.
    """

    name: str
    module: str
    title: str
    inputs: tuple[str, ...] = ()
    seconds: tuple[float, float] = (0.0, 0.0)
    long: bool = False
