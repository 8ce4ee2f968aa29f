"""YAML files by people: read with PyYAML's safe loader, every mistake with the line it is in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

_LIMIT = 1 << 20


class Entry(dict[str, Any]):
    """A mapping of a YAML file that knows where it stands.

    Attributes:
        line: where it begins, from 1.
        lines: where each of its keys stands.
    """

    line: int = 0
    lines: dict[Any, int]


class _Loader(yaml.SafeLoader):
    """The safe loader without aliases, whose mappings are `Entry`s and have every key once."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not read", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_entry(self, node: yaml.MappingNode) -> Entry:
        entry, entry_lines = Entry(), {}
        for key_node, value_node in node.value:
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise yaml.MarkedYAMLError(
                    problem=f"a key must be a word, got {key!r}; quote it", problem_mark=key_node.start_mark
                )
            if key in entry:
                raise yaml.MarkedYAMLError(
                    problem=f"{key!r} again, as in line {entry_lines[key]}", problem_mark=key_node.start_mark
                )
            entry[key], entry_lines[key] = self.construct_object(value_node, deep=True), line
        entry.line, entry.lines = node.start_mark.line + 1, entry_lines
        return entry


_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.construct_entry)


def read_yaml(path: Path) -> Any:
    """What a YAML file holds; its mappings are `Entry`s.

    Raises:
        FileNotFoundError: there is none.
        ValueError: over 1 MiB, not UTF-8, not YAML, a key that comes twice, an alias; names file and line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    size = path.stat().st_size
    if size > _LIMIT:
        raise ValueError(f"{path}: {size} bytes, expected at most {_LIMIT}")
    try:
        return yaml.load(path.read_bytes().decode("utf-8-sig"), Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}" if mark else ""
        raise ValueError(f"{path}{where}: {_line(error.problem or error.context)}") from error
    except RecursionError:
        raise ValueError(f"{path}: nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path}: {_line(error)}") from error
    except (LookupError, AttributeError) as error:  # what PyYAML raises for `!!bool maybe`, `!!timestamp x`
        raise ValueError(f"{path}: a value that is not what its tag says ({_line(error)})") from error


def _line(message: Any) -> str:
    return " ".join(str(message).split())
