"""Flax NNX modules and PyTorch state dicts: one rule for names, one for layouts.

A module's attribute path joined by dots is the name; the last part and the layout change by the kind of leaf:

    Linear   kernel (in, out)          weight (out, in)
    Conv     kernel (h, w, in, out)    weight (out, in, h, w)
    Embed    embedding (n, d)          weight (n, d)
    norms    scale (c,)                weight (c,)
    all      bias (c,)                 bias (c,)
"""

import re
from collections.abc import Mapping
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fdiv_jax.arrays import PyTree
from fdiv_jax.files import listed

__all__ = [
    "canonical_name",
    "kernel_shapes",
    "kernel_to_weight",
    "load_state_dict",
    "state_dict",
    "tensor_names",
    "weight_to_kernel",
    "without_ones",
]

ModuleT = TypeVar("ModuleT", bound=nnx.Module)

_LEAVES = {"kernel": "weight", "embedding": "weight", "scale": "weight", "bias": "bias"}
_TO_TORCH = {2: (1, 0), 4: (3, 2, 0, 1)}  # of a kernel, by its number of axes
_FROM_TORCH = {2: (1, 0), 4: (2, 3, 1, 0)}

# Tensors of some files that are not parameters: transformers before 4.31 stored the position indices.
_BUFFERS = re.compile(r"((text|vision)_model\.)?embeddings\.position_ids")
# Parameters outside any layer and statistics of norms, which keep their own names, as scalars do.
_OWN_NAMES = ("class_embedding", "running_mean", "running_var")
# Autoencoders of 2022 name their attention's projections as the original latent diffusion code did.
_OLD_ATTENTION = re.compile(
    r"(?P<head>.*attentions\.\d+)\.(?P<old>query|key|value|proj_attn)\.(?P<leaf>weight|bias)"
)
_NEW_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_MAX_LISTED = 8


def canonical_name(name: str, expected: Mapping[str, object]) -> str | None:
    """A model's name, one of `expected`, for the tensor that a file calls `name`.

    None for a buffer, which is not a parameter. Handles the names of the autoencoder's attention before 2023,
    and text towers stored with and without the leading `text_model.` (transformers 4 and 5).
    """
    if _BUFFERS.fullmatch(name) and name not in expected:
        return None
    if name in expected:
        return name
    if old := _OLD_ATTENTION.fullmatch(name):
        new = f"{old['head']}.{_NEW_ATTENTION[old['old']]}.{old['leaf']}"
        return new if new in expected else name
    for other in (f"text_model.{name}", name.removeprefix("text_model.")):
        if other in expected:
            return other
    return name


def tensor_names(model: nnx.Module) -> dict[str, tuple[int, ...]]:
    """The names of a module's tensors in its state dict, with their shapes there; nothing is copied."""
    result = {}
    for path, variable in _variables(model):
        shape = variable.get_value().shape
        result[_name(path)] = (
            tuple(shape[a] for a in _TO_TORCH[len(shape)]) if path[-1] == "kernel" else shape
        )
    return result


def kernel_shapes(model: nnx.Module) -> dict[str, tuple[int, ...]]:
    """The kernels of a module by the path of their layer, with their shapes in PyTorch's layout."""
    names = tensor_names(model)
    paths = [path for path, _ in _variables(model) if path[-1] == "kernel"]
    return {".".join(map(str, path[:-1])): names[_name(path)] for path in paths}


def kernel_to_weight(kernel: jax.Array | np.ndarray) -> np.ndarray:
    """A kernel of a Linear or a convolution in PyTorch's layout."""
    return np.ascontiguousarray(np.asarray(kernel).transpose(_TO_TORCH[kernel.ndim]))


def weight_to_kernel(weight: np.ndarray) -> np.ndarray:
    """The inverse of `kernel_to_weight`."""
    return np.ascontiguousarray(weight.transpose(_FROM_TORCH[weight.ndim]))


