"""The protocols that have a name, and how a target and an anchor fill them with prompts."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from fdiv_jax.evaluation.clip_score import concept_text
from fdiv_jax.evaluation.protocol import PromptSet, Protocol, Role
from fdiv_jax.files import checks as check
from fdiv_jax.pipeline import Concept
from fdiv_jax.pipeline.words import has_phrase, same_words
from fdiv_jax.unlearning import Erasure, resolve_all
from fdiv_jax.unlearning.concepts import KEYWORDS
from fdiv_jax.unlearning.library import KnownConcepts, known_concepts

__all__ = ["NAMED", "Template", "fill", "named_protocol"]

_CLIP = "openai/clip-vit-base-patch32"
_ARTICLE = re.compile(r"^(?:an?|the)\s+", re.IGNORECASE)


@dataclass(frozen=True)
class Template:
    """A protocol without its prompts.

    Attributes:
        name: of the protocol.
        settings: the fields of `Protocol` that it sets.
        images: the number of images of each concept, by role; at each of its prompts there are as many.
        prompts: the prompts of each concept at the most.
        seeds: the seeds at each prompt, instead of as many as `images` needs from `first_seed` on.
        first_seed: see `seeds`.
        concepts: the concepts that it brings; None: those of the model, or the library's.
    """

    name: str
    settings: Mapping[str, Any]
    images: Mapping[Role, int]
    prompts: int | None = None
    seeds: tuple[int, ...] = ()
    first_seed: int = 0
    concepts: Callable[[], KnownConcepts] | None = None


_STYLES = (
    "Abstractionism, Artist Sketch, Blossom Season, Bricks, Byzantine, Cartoon, Cold Warm, Color Fantasy, "
    "Comic Etch, Crayon, Cubism, Dadaism, Dapple, Defoliation, Early Autumn, Expressionism, Fauvism, French, "
    "Glowing Sunset, Gorgeous Love, Greenfield, Impressionism, Ink Art, Joy, Liquid Dreams, Magic Cube, "
    "Meta Physics, Meteor Shower, Monet, Mosaic, Neon Lines, On Fire, Pastel, Pencil Drawing, Picasso, "
    "Pop Art, Red Blue Ink, Rust, Sketch, Sponge Dabbed, Structuralism, Superstring, Surrealism, Ukiyoe, "
    "Van Gogh, Vibrant Flow, Warm Love, Warm Smear, Watercolor, Winter"
)
_OBJECTS = (
    "Architectures, Bears, Birds, Butterfly, Cats, Dogs, Fishes, Flame, Flowers, Frogs, Horses, Human, "
    "Jellyfish, Rabbits, Sandwiches, Sea, Statues, Towers, Trees, Waterfalls"
)


@cache
def _unlearncanvas() -> KnownConcepts:
    """The 50 styles and 20 objects, at "A {object} image in {style} style."."""
    styles, objects = _STYLES.split(", "), _OBJECTS.split(", ")
    found = {}
    for name in styles:
        prompts = tuple(f"A {each} image in {name} style." for each in objects)
        found[name] = Concept(name, "style", f"{name} style", "", "", prompts)
    for name in objects:
        prompts = tuple(f"A {name} image in {each} style." for each in styles)
        found[name] = Concept(name, "object", f"A {name} image", "", "", prompts)
    return KnownConcepts(found, origin="the protocol unlearncanvas")


NAMED: Mapping[str, Template] = {
    "fashion": Template(
        "fashion",
        {
            "metrics": ("ua", "ira", "cra", "harmonic", "kid", "pixel_change", "feature_change"),
            "sampler": "dpmsolver++",
            "steps": 12,
            "guidance": 3.0,
            "classifier": "judge",
            "features": "judge",
        },
        {"target": 100, "anchor": 20, "retained": 20},
    ),
    "ca-2023": Template(
        "ca-2023",
        {
            "metrics": ("clip_score", "clip_accuracy", "kid"),
            "sampler": "ddim",
            "steps": 50,
            "eta": 1.0,
            "guidance": 6.0,
            "features": "inception-v3 (clean-fid)",
            "clip": _CLIP,
        },
        {"target": 200, "anchor": 200, "retained": 50},
        prompts=10,
        first_seed=42,
    ),
    "fdmu-repo": Template(
        "fdmu-repo",
        {
            "metrics": ("clip_score", "clip_accuracy", "kid"),
            "sampler": "ddim",
            "steps": 30,
            "eta": 1.0,
            "guidance": 7.5,
            "features": "inception-v3 (clean-fid)",
            "clip": _CLIP,
        },
        {"target": 10, "anchor": 10, "retained": 10},
        prompts=10,
    ),
    "unlearncanvas": Template(
        "unlearncanvas",
        {
            "metrics": ("ua", "ira", "cra", "harmonic"),
            "sampler": "ddim",
            "steps": 100,
            "eta": 0.0,
            "guidance": 9.0,
            "classifier": "clip",
            "clip": _CLIP,
        },
        {},
        seeds=(188, 288, 588, 688, 888),
        concepts=_unlearncanvas,
    ),
}
"""The named protocols. Sources: Kumari et al., Ablating concepts in text-to-image diffusion models, 2023
(ca-2023); the code of Novello et al., A unified framework for diffusion model unlearning with f-divergence,
2025 (fdmu-repo); Zhang et al., UnlearnCanvas, 2024 (unlearncanvas)."""


def named_protocol(
    name: str, concepts: Mapping[str, Concept], erasures: Sequence[Erasure], **changes: object
) -> Protocol:
    """A named protocol for a model's concepts and what was erased from it; see `fill`.

    Raises:
        ValueError: no such protocol (names the nearest), and as for `fill`.
    """
    return fill(NAMED[check.one_of("protocol", name, NAMED)], concepts, erasures, **changes)


def fill(
    template: Template, concepts: Mapping[str, Concept], erasures: Sequence[Erasure], **changes: object
) -> Protocol:
    """The protocol with the prompts of the targets, of their anchors, and of what is to be retained.

    Retained are the other concepts of the targets' kinds that show no target and are neither an anchor nor a
    special case of a target. An anchor is not a retained concept: it gains what the target loses.

    Args:
        template: of the protocol.
        concepts: of the model (`pipe.concepts`); empty: those of the library.
        erasures: the targets with their anchors, as in `unlearn`.
        changes: fields of `Protocol` that are set otherwise than in the template.

    Raises:
        ValueError: no target, one that is not known and has no prompts, and as for `resolve_all`.
    """
    if not erasures:
        raise ValueError(
            f"protocol {template.name!r} needs a target; name it by --target (and --anchor), or evaluate a "
            "run directory, whose config.json says what was unlearned"
        )
    known = known_concepts(concepts) if template.concepts is None else template.concepts()
    reader = _Reader(known, template, erasures)
    targets = [reader.target(erasure) for erasure in erasures]
    anchors = [each for erasure in erasures if (each := reader.anchor(erasure)) is not None]
    retained = reader.retained(targets, anchors)
    sets = (*targets, *{each.concept: each for each in anchors}.values(), *retained)
    seeds = {
        f"{role}_seeds": _seeds(template, role, [s for s in sets if s.role == role])
        for role in ("target", "anchor", "retained")
    }
    values = {"name": template.name, "sets": sets, **seeds, **template.settings, **changes}
    if "metrics" not in changes and not _other_kinds(sets):
        values["metrics"] = tuple(m for m in template.settings["metrics"] if m not in ("cra", "harmonic"))
    fields = check.known_keys("protocol", values, Protocol.__dataclass_fields__)
    return Protocol(**fields)


def _other_kinds(sets: Sequence[PromptSet]) -> set[str]:
    """The kinds of concepts that the prompts show and that no target is of."""
    kinds = {kind for each in sets for labels in each.shows for kind, _ in labels}
    return kinds - {each.kind for each in sets if each.role == "target"}


def _seeds(template: Template, role: Role, sets: Sequence[PromptSet]) -> tuple[int, ...]:
    if not sets:
        return ()
    if template.seeds:
        return template.seeds
    number = -(-template.images[role] // max(len(each.prompts) for each in sets))
    return tuple(range(template.first_seed, template.first_seed + number))


class _Reader:
    """Turns names of concepts into sets of prompts."""

    def __init__(self, known: KnownConcepts, template: Template, erasures: Sequence[Erasure]):
        self._known, self._template, self._erasures = known, template, erasures
        self._own = template.concepts is not None

    def target(self, erasure: Erasure) -> PromptSet:
        concept = self._known.find(erasure.target)
        prompts = () if self._own else erasure.prompts
        if concept is None and not prompts:
            near = check.nearest(erasure.target, self._known.words())
            raise ValueError(
                f"target {erasure.target!r} is not a concept of {self._known.origin}{near}; known: "
                f"{', '.join(self._known)}"
            )
        prompts = tuple(dict.fromkeys(prompts or (() if concept is None else concept.prompts)))
        name = erasure.target if concept is None else concept.name
        return self._set("target", name, concept, prompts, self._against(erasure))

    def anchor(self, erasure: Erasure) -> PromptSet | None:
        """The anchor's prompts; None where they are empty, or not of this protocol's kind."""
        if self._own:
            concept = self._known.find(erasure.anchor)
            return None if concept is None else self._set("anchor", concept.name, concept, concept.prompts)
        pairs = resolve_all(self._known, [erasure])[: self._template.prompts]
        prompts = tuple(dict.fromkeys(pair.anchor for pair in pairs if pair.anchor.strip()))
        if not prompts:
            return None
        concept = self._anchor_concept(erasure, prompts)
        name = self._anchor_name(erasure) if concept is None else concept.name
        return self._set("anchor", name or prompts[0], concept, prompts)

    def retained(self, targets: Sequence[PromptSet], anchors: Sequence[PromptSet]) -> list[PromptSet]:
        kinds = {each.kind for each in targets}
        names = {each.concept for each in (*targets, *anchors)}
        erased = [c for each in targets if (c := self._known.find(each.concept)) is not None]
        seen: set[str] = set()
        found = []
        for concept in self._known.values():
            if concept.kind not in kinds or concept.name in names:
                continue
            if any(has_phrase(each.phrase, concept.superclass) for each in erased):
                continue  # a special case of a target
            kept = [
                prompt
                for prompt in concept.prompts
                if prompt not in seen and not any(has_phrase(each.phrase, prompt) for each in erased)
            ]
            if kept:
                against = next((each.against for each in targets if each.against), "")
                found.append(self._set("retained", concept.name, concept, tuple(kept), against))
                seen.update(found[-1].prompts)
        return found

    def _set(
        self, role: Role, name: str, concept: Concept | None, prompts: Sequence[str], against: str = ""
    ) -> PromptSet:
        kind = "concept" if concept is None else concept.kind
        prompts = tuple(prompts)[: self._template.prompts]
        caption = concept_text(name, style=kind == "style")
        shows = tuple(self._shown(prompt, kind, name) for prompt in prompts)
        return PromptSet(
            role, name, prompts, kind, shows, caption, "" if same_words(caption, against) else against
        )

    def _shown(self, prompt: str, kind: str, name: str) -> tuple[tuple[str, str], ...]:
        """Which concept of each kind a prompt names: the one with the longest phrase in it."""
        found = {kind: name}
        for concept in sorted(self._known.values(), key=lambda concept: -len(concept.phrase)):
            if concept.kind not in found and has_phrase(concept.phrase, prompt):
                found[concept.kind] = concept.name
        return tuple(sorted(found.items()))

    def _against(self, erasure: Erasure) -> str:
        """The caption of the anchor; that of the super-class for an anchor without words."""
        target = self._known.find(erasure.target)
        kind = "concept" if target is None else target.kind
        name = self._anchor_name(erasure)
        return concept_text(name, style=kind == "style") if name else ""

    def _anchor_name(self, erasure: Erasure) -> str:
        target = self._known.find(erasure.target)
        word = erasure.anchor.strip()
        if word.lower() in KEYWORDS:
            if target is None:
                return ""
            word = target.near if word.lower() == "near" else target.superclass
        known = self._known.find(word)
        return known.name if known is not None else _plain_name(word)

    def _anchor_concept(self, erasure: Erasure, prompts: Sequence[str]) -> Concept | None:
        """The known concept that the anchor is."""
        target = self._known.find(erasure.target)
        found = self._known.find(erasure.anchor)
        if found is None and target is not None and erasure.anchor == "near":
            found = self._known.find(target.near)
        alike = found is not None and all(has_phrase(found.phrase, prompt) for prompt in prompts)
        return found if alike else None


def _plain_name(phrase: str) -> str:
    """ "a shoe" -> "shoe", ", sketch style" -> "sketch style", "in the style of a painting" -> "painting"."""
    text = re.sub(r"^(?:phrase|prompt):\s*", "", phrase.strip(" ,"), flags=re.IGNORECASE)
    text = re.sub(r"^in the style of\s+", "", text, flags=re.IGNORECASE)
    return _ARTICLE.sub("", text).strip()
