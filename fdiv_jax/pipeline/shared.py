"""What a model card is about: the model before tuning, with its licence, and what lies beside the card."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from fdiv_jax.files import JsonMapping, one_line, read_bytes
from fdiv_jax.pipeline.finding import WORLDS
from fdiv_jax.pipeline.hub import cached_card, is_hub_id

__all__ = ["CARD", "FILES", "Base", "Form", "Shared", "base_of"]

CARD = "README.md"
"""The name of a card, in the directory of the model."""

Form = Literal["diffusers", "single-file", "lora", "kohya", "delta"]
FILES: Mapping[str, str] = {
    "single-file": "model.safetensors",
    "lora": "pytorch_lora_weights.safetensors",
    "kohya": "lora.safetensors",
    "delta": "delta.safetensors",
}
"""The name of the weights beside a card; a diffusers directory has its own."""
_LICENCES = {"fashion": {"license": "mit"}}
_LICENCE_KEYS = ("license", "license_name", "license_link")
_HEADER = re.compile(r"\A---[ \t]*\n(.*?)\n---[ \t]*(?:\n|\Z)", re.DOTALL)
_LONGEST = 1 << 20
"""Bytes of a card, at most."""
_HUB = "https://huggingface.co"


@dataclasses.dataclass(frozen=True)
class Base:
    """What a card says of the model before tuning.

    Attributes:
        name: a world or a hub id; for a directory or a file the last part of its path, so that a card does
            not say where things lie on the machine it was written on.
        kind: where it comes from.
        licence: `license`, `license_name` and `license_link` of its card; empty where it is not known.
        loaded_with: what it was loaded with, such as `variant`; see `TextToImagePipeline`.
        loras: (file, strength) of the LoRA files that were added to it.
    """

    name: str
    kind: Literal["world", "hub", "directory", "file"]
    licence: Mapping[str, str] = dataclasses.field(default_factory=dict)
    loaded_with: Mapping[str, str] = dataclasses.field(default_factory=dict)
    loras: tuple[tuple[str, float], ...] = ()


@dataclasses.dataclass(frozen=True)
class Shared:
    """What lies beside a card.

    Attributes:
        form: diffusers, single-file, lora, kohya or delta.
        place: the hub id that it is pushed to; empty: a directory.
        xl: Stable Diffusion XL.
        rank: of a LoRA.
        left_out: the share of the change that a LoRA leaves out, by component.
        unstated: the settings that a single file cannot hold.
        dtype: the precision that was asked for.
        added: (file, strength) of LoRA files that were added to the model.
    """

    form: Form
    place: str = ""
    xl: bool = False
    rank: int | None = None
    left_out: Mapping[str, float] = dataclasses.field(default_factory=dict)
    unstated: tuple[str, ...] = ()
    dtype: str | None = None
    added: tuple[tuple[str, float], ...] = ()

    @property
    def low_rank(self) -> bool:
        """Whether it is a LoRA."""
        return self.form in ("lora", "kohya")

    @property
    def needs_base(self) -> bool:
        """Whether it is loaded with the help of the base: a change of it, or without its settings."""
        return self.low_rank or self.form == "delta" or bool(self.unstated)


def base_of(
    name: str,
    loaded_with: JsonMapping | None = None,
    loras: Sequence[Sequence[Any]] = (),
    *,
    offline: bool = True,
) -> Base:
    """What a card says of the model of this name: its public name, and its licence where its card says it.

    Args:
        name: as `load_pipeline` takes it.
        loaded_with: what it was loaded with.
        loras: (file, strength) of the LoRA files that were added to it.
        offline: look for the card of a hub model in the local cache only.
    """
    told = {key: str(value) for key, value in (loaded_with or {}).items() if value is not None}
    for key in ("config", "vae"):
        if key in told and Path(told[key]).exists():
            told[key] = Path(told[key]).name
    added = tuple((Path(str(file)).name, float(strength)) for file, strength in loras)
    place = Path(name)
    if name in WORLDS:
        return Base(name, "world", _LICENCES.get(name, {}), told, added)
    if is_hub_id(name) and not place.exists() and not place.parent.is_dir():
        card = cached_card(name, told.get("revision"), offline=offline)
        return Base(name, "hub", _licence(card, name), told, added)
    kind = "file" if place.suffix == ".safetensors" else "directory"
    return Base(place.resolve().name or "model", kind, _licence(place / CARD), told, added)


def _licence(card: Path | None, repository: str = "") -> dict[str, str]:
    """The licence that the header of a card names; empty for no card, or one that names none."""
    if card is None or not card.is_file():
        return {}
    try:
        text = read_bytes(card, limit=_LONGEST).decode("utf-8", "replace")
        found = _HEADER.match(text.replace("\r\n", "\n"))
        header = yaml.safe_load(found[1]) if found else None
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    entries = header if isinstance(header, Mapping) else {}
    told = {
        key: one_line(entries[key], 200)
        for key in _LICENCE_KEYS
        if isinstance(entries.get(key), str) and entries[key].strip()
    }
    link = told.get("license_link", "")
    if link and not re.match(r"https?://", link):
        del told["license_link"]
        if repository and re.fullmatch(r"[\w./-]+", link):
            told["license_link"] = f"{_HUB}/{repository}/blob/main/{link.removeprefix('./')}"
    return told if "license" in told else {}
