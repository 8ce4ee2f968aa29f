"""Checkpoints of a training run, written so that a kill, a full disk or a flipped bit costs one of them.

A checkpoint is a directory `step-00000120` with `state/` (the arrays, by Orbax), `extra.json`, `files/` and
`manifest.json`, which lists every file with its size and SHA-256, and the names, shapes and types of the
arrays.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from fdiv_jax.arrays import PyTree
from fdiv_jax.checkpoints.atomic import atomic_directory, clean_leftovers
from fdiv_jax.files import JsonMapping, JsonObject, listed, parse_json, read_json, read_text, shown

if TYPE_CHECKING:
    import orbax.checkpoint as ocp

__all__ = ["Restored", "TrainingCheckpoints", "error_number"]

Leaf = np.ndarray | jax.Array | jax.ShapeDtypeStruct
"""An array of a state, or what stands in its place."""
_FORMAT = 1
_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class Restored:
    """A checkpoint that was read.

    Attributes:
        step: the step of the run at which it was saved.
        state: the arrays in the requested structure, as NumPy arrays on the host.
        extra: the JSON values passed to `save`.
        files: the contents of the files passed to `save`, by name.
    """

    step: int
    state: PyTree
    extra: JsonObject
    files: dict[str, bytes]


class TrainingCheckpoints:
    """The checkpoints of one run: a directory of `step-00000120`, ..."""

    def __init__(self, directory: str | os.PathLike[str], keep: int = 2):
        """Checkpoints in a directory, made at the first save; half-written ones of dead runs are removed.

        Args:
            directory: the directory, which holds only checkpoints.
            keep: number of checkpoints to keep. A save needs room for one more.

        Raises:
            ValueError: `keep` is less than 1.
        """
        if keep < 1:
            raise ValueError(f"keep {keep}, expected at least 1")
        self.directory = Path(os.path.abspath(directory))
        self.keep = keep
        clean_leftovers(self.directory)

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, whole or damaged, in order."""
        names = self.directory.iterdir() if self.directory.is_dir() else ()
        return sorted(int(match[1]) for path in names if (match := _NAME.fullmatch(path.name)))

    def save(
        self, step: int, state: PyTree, extra: JsonMapping, files: Mapping[str, bytes] | None = None
    ) -> Path:
        """Write a checkpoint, whole or not at all, and only then delete those that are not kept.

        Besides the oldest, checkpoints of later steps are deleted: the run has gone back behind them. One of
        the same step is replaced.

        Args:
            step: step of the run.
            state: a pytree of arrays of JAX or NumPy; random keys go in as their `jax.random.key_data`.
            extra: values that JSON can hold.
            files: more files, by name.

        Returns:
            The directory of the checkpoint.

        Raises:
            ValueError: a negative step, or a file whose name is not a plain one.
            TypeError: a leaf that is not an array or is a random key, an `extra` that JSON cannot hold.
            OSError: the disk is full or fails; names the directory, the step and the newest checkpoint that
                is whole. The new one is removed, the others are unchanged.
        """
        if step < 0:
            raise ValueError(f"step {step}, expected 0 or more")
        for name in files or {}:
            if Path(name).name != name or name in ("", ".", ".."):
                raise ValueError(f"file {name!r} of a checkpoint, expected a name without directories")
        text = json.dumps(dict(extra), indent=2) + "\n"
        names, leaves = _flatten(state)
        leaves = jax.device_get(leaves)
        target = self._path(step)
        clean_leftovers(self.directory)
        try:
            with atomic_directory(target, overwrite=True) as temporary:
                if shutil.disk_usage(temporary).free < sum(np.asarray(leaf).nbytes for leaf in leaves):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                _write_arrays(temporary / "state", leaves)
                (temporary / "extra.json").write_text(text)
                for name, content in (files or {}).items():
                    (temporary / "files").mkdir(exist_ok=True)
                    (temporary / "files" / name).write_bytes(content)
                (temporary / "manifest.json").write_text(_manifest(temporary, step, names, leaves))
        except Exception as error:
            number = error_number(error)
            if number is None:
                raise
            clean_leftovers(self.directory)
            raise OSError(number, self._complaint(step, number)) from error
        self._prune(step)
        return target

    def restore(self, like: PyTree, former: Mapping[str, str] | None = None) -> Restored | None:
        """The newest checkpoint that is whole; None if there are no checkpoints.

        Every file is compared with the manifest. A damaged checkpoint is skipped with a warning that says
        what is wrong with it and which one is used instead.

        Args:
            like: a pytree of arrays or of `jax.ShapeDtypeStruct`: the structure, the shapes and the types.
            former: beginnings of leaves' names in checkpoints of earlier versions, and their present form.

        Raises:
            ValueError: the checkpoint has other leaves, shapes or types than `like` (names the leaf), or none
                of the checkpoints is whole (lists them).
            NotImplementedError: a checkpoint of a later format.
        """
        faults: list[str] = []
        for step in reversed(self.steps()):
            path = self._path(step)
            try:
                manifest = _verify(path, step)
            except _DamagedError as error:
                faults.append(f"{path.name} is damaged: {error}")
                continue
            for leaf in manifest["leaves"]:
                leaf["name"] = _renamed(leaf["name"], former or {})
            _compare(path, manifest["leaves"], like)
            try:
                restored = _read(path, manifest, like)
            except (OSError, ValueError, RuntimeError, KeyError) as error:
                faults.append(f"{path.name} cannot be read: {_one_line(error)}")
                continue
            if faults:
                message = f"{self.directory}: {'; '.join(faults)}; {path.name} is used instead"
                warnings.warn(message, RuntimeWarning, stacklevel=2)
            return restored
        if faults:
            raise ValueError(f"{self.directory} has no checkpoint that is whole: {'; '.join(faults)}")
        return None

    def _path(self, step: int) -> Path:
        return self.directory / f"step-{step:08d}"

    def _complaint(self, step: int, number: int) -> str:
        whole = "there is none before it"
        for other in reversed(self.steps()):
            with contextlib.suppress(_DamagedError, NotImplementedError):
                _verify(self._path(other), other)
                whole = f"the newest that is whole is {self._path(other).name}"
                break
        return (
            f"the checkpoint of step {step} could not be written to {self.directory}: "
            f"{os.strerror(number)}; {whole}"
        )

    def _prune(self, step: int) -> None:
        steps = self.steps()
        kept = [each for each in steps if each <= step][-self.keep :]
        for each in set(steps) - set(kept):
            path = self._path(each)
            hidden = path.with_name(f".{path.name}.tmp-{secrets.token_hex(4)}")
            with contextlib.suppress(OSError):  # the next save tries again
                path.rename(hidden)
                shutil.rmtree(hidden, ignore_errors=True)


