"""Data that ships with the package; only files, which the layers above read.

fashion, fashion_judge     the embedded world's model and its judge, written by
                           `python -m fdiv_jax.worlds.build_fashion`
clip                       the merges of CLIP's tokenizer, with their licence
families                   what the published models of a family set and shapes do not show: scheduler,
                           scaling factor, activations, padding; from their configurations on the hub
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
