"""Low-rank changes of weights: W' = W + (alpha / rank) down up.

Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2021. With magnitudes m (Liu et al., DoRA:
Weight-Decomposed Low-Rank Adaptation, 2024) the sum V keeps its direction alone: W' = m V / |V|, the norm
taken for each output. Everything here is a pure function of parameters by their dotted names, in Flax's
layouts:

    kernel of a Linear       P.kernel  (in, out)        down (in, rank)        up (rank, out)
    kernel of a convolution  P.kernel  (h, w, in, out)  down (h, w, in, rank)  up (1, 1, rank, out)

The factors of P.kernel are named P.lora_down.kernel and P.lora_up.kernel; P is called the target.
Magnitudes are (out,), or (in, 1) for norms taken for each input, as older LyCORIS files have them.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

__all__ = ["ExtractedLora", "Lora", "extract_lora", "init_lora", "merge_lora", "merge_module"]

ModuleT = TypeVar("ModuleT", bound=nnx.Module)

_KERNEL = ".kernel"
_DOWN, _UP = ".lora_down.kernel", ".lora_up.kernel"


@dataclasses.dataclass(frozen=True)
class Lora:
    """Low-rank factors for some of a network's kernels; a pytree whose leaves are the factors.

    Attributes:
        factors: the arrays that learn, by name (see the module).
        alpha: one number per target; a change is scaled by alpha / rank.
        magnitudes: one array per target that has magnitudes (DoRA).

    Raises:
        ValueError: a factor without its other half or its alpha, a magnitude without factors, or shapes that
            do not go together.
    """

    factors: dict[str, jax.Array]
    alpha: dict[str, float]
    magnitudes: dict[str, jax.Array] = dataclasses.field(default_factory=dict)

    @property
    def targets(self) -> tuple[str, ...]:
        """The changed layers, sorted."""
        return tuple(sorted(self.alpha))

    def pair(self, target: str) -> tuple[jax.Array, jax.Array]:
        """(down, up) of a layer."""
        return self.factors[target + _DOWN], self.factors[target + _UP]

    def rank(self, target: str) -> int:
        """The rank of a layer's change."""
        return self.factors[target + _UP].shape[-2]

    def scale(self, target: str) -> float:
        """alpha / rank."""
        return self.alpha[target] / self.rank(target)

    def __post_init__(self) -> None:
        expected = {target + part for target in self.alpha for part in (_DOWN, _UP)}
        if expected != set(self.factors):
            odd = sorted(expected ^ set(self.factors))
            raise ValueError(f"factors and alphas do not go together: {', '.join(odd[:4])}")
        if alone := sorted(set(self.magnitudes) - set(self.alpha)):
            raise ValueError(f"magnitudes without factors: {', '.join(alone[:4])}")
        for target in self.alpha:
            down, up = (np.shape(factor) for factor in self.pair(target))
            if not (len(down) == len(up) and down[-1] == up[-2] and set(up[:-2]) <= {1}):
                raise ValueError(
                    f"{target}: factors of shapes {down} and {up}, expected (..., r) and (r, out)"
                )
            shape = np.shape(self.magnitudes.get(target, np.empty(up[-1:])))
            if shape != up[-1:] and shape != (*down[-2:-1], 1):
                raise ValueError(
                    f"{target}: magnitudes of shape {shape}, expected {up[-1:]} or {(*down[-2:-1], 1)}"
                )


def _flatten(lora: Lora) -> tuple[tuple[dict[str, jax.Array], ...], tuple[tuple[str, float], ...]]:
    return (lora.factors, lora.magnitudes), tuple(sorted(lora.alpha.items()))


def _flatten_with_keys(lora: Lora):
    children, alpha = _flatten(lora)
    keys = (jax.tree_util.GetAttrKey(name) for name in ("factors", "magnitudes"))
    return tuple(zip(keys, children, strict=True)), alpha


def _unflatten(alpha: tuple[tuple[str, float], ...], children: Iterable[dict[str, jax.Array]]) -> Lora:
    lora = object.__new__(Lora)  # leaves may be anything, such as gradients or shardings
    factors, magnitudes = children
    object.__setattr__(lora, "factors", factors)
    object.__setattr__(lora, "magnitudes", magnitudes)
    object.__setattr__(lora, "alpha", dict(alpha))
    return lora


jax.tree_util.register_pytree_with_keys(Lora, _flatten_with_keys, _unflatten, _flatten)


class ExtractedLora(NamedTuple):
    """The best low-rank change from one network to another, and its error."""

    lora: Lora
    errors: dict[str, float]
    """Per target, |D - D_r| / |D| in the Frobenius norm, for the change D and its low-rank form D_r."""
    error: float
    """The same over all targets together."""


