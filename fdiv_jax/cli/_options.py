"""The options of a command as a table, read from its dataclass, and what is wrong with arguments for them.

The dataclass stays the one place that says what a command takes: names and types are its fields, help texts
the docstrings below them. A field whose type is a dataclass gives a group of options, `--critic.steps`; with
`tyro.conf.arg(name="")` its options have no prefix.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

if TYPE_CHECKING:
    from tyro.constructors import ConstructorRegistry

__all__ = ["Option", "checked", "fields_help", "options_of", "registry"]

TypeForm = Any
"""A type as an annotation has it: a class, a union, `Literal[...]`, `tuple[int, ...]`."""
_POSITIONAL = typing.get_args(tyro.conf.Positional[int])[1]
_REPEATED = typing.get_args(tyro.conf.UseAppendAction[int])[1]
_OPTION = re.compile(r"--[A-Za-z][\w.-]*(=.*)?", re.DOTALL)
_MARK = "\ue000"
"""Stands before a value that begins with a dash while the arguments are parsed."""
_WORDS = {str: "TEXT", int: "N", float: "X", Path: "PATH"}


@dataclasses.dataclass(frozen=True)
class Option:
    """One option or positional argument.

    Attributes:
        name: `--critic.steps`, or `MODEL` for a positional argument.
        values: how many values it takes: 0 for a switch, None for any number.
        metavar: what its values are called in the help.
        help: its help text.
        default: its default value; `tyro.MISSING` where it is required.
        choices: the words that it takes; empty: any.
        negative: for a switch, the option that turns it off.
        kind: the type of one value.
        optional: whether it also takes the word None.
    """

    name: str
    values: int | None
    metavar: str
    help: str
    default: object
    choices: tuple[str, ...] = ()
    negative: str = ""
    kind: TypeForm = str
    optional: bool = False

    @property
    def positional(self) -> bool:
        """Whether it is known by its place."""
        return not self.name.startswith("-")

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is tyro.MISSING or self.default is dataclasses.MISSING

    @property
    def group(self) -> str:
        """`critic` for `--critic.steps`, empty for an option without a prefix."""
        return self.name.removeprefix("--").rpartition(".")[0]


def options_of(command: type, default: object = None) -> tuple[Option, ...]:
    """Every option of a command, in order; `default` is an instance that the options start from."""
    return tuple(_options(command, default, ""))


def _options(command: type, default: object, prefix: str) -> Iterator[Option]:
    hints = typing.get_type_hints(command, include_extras=True)
    texts = fields_help(command)
    for field in dataclasses.fields(command):
        if not field.init:
            continue
        kind, extras = _unwrapped(hints[field.name])
        optional = kind is not _unwrapped(hints[field.name], none=False)[0]
        value = _default(field) if default is None else getattr(default, field.name)
        named = next((extra.name for extra in extras if getattr(extra, "name", None) is not None), None)
        name = field.name.replace("_", "-") if named is None else named
        if dataclasses.is_dataclass(kind):
            given = value if dataclasses.is_dataclass(value) else None
            yield from _options(typing.cast(type, kind), given, f"{prefix}{name}." if name else prefix)
            continue
        if dataclasses.is_dataclass(_shape(kind)[1]):  # such lists come from files
            continue
        metavar = next((extra.metavar for extra in extras if getattr(extra, "metavar", None)), "")
        option = _option(f"{prefix}{name}", kind, extras, value, metavar, texts.get(field.name, ""))
        yield dataclasses.replace(option, optional=optional)


def _option(
    name: str, kind: TypeForm, extras: Sequence[object], value: object, metavar: str, text: str
) -> Option:
    values, single = _shape(kind)
    if any(extra is _REPEATED for extra in extras):
        values = 1
    choices = typing.get_args(single) if typing.get_origin(single) is Literal else ()
    word = metavar or ("{" + ",".join(choices) + "}" if choices else _WORDS.get(single, "VALUE"))
    if any(extra is _POSITIONAL for extra in extras):
        return Option(metavar or name.upper(), values, word, text, value, choices, kind=single)
    shown = {0: "", None: f"{word} ..."}.get(values, " ".join([word] * (values or 1)))
    group, dot, last = name.rpartition(".")
    negative = f"--{group}{dot}no-{last}" if values == 0 else ""
    return Option(f"--{name}", values, shown, text, value, choices, negative, single)


def _unwrapped(hint: TypeForm, none: bool = True) -> tuple[TypeForm, tuple[Any, ...]]:
    """The type without its annotations (and, with `none`, without None), and the annotations."""
    extras: tuple[object, ...] = ()
    if typing.get_origin(hint) is typing.Annotated:
        hint, *found = typing.get_args(hint)
        extras = tuple(found)
    if none and typing.get_origin(hint) in (typing.Union, types.UnionType):
        kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
        if len(kinds) == 1:
            inner, more = _unwrapped(kinds[0])
            return inner, (*extras, *more)
    return hint, extras


def _shape(kind: TypeForm) -> tuple[int | None, TypeForm]:
    """How many values a type takes (0: a switch, None: any number), and the type of one."""
    if kind is bool:
        return 0, bool
    if typing.get_origin(kind) is tuple:
        kinds = typing.get_args(kind)
        single = _unwrapped(kinds[0])[0] if kinds else str
        return (None if len(kinds) == 2 and kinds[1] is Ellipsis else len(kinds)), single
    return 1, kind


def _default(field: dataclasses.Field[Any]) -> object:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


@functools.cache
def fields_help(command: type) -> dict[str, str]:
    """The docstring below each field of a dataclass and of those that it extends, on one line."""
    found = {}
    for kind in reversed(command.__mro__):
        if not dataclasses.is_dataclass(kind):
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
        assert isinstance(tree, ast.ClassDef)
        for field, text in zip(tree.body, tree.body[1:], strict=False):
            if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
                continue
            if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[field.target.id] = " ".join(str(text.value.value).split())
    return found


def checked(arguments: Sequence[str], options: Sequence[Option]) -> list[str]:
    """The arguments, ready for the parser: values that begin with a dash, such as -log(t), are marked.

    An argument is an option if it is one of `options`, or reads like one (`--word`); everything else is a
    value, and so is all that stands behind `--`.

    Raises:
        ValueError: an option that is not there, one without its value, a word that it does not take, more
            positional arguments than there are, or too few.
    """
    names = {option.name: option for option in options if not option.positional}
    names |= {option.negative: option for option in options if option.negative}
    places = [option for option in options if option.positional]
    needed = sum(option.values or 0 for option in places if option.required)
    ready: list[str] = []
    seen: set[str] = set()
    loose: list[str] = []
    waiting: list[str] = list(arguments)
    literal = False
    while waiting:
        word = waiting.pop(0)
        key, equals, attached = word.partition("=")
        key = key.replace("_", "-")
        if word == "--" and not literal:
            literal = True
        elif literal or not (key in names or _OPTION.fullmatch(word)):
            loose.append(word)
        elif key not in names:
            raise ValueError(f"there is no option {key}{_nearest(key, names)}")
        else:
            option = names[key]
            seen.add(option.name)
            given = [attached] if equals else _values(waiting, option, names, needed - len(loose))
            _check_values(option, key, given)
            marked = [_marked(value, option) for value in given]
            ready += [f"{key}={marked[0]}"] if equals else [key, *marked]
    _check_places(loose, places)
    for option in options:
        if option.required and not option.positional and option.name not in seen:
            raise ValueError(f"{option.name} is missing: {_sentence(option)}")
    return [*(_marked(word, places[0]) for word in loose), *ready]


def _values(waiting: list[str], option: Option, names: Mapping[str, Option], reserved: int) -> list[str]:
    """Take an option's values from the arguments behind it; `reserved` of them are left for other places."""
    found: list[str] = []
    while waiting and (option.values is None or len(found) < option.values):
        word = waiting[0]
        another = word.partition("=")[0].replace("_", "-") in names
        if word == "--" or another or _OPTION.fullmatch(word):
            break
        odd = option.kind in (int, float) and not _is_number(word, option.kind)
        if option.values is None and (len(waiting) <= reserved or (found and odd)):
            break
        found.append(waiting.pop(0))
    return found


