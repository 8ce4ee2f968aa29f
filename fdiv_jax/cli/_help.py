"""The help page of a command: first what people use, the rest with `--help-all`."""

from __future__ import annotations

import dataclasses
import inspect
import shutil
import textwrap
from collections.abc import Mapping, Sequence

from fdiv_jax.cli._options import Option, options_of

__all__ = ["help_page"]

_COLUMN, _WIDEST = 24, 100


def help_page(
    program: str,
    command: type,
    default: object = None,
    common: Mapping[str, Sequence[str]] | None = None,
    *,
    everything: bool = False,
) -> str:
    """The page as text, as wide as the terminal.

    Args:
        program: as it is called, `fdiv-jax unlearn`.
        command: the dataclass of the command; its docstring is the text at the top.
        default: an instance that the options start from.
        common: headings, and the names of the options below each, without dashes; None: all of them.
        everything: the options that `common` leaves out as well.
    """
    width = min(_WIDEST, shutil.get_terminal_size().columns)
    options = options_of(command, default)
    groups = _groups(options, common, everything)
    places = [option for option in options if option.positional]
    needed = [_called(option) for option in options if option.required and not option.positional]
    usage = " ".join(["usage:", program, *map(_place, places), *needed, "[OPTIONS]"])
    blocks = [
        textwrap.fill(usage, width, subsequent_indent=" " * 8, break_on_hyphens=False),
        _paragraphs(inspect.cleandoc(command.__doc__ or ""), width),
    ]
    if places:
        blocks.append("\n".join(_entry(_place(option), option, width) for option in places))
    for title, members in groups.items():
        entries = [_entry(_called(option), option, width) for option in members]
        blocks.append("\n".join([f"{title}:", *entries]))
    shown = sum(map(len, groups.values()))
    left = len(options) - len(places) - shown
    if left:
        blocks.append(f"{program} --help-all lists the other {left} options.")
    return "\n\n".join(block for block in blocks if block) + "\n"


def _groups(
    options: Sequence[Option], common: Mapping[str, Sequence[str]] | None, everything: bool
) -> dict[str, list[Option]]:
    named = {option.name.removeprefix("--"): option for option in options if not option.positional}
    groups = {title: [named.pop(name) for name in names] for title, names in (common or {}).items()}
    if everything or common is None:
        for option in named.values():
            title = option.group or ("more options" if common else "options")
            groups.setdefault(title, []).append(option)
    return groups


def _place(option: Option) -> str:
    return f"{option.metavar}..." if option.values is None else option.metavar


def _called(option: Option) -> str:
    """How an option is written: a switch that is on by default by what turns it off."""
    if option.values == 0:
        return option.negative if option.default is True else option.name
    return f"{option.name} {option.metavar}"


def _entry(called: str, option: Option, width: int) -> str:
    text = option.help.replace("`", "")
    if option.values == 0 and option.default is True:
        text = f"Turns off: {text[:1].lower()}{text[1:]}"
    if note := _note(option):
        text = f"{text.rstrip('.')} ({note})."
    lines = textwrap.wrap(text, max(30, width - _COLUMN), break_on_hyphens=False) or [""]
    indent = "\n" + " " * _COLUMN
    head = f"  {called}"
    joint = head.ljust(_COLUMN) if len(head) < _COLUMN - 1 else head + indent
    return joint + indent.join(lines)


def _note(option: Option) -> str:
    """What stands behind the text: required, or the default where it says something."""
    value = option.default
    if option.positional or option.values == 0:
        return ""
    if option.required:
        return "required"
    if value is None or value == "" or value == () or dataclasses.is_dataclass(value):
        return ""
    words = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"default {words}"


def _paragraphs(text: str, width: int) -> str:
    return "\n\n".join(textwrap.fill(" ".join(part.split()), width) for part in text.split("\n\n"))
