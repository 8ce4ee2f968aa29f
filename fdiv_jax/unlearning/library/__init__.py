"""Concepts that the literature erases, with prompts, for models that come without a concepts.json.

`styles.yaml` has painters and illustrators, `objects.yaml` things and characters. The near anchors are of no
concept of the library, so that any of its concepts can be erased together.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from fdiv_jax.files.yaml_files import Entry, read_yaml
from fdiv_jax.pipeline import Concept
from fdiv_jax.pipeline.words import folded, has_phrase
from fdiv_jax.unlearning import _validate as check

__all__ = ["KnownConcepts", "known_concepts", "library_concepts"]

_FILES = ("styles.yaml", "objects.yaml")
_KEYS = ("kind", "aliases", "phrase", "superclass", "near", "prompts")


class KnownConcepts(Mapping[str, Concept]):
    """Concepts by name, whatever its case, spaces, hyphens and accents, or by another name.

    It goes over each concept once, under its own name.
    """

    def __init__(
        self,
        concepts: Mapping[str, Concept],
        aliases: Mapping[str, tuple[str, ...]] | None = None,
        origin: str = "this model",
    ):
        """`aliases` are other names, by name; `origin` is whose concepts they are, for messages."""
        self._concepts = dict(concepts)
        self._aliases = {name: tuple(words) for name, words in (aliases or {}).items() if name in concepts}
        self.origin = origin
        self._names: dict[str, str] = {}
        others = [(word, name) for name, words in self._aliases.items() for word in words]
        for word, name in (*((name, name) for name in self._concepts), *others):
            self._names.setdefault(_key(word), name)

    def __getitem__(self, name: str) -> Concept:
        if name in self._concepts:
            return self._concepts[name]
        return self._concepts[self._names[_key(name)]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._concepts)

    def __len__(self) -> int:
        return len(self._concepts)

    def find(self, word: str) -> Concept | None:
        """The concept of that name, other name or phrase."""
        if word in self:
            return self[word]
        wanted = _key(word)
        return next((c for c in self._concepts.values() if _key(c.phrase) == wanted), None)

    def names(self, concept: Concept) -> tuple[str, ...]:
        """The concept's name and its other names."""
        own = next((name for name, each in self._concepts.items() if each is concept), concept.name)
        return tuple(dict.fromkeys((concept.name, own, *self._aliases.get(own, ()))))

    def words(self) -> tuple[str, ...]:
        """Every name that is known."""
        return (*self._concepts, *(word for words in self._aliases.values() for word in words))


def known_concepts(pipe_concepts: Mapping[str, Concept], defined: Iterable[Concept] = ()) -> KnownConcepts:
    """The model's own concepts (`pipe.concepts`) if it has any, otherwise the library's.

    Args:
        pipe_concepts: what the model says can be unlearned.
        defined: concepts of the user, as a concept file defines them; they come before those of their name.
    """
    own = {concept.name: concept for concept in defined}
    replaced = {_key(name) for name in own}
    concepts, aliases = (pipe_concepts, {}) if pipe_concepts else _library()
    kept = {name: concept for name, concept in concepts.items() if _key(name) not in replaced}
    return KnownConcepts({**kept, **own}, aliases, "this model" if pipe_concepts else "the library")


def library_concepts() -> dict[str, Concept]:
    """The library's concepts by name."""
    return dict(_library()[0])


@functools.cache
def _library() -> tuple[dict[str, Concept], dict[str, tuple[str, ...]]]:
    concepts: dict[str, Concept] = {}
    aliases: dict[str, tuple[str, ...]] = {}
    for file in _FILES:
        path = Path(__file__).parent / file
        for name, entry in read_yaml(path).items():
            try:
                concepts[name], aliases[name] = _concept(name, entry)
            except (ValueError, TypeError, KeyError) as error:
                line = entry.line if isinstance(entry, Entry) else "?"
                raise ValueError(f"{path}, line {line}: {error}") from error
    return concepts, aliases


def _concept(name: str, entry: Entry) -> tuple[Concept, tuple[str, ...]]:
    check.known_keys(f"concept {name!r}", entry, _KEYS)
    kind, phrase, superclass, near = (
        check.text(key, entry[key]) for key in ("kind", "phrase", "superclass", "near")
    )
    prompts = check.texts("prompts", entry["prompts"])
    for prompt in prompts:
        if not has_phrase(phrase, prompt):
            raise ValueError(f"concept {name!r}: prompt {prompt!r} does not contain {phrase!r}")
    aliases = check.texts("aliases", entry.get("aliases", ()))
    return Concept(name, kind, phrase, superclass, near, prompts), aliases


def _key(name: str) -> str:
    """A name without case, accents, spaces, hyphens and underscores; as it is where nothing else is in it."""
    return re.sub(r"[\s\u200b_-]+", "", folded(name).text) or name
