"""Data that ships with the package: the embedded world's model and its judge.

Only files, which the layers above read (`fdiv_jax.pipeline`, `fdiv_jax.worlds`). They are written by
`python -m fdiv_jax.worlds.build_fashion`.
"""

import importlib.resources
from pathlib import Path

__all__ = ["asset_directory"]


def asset_directory(name: str) -> Path:
    """Where a folder of this package lies; it need not be there.

    Raises:
        ValueError: not a plain folder name.
    """
    if not name.isidentifier():
        raise ValueError(f"asset {name!r}, expected the plain name of a folder of fdiv_jax.assets")
    return Path(str(importlib.resources.files(__name__))) / name
