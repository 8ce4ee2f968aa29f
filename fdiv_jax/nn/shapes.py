"""Networks without parameters: their structure, and the shapes of the parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from fdiv_jax.arrays import PyTree
from fdiv_jax.files import JsonMapping

ModuleT = TypeVar("ModuleT", bound=nnx.Module)


class _OneKey(nnx.Rngs):
    """Stands in for nnx.Rngs where only shapes count; tracing that one's counter takes quadratic time."""

    def __init__(self) -> None:
        self._key = jax.random.key(0)

    def params(self) -> jax.Array:
        return self._key


def abstract_module(make: Callable[[nnx.Rngs], ModuleT]) -> ModuleT:
    """What `make(rngs)` builds, with shapes in place of parameters; nothing is allocated.

    `nnx.eval_shape` of a module that draws from `nnx.Rngs` takes time quadratic in its layers.
    """
    return nnx.eval_shape(lambda: make(_OneKey()))


def abstract_network(kind: type[ModuleT], config: JsonMapping, **precision: DTypeLike) -> ModuleT:
    """The network of a `config.json` mapping with shapes in place of parameters; nothing is allocated.

    Args:
        kind: a class with `from_config`, such as `UNet2DConditionModel`.
        config: the mapping.
        precision: `dtype` and `param_dtype`, as for the class.

    Raises:
        NotImplementedError: as for the class's configuration.
        ValueError: as for the class's configuration.
    """
    make = kind.from_config  # type: ignore[attr-defined]
    key = (kind, repr(config), repr(sorted(precision.items())), jnp.result_type(float) == jnp.float64)
    return nnx.merge(*_parts(_Asked(key, lambda rngs: make(config, rngs=rngs, **precision))))


@dataclass(frozen=True)
class _Asked:
    """A network to be traced; two are equal where their keys are."""

    key: tuple[type[nnx.Module], str, str, bool]
    make: Callable[[nnx.Rngs], nnx.Module] = field(compare=False)


@lru_cache(maxsize=16)
def _parts(asked: _Asked) -> tuple[nnx.GraphDef, PyTree]:
    """Tracing is most of the time that a small model takes to load; many models share a configuration."""
    return nnx.split(abstract_module(asked.make))
