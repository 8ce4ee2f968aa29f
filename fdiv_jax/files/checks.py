"""Checks of values from configurations and files: each returns the value in its proper type or says what was
expected."""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fdiv_jax.files.json_files import JsonObject

__all__ = [
    "known_keys",
    "nearest",
    "one_of",
    "real",
    "set_field",
    "span",
    "text",
    "texts",
    "truth",
    "whole",
]


def whole(name: str, value: Any, *, least: int, below: int | None = None) -> int:
    """An integer of at least `least`, and less than `below`; a boolean is not a number."""
    expected = f"{name} must be an integer >= {least}{'' if below is None else f' and < {below}'}"
    if isinstance(value, bool):
        raise TypeError(f"{expected}, got {value!r}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{expected}, got {value!r}") from None
    if number < least or (below is not None and number >= below):
        raise ValueError(f"{expected}, got {number}")
    return number


def span(name: str, value: object) -> tuple[int, int]:
    """A pair of integers (first, last), 0 <= first <= last."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"{name} must be a pair (first, last), got {value!r}")
    first, last = (whole(name, number, least=0) for number in value)
    if first > last:
        raise ValueError(f"{name} must be (first, last) with first <= last, got {(first, last)}")
    return first, last


def real(
    name: str, value: Any, *, above: float = -math.inf, least: float = -math.inf, below: float = math.inf
) -> float:
    """A finite number, greater than `above`, at least `least`, less than `below`."""
    if isinstance(value, (bool, str, bytes)) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be a number, got {value!r}")
    number = float(value)
    bounds = [
        f"{sign} {bound:g}"
        for sign, bound in ((">", above), (">=", least), ("<", below))
        if math.isfinite(bound)
    ]
    if not math.isfinite(number) or not (number > above and number >= least and number < below):
        raise ValueError(
            f"{name} must be a finite number {' and '.join(bounds)}".rstrip() + f", got {value!r}"
        )
    return number


def truth(name: str, value: object) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value


def text(name: str, value: object, hint: str = "") -> str:
    """A string with something in it."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {type(value).__name__} {value!r}")
    if not value.strip():
        raise ValueError(f"{name} must not be empty{hint}")
    return value


def texts(name: str, value: object) -> tuple[str, ...]:
    """A sequence of strings."""
    if (
        isinstance(value, (str, bytes))
        or not isinstance(value, Sequence)
        or not all(isinstance(entry, str) for entry in value)
    ):
        raise TypeError(f"{name} must be a sequence of strings, got {value!r}")
    return tuple(value)


def one_of(name: str, value: object, allowed: Iterable[str]) -> str:
    """One of a few words."""
    words = tuple(allowed)
    if not isinstance(value, str) or value not in words:
        raise ValueError(f"{name} must be one of {', '.join(words)}, got {value!r}{nearest(value, words)}")
    return value


def nearest(word: object, known: Iterable[str]) -> str:
    """ "; did you mean 'x'?", or nothing when no known word is alike."""
    near = difflib.get_close_matches(str(word), list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def known_keys(name: str, mapping: object, fields: Iterable[str]) -> JsonObject:
    """The mapping, if all its keys are fields."""
    if not isinstance(mapping, Mapping):
        raise TypeError(f"{name} must be a mapping, got {type(mapping).__name__}")
    fields = tuple(fields)
    for key in mapping:
        if key not in fields:
            raise ValueError(f"{name} has no key {key!r}{nearest(key, fields)}; known: {', '.join(fields)}")
    return dict(mapping)


def set_field(instance: object, name: str, value: object) -> None:
    """Set a field of a frozen dataclass while it is being made."""
    object.__setattr__(instance, name, value)
