"""The base of every model configuration: reads a `config.json` strictly, and writes it back."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from fdiv_jax.files import JsonMapping, JsonObject, shown

ConfigT = TypeVar("ConfigT", bound="ModelConfig")

COUNT = (1, 1 << 16)
"""The range of counts without a range of their own: widths, heads, groups, pixels along a side."""
LAYERS = (1, 64)
"""The range of layers of one block; building a network takes time for each of them."""
_ENTRIES = 64
"""Largest number of entries of a list in a configuration."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A frozen model configuration that knows its `config.json` form.

    Subclasses list their fields with the names that diffusers or transformers use. A key of the file that is
    not a field is looked up in `neutral`: the values with which this library's model and the original agree.
    Any other value of such a key names a capability that is missing here. Whole numbers lie within `ranges`
    (least, most; by default `COUNT`), so that no configuration asks for a network that takes minutes to
    build, or for arrays of absurd size.
    """

    class_name: ClassVar[str] = ""
    neutral: ClassVar[Mapping[str, tuple[object, ...]]] = {}
    ranges: ClassVar[Mapping[str, tuple[int, int]]] = {}

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_numbers(field.name, getattr(self, field.name), self.ranges.get(field.name))

    @classmethod
    def from_dict(cls: type[ConfigT], mapping: JsonMapping) -> ConfigT:
        """Read a `config.json` mapping.

        Keys that start with an underscore, and keys that no version of this library has heard of and that
        carry a falsy value (None, False, 0, empty), are metadata or switched-off features and pass.

        Raises:
            NotImplementedError: a key asks for something the model here cannot do; names key and value.
            ValueError: a value of another type, a number out of its range, or one that makes no sense (raised
                by the subclass's own checks).
        """
        if not isinstance(mapping, Mapping):
            raise ValueError(f"a configuration must be a mapping, got {shown(mapping)}")
        hints = typing.get_type_hints(cls)
        fields = {field.name for field in dataclasses.fields(cls)}
        known: JsonObject = {}
        for key, value in mapping.items():
            if isinstance(value, list):
                value = _as_tuple(value)
            if key in fields:
                if not _fits(value, hints[key]):
                    expected = hints[key].__name__ if isinstance(hints[key], type) else str(hints[key])
                    raise ValueError(f"{key}={shown(value)}, expected {expected}")
                known[key] = value
            elif key.startswith("_") or (key in cls.neutral and _is_neutral(value, cls.neutral[key])):
                continue
            elif key in cls.neutral:
                raise NotImplementedError(
                    f"{cls.class_name or cls.__name__}: {shown(key)[1:-1]}={shown(value)} is not supported; "
                    f"supported: {', '.join(map(repr, cls.neutral[key]))}"
                )
            elif value:
                raise NotImplementedError(
                    f"{cls.class_name or cls.__name__}: unknown configuration key "
                    f"{shown(key)[1:-1]}={shown(value)}"
                )
        return cls(**known)

    def to_dict(self) -> JsonObject:
        """The mapping to write as `config.json`; `from_dict` reads it back to an equal configuration."""
        result: JsonObject = {"_class_name": self.class_name} if self.class_name else {}
        for field in dataclasses.fields(self):
            result[field.name] = _as_list(getattr(self, field.name))
        return result


def _check_numbers(name: str, value: object, bounds: tuple[int, int] | None) -> None:
    """Check the range of every number and the length of every list.

    Raises:
        ValueError: a number out of its range or not finite, or a list that is too long.
    """
    if isinstance(value, tuple):
        if len(value) > _ENTRIES:
            raise ValueError(f"{name} has {len(value)} entries, expected at most {_ENTRIES}")
        for entry in value:
            _check_numbers(name, entry, bounds)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name}={value}, expected a finite number")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        least, most = bounds or (COUNT if isinstance(value, int) else (-math.inf, math.inf))
        if not least <= value <= most:
            raise ValueError(f"{name}={shown(value)}, expected a number from {least} to {most}")


def _is_neutral(value: object, neutral: tuple[object, ...]) -> bool:
    """Whether a value, or each of the values per block, is neutral; without a list every value is."""
    if not neutral:
        return True
    return all(one in neutral for one in value) if isinstance(value, tuple) and value else value in neutral


def _fits(value: object, hint: object) -> bool:
    """Whether a value read from JSON is of an annotated type."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return any(_fits(value, one) for one in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        kinds = typing.get_args(hint)
        if not isinstance(value, tuple) or (kinds[-1] is not ... and len(value) != len(kinds)):
            return False
        return all(_fits(item, kinds[0]) for item in value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return not isinstance(hint, type) or isinstance(value, hint)


def _as_tuple(value: object) -> object:
    return tuple(_as_tuple(item) for item in value) if isinstance(value, (list, tuple)) else value


def _as_list(value: object) -> object:
    return [_as_list(item) for item in value] if isinstance(value, (list, tuple)) else value


def per_block(name: str, value: Any, blocks: int) -> tuple[Any, ...]:
    """Spread a setting over blocks: a scalar counts for each, a sequence must have one entry per block.

    Raises:
        ValueError: the sequence has another length.
    """
    if not isinstance(value, (list, tuple)):
        return (value,) * blocks
    if len(value) != blocks:
        raise ValueError(
            f"{name} has {len(value)} entries {shown(value)}, expected one for each of {blocks} blocks"
        )
    return tuple(value)


def require(condition: bool, message: str) -> None:
    """Check a condition.

    Raises:
        ValueError: `condition` does not hold; with `message`.
    """
    if not condition:
        raise ValueError(message)
