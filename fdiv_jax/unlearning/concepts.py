"""From targets and anchors to pairs of prompts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fdiv_jax.pipeline import Concept
from fdiv_jax.pipeline.words import around_phrase, folded, same_words
from fdiv_jax.unlearning import _validate as check
from fdiv_jax.unlearning._phrases import bare, dressed, first_shown, framed_forms, tidy
from fdiv_jax.unlearning._spelling import nearly, nearly_shown
from fdiv_jax.unlearning.library import KnownConcepts

__all__ = [
    "KEYWORDS",
    "Erasure",
    "PromptPair",
    "resolve_all",
    "resolve_pairs",
    "resolve_retained",
    "target_words",
]

_WHOLE_PROMPT = re.compile(r"prompt:\s*(.*)", re.IGNORECASE | re.DOTALL)
_EXACT_PHRASE = re.compile(r"phrase:\s*(.*)", re.IGNORECASE | re.DOTALL)
KEYWORDS = ("superclass", "near", "empty", "negative")
"""Anchors that are no phrase."""


@dataclass(frozen=True)
class PromptPair:
    """A target prompt c* and the anchor prompt c that it is drawn to."""

    target: str
    anchor: str


@dataclass(frozen=True)
class Erasure:
    """One concept to unlearn: see `resolve_pairs` for what its fields mean.

    Raises:
        ValueError: an empty field.
        TypeError: a field of the wrong type.
    """

    target: str
    """The name or the phrase of a concept, or any phrase that occurs in every one of `prompts`."""
    anchor: str = "superclass"
    """What takes its place."""
    prompts: tuple[str, ...] = ()
    """Prompts that show the target; empty: those of the concept."""

    def __post_init__(self) -> None:
        check.text("target", self.target, "; expected a concept to unlearn, or several in `concepts`")
        check.text("anchor", self.anchor, "; the empty prompt is anchor 'empty'")
        prompts = check.texts(f"prompts of {self.target!r}", self.prompts)
        for prompt in prompts:
            check.text(f"a prompt of {self.target!r}", prompt)
        object.__setattr__(self, "prompts", prompts)


def resolve_pairs(
    concepts: Mapping[str, Concept], target: str, anchor: str = "superclass", prompts: Sequence[str] = ()
) -> tuple[PromptPair, ...]:
    """The prompt pairs that stand for "unlearn `target` towards `anchor`".

    The anchor prompt is the target prompt with the phrase that names the target replaced:

        superclass, near    by the concept's own super-class or neighbour
        empty, negative     the whole prompt becomes the empty one (the second asks for negative guidance)
        prompt: TEXT        the whole prompt becomes TEXT
        phrase: TEXT        by TEXT
        a known concept     by that concept's phrase
        anything else       by the text itself; but a text that carries the rest of one of the prompts with it
                            ("a bag, photo style" for "a sneaker, photo style") is a whole prompt

    A text that is nearly one of these words or a known concept is refused with the question whether that was
    meant; `phrase: TEXT` is taken as it is, for a target too.

    Args:
        concepts: what can be unlearned (`known_concepts(pipe.concepts)`); may be empty.
        target: the name or the phrase of one of them, or, with `prompts`, any phrase.
        anchor: see above.
        prompts: prompts that show the target; by default those of the concept.

    Returns:
        The pairs, without repetitions, in the order of the prompts.

    Raises:
        ValueError: a target that is not known and has no prompts, or does not occur in one; an anchor that
            needs a known concept, or whose prompt is the target's own; a target or an anchor that is nearly a
            known word.
    """
    return resolve_all(concepts, [Erasure(target, anchor, tuple(prompts))])


def resolve_all(concepts: Mapping[str, Concept], erasures: Sequence[Erasure]) -> tuple[PromptPair, ...]:
    """The prompt pairs of several erasures at once, in their order.

    No anchor prompt shows anything that is erased: in a prompt that shows several targets ("a sneaker, sketch
    style") each is replaced by its own anchor.

    Args:
        concepts: what can be unlearned (`known_concepts(pipe.concepts)`); may be empty.
        erasures: one or more.

    Raises:
        ValueError: see `resolve_pairs`; the same target twice; an anchor that is, or shows, the target of
            another erasure; a prompt with two targets of which one has a whole prompt for an anchor.
    """
    if not erasures:
        raise ValueError("no concept to unlearn; expected at least one target")
    known = _known(concepts)
    readings = [_Reading.of(known, erasure) for erasure in erasures]
    _check_apart(readings)
    anchors: dict[str, str] = {}
    guided: dict[str, bool] = {}
    pairs: dict[PromptPair, None] = {}
    for reading in readings:
        for prompt in reading.prompts:
            anchor = reading.anchored(prompt)
            for other in readings:
                if other is reading or reading.whole is not None or not other.shown_in(anchor):
                    continue
                if other.whole is not None:
                    raise ValueError(
                        f"the prompt {prompt!r} of target {reading.target!r} shows target {other.target!r} "
                        f"as well, whose anchor {other.erasure.anchor!r} is a whole prompt; expected prompts "
                        f"of {reading.target!r} without it"
                    )
                anchor = other.anchored(anchor)
            if anchors.setdefault(prompt, anchor) != anchor:
                raise ValueError(
                    f"the prompt {prompt!r} has two anchor prompts, {anchors[prompt]!r} and {anchor!r} (of "
                    f"target {reading.target!r}); expected prompts that show one target each"
                )
            away = reading.erasure.anchor == "negative"
            if guided.setdefault(prompt, away) != away:
                raise ValueError(
                    f"the prompt {prompt!r} is of a target with the anchor 'negative' and of one without "
                    f"(one of them is {reading.target!r}); expected prompts that show one target each"
                )
            pairs[PromptPair(prompt, anchor)] = None
    return tuple(pairs)


def resolve_retained(
    concepts: Mapping[str, Concept], targets: str | Sequence[str], retained: Sequence[str] | None = None
) -> tuple[str, ...]:
    """The prompts at which the model is to stay as it is.

    Args:
        concepts: what can be unlearned (`known_concepts(pipe.concepts)`); may be empty.
        targets: the concept that is unlearned, or several.
        retained: the prompts, `prompt: TEXT` for one that is taken as it is; None: the empty one and those of
            the other concepts of the targets' kinds that show no target and are no special case of one (whose
            super-class shows none), none where no target is a known concept.

    Raises:
        ValueError: a retained prompt that shows a target, or has a word that is nearly the target's name.
    """
    known = _known(concepts)
    targets = [targets] if isinstance(targets, str) else list(targets)
    found = [_find_target(known, target) for target in targets]
    targets = [_exact(target) or target for target in targets]
    shows = {
        target: (*_names(known, target, concept), *([] if concept is None else [concept.phrase]))
        for target, concept in zip(targets, found, strict=True)
    }
    if retained is not None:
        kept: dict[str, None] = {}
        for asked in check.texts("retained", retained):
            exact = _WHOLE_PROMPT.match(asked)
            prompt = exact.group(1).strip() if exact else asked
            for target, names in shows.items():
                if first_shown(prompt, names):
                    raise ValueError(f"retained prompt {prompt!r} shows the target {target!r}")
                slip = None if exact else nearly_shown(prompt, names, known.words())
                if slip:
                    raise ValueError(
                        f"retained prompt {prompt!r}: {slip[0]!r} is nearly the target {slip[1]!r}, which is "
                        f"to be unlearned; write 'prompt: {prompt}' if the prompt is meant as it is"
                    )
            kept[prompt] = None
        return tuple(kept)
    erased = [concept for concept in found if concept is not None]
    if not erased:
        return ()
    every = [name for names in shows.values() for name in names]
    others = [
        prompt
        for other in known.values()
        if other.kind in {concept.kind for concept in erased}
        and other not in erased
        and not first_shown(other.superclass, every)
        for prompt in other.prompts
    ]
    return tuple(prompt for prompt in dict.fromkeys(["", *others]) if not first_shown(prompt, every))


def target_words(concepts: Mapping[str, Concept], erasures: Sequence[Erasure]) -> tuple[str, ...]:
    """The names of the targets as their prompts have them: "sneaker" for the target "a sneaker".

    Args:
        concepts: what can be unlearned (`known_concepts(pipe.concepts)`); may be empty.
        erasures: one or more.

    Raises:
        ValueError: see `resolve_pairs`.
    """
    known = _known(concepts)
    words: dict[str, None] = {}
    for reading in (_Reading.of(known, erasure) for erasure in erasures):
        for prompt in reading.prompts:
            words[first_shown(prompt, reading.names) or first_shown(prompt, reading.framed) or ""] = None
    return tuple(words)


@dataclass(frozen=True)
class _Reading:
    """What an erasure means.

    Attributes:
        erasure: as it was asked for.
        target: its name or phrase.
        concept: the known concept that it is of, if any.
        prompts: that show the target.
        framed: what stands for the concept's phrase, the longest first.
        names: what stands for its name alone, the longest first.
        whole: the anchor prompt, where it is the same for every prompt.
        phrase: otherwise what takes the place of `framed`.
    """

    erasure: Erasure
    target: str
    concept: Concept | None
    prompts: tuple[str, ...]
    framed: tuple[str, ...]
    names: tuple[str, ...]
    whole: str | None = None
    phrase: str = ""

    @classmethod
    def of(cls, known: KnownConcepts, erasure: Erasure) -> _Reading:
        """Finds the target among the known concepts and reads the anchor."""
        concept, exact = _find_target(known, erasure.target), _exact(erasure.target)
        target = exact or erasure.target
        if concept is None and not erasure.prompts:
            listed = f"known: {', '.join(known)}" if known else "the model comes without concepts.json"
            raise ValueError(
                f"target {target!r} is not a concept of {known.origin} ({listed})"
                f"{check.nearest(target, known.words())}; give prompts that show it, or a known target"
            )
        slip = nearly(target, _spellings(known)) if concept is None and exact is None else None
        if slip:
            raise ValueError(
                f"target {target!r} is nearly the concept {slip!r}; did you mean {slip}? write 'phrase: "
                f"{target}' for the phrase"
            )
        names = _names(known, target, concept)
        framed = (target,) if concept is None else framed_forms(concept, names)
        prompts = erasure.prompts or (concept.prompts if concept else ())
        shown: list[tuple[str, str]] = []
        for prompt in prompts:
            found = first_shown(prompt, (*framed, *names))
            if found is None:
                phrase = target if concept is None else concept.phrase
                raise ValueError(f"target {target!r}: {phrase!r} does not occur in the prompt {prompt!r}")
            shown.append((prompt, found))
        whole, phrase = _read_anchor(erasure.anchor, concept, known, shown)
        return cls(erasure, target, concept, tuple(dict.fromkeys(prompts)), framed, names, whole, phrase)

    def shown_in(self, prompt: str) -> bool:
        return first_shown(prompt, (*self.framed, *self.names)) is not None

    def anchored(self, prompt: str) -> str:
        """The anchor prompt of a prompt that shows the target."""
        anchor = tidy(self._replace(prompt)) if self.whole is None else self.whole
        if same_words(anchor, prompt):
            raise ValueError(
                f"anchor {self.erasure.anchor!r} is the target itself: its prompt {anchor!r} is the target's "
                "own; expected another concept"
            )
        return anchor

    def _replace(self, text: str) -> str:
        found = first_shown(text, (*self.framed, *self.names))
        if found is None:
            return text
        framed = self.concept is None or found in self.framed
        phrase = self.phrase if framed or self.concept is None else bare(self.phrase, self.concept)
        return phrase.join(self._replace(part) for part in around_phrase(found, text))


def _exact(text: str) -> str | None:
    """TEXT of `phrase: TEXT`; None for anything else.

    Raises:
        ValueError: nothing behind the colon.
    """
    explicit = _EXACT_PHRASE.match(text)
    return check.text("phrase", explicit.group(1).strip()) if explicit else None


def _find_target(known: KnownConcepts, target: str) -> Concept | None:
    return None if _exact(target) is not None else known.find(target)


def _spellings(known: KnownConcepts) -> tuple[str, ...]:
    return (*known.words(), *(concept.phrase for concept in known.values()))


def _ask_about(anchor: str, known: KnownConcepts) -> None:
    """Refuse an anchor that is nearly a keyword or a concept, or a keyword spelled in another way."""
    keyword = next((word for word in KEYWORDS if same_words(word, anchor)), None)
    keyword = keyword or next((word for word in KEYWORDS if _joined(word) == _joined(anchor)), None)
    slip = keyword or nearly(anchor, (*KEYWORDS, *_spellings(known)))
    if slip:
        raise ValueError(
            f"anchor {anchor!r} is nearly {slip!r}; did you mean {slip}? write 'prompt: {anchor}' for the "
            f"phrase as a whole prompt, or 'phrase: {anchor}' for the phrase in the target's place"
        )


def _joined(text: str) -> str:
    return "".join(c for c in folded(text[:60]).text if c.isalnum())


def _known(concepts: Mapping[str, Concept]) -> KnownConcepts:
    return concepts if isinstance(concepts, KnownConcepts) else KnownConcepts(concepts)


def _names(known: KnownConcepts, target: str, concept: Concept | None) -> tuple[str, ...]:
    """What a target is called, the longest first: as the user wrote it, and as it is known."""
    names = (target,) if concept is None else (*known.names(concept), target)
    kept = dict.fromkeys(name for name in names if concept is None or not same_words(name, concept.phrase))
    return tuple(sorted(kept or names, key=len, reverse=True))


def _check_apart(readings: Sequence[_Reading]) -> None:
    for i, reading in enumerate(readings):
        for other in readings[:i]:
            same = reading.concept is not None and reading.concept is other.concept
            if same or same_words(reading.target, other.target):
                raise ValueError(f"target {reading.target!r} comes twice; expected every concept once")
        anchor = reading.phrase if reading.whole is None else reading.whole
        for other in readings:
            if other is not reading and other.shown_in(anchor):
                raise ValueError(
                    f"anchor {reading.erasure.anchor!r} of target {reading.target!r} shows target "
                    f"{other.target!r}, which is to be unlearned as well; expected an anchor that stays"
                )


def _read_anchor(
    anchor: str, concept: Concept | None, known: KnownConcepts, shown: Sequence[tuple[str, str]]
) -> tuple[str | None, str]:
    """What an anchor means: (a whole prompt, or None; the phrase that takes the target's place otherwise)."""
    if anchor in ("empty", "negative"):
        return "", ""
    explicit = _WHOLE_PROMPT.match(anchor)
    if explicit:
        return explicit.group(1).strip(), ""
    if anchor in ("superclass", "near"):
        if concept is None:
            raise ValueError(
                f"anchor {anchor!r} is read from the model's concepts.json or the library, which have no "
                "such target; expected the phrase that takes the target's place, or 'empty'"
            )
        return None, getattr(concept, anchor)
    exact = _exact(anchor)
    other = None if exact else known.find(anchor)
    if other is not None:
        if concept is not None and other.kind != concept.kind:
            raise ValueError(
                f"anchor {anchor!r} is a concept of kind {other.kind!r}, the target {concept.name!r} one of "
                f"kind {concept.kind!r}; expected the same kind, or 'prompt: TEXT' for a whole prompt"
            )
        return None, other.phrase
    if exact is not None:
        return None, exact if concept is None else dressed(exact, concept)
    _ask_about(anchor, known)
    for prompt, found in shown:
        for rest in around_phrase(found, prompt):
            if len(rest.split()) >= 2 and folded(rest).text in folded(anchor).text:
                return anchor.strip(), ""
    return None, anchor.strip() if concept is None else dressed(anchor.strip(), concept)
