"""Scores of a model that are kept beside it, so that they are computed once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from fdiv_jax.checkpoints import atomic_file, clean_leftovers
from fdiv_jax.files import read_json, refuse_links, shown

__all__ = ["kept_scores"]

NAME = "scores.json"


def kept_scores(
    directory: Path, make: Callable[[], Mapping[str, float]], *, within: Path
) -> dict[str, float]:
    """The figures of `scores.json` in a directory; made, and written there, where there is none.

    Args:
        directory: of the model; it is made if need be.
        make: gives the figures.
        within: the directory of all runs, from which no link is followed.

    Raises:
        ValueError: the file is a link, or does not hold numbers by name; names it.
    """
    file = directory / NAME
    refuse_links(file, within)
    clean_leftovers(directory, NAME)
    if not file.exists():
        scores = {name: float(value) for name, value in make().items()}
        with atomic_file(file) as temporary:
            temporary.write_text(json.dumps(scores, indent=2) + "\n")
        return scores
    scores = read_json(file, finite=False)
    for name, value in scores.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{file}: {shown(name)} is {shown(value)}, expected a number")
    return scores
