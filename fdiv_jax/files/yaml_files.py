"""YAML files by people: read with PyYAML's safe loader, every mistake with the line it is in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fdiv_jax.files.checks import nearest
from fdiv_jax.files.reading import read_text
from fdiv_jax.files.wording import one_line, shown

__all__ = ["Entry", "Unquoted", "check_keys", "kind_of", "read_yaml"]

_LIMIT = 1 << 20
_DEPTH = 64
"""Lists and mappings within each other, at most."""
_LONGEST = 100
"""Characters of a number, a date or a truth value."""
_NOT_TEXT = ("bool", "int", "float", "timestamp")


@dataclass(frozen=True)
class Unquoted:
    """What YAML 1.1 reads as a number, a date or a truth value: 1984, 1:30, no. As it was written."""

    written: str


class Entry(dict[str, Any]):
    """A mapping of a YAML file that knows where it stands.

    Attributes:
        line: where it begins, from 1.
        lines: where each of its keys stands.
    """

    line: int = 0
    lines: dict[object, int]


class _Loader(yaml.SafeLoader):
    """The safe loader without aliases and depth, whose mappings are `Entry`s and have every key once."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not read", problem_mark=mark)
        self.depth += 1
        if self.depth > _DEPTH:
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem=f"nested more than {_DEPTH} deep", problem_mark=mark)
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_unquoted(self, node: yaml.ScalarNode) -> Unquoted:
        if len(node.value) > _LONGEST:  # PyYAML takes quadratic time for 1:1:1:1:...
            raise yaml.MarkedYAMLError(
                problem=f"a value of {len(node.value)} characters that is no text; quote it",
                problem_mark=node.start_mark,
            )
        kind = node.tag.rpartition(":")[2]
        getattr(self, f"construct_yaml_{kind}")(node)  # raises for `!!bool maybe`
        return Unquoted(node.value)

    def construct_entry(self, node: yaml.MappingNode) -> Entry:
        entry, entry_lines = Entry(), {}
        for key_node, value_node in node.value:
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise yaml.MarkedYAMLError(
                    problem=f"a key must be a word, got {_written(key)}; quote it",
                    problem_mark=key_node.start_mark,
                )
            if key in entry:
                raise yaml.MarkedYAMLError(
                    problem=f"{shown(key)} again, as in line {entry_lines[key]}",
                    problem_mark=key_node.start_mark,
                )
            entry[key], entry_lines[key] = self.construct_object(value_node, deep=True), line
        entry.line, entry.lines = node.start_mark.line + 1, entry_lines
        return entry


_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.construct_entry)
for _kind in _NOT_TEXT:
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.construct_unquoted)


def read_yaml(path: Path) -> Any:
    """What a YAML file holds; its mappings are `Entry`s.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no regular file, over 1 MiB, not UTF-8, not YAML, nested more than 64 deep, a key that
            comes twice, an alias; names file and line.
    """
    text = read_text(path, limit=_LIMIT)
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}" if mark else ""
        raise ValueError(f"{path}{where}: {one_line(error.problem or error.context)}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path}: {one_line(error)}") from error
    except (LookupError, AttributeError) as error:  # what PyYAML raises for `!!bool maybe`, `!!timestamp x`
        raise ValueError(f"{path}: a value that is not what its tag says ({one_line(error)})") from error


def _written(key: object) -> str:
    return one_line(key.written, 80) if isinstance(key, Unquoted) else shown(key)


def check_keys(path: Path, entry: Entry, what: str, keys: Sequence[str]) -> None:
    """Check that a mapping has no other keys.

    Raises:
        ValueError: another key; names the file, the line, `what` the mapping is, and the nearest known key.
    """
    for key in entry:
        if key not in keys:
            raise ValueError(
                f"{path}, line {entry.lines[key]}: {what} has no key {shown(key)}{nearest(key, keys)}; "
                f"known: {', '.join(keys)}"
            )


def kind_of(value: object) -> str:
    """What a value of YAML is, for a message."""
    if value is None:
        return "nothing"
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    if isinstance(value, Unquoted):
        return f"{value.written} (quote it to make it text)"
    return shown(value)
