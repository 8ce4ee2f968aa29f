"""The words that name a concept in a prompt, and what takes their place."""

from __future__ import annotations

import re
from collections.abc import Iterable

from fdiv_jax.pipeline import Concept
from fdiv_jax.pipeline.words import find_phrase, has_phrase, same_words

_ARTICLES = ("a", "an")
_STYLE_OF = "in the style of"


def first_shown(prompt: str, phrases: Iterable[str]) -> str | None:
    """The first of the phrases that the prompt has."""
    return next((phrase for phrase in phrases if has_phrase(phrase, prompt)), None)


def tidy(prompt: str) -> str:
    """One space, and one article, where a replacement left two: "the a cat" is "the cat"."""
    prompt = re.sub(r"\b(?:an?)\s+(an?\s)", r"\1", prompt, flags=re.IGNORECASE)
    prompt = re.sub(r"\b(the\s+)an?\s", r"\1", prompt, flags=re.IGNORECASE)
    return re.sub(r"\s{2,}", " ", prompt).strip()


def frame(concept: Concept) -> tuple[str, str]:
    """What a concept's phrase puts around its name: ("a ", ""), or (", ", " style")."""
    found = find_phrase(concept.name, concept.phrase)
    return (concept.phrase[: found[0][0]], concept.phrase[found[0][1] :]) if found else ("", "")


def _has_article(before: str, after: str) -> bool:
    return before.strip().lower() in _ARTICLES and not after.strip()


def framed_forms(concept: Concept, names: Iterable[str]) -> tuple[str, ...]:
    """Whatever stands for the concept's phrase in a prompt, the longest first.

    For "in the style of NAME" that is "by NAME" and "in NAME style" as well.
    """
    before, after = frame(concept)
    forms = {concept.phrase: None}
    for name in names:
        if _has_article(before, after):
            forms |= dict.fromkeys(f"{article} {name}" for article in _ARTICLES)
        elif before or after:
            forms[f"{before}{name}{after}"] = None
            if same_words(before, _STYLE_OF) and not after:
                forms |= dict.fromkeys((f"by {name}", f"in {name} style"))
        elif same_words(concept.phrase, concept.name):
            forms[name] = None
    return tuple(sorted(forms, key=len, reverse=True))


def bare(phrase: str, concept: Concept) -> str:
    """The core of an anchor phrase, for a prompt that holds the target's name without its frame.

    Raises:
        ValueError: an anchor phrase that has no such core.
    """
    before, after = frame(concept)
    if _has_article(before, after):
        return re.sub(r"^an?\s+", "", phrase, flags=re.IGNORECASE)
    core = phrase.removeprefix(before).removesuffix(after)
    if not core.strip():
        raise ValueError(
            f"the anchor of {concept.name!r} leaves its phrase {concept.phrase!r} out, which a prompt does "
            f"not contain as a whole; expected prompts with {concept.phrase!r}"
        )
    return core


def dressed(phrase: str, concept: Concept) -> str:
    """A free anchor phrase in the frame of the target's: "bag" -> "a bag", "pastel" -> ", pastel style"."""
    before, after = frame(concept)
    if _has_article(before, after):
        if re.match(r"(an?|the|some|no|two|my|your)\s", phrase, flags=re.IGNORECASE):
            return phrase
        return f"{'an' if phrase[0].lower() in 'aeiou' else 'a'} {phrase}"
    if before and phrase.startswith(before.strip()):
        return phrase
    return f"{before}{phrase.removesuffix(after)}{after}" if before or after else phrase
