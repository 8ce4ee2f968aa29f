"""The concepts that a model directory offers for unlearning: `concepts.json`, beside `model_index.json`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from fdiv_jax.files import JsonMapping, JsonObject, one_line, read_json
from fdiv_jax.pipeline.words import has_phrase


@dataclasses.dataclass(frozen=True)
class Concept:
    """A concept that prompts name by a phrase.

    Attributes:
        name: the user's name for it.
        kind: the kind of concept, for instance "item" or "style".
        phrase: the part of a prompt that names it, "a sneaker".
        superclass: replaces the phrase in the super-class anchor prompt, "a shoe".
        near: replaces the phrase in the near anchor prompt, "a sandal".
        prompts: prompts that contain the phrase.
    """

    name: str
    kind: str
    phrase: str
    superclass: str
    near: str
    prompts: tuple[str, ...]

    @classmethod
    def from_dict(cls, name: str, entry: JsonMapping) -> Concept:
        """One entry of `concepts.json`.

        Raises:
            ValueError: keys missing or unknown, or a prompt without the phrase.
        """
        expected = {"kind", "phrase", "superclass", "near", "prompts"}
        if set(entry) != expected:
            raise ValueError(f"concept {name!r}: keys {sorted(entry)}, expected {sorted(expected)}")
        prompts = tuple(entry["prompts"])
        for prompt in prompts:
            if not has_phrase(entry["phrase"], prompt):
                raise ValueError(f"concept {name!r}: prompt {prompt!r} does not contain {entry['phrase']!r}")
        return cls(name, entry["kind"], entry["phrase"], entry["superclass"], entry["near"], prompts)

    def to_dict(self) -> JsonObject:
        """The entry of `concepts.json`."""
        return {
            "kind": self.kind,
            "phrase": self.phrase,
            "superclass": self.superclass,
            "near": self.near,
            "prompts": list(self.prompts),
        }


def read_concepts(path: Path) -> dict[str, Concept]:
    """The concepts of one file; empty without a file.

    Raises:
        ValueError: not JSON, or an entry that is not a concept; names the file.
    """
    if not path.is_file():
        return {}
    entries = read_json(path)
    try:
        return {name: Concept.from_dict(name, entry) for name, entry in entries.items()}
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"{path}: {one_line(error)}") from error
