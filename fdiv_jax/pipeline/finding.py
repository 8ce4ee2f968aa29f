"""From a user's name for a model to its directory, and hints for a place without a model."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Any

from fdiv_jax.assets import asset_directory
from fdiv_jax.checkpoints.files import is_pickle
from fdiv_jax.checkpoints.weight_files import LORAS
from fdiv_jax.pipeline.hub import fetch, is_hub_id

__all__ = ["WORLDS", "find_model", "is_single_file"]

WORLDS = ("fashion",)
"""Names of the models that ship with the package."""
_INDEX = "model_index.json"
_ADDRESS = re.compile(r"https?://[^/]+/([\w.-]+/[\w.-]+)(?:/.*)?")


def find_model(model: str | os.PathLike[str], **hub: Any) -> Path:
    """The directory of a world, a path or a hub id; `hub` holds the options of `fetch`.

    Raises:
        FileNotFoundError: no such model; says what the place holds instead.
        NotADirectoryError: a file in place of a directory.
    """
    if str(model) in WORLDS:
        return _world(str(model))
    directory = Path(model)
    if str(model).strip() and directory.is_dir():
        if not (directory / _INDEX).is_file():
            raise FileNotFoundError(
                f"{directory}: no {_INDEX}, so not a diffusers directory{_instead(directory)}"
            )
        return directory
    if isinstance(model, str) and is_hub_id(model) and not directory.parent.is_dir():
        return fetch(model, **hub)
    if str(model).strip() and directory.exists():
        raise NotADirectoryError(
            f"model {str(model)!r} is a file, expected a diffusers directory{_of_file(directory)}"
        )
    raise FileNotFoundError(
        f"model {str(model)!r}: no such directory or file; expected {', '.join(WORLDS)}, a diffusers "
        f"directory, one file of safetensors, or a hub id owner/model{_meant(str(model))}"
    )


def is_single_file(model: str | os.PathLike[str]) -> bool:
    """Whether a model is a file of safetensors, and none of a component's."""
    file = Path(model)
    return file.suffix == ".safetensors" and file.is_file() and not _of_component(file.parent)


def _of_component(directory: Path) -> bool:
    """Whether a directory is that of a component of a model."""
    return (directory / "config.json").is_file() and (directory.parent / _INDEX).is_file()


def _world(name: str) -> Path:
    directory = asset_directory(name)
    if not directory.is_dir():
        raise FileNotFoundError(
            f"the world {name!r} is not in this installation; build it by "
            f"python -m fdiv_jax.worlds.build_{name}"
        )
    return directory


def _meant(model: str) -> str:
    address = _ADDRESS.fullmatch(model)
    if address:
        return f"; of this address the hub id is {address[1]}"
    near = difflib.get_close_matches(model, WORLDS, n=1, cutoff=0.7)
    return f"; did you mean {near[0]!r}?" if near else ""


def _instead(directory: Path) -> str:
    """A hint at what a directory without an index is, if its files show it."""
    if (directory / "pipeline" / _INDEX).is_file():
        return f"; its model is {directory / 'pipeline'}"
    if _of_component(directory):
        return f"; it is a component of the model {directory.parent}"
    tensors = sorted(directory.glob("*.safetensors"))
    if any(file.name.startswith(LORAS) for file in tensors):
        return "; it holds a LoRA, which changes a model and is not one itself"
    models = sorted(each.parent.name for each in directory.glob(f"*/{_INDEX}"))
    if models:
        return f"; it holds models: {', '.join(models[:4])}"
    if tensors and not (directory / "config.json").is_file():
        return f"; to load the file {tensors[0].name} name it"
    return ""


def _of_file(file: Path) -> str:
    if is_pickle(file):
        return "; it is pickled, and reading a pickle runs any code it holds, so it is not read here"
    if _of_component(file.parent):
        return f"; it is of a component of the model {file.parent.parent}"
    return "" if file.suffix == ".safetensors" else ", or one file of safetensors"