class _DamagedError(Exception):
    """A checkpoint that is not what its manifest says."""


def _flatten(tree: PyTree) -> tuple[list[str], list[Leaf]]:
    """The names of the leaves, as in `.trained['conv_in.bias']`, and the leaves."""
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    names = [jax.tree_util.keystr(path) for path, _ in paths]
    for name, (_, leaf) in zip(names, paths, strict=True):
        if not (hasattr(leaf, "dtype") and hasattr(leaf, "shape")):
            raise TypeError(f"state{name} is of type {type(leaf).__name__}, expected an array")
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise TypeError(f"state{name} is a random key, expected an array such as jax.random.key_data's")
    return names, [leaf for _, leaf in paths]


def _renamed(name: str, former: Mapping[str, str]) -> str:
    for old, new in former.items():
        if name == old or (name.startswith(old) and name[len(old)] in ".["):
            return new + name[len(old) :]
    return name


def _describe(names: Sequence[str], leaves: Sequence[Leaf]) -> list[JsonObject]:
    return [
        {"name": name, "shape": list(leaf.shape), "dtype": jnp.dtype(leaf.dtype).name}
        for name, leaf in zip(names, leaves, strict=True)
    ]


def _compare(path: Path, found: list[JsonObject], like: PyTree) -> None:
    """Check that the leaves of a checkpoint are those of `like`.

    Raises:
        ValueError: other names, shapes or types of leaves.
    """
    expected = _describe(*_flatten(like))
    have, want = ({each["name"]: each for each in leaves} for leaves in (found, expected))
    for names, verb in ((have.keys() - want.keys(), "has"), (want.keys() - have.keys(), "lacks")):
        if names:
            word = "does not have" if verb == "has" else "has"
            first = listed([f"state{name}" for name in sorted(names)], 3, ", ")
            raise ValueError(f"{path} {verb} {first}, which the state of this run {word}")
    for name, leaf in want.items():
        for what in ("shape", "dtype"):
            if have[name][what] != leaf[what]:
                got, asked = (
                    tuple(each) if what == "shape" else each for each in (have[name][what], leaf[what])
                )
                raise ValueError(f"{path}: state{name} has {what} {got}, expected {asked}")