def _check_values(option: Option, key: str, given: Sequence[str]) -> None:
    if option.values == 0:
        if given:
            raise ValueError(f"{key} takes no value, got {given[0]!r}")
        return
    if option.values is not None and len(given) < option.values:
        many = "a value" if option.values == 1 else f"{option.values} values"
        raise ValueError(f"{key} needs {many}: {key} {option.metavar}")
    for value in given:
        if option.optional and value == "None":
            continue
        if option.choices and value not in option.choices:
            near = _nearest(value, option.choices)
            raise ValueError(f"{key} must be one of {', '.join(option.choices)}, got {value!r}{near}")
        if option.kind in (int, float) and not _is_number(value, option.kind):
            expected = "a whole number" if option.kind is int else "a number"
            raise ValueError(f"{key} must be {expected}, got {value!r}")


def _is_number(value: str, kind: type) -> bool:
    try:
        kind(value)
    except ValueError:
        return False
    return True


def _check_places(loose: Sequence[str], places: Sequence[Option]) -> None:
    least = sum(option.values or 0 for option in places if option.required)
    most = sum(option.values for option in places if option.values)
    if len(loose) < least:
        option = [option for option in places if option.required][len(loose)]
        raise ValueError(f"{option.metavar} is missing: {_sentence(option)}")
    if len(loose) > most and all(option.values is not None for option in places):
        raise ValueError(f"unexpected argument {loose[most]!r}")


def _sentence(option: Option) -> str:
    """The help text as the end of a message."""
    return option.help.rstrip(".").replace("`", "") or option.metavar


def _nearest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _marked(value: str, option: Option) -> str:
    return _MARK + value if value.startswith(("-", _MARK)) and option.kind in (str, Path) else value


def registry() -> ConstructorRegistry:
    """What reads the marked values back: text and paths."""
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

    found = ConstructorRegistry()

    @found.primitive_rule
    def unmarked(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        kind = info.type
        if kind not in (str, Path):
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="TEXT",
            instance_from_str=lambda words: kind(words[0].removeprefix(_MARK)),
            is_instance=lambda value: isinstance(value, kind),
            str_from_instance=lambda value: [str(value)],
        )

    return found
