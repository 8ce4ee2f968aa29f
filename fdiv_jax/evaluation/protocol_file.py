"""Protocol files: your own protocol, in YAML.

like: ca-2023                   # start from a named protocol, filled with target and anchor; or leave it out
name: two cats
sampler: ddim
steps: 30
eta: 1.0
guidance: 7.5
metrics: [clip_score, clip_accuracy, kid]
clip: openai/clip-vit-base-patch32
features: inception-v3 (clean-fid)
seeds:                          # of the images at each prompt
  target: [1, 2, 3, 4]
  retained: [1, 2]
target:                         # one concept, or a list of them; likewise anchor and retained
  concept: grumpy cat
  kind: object
  prompts:
    - a grumpy cat on a sofa
    - text: a grumpy cat in sketch style
      shows: {style: sketch}    # what else a classifier should see
  caption: A photo depicts grumpy cat
  against: A photo depicts cat
retained:
  - concept: dog
    kind: object
    prompts: [a dog on a sofa]
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fdiv_jax.evaluation.named import NAMED, named_protocol
from fdiv_jax.evaluation.protocol import ROLES, PromptSet, Protocol, Role
from fdiv_jax.files import checks as check
from fdiv_jax.files import one_line, shown
from fdiv_jax.files.yaml_files import Entry, Unquoted, check_keys, kind_of, read_yaml
from fdiv_jax.pipeline import Concept
from fdiv_jax.unlearning import Erasure

__all__ = ["find_protocol", "read_protocol_file"]

_NUMBERS = {"steps": int, "guidance": float, "eta": float}
_WORDS = ("sampler", "classifier", "features", "clip")
_TOP = ("like", "name", *_WORDS, *_NUMBERS, "size", "metrics", "seeds", *ROLES)
_SET = ("concept", "kind", "prompts", "caption", "against")
_PROMPT = ("text", "shows")
_LONGEST = 10_000
"""Characters of a text; models read a few hundred of them."""


def find_protocol(
    protocol: str | os.PathLike[str] | Protocol,
    concepts: Mapping[str, Concept],
    erasures: Sequence[Erasure],
) -> Protocol:
    """The protocol that a name or a YAML file stands for; a protocol is itself.

    Args:
        protocol: a name in `NAMED`, the path of a file (see the module), or a protocol.
        concepts: of the base model (`pipe.concepts`).
        erasures: what was unlearned, which fills the named protocols.

    Raises:
        ValueError: no such protocol, and as for `fill` and `read_protocol_file`.
        FileNotFoundError: no such file.
    """
    if isinstance(protocol, Protocol):
        return protocol
    if str(protocol) in NAMED:
        return named_protocol(str(protocol), concepts, erasures)
    path = Path(protocol)
    if path.suffix.lower() in (".yaml", ".yml") or path.exists():
        return read_protocol_file(path, concepts, erasures)
    names = ", ".join(NAMED)
    raise ValueError(
        f"protocol {str(protocol)!r}{check.nearest(str(protocol), NAMED)}; expected one of {names}, or a "
        ".yaml file"
    )


def read_protocol_file(
    path: str | os.PathLike[str], concepts: Mapping[str, Concept], erasures: Sequence[Erasure]
) -> Protocol:
    """Read a protocol file; see the module for what it looks like.

    Args:
        path: of the file.
        concepts: of the base model, for a file that is `like` a named protocol.
        erasures: what was unlearned, for the same.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not YAML, over 1 MiB, an unknown key (names the nearest known one), a value of another
            kind or out of range; names the file, and where it is one value's fault the line.
    """
    path = Path(path)
    content = read_yaml(path)
    if not isinstance(content, Entry):
        raise ValueError(f"{path}: {kind_of(content)}, expected a mapping of settings")
    check_keys(path, content, "a protocol", _TOP)
    values = _settings(path, content)
    sets = {role: _sets(path, content, role) for role in ROLES if role in content}
    like = content.get("like")
    try:
        if like is None:
            missing = [key for key in ("metrics", "target", "seeds") if key not in content]
            if missing:
                raise ValueError(f"no {' and no '.join(missing)}, and not `like` a named protocol")
            every = tuple(each for role in ROLES for each in sets.get(role, ()))
            return Protocol(**{"name": path.stem, **values, "sets": every})
        if "target" in sets:
            erasures = [Erasure(each.concept, "empty", each.prompts) for each in sets["target"]]
        base = named_protocol(_text(path, content, "like"), concepts, erasures)
        every = tuple(each for role in ROLES for each in sets.get(role, base.of(role)))
        return dataclasses.replace(base, **{"name": path.stem, **values, "sets": every})
    except (ValueError, TypeError) as error:
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: {one_line(error)}") from error


def _settings(path: Path, content: Entry) -> dict[str, Any]:
    values: dict[str, Any] = {key: _text(path, content, key) for key in ("name", *_WORDS) if key in content}
    for key, kind in _NUMBERS.items():
        if key in content:
            values[key] = _number(path, content.lines[key], key, content[key], kind)
    if "metrics" in content:
        values["metrics"] = tuple(_list(path, content, "metrics", str))
    if "size" in content:
        values["size"] = tuple(_list(path, content, "size", int))
    if "seeds" in content:
        seeds = content["seeds"]
        if isinstance(seeds, Entry):
            check_keys(path, seeds, "seeds", ROLES)
            values |= {f"{role}_seeds": tuple(_list(path, seeds, role, int)) for role in seeds}
        else:
            every = tuple(_list(path, content, "seeds", int))
            values |= {f"{role}_seeds": every for role in ROLES}
    return values


def _sets(path: Path, content: Entry, role: Role) -> tuple[PromptSet, ...]:
    value = content[role]
    entries = value if isinstance(value, list) else [value]
    found = []
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, Entry):
            raise ValueError(
                f"{path}, line {content.lines[role]}: {role} {number} is {kind_of(entry)}, expected a "
                "mapping with `concept` and `prompts`"
            )
        check_keys(path, entry, f"a {role} concept", _SET)
        for key in ("concept", "prompts"):
            if key not in entry:
                raise ValueError(f"{path}, line {entry.line}: no {key} of {role} {number}")
        words = {key: _text(path, entry, key) for key in _SET if key in entry and key != "prompts"}
        own = (words.get("kind", "concept"), words["concept"])
        prompts, shows = _prompts(path, entry, own)
        try:
            found.append(PromptSet(role=role, prompts=prompts, shows=shows, **words))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, line {entry.line}: {one_line(error)}") from error
    return tuple(found)


def _prompts(
    path: Path, entry: Entry, own: tuple[str, str]
) -> tuple[tuple[str, ...], tuple[tuple[tuple[str, str], ...], ...]]:
    """The prompts of a set, and for each the pairs (kind, concept) that it shows."""
    line, values = entry.lines["prompts"], entry["prompts"]
    if not isinstance(values, list) or not values:
        raise ValueError(f"{path}, line {line}: prompts must be a list of at least one prompt")
    prompts, shows = [], []
    for number, value in enumerate(values, 1):
        labels = dict([own])
        if isinstance(value, Entry):
            check_keys(path, value, "a prompt", _PROMPT)
            if "text" not in value:
                raise ValueError(f"{path}, line {value.line}: prompt {number} without text")
            if "shows" in value:
                labels |= _labels(path, value)
            value = value["text"]
        if not isinstance(value, str):
            raise ValueError(f"{path}, line {line}: prompt {number} must be text, got {kind_of(value)}")
        if len(value) > _LONGEST:
            raise ValueError(f"{path}, line {line}: prompt {number} has {len(value)} characters")
        prompts.append(value)
        shows.append(tuple(sorted(labels.items())))
    return tuple(prompts), tuple(shows)


def _labels(path: Path, entry: Entry) -> dict[str, str]:
    labels = entry["shows"]
    if not isinstance(labels, Entry):
        raise ValueError(f"{path}, line {entry.lines['shows']}: shows must be a mapping, kind: concept")
    return {kind: _text(path, labels, kind) for kind in labels}


def _text(path: Path, entry: Entry, key: str) -> str:
    value = entry[key]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{path}, line {entry.lines[key]}: {key} must be text, got {kind_of(value)}")
    if len(value) > _LONGEST:
        raise ValueError(f"{path}, line {entry.lines[key]}: {key} has {len(value)} characters")
    return value


def _list(path: Path, entry: Entry, key: str, kind: type) -> list[Any]:
    values, line = entry[key], entry.lines[key]
    if not isinstance(values, list):
        raise ValueError(f"{path}, line {line}: {key} must be a list, got {kind_of(values)}")
    if kind is str:
        for value in values:
            if not isinstance(value, str):
                raise ValueError(f"{path}, line {line}: {key} holds {kind_of(value)}, expected words")
        return values
    return [_number(path, line, key, value, kind) for value in values]


def _number(path: Path, line: int, key: str, value: object, kind: type) -> Any:
    expected = "a whole number" if kind is int else "a number"
    written = value.written if isinstance(value, Unquoted) else None
    try:
        if written is None:
            raise ValueError
        return kind(written)
    except ValueError:
        got = shown(written) if written is not None else kind_of(value)
        raise ValueError(f"{path}, line {line}: {key} must be {expected}, got {got}") from None
