"""Safetensors files of tensors by name: read one at a time, written whole or not at all."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fdiv_jax.checkpoints.atomic import atomic_file, follow_umask
from fdiv_jax.files import one_line

__all__ = [
    "DTYPES",
    "PICKLE_SUFFIXES",
    "STORED_DTYPES",
    "Header",
    "TensorFiles",
    "cast",
    "errors_from",
    "is_pickle",
    "read_header",
    "read_metadata",
    "save_tensors",
    "write_tensors",
]

DTYPES: dict[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(jnp.bfloat16),
}
"""The floating-point types that a file can be written in."""
STORED_DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
}
"""The floating-point types a file may hold, by its own names for them."""
PICKLE_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
"""File name endings of pickled weights."""
_PICKLE_STARTS = (b"PK\x03\x04", *(bytes([0x80, protocol]) for protocol in range(2, 6)))
_MAPPED_AT_MOST = 16 * 2**20
"""Bytes read before mapped files are opened anew: pages of a mapping count as memory until it ends."""


@contextmanager
def errors_from(path: Path) -> Iterator[None]:
    """Put the file's name in front of errors about its content, on one line.

    Errors about the type or size of a value become ValueErrors.
    """
    try:
        yield
    except NotImplementedError as error:
        raise NotImplementedError(f"{path}: {one_line(error, 2000)}") from error
    except (ValueError, TypeError, OverflowError, ZeroDivisionError) as error:
        raise ValueError(f"{path}: {one_line(error, 2000)}") from error


def cast(name: str, value: np.ndarray, dtype: str | None) -> np.ndarray:
    """`value` in another floating-point type, rounded to nearest; None leaves it unchanged.

    Raises:
        ValueError: an unknown dtype, or values that it turns infinite; names the tensor.
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


def save_tensors(
    tensors: Mapping[str, np.ndarray], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file for PyTorch's programs, with the permissions of any new file.

    Raises:
        OSError: the disk fails (the safetensors library raises an error of its own for that).
    """
    contiguous = {name: np.ascontiguousarray(value).reshape(value.shape) for name, value in tensors.items()}
    path.unlink(missing_ok=True)
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(contiguous, path, metadata={"format": "pt", **(metadata or {})})
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise OSError(f"{path} cannot be written: {error}") from error
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
    follow_umask(path, mode)


def write_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, np.ndarray],
    *,
    metadata: Mapping[str, str],
    overwrite: bool = False,
) -> Path:
    """Write a safetensors file; `metadata` goes to its header, with the format "pt" that programs look for.

    Raises:
        ValueError: a name that does not end in .safetensors.
        FileExistsError: the file exists and `overwrite` is False.
        OSError: the disk fails.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"file {path}, expected a name that ends in .safetensors")
    with atomic_file(path, overwrite=overwrite) as temporary:
        save_tensors(tensors, temporary, metadata)
    return path


class TensorFiles(Mapping[str, np.ndarray]):
    """The tensors of one or several safetensors files by name, each read on access."""

    def __init__(self, files: Sequence[Path]):
        """The files to read, which are opened on entering the context.

        Raises:
            ValueError: a file that is truncated or not a safetensors file, a tensor that is in two of them,
                or, when it is read, a tensor that is not of a floating-point type.
        """
        self._files = files
        self._stack = ExitStack()
        self._handles: dict[Path, Any] = {}
        self._home: dict[str, Path] = {}
        self._read = 0

    def __enter__(self) -> "TensorFiles":
        self._open()
        self._home = {}
        for file, handle in self._handles.items():
            for name in handle.keys():  # noqa: SIM118
                if name in self._home:
                    self._stack.close()
                    raise ValueError(
                        f"tensor {name} is in {self._home[name]} and in {file}; expected it in one"
                    )
                self._home[name] = file
        return self

    def _open(self) -> None:
        self._stack.close()
        self._read = 0
        for file in self._files:
            try:
                self._handles[file] = self._stack.enter_context(safe_open(file, framework="np"))
            except SafetensorError as error:
                self._stack.close()
                raise _unreadable(file, error) from error

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __getitem__(self, name: str) -> np.ndarray:
        self.dtype(name)
        value = self._handles[self._home[name]].get_tensor(name)
        self._read += value.nbytes
        if self._read > _MAPPED_AT_MOST:
            self._open()
        return value

    def scalar(self, name: str) -> np.ndarray:
        """A tensor of one number, of an integer or floating-point type, as float64 of shape ().

        Raises:
            ValueError: a tensor of more than one number.
        """
        value = self._handles[self._home[name]].get_tensor(name)
        if value.size != 1:
            raise ValueError(f"{self._home[name]}: tensor {name} of shape {value.shape}, expected one number")
        return value.astype(np.float64).reshape(())

    def __iter__(self) -> Iterator[str]:
        return iter(self._home)

    def __len__(self) -> int:
        return len(self._home)

    def dtype(self, name: str) -> np.dtype:
        """The type a tensor is stored in."""
        file = self._home[name]
        kind = self._handles[file].get_slice(name).get_dtype()
        if kind not in STORED_DTYPES:
            raise ValueError(
                f"{file}: tensor {name} is of type {kind}, expected one of {', '.join(STORED_DTYPES)}"
            )
        return STORED_DTYPES[kind]


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The metadata of a safetensors file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with safe_open(path, framework="np") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise _unreadable(path, error) from error


class Header(NamedTuple):
    """What a safetensors file says of itself; no tensor is read."""

    shapes: dict[str, tuple[int, ...]]
    types: dict[str, str]
    """The names that the format has for types: "F32", "F8_E4M3", ..."""
    metadata: dict[str, str]


def read_header(path: str | os.PathLike[str]) -> Header:
    """The header of a safetensors file; raises as `read_metadata`."""
    metadata = read_metadata(path)
    with safe_open(path, framework="np") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        shapes = {name: tuple(each.get_shape()) for name, each in slices.items()}
        return Header(shapes, {name: each.get_dtype() for name, each in slices.items()}, metadata)


def is_pickle(path: Path) -> bool:
    """Whether a file is PyTorch's own format, a pickle, bare or in a zip archive; or is named as one."""
    return path.is_file() and (_head(path).startswith(_PICKLE_STARTS) or path.suffix in PICKLE_SUFFIXES)


def _unreadable(path: Path, error: SafetensorError) -> ValueError:
    """The error for a file that is not a safetensors file."""
    if is_pickle(path):
        return ValueError(
            f"{path} is pickled (PyTorch's own format). Reading a pickle runs any code it holds, so it is "
            "not read here; convert it to safetensors where it is trusted"
        )
    start = _head(path).lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return ValueError(f"{path} is a pointer of Git LFS and not the file itself; git lfs pull fetches it")
    if start.startswith((b"<!doctype", b"<html")):
        return ValueError(f"{path} is a web page and not the file itself; download it anew")
    return ValueError(f"{path} is truncated or not a safetensors file: {error}")


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64)