def _key(index: int) -> str:
    return f"{index:06d}"


def _write_arrays(directory: Path, leaves: Sequence[np.ndarray]) -> None:
    stored = {_key(i): np.asarray(leaf) for i, leaf in enumerate(leaves) if np.size(leaf)}
    if stored:  # Orbax writes neither empty trees nor empty arrays
        with _unlogged(), _checkpointer() as checkpointer:
            checkpointer.save(directory, stored)


def _checkpointer() -> "ocp.Checkpointer":
    """Orbax, for this process alone: of several that make a run only one writes, and each reads."""
    import orbax.checkpoint as ocp

    own = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        own, active_processes={own}, barrier_sync_key_prefix=f"process-{own}"
    )
    if jax.process_count() == 1:
        options = ocp.options.MultiprocessingOptions()
    handler = ocp.PyTreeCheckpointHandler(use_compression=False, multiprocessing_options=options)
    return ocp.Checkpointer(handler, multiprocessing_options=options)


@contextlib.contextmanager
def _unlogged() -> Iterator[None]:
    """Keep the log of Orbax's threads off the screen: their errors are raised as exceptions as well."""

    def drop(record: logging.LogRecord) -> bool:
        return False

    logger = logging.getLogger("absl")
    logger.addFilter(drop)
    try:
        yield
    finally:
        logger.removeFilter(drop)


def _read_arrays(directory: Path, leaves: Sequence[JsonMapping]) -> list[np.ndarray]:
    import orbax.checkpoint as ocp

    stored = {
        _key(i): ocp.RestoreArgs(restore_type=np.ndarray)
        for i, leaf in enumerate(leaves)
        if 0 not in leaf["shape"]
    }
    arrays: Mapping[str, np.ndarray] = {}
    if stored:
        with _checkpointer() as checkpointer:
            arrays = checkpointer.restore(directory, restore_args=stored)
    result = []
    for i, leaf in enumerate(leaves):
        shape, dtype = tuple(leaf["shape"]), jnp.dtype(leaf["dtype"])
        value = arrays[_key(i)] if _key(i) in stored else np.zeros(shape, dtype)
        if value.shape != shape or value.dtype != dtype:
            raise ValueError(f"state{leaf['name']} is {value.dtype}{value.shape}, expected {dtype}{shape}")
        result.append(value)
    return result


def _read(path: Path, manifest: JsonMapping, like: PyTree) -> Restored:
    """A verified checkpoint whose leaves are those of `like`."""
    values = dict(
        zip(
            (leaf["name"] for leaf in manifest["leaves"]),
            _read_arrays(path / "state", manifest["leaves"]),
            strict=True,
        )
    )
    state = jax.tree.unflatten(jax.tree.structure(like), [values[name] for name in _flatten(like)[0]])
    extra = read_json(path / "extra.json")
    names = [name for name in manifest["files"] if name.startswith("files/")]
    files = {name.removeprefix("files/"): (path / name).read_bytes() for name in names}
    return Restored(manifest["step"], state, extra, files)