def state_dict(model: nnx.Module) -> dict[str, np.ndarray]:
    """The parameters of a module as PyTorch would name and lay them out, in the module's own dtypes.

    Raises:
        NotImplementedError: a variable without a rule.
    """
    result = {}
    for path, variable in _variables(model):
        value = np.asarray(variable.get_value())
        if path[-1] == "kernel":
            value = kernel_to_weight(value)
        result[_name(path)] = value
    return result


def load_state_dict(
    model: ModuleT, tensors: Mapping[str, np.ndarray], *, source: str = "the state dict"
) -> ModuleT:
    """A copy of `model` with its parameters from `tensors`, cast to the dtypes the model declares.

    `model` may be abstract, from `nnx.eval_shape`; `tensors` is read one at a time. A matrix stored as a
    1 x 1 convolution fills a Linear, and the reverse.

    Raises:
        ValueError: tensors that are missing, unexpected or misshapen; names each, with got and expected, and
            `source`.
    """
    graph, state = nnx.split(model)
    wanted = {_name(path): (path, leaf) for path, leaf in _variables(state)}
    found: dict[str, str] = {}
    unexpected, misshapen = [], []
    for name in tensors:
        known = canonical_name(name, wanted)
        if known is None:
            continue
        if known not in wanted:
            unexpected.append(name)
        elif known in found:
            unexpected.append(f"{name} (the same tensor as {found[known]})")
        else:
            found[known] = name
    missing = [name for name in wanted if name not in found]
    _complain(source, missing=missing, unexpected=unexpected)

    filled = []
    for name, (path, leaf) in wanted.items():
        shape, dtype = leaf.get_value().shape, leaf.get_value().dtype
        value = tensors[found[name]]
        kernel = path[-1] == "kernel"
        expected = tuple(shape[axis] for axis in _TO_TORCH[len(shape)]) if kernel else tuple(shape)
        got = tuple(value.shape)
        if kernel and got != expected and without_ones(got) == without_ones(expected):
            value = value.reshape(expected)
        if tuple(value.shape) != expected:
            misshapen.append(f"{name}: got {got}, expected {expected}")
            continue
        if not (jnp.issubdtype(value.dtype, jnp.floating) and jnp.issubdtype(dtype, jnp.floating)):
            misshapen.append(f"{name}: got {value.dtype}, expected a floating-point tensor")
            continue
        if kernel:
            value = value.transpose(_FROM_TORCH[len(shape)])
        filled.append(
            (path, leaf.replace(jnp.asarray(np.ascontiguousarray(value).reshape(value.shape), dtype)))
        )
    _complain(source, misshapen=misshapen)
    return nnx.merge(graph, nnx.from_flat_state(filled))


def _variables(tree: PyTree) -> list[tuple[tuple[str | int, ...], nnx.Variable]]:
    """Every variable with its path, in the order of the attributes."""
    state = nnx.state(tree) if isinstance(tree, nnx.Module) else tree
    variables = []
    for path, leaf in nnx.to_flat_state(state):
        ndim = len(leaf.get_value().shape)
        named = ndim == 0 or path[-1] in _LEAVES or path[-1] in _OWN_NAMES
        if not isinstance(leaf, nnx.Param) or not named or (path[-1] == "kernel" and ndim not in _TO_TORCH):
            raise NotImplementedError(
                f"no rule for {type(leaf).__name__} {'.'.join(map(str, path))} of {ndim} axes; "
                f"known leaves: {', '.join(_LEAVES)}"
            )
        variables.append((path, leaf))
    return variables


def _name(path: tuple[str | int, ...]) -> str:
    return ".".join([*map(str, path[:-1]), _LEAVES.get(str(path[-1]), str(path[-1]))])


def without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a weight (out, in, ...) without the trailing axes of a 1 x 1 convolution.

    Some files hold a Linear's matrix as a 1 x 1 kernel, or the reverse.
    """
    return shape[:2] if all(size == 1 for size in shape[2:]) else shape


def _complain(source: str, **groups: list[str]) -> None:
    parts = []
    for kind, names in groups.items():
        if names:
            parts.append(f"{len(names)} {kind}: {listed(names, _MAX_LISTED)}")
    if parts:
        raise ValueError(f"{source} does not fit the model. " + ". ".join(parts))
