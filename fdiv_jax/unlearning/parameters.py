"""Which parameters learn: groups by pattern on dotted names, selected by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx
from flax.typing import PathParts

from fdiv_jax.arrays import Parameters, PyTree
from fdiv_jax.nn import named_parameters
from fdiv_jax.unlearning._validate import nearest

__all__ = ["GROUPS", "Network", "Selection", "select"]

GROUPS: dict[str, str] = {
    "cross-attn": r"\.attn2\.to_[kv]\.",
    "attn": r"\.attn[12]\.to_(q|k|v|out)\.",
    "full": r"",
}
"""Named groups of parameters, each a regular expression to be found in the dotted name."""

_STRUCTURES: dict[Any, Any] = {}
"""Every structure of a network that was seen, by itself: equal ones are one object, since a compiled step
compares them at every call."""


@dataclass(frozen=True)
class Selection:
    """The parameters that a group holds.

    Attributes:
        group: as it was asked for.
        pattern: its regular expression.
        names: of the parameters, sorted.
        count: how many numbers they hold.
        total: how many numbers all the parameters hold.
    """

    group: str
    pattern: str
    names: tuple[str, ...]
    count: int
    total: int

    def __str__(self) -> str:
        return (
            f"{self.group}: {len(self.names)} tensors, {self.count:,} parameters, "
            f"{100 * self.count / self.total:.2f} % of {self.total:,}"
        )


def select(parameters: Mapping[str, jax.Array], group: str) -> Selection:
    """The parameters of a named group, or whose dotted name a regular expression is found in.

    Raises:
        ValueError: not a regular expression, or one that is found in no name.
    """
    pattern = GROUPS.get(group, group)
    try:
        found = re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"trainable {group!r} is neither a group ({', '.join(GROUPS)}) nor a regular expression: {error}"
        ) from error
    names = tuple(sorted(name for name in parameters if found.search(name)))
    if not names:
        example = sorted(parameters)[len(parameters) // 2] if parameters else "none at all"
        raise ValueError(
            f"trainable {group!r} matches no parameter{nearest(group, GROUPS)}; expected one of "
            f"{', '.join(GROUPS)} or a regular expression found in names such as {example}"
        )
    count = sum(parameters[name].size for name in names)
    return Selection(group, pattern, names, count, sum(value.size for value in parameters.values()))


class Network:
    """A Flax module as a pure function of its parameters by name.

    `Network(module)` keeps the module's structure only, and is equal to that of any module of the same
    structure; `network.parameters(module)` are its parameters, and `network(parameters, ...)` is what a
    module with these parameters gives. `network.module(parameters)` makes one."""

    def __init__(self, module: nnx.Module):
        """The structure of `module`, which must hold parameters and no other state."""
        self.graph, state = nnx.split(module)
        self._paths: dict[str, tuple[PathParts, type[nnx.Variable]]] = {}
        for path, variable in nnx.to_flat_state(state):
            if not isinstance(variable, nnx.Param):
                raise TypeError(
                    f"{'.'.join(map(str, path))} is a {type(variable).__name__}, expected a Param"
                )
            self._paths[".".join(map(str, path))] = (path, type(variable))
        structure = self.graph, tuple(self._paths.items())
        self._structure = _STRUCTURES.setdefault(structure, structure)
        self._hash = hash(structure)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Network) and self._structure is other._structure

    def __hash__(self) -> int:
        return self._hash

    @staticmethod
    def parameters(module: nnx.Module) -> Parameters:
        """The parameters of a module, by name."""
        return named_parameters(module)

    def module(self, parameters: Mapping[str, jax.Array]) -> Any:
        """A module with these parameters.

        Raises:
            ValueError: a parameter missing or unknown; names them.
        """
        if set(parameters) != set(self._paths):
            missing = sorted(set(self._paths) - set(parameters))
            extra = sorted(set(parameters) - set(self._paths))
            raise ValueError(f"parameters missing: {missing}; unknown: {extra}")
        flat = [(path, kind(parameters[name])) for name, (path, kind) in self._paths.items()]
        return nnx.merge(self.graph, nnx.from_flat_state(flat))

    def __call__(self, parameters: Mapping[str, jax.Array], *inputs: PyTree) -> jax.Array:
        """What a module with these parameters gives."""
        return self.module(parameters)(*inputs)
