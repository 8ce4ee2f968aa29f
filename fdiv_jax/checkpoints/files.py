"""One safetensors file of tensors by name: written whole or not at all."""

import os
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fdiv_jax.checkpoints.atomic import atomic_file

__all__ = ["DTYPES", "cast", "read_metadata", "write_tensors"]

DTYPES: dict[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(jnp.bfloat16),
}
"""What a file can be written in."""


def cast(name: str, value: np.ndarray, dtype: str | None) -> np.ndarray:
    """`value` in another floating-point type, rounded to nearest; None leaves it as it is.

    Raises ValueError for an unknown dtype, or for values that it turns infinite; names the tensor.
    """
    if dtype is None:
        return value
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r}, expected one of {', '.join(DTYPES)}")
    with np.errstate(over="ignore", invalid="ignore"):
        result = np.asarray(value).astype(DTYPES[dtype])
    if np.isfinite(value).all() and not np.isfinite(result).all():
        largest = np.abs(np.asarray(value, np.float64)).max()
        raise ValueError(f"{name} reaches {largest:.4g}, which {dtype} cannot hold; write another dtype")
    return result


def write_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, np.ndarray],
    *,
    metadata: Mapping[str, str],
    overwrite: bool = False,
) -> Path:
    """Write a safetensors file; `metadata` goes to its header, with the format "pt" that programs look for.

    Raises ValueError for a name that does not end in .safetensors, FileExistsError when there is something
    and `overwrite` is off.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"file {path}, expected a name that ends in .safetensors")
    with atomic_file(path, overwrite=overwrite) as temporary:
        contiguous = {
            name: np.ascontiguousarray(value).reshape(value.shape) for name, value in tensors.items()
        }
        save_file(contiguous, temporary, metadata={"format": "pt", **metadata})
    return path


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The metadata of a safetensors file.

    Raises FileNotFoundError, or ValueError for another kind of file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with safe_open(path, framework="np") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated or not a safetensors file: {error}") from error
