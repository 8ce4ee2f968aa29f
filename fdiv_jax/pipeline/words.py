"""Whether a text has a phrase, compared as a CLIP tokenizer reads both.

The tokenizer normalises with NFC, lower-cases, and cuts a text into words: runs of letters, single digits,
runs of anything else, and the endings of contractions ('s). Spaces only matter between letters. Two texts of
the same words are the same here too. Beyond that the following make no difference: full-width and other
compatible forms, accents of Latin and Greek letters, kinds of hyphens and quotes, and invisible characters.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["around_phrase", "find_phrase", "folded", "has_phrase", "same_words"]

_JOINT = "\u200b"
"""Marks an optional space in a folded text, which does not hold this character otherwise."""
_REMEMBERED = 1000
"""Length of the longest text that is cached in folded form."""
_CONTRACTION = re.compile(r"'(?:s|t|re|ve|m|ll|d)")
_SPACES = "\t\n\v\f\r\x85"
_INVISIBLE = {0x34F, 0x115F, 0x1160, 0x3164, 0xFFA0, *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)}
"""The combining grapheme joiner, fillers and variation selectors."""
_QUOTES = dict.fromkeys("\u2018\u2019\u02bc\u00b4`", "'") | dict.fromkeys("\u201c\u201d", '"')
_UNSPACED = {"CJK", "HIRAGANA", "IDEOGRAPHIC", "KATAKANA", "KATAKANA-HIRAGANA", "HANGUL", "BOPOMOFO", "YI"}
_UNSPACED |= {"THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "TAI", "JAVANESE", "BALINESE"}
"""Scripts, by the first word of their characters' names, in which a word may follow another without a space.
Korean has spaces, but its particles and compounds stand without."""


@dataclass(frozen=True)
class Folded:
    """A text in the form that is compared.

    Attributes:
        text: its characters in folded form.
        spans: for each of them, its place in the original text, (start, end).
    """

    text: str
    spans: tuple[tuple[int, int], ...]


def find_phrase(phrase: str, text: str) -> list[tuple[int, int]]:
    """Where the text has the phrase as whole words, from left to right: (start, end) in the text.

    "shirt" is in "a shirt", but not in "shirts" or in "t-shirt": a single letter and a hyphen belong to the
    word. In scripts without spaces a phrase may stand anywhere. With a phrase that begins with a space,
    the spaces before it are included.
    """
    whole = folded(text)
    spans = []
    for first, end in _matches(folded(phrase).text, whole.text):
        start = whole.spans[first][0]
        if phrase[:1].isspace():
            start = len(text[:start].rstrip())
        spans.append((start, whole.spans[end - 1][1]))
    return spans


def around_phrase(phrase: str, text: str) -> list[str]:
    """What is left of the text where every occurrence of the phrase is cut out."""
    edges = [0, *(place for span in find_phrase(phrase, text) for place in span), len(text)]
    return [text[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True)]


def has_phrase(phrase: str, text: str) -> bool:
    """Whether the text has the phrase as whole words; see `find_phrase`."""
    return next(_matches(folded(phrase).text, folded(text).text), None) is not None


def same_words(a: str, b: str) -> bool:
    """Whether two texts have the same folded form."""
    one, other = folded(a).text, folded(b).text
    return bool(_pattern(one).fullmatch(other) or _pattern(other).fullmatch(one))


def folded(text: str) -> Folded:
    """The text in the form that is compared."""
    return _remembered(text) if len(text) <= _REMEMBERED else _fold(text)


@functools.lru_cache(maxsize=4096)
def _remembered(text: str) -> Folded:
    return _fold(text)


def _fold(text: str) -> Folded:
    characters: list[str] = []
    spans: list[tuple[int, int]] = []
    spaced, joint = False, False  # before the next word come: letters and a space; something invisible
    before = ""  # the kind of the word before
    for kind, word in _words(text):
        here: list[tuple[str, tuple[int, int]]] = []
        for character, span in _folded_word(word):
            last = here[-1][0] if here else characters[-1] if characters else ""
            if not (_is_mark(character) and _has_optional_accents(last)):
                here.append((character, span))
        spaced, before = kind == before == "letters", kind
        if not here:
            joint = True
            continue
        if characters:
            between = (spans[-1][1], here[0][1][0])
            if joint or (not spaced and characters[-1].isalpha() and here[0][0].isalpha()):
                characters.append(_JOINT)
                spans.append(between)
            elif spaced:
                characters.append(" ")
                spans.append(between)
        characters += [character for character, _ in here]
        spans += [span for _, span in here]
        joint = False
    return Folded("".join(characters), tuple(spans))


def _segments(text: str) -> Iterator[tuple[int, int]]:
    """Parts of the text that normalise separately: a character with those that compose with it."""
    start = 0
    for place in range(1, len(text)):
        character = text[place]
        if character < "\u0300":
            apart = True
        elif unicodedata.combining(character):
            apart = False
        else:
            part = text[start:place]
            together = unicodedata.normalize("NFKC", part + character)
            apart = together == unicodedata.normalize("NFKC", part) + unicodedata.normalize("NFKC", character)
        if apart:
            yield start, place
            start = place
    if text:
        yield start, len(text)


Characters = list[tuple[str, tuple[int, int]]]


def _words(text: str) -> Iterator[tuple[str, Characters]]:
    """The words that the tokenizer cuts a text into, each with its kind."""
    seen: Characters = [
        (lower, (start, end))
        for start, end in _segments(text)
        for character in unicodedata.normalize("NFC", text[start:end])
        for lower in character.lower()
    ]
    line = "".join(character for character, _ in seen)
    kinds = [_kind(character) for character in line]
    place = 0
    while place < len(line):
        kind, end = kinds[place], place + 1
        contraction = _CONTRACTION.match(line, place)
        if contraction:
            kind, end = "contraction", contraction.end()
        elif kind in ("letters", "others"):
            while end < len(line) and kinds[end] == kind:
                end += 1
        if kind != "space":
            yield kind, seen[place:end]
        place = end


def _kind(character: str) -> str:
    if character.isalpha():
        return "letters"
    if unicodedata.category(character)[0] == "N":
        return "number"
    if character in _SPACES or (character.isspace() and unicodedata.category(character) != "Cc"):
        return "space"
    return "others"


def _folded_word(word: Characters) -> Characters:
    found: Characters = []
    place = 0
    while place < len(word):
        span, end = word[place][1], place + 1
        while end < len(word) and word[end][1] == span:
            end += 1
        part = unicodedata.normalize("NFKC", "".join(character for character, _ in word[place:end]))
        part = unicodedata.normalize("NFKC", part.casefold())
        if not part.isascii() and any(
            _has_optional_accents(character) for character in unicodedata.normalize("NFD", part)
        ):
            part = unicodedata.normalize("NFD", part)
        for character in part:
            if not _is_invisible(character):
                found.append((_plain(character), span))
        place = end
    return found


def _plain(character: str) -> str:
    if unicodedata.category(character) == "Pd" or character == "\u2212":
        return "-"
    return _QUOTES.get(character, character)


def _is_invisible(character: str) -> bool:
    return (
        unicodedata.category(character) in ("Cf", "Cc")
        or ord(character) in _INVISIBLE
        or character.isspace()  # of a compatible form, such as that of a lone accent
    )


def _is_mark(character: str) -> bool:
    return unicodedata.category(character)[0] == "M"


@functools.lru_cache(maxsize=4096)
def _script(character: str) -> str:
    return unicodedata.name(character, "").partition(" ")[0]


def _has_optional_accents(character: str) -> bool:
    return character.isalpha() and _script(character) in ("LATIN", "GREEK")


def _is_unspaced(character: str) -> bool:
    return character > "\u0dff" and _script(character) in _UNSPACED


@functools.lru_cache(maxsize=1024)
def _pattern(phrase: str) -> re.Pattern[str]:
    """A pattern that finds a folded phrase anywhere in folded texts."""
    parts: list[str] = []
    separator = None
    last = ""
    for character in phrase:
        if character in (" ", _JOINT):
            separator = character
            continue
        if last:
            loose = separator == _JOINT or (_is_unspaced(last) and _is_unspaced(character))
            between = f"[ {_JOINT}]" if separator or loose else _JOINT
            parts.append(between if separator == " " and not loose else f"{between}?")
        parts.append(re.escape(character))
        last, separator = character, None
    return re.compile("".join(parts))


def _matches(phrase: str, text: str) -> Iterator[tuple[int, int]]:
    """Where a folded text has a folded phrase as whole words."""
    if not phrase:
        return
    pattern, place = _pattern(phrase), 0
    while (match := pattern.search(text, place)) is not None:
        start, end = match.span()
        if _begins_word(text, start) and _ends_word(text, end):
            yield start, end
            place = end
        else:
            place = start + 1


def _begins_word(text: str, start: int) -> bool:
    if start == 0 or not text[start].isalnum():
        return True
    if text[start - 1] == "-":
        letter = text[start - 2] if start > 1 else ""
        alone = start == 2 or not text[start - 3].isalnum()
        return not (letter.isalpha() and alone and not _is_unspaced(letter))
    return not _go_on(text[start - 1], text[start])


def _ends_word(text: str, end: int) -> bool:
    if end == len(text) or not (text[end - 1].isalnum() or _is_mark(text[end - 1])):
        return True
    return not _is_mark(text[end]) and not _go_on(text[end - 1], text[end])


def _go_on(one: str, other: str) -> bool:
    """Whether two characters belong to one word."""
    if one.isalpha() and other.isalpha():
        return not (_is_unspaced(one) or _is_unspaced(other))
    return _kind(one) == _kind(other) == "number"
