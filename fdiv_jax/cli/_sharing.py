"""A directory to share: the weights in their form, and a model card written from the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fdiv_jax.checkpoints import atomic_directory
from fdiv_jax.files import JsonMapping
from fdiv_jax.monitoring.run_card import read_run, run_card
from fdiv_jax.pipeline.cards import model_card
from fdiv_jax.pipeline.loras import origin
from fdiv_jax.pipeline.shared import CARD, FILES, Base, Shared, base_of

if TYPE_CHECKING:
    from fdiv_jax.pipeline import TextToImagePipeline

__all__ = ["check_shared", "shared_directory"]

_BESIDE = ("name", "loras", "sha256")
"""What a run records of its model beside the words of `load_pipeline`."""


def check_shared(path: Path, overwrite: bool) -> None:
    """Check that a directory to overwrite holds what was shared before, or nothing.

    Raises:
        FileExistsError: the directory holds something else.
    """
    if not overwrite or not path.is_dir() or (path / "model_index.json").is_file():
        return
    others = sorted({each.name for each in path.iterdir()} - {CARD, *FILES.values()})
    if others:
        raise FileExistsError(
            f"{path} holds {', '.join(others[:4])}; expected a model, or the directory of one that was shared"
        )


def shared_directory(
    place: Path,
    write: Callable[[Path], tuple[str, Shared]],
    model: Path,
    pipe: TextToImagePipeline,
    base: TextToImagePipeline | None,
    *,
    overwrite: bool,
    offline: bool,
) -> str:
    """Write the directory, whole or not at all; returns what `write` says of the weights.

    Args:
        place: of the directory.
        write: writes the weights to a path.
        model: the model's directory; of a run, the `pipeline` in it.
        pipe: the model.
        base: the model before tuning, where it was loaded.
        overwrite: replace what is there.
        offline: look for the base's card in the local cache only.
    """
    with atomic_directory(place, overwrite=overwrite) as temporary:
        target = temporary / "weights.safetensors"
        about, shared = write(target)
        if target.is_dir():
            for each in target.iterdir():
                each.rename(temporary / each.name)
            target.rmdir()
        else:
            target.rename(temporary / FILES[shared.form])
        (temporary / CARD).write_text(_card(model, shared, pipe, base, offline), encoding="utf-8")
    return about


def _card(
    model: Path, shared: Shared, pipe: TextToImagePipeline, base: TextToImagePipeline | None, offline: bool
) -> str:
    description, summary = read_run(model.parent) if model.name == "pipeline" else ({}, {})
    recorded = description.get("model") if isinstance(description.get("config"), dict) else None
    if base is not None:
        about = _base(origin(base), offline)
    else:
        about = _base(recorded if isinstance(recorded, dict) else origin(pipe), offline)
    if isinstance(recorded, dict):
        return run_card(description, summary, about, shared)
    return model_card(about, shared)


def _base(recorded: JsonMapping, offline: bool) -> Base:
    loaded_with = {key: value for key, value in recorded.items() if key not in _BESIDE}
    if not recorded.get("name"):
        return Base("a model without a name", "directory", {}, loaded_with)
    return base_of(str(recorded["name"]), loaded_with, recorded.get("loras") or (), offline=offline)
