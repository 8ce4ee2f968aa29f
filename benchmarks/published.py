"""Published models as directories of their configurations, without weights: what a plan needs.

python -m benchmarks.published stable-diffusion-1-4 DIRECTORY [--size 256]
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import tyro

from fdiv_jax.files import JsonObject, read_json
from fdiv_jax.pipeline.clip_tokenizer import published_tokenizer

CONFIGURATIONS = Path(__file__).parents[1] / "tests" / "pipeline" / "data"
_PADDING = {"tokenizer": "<|endoftext|>", "tokenizer_2": "!"}


def configurations(model: str) -> JsonObject:
    """The published configuration of each component of a model.

    Raises:
        ValueError: an unknown model.
    """
    file = CONFIGURATIONS / f"{model}.json"
    if not file.is_file():
        known = ", ".join(sorted(each.stem for each in CONFIGURATIONS.glob("stable-diffusion-*.json")))
        raise ValueError(f"no model {model!r}; expected one of {known}")
    return read_json(file)


def write_directory(model: str, place: Path, size: int | None = None) -> Path:
    """Write the configurations and tokenizers of a model, a diffusers directory but for the weights.

    Args:
        model: a name of the published configurations.
        place: the directory.
        size: side of its images in pixels; None: its own.
    """
    parts = configurations(model)
    if size is not None:
        # Sizes below 64 in files of early versions are mistakes, which loading mends.
        parts["unet"] |= {"sample_size": size // 8, "_diffusers_version": "0.42.1"}
    for name, config in parts.items():
        file = {"model_index": "model_index.json", "scheduler": "scheduler/scheduler_config.json"}
        path = place / file.get(name, f"{name}/config.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(config, indent=2) + "\n")
    for name, padding in _PADDING.items():
        if name in parts["model_index"]:
            published_tokenizer(padding).save_pretrained(str(place / name))
    return place


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to write where."""

    model: tyro.conf.Positional[str]
    """A name of the published configurations, such as stable-diffusion-1-4."""
    place: tyro.conf.Positional[Path]
    """The directory."""
    size: int | None = None
    """Side of its images in pixels, instead of the model's own."""


if __name__ == "__main__":
    given = tyro.cli(Settings)
    print(write_directory(given.model, given.place, given.size))
