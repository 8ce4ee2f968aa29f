"""One component of a pipeline on disk: `config.json` and its weights in safetensors."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from fdiv_jax.checkpoints.files import STORED_DTYPES, TensorFiles, errors_from, save_tensors
from fdiv_jax.checkpoints.state_dicts import canonical_name, load_state_dict, state_dict, tensor_names
from fdiv_jax.checkpoints.weight_files import find_weights
from fdiv_jax.files import JsonMapping, JsonObject, read_json
from fdiv_jax.nn.memory import array_bytes
from fdiv_jax.nn.room import require_room
from fdiv_jax.nn.shapes import abstract_network

__all__ = ["SMALLER", "LoadedComponent", "describe_component", "load_component", "save_component"]

ModuleT = TypeVar("ModuleT", bound=nnx.Module)
SMALLER = "expected a smaller model, or param_dtype bfloat16"
"""Advice where a model does not fit."""


class LoadedComponent(NamedTuple, Generic[ModuleT]):
    """A component read from disk."""

    model: ModuleT
    """The module, its parameters filled in."""
    config: JsonObject
    """`config.json` as it was read."""
    stored_dtypes: dict[str, str]
    """Each tensor's dtype in the file ("float32", "float16", ...), by the model's name for it."""


def load_component(
    directory: str | os.PathLike[str],
    module_cls: type[ModuleT],
    *,
    variant: str | None = None,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
) -> LoadedComponent[ModuleT]:
    """Read a component's directory, as diffusers or transformers writes it.

    The weights are memory-mapped and copied tensor by tensor into a module that was built abstractly, so that
    no second copy of the model exists at any time. `variant` chooses files such as `*.fp16.safetensors`;
    `dtype` and `param_dtype` are those of compute and of the parameters. Files in several shards are read
    through their index.

    Raises:
        FileNotFoundError: the directory, `config.json` or a shard is missing.
        ValueError: a file that is truncated or not a safetensors file, a directory with only pickled weights,
            a configuration of another class, or tensors that are missing, unexpected or misshapen (all
            named).
        NotImplementedError: a configuration the module does not support.
    """
    directory = Path(directory)
    model, config = describe_component(directory, module_cls, dtype=dtype, param_dtype=param_dtype)
    files = find_weights(directory, variant)
    require_room(array_bytes(nnx.state(model)), f"{directory}: a model of its size", SMALLER)
    with TensorFiles(files) as tensors:
        filled = load_state_dict(model, tensors, source=", ".join(map(str, files)))
        expected = tensor_names(filled)
        names = {canonical_name(name, expected): name for name in tensors}
        stored = {known: tensors.dtype(name).name for known, name in names.items() if known is not None}
    return LoadedComponent(filled, config, stored)


def describe_component(
    directory: str | os.PathLike[str],
    module_cls: type[ModuleT],
    *,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
) -> tuple[ModuleT, JsonObject]:
    """The abstract module that a component's `config.json` describes, and the configuration as it was read.

    Raises:
        FileNotFoundError: no `config.json`.
        ValueError: a configuration of another class.
        NotImplementedError: a configuration the module does not support.
    """
    file = Path(directory) / "config.json"
    config = read_json(file)
    written_for = config.get("_class_name")
    if written_for is not None and written_for != module_cls.__name__:
        raise ValueError(f"{file} is of class {written_for}, expected {module_cls.__name__}")
    with errors_from(file):
        return abstract_network(module_cls, config, dtype=dtype, param_dtype=param_dtype), config


def save_component(
    directory: str | os.PathLike[str],
    model: nnx.Module,
    *,
    class_name: str | None = None,
    config: JsonMapping | None = None,
    stored_dtypes: Mapping[str, str] | None = None,
) -> None:
    """Write `config.json` and the weights as diffusers or transformers reads them.

    A tensor is written in its dtype of `stored_dtypes` (see `LoadedComponent`) when its values survive that
    unchanged, and in float32 otherwise: tensors that training did not touch come back bit for bit. Names are
    those of the state dict; text towers keep the leading `text_model.`, which every version of transformers
    reads.

    `class_name` defaults to the module's own; `config` to `model.config.to_dict()`. Not atomic by itself:
    write into an `atomic_directory`.

    Raises:
        ValueError: an unknown dtype name.
        OSError: the disk fails.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    class_name = class_name or type(model).__name__
    values = dict(model.config.to_dict() if config is None else config)  # type: ignore[attr-defined]
    known = {dtype.name: dtype for dtype in STORED_DTYPES.values()}
    tensors = {}
    for name, value in state_dict(model).items():
        stored = (stored_dtypes or {}).get(name)
        if stored is not None and stored not in known:
            raise ValueError(f"dtype of {name} must be one of {', '.join(known)}, got {stored!r}")
        tensors[name] = _as_stored(value, None if stored is None else known[stored])
    stem = "diffusion_pytorch_model"
    if class_name.startswith("CLIP"):  # transformers', which finds the class by this key
        stem, values = "model", {"architectures": [class_name], **values}
    save_tensors(tensors, directory / f"{stem}.safetensors")
    text = json.dumps(values, indent=2, sort_keys=True) + "\n"
    (directory / "config.json").write_text(text, encoding="utf-8")


def _as_stored(value: np.ndarray, stored: np.dtype | None) -> np.ndarray:
    """`value` in its stored dtype if it survives the round trip bit for bit, otherwise in float32."""
    if stored is not None:
        with np.errstate(over="ignore", invalid="ignore"):
            narrow = value.astype(stored)
            if narrow.astype(value.dtype).tobytes() == value.tobytes():
                return narrow
    return value.astype(np.float32)
