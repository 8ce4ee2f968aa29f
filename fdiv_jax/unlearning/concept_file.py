"""Concept files: what to unlearn, in YAML.

concepts:
  - target: van gogh            # a known concept, its own prompts, towards its super-class
  - target: my cat              # one that this file defines
    anchor: near                # default: superclass
    kind: object
    phrase: my cat
    superclass: a cat
    near: a dog
    prompts: [my cat on a sofa, a portrait of my cat]
retained:                       # default: those of the configuration
  - a photo of a dog
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from fdiv_jax.files import shown
from fdiv_jax.files.yaml_files import Entry, check_keys, kind_of, read_yaml
from fdiv_jax.pipeline import Concept
from fdiv_jax.pipeline.words import folded
from fdiv_jax.unlearning._phrases import first_shown
from fdiv_jax.unlearning.concepts import Erasure

__all__ = ["ConceptFile", "read_concept_file"]

_TOP = ("concepts", "retained")
_DEFINITION = ("kind", "phrase", "superclass", "near")
_KEYS = ("target", "anchor", "prompts", *_DEFINITION)
_LONGEST = 10_000
"""Characters of a text; models read a few hundred of them."""


@dataclass(frozen=True)
class ConceptFile:
    """What a concept file says.

    Attributes:
        erasures: what to unlearn, in the file's order.
        concepts: those that the file defines itself, for `known_concepts(pipe.concepts, concepts)`.
        retained: prompts at which the model is to stay as it is; None: the file says nothing about them.
    """

    erasures: tuple[Erasure, ...]
    concepts: tuple[Concept, ...] = ()
    retained: tuple[str, ...] | None = None


def read_concept_file(path: str | os.PathLike[str]) -> ConceptFile:
    """Read a concept file; see the module for what it looks like.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not YAML, over 1 MiB, an unknown key (names the nearest known one), a value of another
            kind, half a definition, prompts without the phrase, or the same target, prompt or key twice;
            names the file and the line.
    """
    path = Path(path)
    content = read_yaml(path)
    if not isinstance(content, Entry):
        raise ValueError(f"{path}: {kind_of(content)}, expected a mapping with `concepts`")
    check_keys(path, content, "a concept file", _TOP)
    entries = content.get("concepts")
    if not isinstance(entries, list) or not entries:
        at = content.lines.get("concepts", content.line)
        raise ValueError(f"{path}, line {at}: concepts must be a list of at least one target")
    erasures: dict[str, tuple[Erasure, int]] = {}
    concepts: list[Concept] = []
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, Entry):
            raise ValueError(
                f"{path}, line {content.lines['concepts']}: concept {number} is {kind_of(entry)}, expected a "
                "mapping with `target`"
            )
        erasure, concept = _read_entry(path, entry)
        key = folded(erasure.target).text
        if key in erasures:
            raise ValueError(
                f"{path}, line {entry.line}: target {shown(erasure.target)} again, as in line "
                f"{erasures[key][1]}"
            )
        erasures[key] = (erasure, entry.line)
        concepts += [] if concept is None else [concept]
    return ConceptFile(
        tuple(erasure for erasure, _ in erasures.values()),
        tuple(concepts),
        _prompts(path, content, "retained") if "retained" in content else None,
    )


def _read_entry(path: Path, entry: Entry) -> tuple[Erasure, Concept | None]:
    check_keys(path, entry, "a concept", _KEYS)
    if "target" not in entry:
        raise ValueError(f"{path}, line {entry.line}: no target; expected a concept to unlearn")
    target = _text(path, entry, "target")
    anchor = _text(path, entry, "anchor") if "anchor" in entry else "superclass"
    prompts = _prompts(path, entry, "prompts") if "prompts" in entry else ()
    if "prompts" in entry and not prompts:
        raise ValueError(
            f"{path}, line {entry.lines['prompts']}: prompts must be a list of at least one prompt"
        )
    given = [key for key in _DEFINITION if key in entry]
    if not given:
        return Erasure(target, anchor, prompts), None
    missing = [key for key in (*_DEFINITION, "prompts") if key not in entry]
    if missing:
        raise ValueError(
            f"{path}, line {entry.lines[given[0]]}: {given[0]} of {shown(target)} without "
            f"{', '.join(missing)}; a definition is {', '.join(_DEFINITION)} and prompts"
        )
    kind, phrase, near = (_text(path, entry, key) for key in ("kind", "phrase", "near"))
    superclass = _text(path, entry, "superclass", empty=True)
    for prompt in prompts:
        if not first_shown(prompt, (phrase, target)):
            raise ValueError(
                f"{path}, line {entry.lines['prompts']}: {shown(phrase)} does not occur in the "
                f"prompt {shown(prompt)}"
            )
    concept = Concept(target, kind, phrase, superclass, near, prompts)
    return Erasure(target, anchor), concept


def _text(path: Path, entry: Entry, key: str, *, empty: bool = False) -> str:
    value = entry[key]
    if not isinstance(value, str):
        raise ValueError(f"{path}, line {entry.lines[key]}: {key} must be text, got {kind_of(value)}")
    if not value.strip() and not empty:
        raise ValueError(f"{path}, line {entry.lines[key]}: {key} must not be empty")
    _short_enough(value, f"{path}, line {entry.lines[key]}: {key}")
    return value


def _short_enough(text: str, what: str) -> None:
    if len(text) > _LONGEST:
        raise ValueError(f"{what} has {len(text)} characters, expected at most {_LONGEST}: {shown(text, 40)}")


def _prompts(path: Path, entry: Entry, key: str) -> tuple[str, ...]:
    values, where = entry[key], f"{path}, line {entry.lines[key]}"
    if not isinstance(values, list):
        raise ValueError(f"{where}: {key} must be a list of prompts, got {kind_of(values)}")
    seen: set[str] = set()
    for number, prompt in enumerate(values, 1):
        if not isinstance(prompt, str):
            raise ValueError(f"{where}: prompt {number} of {key} must be text, got {kind_of(prompt)}")
        if not prompt.strip() and key != "retained":
            raise ValueError(f"{where}: prompt {number} of {key} must not be empty")
        _short_enough(prompt, f"{where}: prompt {number} of {key}")
        if prompt in seen:
            raise ValueError(f"{where}: {key} has the prompt {shown(prompt)} twice")
        seen.add(prompt)
    return tuple(values)