def _files(directory: Path) -> Iterator[str]:
    """Files under a directory but for its manifest, relative to it."""
    for root, _, names in sorted(os.walk(directory)):
        for name in sorted(names):
            relative = Path(root, name).relative_to(directory).as_posix()
            if relative != "manifest.json":
                yield relative


def _manifest(directory: Path, step: int, names: Sequence[str], leaves: Sequence[np.ndarray]) -> str:
    files = {
        name: {"size": (directory / name).stat().st_size, "sha256": _digest(directory / name)}
        for name in _files(directory)
    }
    return _render({"format": _FORMAT, "step": step, "leaves": _describe(names, leaves), "files": files})


def _render(body: JsonMapping) -> str:
    """The text of a manifest, with its own digest."""
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps({**body, "sha256": digest}, indent=1) + "\n"


def _verify(path: Path, step: int) -> JsonObject:
    """The manifest of a checkpoint whose files all agree with it.

    Raises:
        _DamagedError: a file that does not agree; says which.
        NotImplementedError: a checkpoint of a later format.
    """
    try:
        text = read_text(path / "manifest.json")
        body = parse_json(text, "manifest.json")
        if not isinstance(body, dict):
            raise _DamagedError(f"manifest.json is {shown(body)}, expected a JSON object")
        body.pop("sha256", None)
        if _render(body) != text:
            raise _DamagedError("manifest.json does not have the digest it says")
        if not _is_manifest(body):
            raise _DamagedError("manifest.json is not what a checkpoint's is")
        if body["format"] != _FORMAT:
            raise NotImplementedError(
                f"{path} is a checkpoint of format {body['format']}; supported: {_FORMAT}"
            )
        if body["step"] != step:
            raise _DamagedError(f"manifest.json is that of step {body['step']}")
        found, expected = set(_files(path)), body["files"]
        for word, names in (("missing", expected.keys() - found), ("unexpected", found - expected.keys())):
            if names:
                raise _DamagedError(f"{word} file {min(names)}")
        for name, entry in expected.items():
            size = (path / name).stat().st_size
            if size != entry["size"]:
                raise _DamagedError(f"{name} has {size} bytes, expected {entry['size']}")
        for name, entry in expected.items():
            if _digest(path / name) != entry["sha256"]:
                raise _DamagedError(f"{name} does not have the digest in the manifest")
    except FileNotFoundError as error:
        raise _DamagedError(f"no {Path(error.filename or 'manifest.json').name}") from error
    except OSError as error:
        raise _DamagedError(_one_line(error)) from error
    except (ValueError, AttributeError) as error:
        raise _DamagedError(f"manifest.json is truncated or no JSON: {_one_line(error)}") from error
    return body


def _is_manifest(body: JsonMapping) -> bool:
    """Whether a manifest has the entries, of the types, that are read from it."""
    leaves, files = body.get("leaves"), body.get("files")
    return (
        {"format", "step"} <= body.keys()
        and isinstance(leaves, list)
        and all(isinstance(leaf, dict) and {"name", "shape", "dtype"} <= leaf.keys() for leaf in leaves)
        and isinstance(files, dict)
        and all(isinstance(file, dict) and {"size", "sha256"} <= file.keys() for file in files.values())
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _one_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def error_number(error: BaseException | None) -> int | None:
    """The errno behind an exception; None if there is no errno.

    TensorStore and safetensors put the errno of a full disk into the message.
    """
    while error is not None:
        if isinstance(error, OSError):
            return error.errno or errno.EIO
        if match := re.search(r"os.error\D{0,9}(\d+)", str(error), re.IGNORECASE):
            return int(match[1])
        error = error.__cause__ or error.__context__
    return None
