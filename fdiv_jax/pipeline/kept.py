"""Components that a pipeline does not run, such as a safety checker: kept, and copied when it is saved."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

from fdiv_jax.checkpoints.files import read_metadata
from fdiv_jax.checkpoints.weight_files import WEIGHTS, find_weights, has_weights, weight_index
from fdiv_jax.files import JsonMapping, read_json

__all__ = ["USUALLY_KEPT", "KeptComponent", "kept_components", "write_kept"]

USUALLY_KEPT = ("safety_checker", "feature_extractor", "image_encoder")
"""The components of the published pipelines that are not run, but copied when the model is saved."""
_LIBRARIES = ("diffusers", "transformers", "stable_diffusion", "stable_diffusion_xl")
"""Libraries whose classes diffusers loads without code of the model's own."""
_NAME = re.compile(r"[A-Za-z]\w*")


@dataclasses.dataclass(frozen=True)
class KeptComponent:
    """A component that is not read.

    Attributes:
        entry: (library, class), as `model_index.json` has it.
        directory: its directory.
        variant: variant of its weights; None without one.
    """

    entry: tuple[str, str]
    directory: Path
    variant: str | None = None


def kept_components(
    directory: Path, index: JsonMapping, known: Iterable[str], variant: str | None = None
) -> dict[str, KeptComponent]:
    """The components of a model directory that are not `known` and that diffusers loads without own code.

    Their weights are those of the variant if there are any, else those without a variant.
    """
    found = {}
    for name, entry in index.items():
        place = directory / name
        if name in known or not _NAME.fullmatch(name) or not isinstance(entry, list) or len(entry) != 2:
            continue
        if entry[0] in _LIBRARIES and isinstance(entry[1], str) and place.is_dir():
            own = variant if variant and has_weights(place, variant) else None
            found[name] = KeptComponent((entry[0], entry[1]), place, own)
    return found


def write_kept(kept: Mapping[str, KeptComponent], directory: Path) -> dict[str, list[str]]:
    """Copy components into a model directory; returns their entries of `model_index.json`.

    Valid configurations and safetensors are copied byte for byte, weights of a variant under the plain name.
    A component that no longer exists is left out with a warning, so that trained weights are still saved.
    """
    entries = {}
    for name, component in kept.items():
        try:
            _copy(component, directory / name)
        except (OSError, ValueError) as error:
            shutil.rmtree(directory / name, ignore_errors=True)
            warnings.warn(f"{name} of {component.directory} is not kept: {error}", stacklevel=3)
        else:
            entries[name] = list(component.entry)
    return entries


def _copy(component: KeptComponent, target: Path) -> None:
    source = component.directory
    present = [file for file in source.iterdir() if file.is_file()]
    small = [file for file in present if file.suffix == ".json" and ".index" not in file.name]
    if not small:
        raise FileNotFoundError("it has no configuration")
    weights: list[Path] = []
    if any(file.suffix in WEIGHTS for file in present) or (source / "config.json").is_file():  # a network
        weights = find_weights(source, component.variant)
    for file in small:  # a link may lead to anything
        read_json(file)
    for file in weights:
        read_metadata(file)
    target.mkdir()
    for file in small:
        shutil.copyfile(file, target / file.name)
    names = {file.name: _plain_name(file.name, component.variant) for file in weights}
    for file in weights:
        shutil.copyfile(file, target / names[file.name])
    index = weight_index(source, component.variant)
    content = {} if index is None else read_json(index)
    placed = content.get("weight_map")
    if index is not None and isinstance(placed, dict) and set(map(str, placed.values())) == set(names):
        content["weight_map"] = {key: names[name] for key, name in placed.items()}
        text = json.dumps(content, indent=2) + "\n"
        (target / _plain_name(index.name, component.variant)).write_text(text, encoding="utf-8")


def _plain_name(name: str, variant: str | None) -> str:
    return name.replace(f".{variant}", "", 1) if variant else name