def init_lora(
    parameters: Mapping[str, jax.Array],
    names: Iterable[str],
    *,
    rank: int,
    alpha: float | None = None,
    key: jax.Array,
) -> Lora:
    """Factors without effect yet: down uniform in +-1 / sqrt(fan-in), up zero, float32 or wider.

    Source: Hu et al. 2021.

    Args:
        parameters: arrays by name, such as `fdiv_jax.unlearning.Network.parameters`.
        names: the kernels to change, such as `fdiv_jax.unlearning.select(parameters, group).names`.
        rank: rank of each change.
        alpha: scale times rank; None: the rank.
        key: random key.

    Raises:
        ValueError: no name, an unknown one, one of a bias, norm or embedding, or a rank below 1 or above that
            of the kernel.
    """
    targets = sorted({_target(name, parameters) for name in names})
    if not targets:
        raise ValueError("no parameter named, expected at least one kernel")
    shapes = {target: parameters[target + _KERNEL].shape for target in targets}
    for target, shape in shapes.items():
        _check_rank(rank, target, shape)
    # One draw for all layers, cut up by a program per shape of a layer and not per layer; traceable, so that
    # the shapes can be had without the numbers.
    sizes = [math.prod(shape[:-1]) * rank for shape in shapes.values()]
    drawn = jax.random.uniform(key, (sum(sizes),), minval=-1, maxval=1)
    factors = {}
    for (target, shape), start in zip(shapes.items(), itertools.accumulate(sizes, initial=0), strict=False):
        dtype = jnp.promote_types(parameters[target + _KERNEL].dtype, jnp.float32)
        down = _scaled_part(drawn, start, math.prod(shape[:-1]) ** -0.5, (*shape[:-1], rank))
        factors[target + _DOWN] = down.astype(dtype)
        factors[target + _UP] = jnp.asarray(np.zeros((*(1 for _ in shape[:-2]), rank, shape[-1]), dtype))
    return Lora(factors, dict.fromkeys(targets, float(rank if alpha is None else alpha)))


def merge_lora(
    parameters: Mapping[str, jax.Array], lora: Lora, *, strength: float | jax.Array = 1.0
) -> dict[str, jax.Array]:
    """The parameters with V = W + strength (alpha / rank) down up for each target; all differentiable.

    Where the target has magnitudes m, m V / |V| takes the place of V, as PEFT fuses a scaled DoRA.

    Args:
        parameters: arrays by name.
        lora: factors for some of the parameters.
        strength: a further scale, which programs that draw images let their users choose.

    Returns:
        All parameters; the unchanged ones are the same arrays. Dtypes stay.

    Raises:
        ValueError: a target that is not a kernel of the parameters, or has another shape.
    """
    merged = dict(parameters)
    for target in lora.targets:
        name = _target(target + _KERNEL, parameters) + _KERNEL
        kernel, (down, up) = parameters[name], lora.pair(target)
        if (*down.shape[:-1], up.shape[-1]) != kernel.shape:
            raise ValueError(
                f"{name} has shape {kernel.shape}, factors of shapes {down.shape} and {up.shape} do not fit"
            )
        dtype = jnp.promote_types(kernel.dtype, jnp.float32)
        flat = up.reshape(up.shape[-2:])
        change = jnp.matmul(down.astype(dtype), flat.astype(dtype), precision=jax.lax.Precision.HIGHEST)
        changed = kernel.astype(dtype) + strength * lora.scale(target) * change
        if (magnitude := lora.magnitudes.get(target)) is not None:
            changed = _with_magnitude(changed, magnitude.astype(dtype))
        merged[name] = changed.astype(kernel.dtype)
    return merged


def merge_module(module: ModuleT, lora: Lora, *, strength: float = 1.0) -> ModuleT:
    """A copy of a network with the changes in its weights; see `merge_lora`. The other weights are shared.

    Raises:
        ValueError: as for `merge_lora`, or a kernel that is no longer finite; names it.
    """
    graph, state = nnx.split(module)
    flat = {".".join(map(str, path)): (path, leaf) for path, leaf in nnx.to_flat_state(state)}
    targets = {target + _KERNEL for target in lora.targets}
    kernels = {name: flat[name][1].get_value() for name in targets & set(flat)}
    for name, kernel in merge_lora(kernels, lora, strength=strength).items():
        if not jnp.isfinite(kernel).all():
            raise ValueError(f"{name} is not finite in {kernel.dtype}")
        path, leaf = flat[name]
        flat[name] = path, leaf.replace(kernel)
    return nnx.merge(graph, nnx.from_flat_state(list(flat.values())))


