"""A delta: the tensors by which a tuned model differs from its base, in one small safetensors file.

Tensors are named COMPONENT.NAME, with PyTorch's names and layouts, and hold the tuned values themselves, so
that base + delta is the tuned model bit for bit. The header says the format's version, the base's name and a
digest of each of its components.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from flax import nnx

from fdiv_jax.checkpoints.digests import module_digest, tensors_digest
from fdiv_jax.checkpoints.files import TensorFiles, cast, read_metadata, write_tensors
from fdiv_jax.checkpoints.state_dicts import load_state_dict, state_dict
from fdiv_jax.files import parse_json

__all__ = ["DELTA", "apply_delta", "save_delta"]

DELTA = "fdiv_jax_delta"
"""Our key in the header of a safetensors file; its value is JSON."""
_VERSION = 1


def save_delta(
    path: str | os.PathLike[str],
    base: Mapping[str, nnx.Module],
    tuned: Mapping[str, nnx.Module],
    *,
    base_name: str = "",
    dtype: str | None = None,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the tensors that differ, whole or not at all.

    Args:
        path: the file, ending in .safetensors.
        base: the modules before, by component ("unet", "vae", ...).
        tuned: the modules after; of the same names and shapes.
        base_name: name of the base, for the messages of `apply_delta`.
        dtype: "float32", "float16" or "bfloat16" for a smaller file that gives the tuned model rounded; None:
            each tensor's own, exactly.
        metadata: more entries for the file's header.
        overwrite: replace an existing file.

    Raises:
        ValueError: nothing differs, the components or their tensors do not correspond, or a dtype that cannot
            hold the values.
        FileExistsError: the file exists and `overwrite` is False.
    """
    if set(base) != set(tuned):
        raise ValueError(f"components {', '.join(sorted(tuned))}, expected those of the base, {sorted(base)}")
    tensors, digests = {}, {}
    for component in sorted(base):
        before, after = state_dict(base[component]), state_dict(tuned[component])
        for name in sorted(before.keys() | after.keys()):
            shapes = [each[name].shape if name in each else None for each in (before, after)]
            if shapes[0] != shapes[1]:
                raise ValueError(f"{component}.{name} has shape {shapes[0]} in the base, {shapes[1]} now")
        digests[component] = tensors_digest(before)
        for name, value in after.items():
            if value.dtype != before[name].dtype or value.tobytes() != before[name].tobytes():
                tensors[f"{component}.{name}"] = cast(f"{component}.{name}", value, dtype)
    if not tensors:
        raise ValueError(f"the model has the same parameters as its base {base_name!r}: there is no delta")
    header = {
        DELTA: json.dumps({"version": _VERSION, "base": base_name, "digests": digests, "dtype": dtype}),
        **(metadata or {}),
    }
    return write_tensors(path, tensors, metadata=header, overwrite=overwrite)


def apply_delta(
    path: str | os.PathLike[str], base: Mapping[str, nnx.Module], *, check: bool = True
) -> dict[str, nnx.Module]:
    """The tuned modules: the base's tensors, with those of the delta in their place.

    Args:
        path: the file.
        base: the modules, by component; at least those the delta changes.
        check: refuse a base other than the one the delta was made from.

    Returns:
        All components of `base`; unchanged ones are the same objects.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a delta, another base (named, with the components that differ), or tensors that the
            base does not have or has in another shape.
        NotImplementedError: a delta of a later version.
    """
    path = Path(path)
    about = _read_header(path)
    if check:
        different = [
            component
            for component, digest in about["digests"].items()
            if component in base and module_digest(base[component]) != digest
        ]
        if different:
            raise ValueError(
                f"{path} was made from the base {about['base'] or 'of no name'!r}, whose "
                f"{', '.join(different)} is not that of the model given"
            )
    with TensorFiles([path]) as tensors:
        changed: dict[str, dict[str, np.ndarray]] = {}
        for full_name in tensors:
            component, _, name = full_name.partition(".")
            changed.setdefault(component, {})[name] = tensors[full_name]
    missing = sorted(set(changed) - set(base))
    if missing:
        raise ValueError(f"{path} changes {', '.join(missing)}, but the base has {', '.join(sorted(base))}")
    return {
        component: load_state_dict(module, state_dict(module) | changed[component], source=str(path))
        if component in changed
        else module
        for component, module in base.items()
    }


def _read_header(path: Path) -> dict:
    header = read_metadata(path)
    try:
        about = parse_json(header[DELTA], f"{path}: {DELTA}")
        version, digests = about["version"], about["digests"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a delta: no {DELTA} in its header") from error
    if version != _VERSION or not isinstance(digests, dict):
        raise NotImplementedError(f"{path} is a delta of version {version}; supported: {_VERSION}")
    return about
