"""Safetensors files of tensors by name: read one at a time, written whole or not at all."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fdiv_jax.checkpoints.atomic import atomic_file

__all__ = ["DTYPES", "STORED_DTYPES", "TensorFiles", "cast", "read_metadata", "write_tensors"]

DTYPES: dict[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(jnp.bfloat16),
}
"""What a file can be written in."""
STORED_DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
}
"""The floating-point types a file may hold, by its own names for them."""


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


class TensorFiles(Mapping[str, np.ndarray]):
    """The tensors of one or several safetensors files, by name, each read when it is asked for."""

    def __init__(self, files: Sequence[Path]):
        """Of these files, which are opened on entering the context.

        Raises ValueError for a file that is truncated or no safetensors file, and, when a tensor is read, for
        one that is not of a floating-point type.
        """
        self._files = files
        self._stack = ExitStack()
        self._home: dict[str, tuple[Any, Path]] = {}

    def __enter__(self) -> "TensorFiles":
        for file in self._files:
            try:
                handle = self._stack.enter_context(safe_open(file, framework="np"))
                names = list(handle.keys())
            except SafetensorError as error:
                self._stack.close()
                raise ValueError(f"{file} is truncated or not a safetensors file: {error}") from error
            self._home.update((name, (handle, file)) for name in names)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __getitem__(self, name: str) -> np.ndarray:
        handle, _ = self._home[name]
        self.dtype(name)
        return handle.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._home)

    def __len__(self) -> int:
        return len(self._home)

    def dtype(self, name: str) -> np.dtype:
        """The type a tensor is stored in."""
        handle, file = self._home[name]
        kind = handle.get_slice(name).get_dtype()
        if kind not in STORED_DTYPES:
            raise ValueError(
                f"{file}: tensor {name} is of type {kind}, expected one of {', '.join(STORED_DTYPES)}"
            )
        return STORED_DTYPES[kind]


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
