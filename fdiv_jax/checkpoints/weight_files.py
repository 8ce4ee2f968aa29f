"""The files of a component's directory that hold its weights: one file or shards, plain or a variant."""

from __future__ import annotations

import re
from pathlib import Path

from fdiv_jax.checkpoints.files import PICKLE_SUFFIXES
from fdiv_jax.files import read_json

__all__ = ["LORAS", "STEMS", "WEIGHTS", "find_weights", "has_weights", "weight_index"]

STEMS = ("diffusion_pytorch_model", "model")
"""The names diffusers and transformers give their weights."""
LORAS = ("pytorch_lora_weights", "adapter_model")
"""The names diffusers and PEFT give LoRA files."""
_OTHERS = {".msgpack": "Flax", ".h5": "TensorFlow", ".onnx": "ONNX", ".pb": "ONNX", ".gguf": "GGUF"}
"""Formats of weights that are not read, by their files' endings."""
WEIGHTS = (".safetensors", *PICKLE_SUFFIXES, *_OTHERS)
"""Endings of files of weights, whether they are read or not."""
_SHARD = r"-\d{5}-of-\d{5}"
_NAME = re.compile(
    rf"(?:{'|'.join(STEMS)})(?:\.(?P<variant>(?!safetensors)[\w.-]+?))?(?P<shard>{_SHARD})?"
    rf"(?:\.(?P<late>[\w.-]+))?\.safetensors"
)


def has_weights(directory: Path, variant: str | None = None) -> bool:
    """Whether a directory has weights of a variant (None: without one), in one file or in shards."""
    return _whole(directory, variant) is not None or weight_index(directory, variant) is not None


def find_weights(directory: Path, variant: str | None = None) -> list[Path]:
    """The weights of a variant (None: without one): one file, or the shards that an index names.

    Raises:
        FileNotFoundError: no weights, or a shard is missing; says what the directory holds instead.
        ValueError: only pickles, or an invalid index.
    """
    if (whole := _whole(directory, variant)) is not None:
        return [whole]
    if (index := weight_index(directory, variant)) is not None:
        return _shards(index)
    raise _missing(directory, variant)


def _whole(directory: Path, variant: str | None) -> Path | None:
    middle = f".{variant}" if variant else ""
    names = (directory / f"{stem}{middle}.safetensors" for stem in STEMS)
    return next((file for file in names if file.is_file()), None)


def weight_index(directory: Path, variant: str | None = None) -> Path | None:
    """The file that says which shard each tensor is in, where there is one."""
    middle = f".{variant}" if variant else ""
    names = (
        directory / name
        for stem in STEMS
        for name in (f"{stem}.safetensors.index{middle}.json", f"{stem}{middle}.safetensors.index.json")
    )
    return next((file for file in names if file.is_file()), None)


def _shards(index: Path) -> list[Path]:
    placed = read_json(index).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise ValueError(f"{index} has no weight_map")
    files = [index.parent / name for name in sorted(set(map(str, placed.values())))]
    for file in files:
        if file.parent != index.parent:
            raise ValueError(f"{index} names a file of another directory: {file.name}")
        if not file.is_file():
            raise FileNotFoundError(f"{file}, which {index.name} names, does not exist")
    return files


def _missing(directory: Path, variant: str | None) -> Exception:
    """The error for missing weights, which says what the directory holds instead."""
    present = sorted(file.name for file in directory.iterdir() if file.is_file())
    middle = f".{variant}" if variant else ""
    expected = " or ".join(f"{stem}{middle}.safetensors" for stem in STEMS)
    start = f"{directory} has no {expected}"
    tensors = [name for name in present if name.endswith(".safetensors")]
    if tensors:
        return FileNotFoundError(f"{start}, but {', '.join(tensors)}; {_advice(tensors, variant)}")
    pickles = [name for name in present if name.endswith(PICKLE_SUFFIXES)]
    if pickles:
        return ValueError(
            f"{directory} has its weights only as {', '.join(pickles)}. Reading a pickle runs any code it "
            f"holds, so it is not read here; convert it to {expected} where it is trusted"
        )
    for name in present:
        if (format := _OTHERS.get(Path(name).suffix)) is not None:
            return FileNotFoundError(
                f"{directory} has its weights as {name} only, in the format of {format}; expected {expected}"
            )
    return FileNotFoundError(
        f"{directory} has no weights; expected {expected}, found {', '.join(present) or 'nothing'}"
    )


def _advice(tensors: list[str], variant: str | None) -> str:
    matches = [match for name in tensors if (match := _NAME.fullmatch(name))]
    variants = list(dict.fromkeys(found for match in matches if (found := match["variant"] or match["late"])))
    plain = any(not (match["variant"] or match["late"]) for match in matches)
    if variant and plain:
        return f"name no variant{''.join(f', or variant={name!r}' for name in variants)}"
    if variants and variants != [variant]:
        return f"name the variant that is there: {' or '.join(f'variant={name!r}' for name in variants)}"
    if any(match["shard"] for match in matches):
        return "these are shards without their index, *.safetensors.index.json"
    if any(name.startswith(LORAS) for name in tensors):
        return "a LoRA changes a model and is not one itself"
    return "none of them has the name of a component's weights"
