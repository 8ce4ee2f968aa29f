"""What an evaluation gives: figures of every model, all against one base under one protocol."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fdiv_jax.checkpoints import atomic_file
from fdiv_jax.evaluation.figures import Figure
from fdiv_jax.evaluation.protocol import Protocol, unlike
from fdiv_jax.files import JsonMapping, JsonObject, listed, one_line, read_json, refuse_links

__all__ = ["RESULT", "Evaluated", "Evaluation", "UnlikeError", "read_evaluation"]

RESULT = "result.json"
"""The figures, in the output directory."""

_FORMAT = 1
_SHOWN = 4
"""Differences that a message names, at most."""


class UnlikeError(ValueError):
    """Figures that cannot stand side by side: of another protocol, base or backbone."""


@dataclass(frozen=True)
class Evaluated:
    """One model and its figures.

    Attributes:
        model: its origin: name, what it was loaded with, LoRA files.
        sha256: of all that it draws with, see `pipeline_digest`.
        folder: of its images.
        figures: see `figures_of`; the base's have no differences.
    """

    model: JsonMapping
    sha256: str
    folder: str
    figures: tuple[Figure, ...]

    def figure(self, metric: str, role: str | None = None, concept: str = "") -> Figure:
        """One figure.

        Raises:
            KeyError: there is none; names those that there are.
        """
        for each in self.figures:
            if each.metric == metric and role in (None, each.role) and each.concept == concept:
                return each
        raise KeyError(f"no figure {metric!r}; there are {', '.join(each.name for each in self.figures)}")

    def to_dict(self) -> JsonObject:
        """The model as JSON holds it."""
        figures = [figure.to_dict() for figure in self.figures]
        return {"model": dict(self.model), "sha256": self.sha256, "folder": self.folder, "figures": figures}

    @classmethod
    def from_dict(cls, mapping: JsonMapping) -> Evaluated:
        """Read what `to_dict` gave."""
        figures = tuple(Figure.from_dict(each) for each in mapping["figures"])
        return cls(mapping["model"], str(mapping["sha256"]), str(mapping["folder"]), figures)


@dataclass(frozen=True)
class Evaluation:
    """Figures of one or more models under one protocol, against one base.

    Attributes:
        protocol: all that the figures depend on beside the models.
        base: the model before.
        models: the others, by name.
        backbones: what looked at the images, by kind.
        versions: of Python and of the packages.
    """

    protocol: Protocol
    base: Evaluated
    models: Mapping[str, Evaluated]
    backbones: Mapping[str, str]
    versions: Mapping[str, str]

    def to_dict(self) -> JsonObject:
        """The evaluation as JSON holds it: `result.json`."""
        count = sum(figure.clear is not None for each in self.models.values() for figure in each.figures)
        return {
            "format": _FORMAT,
            "protocol": {"sha256": self.protocol.sha256, **self.protocol.to_dict()},
            "backbones": dict(self.backbones),
            "base": self.base.to_dict(),
            "models": {name: each.to_dict() for name, each in self.models.items()},
            "comparisons": {
                "number": count,
                "note": "each interval holds with probability 0.95 alone; `clear` says whether 0 is outside "
                "when all figures of one model over whole roles are to hold together (Bonferroni)",
            },
            "versions": dict(self.versions),
        }

    def check_alike(self, other: Evaluation, where: str) -> None:
        """Check that the figures of two evaluations can stand side by side.

        Raises:
            UnlikeError: they cannot; names what differs, with this evaluation's value first.
        """
        differing = []
        if self.protocol.sha256 != other.protocol.sha256:
            differing += unlike(self.protocol.to_dict(), other.protocol.to_dict())
        differing += [f"backbone {each}" for each in unlike(self.backbones, other.backbones)]
        if self.base.sha256 != other.base.sha256:
            differing.append(f"base: {_named(self.base)} and {_named(other.base)}")
        if differing:
            raise UnlikeError(
                f"{where} is of another evaluation and cannot stand beside this one; "
                f"{listed(differing, _SHOWN)}"
            )

    def with_models(self, models: Mapping[str, Evaluated]) -> Evaluation:
        """The evaluation with other models before its own; its own replace those of the same name."""
        kept = {name: each for name, each in models.items() if name not in self.models}
        return dataclasses.replace(self, models={**kept, **self.models})

    def save(self, directory: Path) -> Path:
        """Write `result.json`, whole or not at all, and return its path.

        Raises:
            ValueError: it is a link.
            OSError: the disk is full or fails.
        """
        path = directory / RESULT
        refuse_links(path, directory)
        try:
            with atomic_file(path, overwrite=True) as temporary:
                temporary.write_text(json.dumps(self.to_dict(), indent=2) + "\n")
        except OSError as error:
            reason = error.strerror or str(error)
            message = f"cannot write {path}: {reason}; the images are kept"
            raise OSError(*([] if error.errno is None else [error.errno]), message) from error
        return path


def _named(model: Evaluated) -> str:
    return f"{model.model.get('name') or 'a model'} ({model.sha256[:12]})"


def read_evaluation(path: Path) -> Evaluation:
    """Read a `result.json`, or that of a directory.

    Raises:
        FileNotFoundError: there is none.
        ValueError: not a result of an evaluation; names the file.
    """
    file = path / RESULT if path.is_dir() else path
    content = read_json(file)
    try:
        if content.get("format") != _FORMAT:
            raise ValueError(f"format {content.get('format')!r}, expected {_FORMAT}")
        about = dict(content["protocol"])
        stated = about.pop("sha256")
        protocol = Protocol.from_dict(about)
        if protocol.sha256 != stated:
            raise ValueError("its protocol is not the one that its hash is of")
        models = {name: Evaluated.from_dict(each) for name, each in content["models"].items()}
        base, backbones = Evaluated.from_dict(content["base"]), content["backbones"]
        return Evaluation(protocol, base, models, backbones, content["versions"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{file} is not the result of an evaluation: {one_line(error)}") from error
