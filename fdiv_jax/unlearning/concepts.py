"""From a target and an anchor to pairs of prompts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fdiv_jax.pipeline import Concept
from fdiv_jax.unlearning._validate import nearest

__all__ = ["PromptPair", "resolve_pairs", "resolve_retained"]

_WHOLE_PROMPT = re.compile(r"prompt:\s*(.*)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class PromptPair:
    """A target prompt c* and the anchor prompt c that it is drawn to."""

    target: str
    anchor: str


def resolve_pairs(
    concepts: Mapping[str, Concept], target: str, anchor: str = "superclass", prompts: Sequence[str] = ()
) -> tuple[PromptPair, ...]:
    """The prompt pairs that stand for "unlearn `target` towards `anchor`".

    The anchor prompt is the target prompt with the phrase that names the target replaced:

        superclass, near    by the concept's own super-class or neighbour
        empty               the whole prompt becomes the empty one
        prompt: TEXT        the whole prompt becomes TEXT
        a known concept     by that concept's phrase
        anything else       by the text itself; but a text that carries the rest of one of the prompts with it
                            ("a bag, photo style" for "a sneaker, photo style") is a whole prompt

    Args:
        concepts: what the model says can be unlearned (`pipe.concepts`); may be empty.
        target: the name or the phrase of one of them, or, with `prompts`, any phrase.
        anchor: see above.
        prompts: prompts that show the target; by default those of the concept.

    Returns:
        The pairs, without repetitions, in the order of the prompts.

    Raises:
        ValueError: a target that is not known and has no prompts, or does not occur in one; an anchor that
            needs a known concept, or whose prompt is the target's own.
    """
    concept = _find(concepts, target)
    if concept is None and not prompts:
        known = f"known: {', '.join(concepts)}" if concepts else "the model comes without concepts.json"
        raise ValueError(
            f"target {target!r} is not a concept of this model ({known}){nearest(target, concepts)}; "
            "give prompts that show it, or a known target"
        )
    phrases = [target] if concept is None else [concept.phrase, concept.name]
    shown: list[tuple[str, str]] = []
    for prompt in prompts or (concept.prompts if concept else ()):
        found = next((phrase for phrase in phrases if _pattern(phrase).search(prompt)), None)
        if found is None:
            raise ValueError(f"target {target!r}: {phrases[0]!r} does not occur in the prompt {prompt!r}")
        shown.append((prompt, found))
    whole, phrase = _read_anchor(anchor, concept, concepts, shown)
    pairs: dict[PromptPair, None] = {}
    for prompt, found in shown:
        if whole is not None:
            replaced = whole
        elif concept is not None and found != concept.phrase:
            replaced = _replace(prompt, found, _bare(phrase, concept))
        else:
            replaced = _replace(prompt, found, phrase)
        if _squeeze(replaced) == _squeeze(prompt):
            raise ValueError(
                f"anchor {anchor!r} is the target itself: its prompt {replaced!r} is the target's own; "
                "expected another concept"
            )
        pairs[PromptPair(prompt, replaced)] = None
    return tuple(pairs)


def resolve_retained(
    concepts: Mapping[str, Concept], target: str, retained: Sequence[str] | None = None
) -> tuple[str, ...]:
    """The prompts at which the model is to stay as it is.

    Args:
        concepts: what the model says can be unlearned; may be empty.
        target: the concept that is unlearned.
        retained: the prompts; None: the empty one and those of the other concepts of the target's kind that
            do not show the target, none where the target is not a known concept.

    Raises:
        ValueError: a retained prompt that shows the target.
    """
    concept = _find(concepts, target)
    phrases = [target] if concept is None else [concept.phrase]
    shows = [_pattern(phrase) for phrase in phrases]
    if retained is not None:
        for prompt in retained:
            if any(pattern.search(prompt) for pattern in shows):
                raise ValueError(f"retained prompt {prompt!r} shows the target {target!r}")
        return tuple(dict.fromkeys(retained))
    if concept is None:
        return ()
    others = [
        prompt
        for other in concepts.values()
        if other.kind == concept.kind and other != concept
        for prompt in other.prompts
    ]
    return tuple(
        prompt for prompt in dict.fromkeys(["", *others]) if not any(p.search(prompt) for p in shows)
    )


def _find(concepts: Mapping[str, Concept], word: str) -> Concept | None:
    """The concept of that name or phrase, whatever its case and spaces."""
    wanted = _squeeze(word)
    for name, concept in concepts.items():
        if wanted in (_squeeze(name), _squeeze(concept.phrase)):
            return concept
    return None


def _read_anchor(
    anchor: str, concept: Concept | None, concepts: Mapping[str, Concept], shown: Sequence[tuple[str, str]]
) -> tuple[str | None, str]:
    """What an anchor means: (a whole prompt, or None; the phrase that takes the target's place otherwise)."""
    if anchor == "empty":
        return "", ""
    explicit = _WHOLE_PROMPT.match(anchor)
    if explicit:
        return explicit.group(1).strip(), ""
    if anchor in ("superclass", "near"):
        if concept is None:
            raise ValueError(
                f"anchor {anchor!r} is read from the model's concepts.json, which has no such target; "
                "expected the phrase that takes the target's place, or 'empty'"
            )
        return None, getattr(concept, anchor)
    other = _find(concepts, anchor)
    if other is not None:
        if concept is not None and other.kind != concept.kind:
            raise ValueError(
                f"anchor {anchor!r} is a concept of kind {other.kind!r}, the target {concept.name!r} one of "
                f"kind {concept.kind!r}; expected the same kind, or 'prompt: TEXT' for a whole prompt"
            )
        return None, other.phrase
    for prompt, found in shown:
        for rest in _pattern(found).split(prompt, maxsplit=1):
            if len(rest.split()) >= 2 and _squeeze(rest) in _squeeze(anchor):
                return anchor.strip(), ""
    return None, anchor.strip() if concept is None else _dressed(anchor.strip(), concept)


def _frame(concept: Concept) -> tuple[str, str]:
    """What a concept's phrase puts around its name: ("a ", ""), or (", ", " style")."""
    match = _pattern(concept.name).search(concept.phrase)
    return (concept.phrase[: match.start()], concept.phrase[match.end() :]) if match else ("", "")


def _bare(phrase: str, concept: Concept) -> str:
    """The core of an anchor phrase, for a prompt that holds the target's name without its frame."""
    before, after = _frame(concept)
    if before.strip().lower() in ("a", "an"):
        return re.sub(r"^an?\s+", "", phrase, flags=re.IGNORECASE)
    core = phrase.removeprefix(before).removesuffix(after)
    if not core.strip():
        raise ValueError(
            f"the anchor of {concept.name!r} leaves its phrase {concept.phrase!r} out, which a prompt does "
            f"not contain as a whole; expected prompts with {concept.phrase!r}"
        )
    return core


def _dressed(phrase: str, concept: Concept) -> str:
    """A free anchor phrase in the frame of the target's: "bag" -> "a bag", "pastel" -> ", pastel style"."""
    before, after = _frame(concept)
    if before.strip().lower() in ("a", "an") and not after:
        if re.match(r"(an?|the|some|no|two|my|your)\s", phrase, flags=re.IGNORECASE):
            return phrase
        return f"{'an' if phrase[0].lower() in 'aeiou' else 'a'} {phrase}"
    if before and phrase.startswith(before.strip()):
        return phrase
    core = phrase.strip()
    return f"{before}{core.removesuffix(after)}{after}" if before or after else phrase


def _replace(prompt: str, found: str, phrase: str) -> str:
    """The prompt with every occurrence of `found` replaced; spaces doubled by it are closed."""
    return re.sub(r"\s{2,}", " ", _pattern(found).sub(lambda _: phrase, prompt)).strip()


def _pattern(phrase: str) -> re.Pattern[str]:
    """Finds the phrase as whole words ("shirt" not in "t-shirt"), in any case."""
    words = r"\s+".join(re.escape(word) for word in phrase.split())
    if phrase[:1].isspace():
        words = r"\s+" + words
    before = r"(?<![\w-])" if phrase.strip()[:1].isalnum() else ""
    after = r"(?![\w-])" if phrase.strip()[-1:].isalnum() else ""
    return re.compile(before + words + after, re.IGNORECASE)


def _squeeze(text: str) -> str:
    return " ".join(text.split()).casefold()
