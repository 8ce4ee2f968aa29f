"""Networks without parameters: their structure, and the shapes of the parameters."""

from __future__ import annotations

from typing import TypeVar

import jax
from flax import nnx
from jax.typing import DTypeLike

from fdiv_jax.files import JsonMapping

ModuleT = TypeVar("ModuleT", bound=nnx.Module)


class _OneKey(nnx.Rngs):
    """Stands in for nnx.Rngs where only shapes count; tracing that one's counter takes quadratic time."""

    def __init__(self) -> None:
        self._key = jax.random.key(0)

    def params(self) -> jax.Array:
        return self._key


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
    return nnx.eval_shape(lambda: make(config, rngs=_OneKey(), **precision))