def extract_lora(
    original: Mapping[str, jax.Array],
    changed: Mapping[str, jax.Array],
    rank: int,
    names: Iterable[str] | None = None,
    *,
    alpha: float | None = None,
) -> ExtractedLora:
    """The change between two networks, each kernel's cut to its greatest `rank` singular values.

    A kernel of a lower rank than that has its whole change kept, in factors of its own rank.

    D = U S V^T, and down = U_r sqrt(S_r / scale), up = sqrt(S_r / scale) V_r^T: the closest change of this
    rank (Eckart and Young, 1936). Kernels of convolutions are taken as matrices (h w in, out).

    Args:
        original: parameters by name.
        changed: parameters of the same names and shapes.
        rank: largest rank of each kernel's change; at least 1.
        names: parameters to look at; None: all. Those that did not change are left out.
        alpha: scale times rank, for every kernel; None: each kernel's rank.

    Returns:
        The factors, float32, and the relative errors.

    Raises:
        ValueError: names or shapes that differ, no change, a change of a bias, norm or embedding (which a
            LoRA cannot hold: leave it out by `names`, or keep a delta), or a rank below 1.
    """
    if set(original) != set(changed):
        odd = sorted(set(original) ^ set(changed))
        raise ValueError(f"the networks differ in parameters: {', '.join(odd[:4])} ({len(odd)} in all)")
    if rank < 1:
        raise ValueError(f"rank {rank}, expected at least 1")
    if alpha is not None and not alpha > 0:
        raise ValueError(f"alpha {alpha}, expected a positive number")
    wanted = sorted(original) if names is None else sorted(set(names))
    moved = [name for name in wanted if _differs(name, original, changed)]
    if not moved:
        raise ValueError(f"none of {len(wanted)} parameters changed")
    others = [name for name in moved if not name.endswith(_KERNEL)]
    if others:
        raise ValueError(
            f"{len(others)} changed parameters are not kernels, and a LoRA holds only kernels: "
            f"{', '.join(others[:4])}; name the kernels, or keep a delta"
        )
    factors, alphas, errors, left, total = {}, {}, {}, 0.0, 0.0
    for name in moved:
        target = name.removesuffix(_KERNEL)
        shape = original[name].shape
        r = min(rank, _full_rank(shape))
        alphas[target] = float(r if alpha is None else alpha)
        difference = np.asarray(changed[name], np.float64) - np.asarray(original[name], np.float64)
        matrix = difference.reshape(-1, shape[-1])
        u, s, v = np.linalg.svd(matrix, full_matrices=False)
        root = np.sqrt(s[:r] * r / alphas[target])
        factors[target + _DOWN] = jnp.asarray((u[:, :r] * root).reshape(*shape[:-1], r), jnp.float32)
        up = (root[:, None] * v[:r]).reshape(*(1 for _ in shape[:-2]), r, shape[-1])
        factors[target + _UP] = jnp.asarray(up, jnp.float32)
        rest, whole = float(np.sum(s[r:] ** 2)), float(np.sum(s**2))
        errors[target] = (rest / whole) ** 0.5
        left, total = left + rest, total + whole
    return ExtractedLora(Lora(factors, alphas), errors, (left / total) ** 0.5)


@functools.partial(jax.jit, static_argnames="shape")
def _scaled_part(
    values: jax.Array, start: int | jax.Array, scale: float | jax.Array, shape: tuple[int, ...]
) -> jax.Array:
    """The values from `start` on that fill `shape`, times `scale`."""
    return scale * jax.lax.dynamic_slice(values, (start,), (math.prod(shape),)).reshape(shape)


def _target(name: str, parameters: Mapping[str, jax.Array]) -> str:
    if name not in parameters:
        raise ValueError(f"no parameter {name}; the network has {len(parameters)} others")
    if not name.endswith(_KERNEL):
        raise ValueError(f"{name} is not a kernel; a LoRA changes only the kernels of Linear and Conv layers")
    return name.removesuffix(_KERNEL)


def _with_magnitude(kernel: jax.Array, magnitude: jax.Array) -> jax.Array:
    """m V / |V|, the norm over the axes in which the magnitude has length 1."""
    told = (1,) * (kernel.ndim - magnitude.ndim) + magnitude.shape
    axes = tuple(axis for axis, size in enumerate(told) if size == 1)
    return magnitude * kernel / jnp.sqrt(jnp.sum(kernel**2, axis=axes, keepdims=True))


def _full_rank(shape: tuple[int, ...]) -> int:
    return min(int(np.prod(shape[:-1])), shape[-1])


def _check_rank(rank: int, target: str, shape: tuple[int, ...]) -> None:
    full = _full_rank(shape)
    if not 1 <= rank <= full:
        raise ValueError(
            f"rank {rank} for {target}, whose kernel {shape} has rank {full}; expected 1 to {full}"
        )


def _differs(name: str, original: Mapping[str, jax.Array], changed: Mapping[str, jax.Array]) -> bool:
    if name not in original:
        raise ValueError(f"no parameter {name}; the networks have {len(original)} others")
    a, b = np.asarray(original[name]), np.asarray(changed[name])
    if a.shape != b.shape:
        raise ValueError(f"{name} has shapes {a.shape} and {b.shape}, expected the same")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError(f"{name} has values that are not finite")
    return not np.array_equal(a, b)
