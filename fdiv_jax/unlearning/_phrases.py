"""The words that name a concept in a prompt, and what takes their place."""

from __future__ import annotations

import re
from collections.abc import Iterable

from fdiv_jax.pipeline import Concept

_ARTICLES = ("a", "an")
_STYLE_OF = "in the style of"


def squeeze(text: str) -> str:
    """The text with single spaces, in one case."""
    return " ".join(text.split()).casefold()


def pattern(phrase: str) -> re.Pattern[str]:
    """Finds the phrase as whole words ("shirt" not in "t-shirt"), in any case."""
    words = r"\s+".join(re.escape(word) for word in phrase.split())
    if phrase[:1].isspace():
        words = r"\s+" + words
    before = r"(?<![\w-])" if phrase.strip()[:1].isalnum() else ""
    after = r"(?![\w-])" if phrase.strip()[-1:].isalnum() else ""
    return re.compile(before + words + after, re.IGNORECASE)


def first_shown(prompt: str, phrases: Iterable[str]) -> str | None:
    """The first of the phrases that the prompt has."""
    return next((phrase for phrase in phrases if pattern(phrase).search(prompt)), None)


def tidy(prompt: str) -> str:
    """One space, and one article, where a replacement left two: "the a cat" is "the cat"."""
    prompt = re.sub(r"\b(?:an?)\s+(an?\s)", r"\1", prompt, flags=re.IGNORECASE)
    prompt = re.sub(r"\b(the\s+)an?\s", r"\1", prompt, flags=re.IGNORECASE)
    return re.sub(r"\s{2,}", " ", prompt).strip()


def frame(concept: Concept) -> tuple[str, str]:
    """What a concept's phrase puts around its name: ("a ", ""), or (", ", " style")."""
    match = pattern(concept.name).search(concept.phrase)
    return (concept.phrase[: match.start()], concept.phrase[match.end() :]) if match else ("", "")


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
            if squeeze(before) == _STYLE_OF and not after:
                forms |= dict.fromkeys((f"by {name}", f"in {name} style"))
        elif squeeze(concept.phrase) == squeeze(concept.name):
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
