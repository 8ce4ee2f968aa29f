"""Words that are nearly another: a likely typing error is asked about, not accepted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from fdiv_jax.pipeline.words import folded

__all__ = ["nearly", "nearly_shown"]

_LONGEST = 60
"""Characters of the longest word or phrase that is compared."""
_SEEN = 100
"""Words of a prompt that are compared; a tokenizer keeps fewer."""
_ARTICLE = re.compile(r"^(?:an?|the)\s+", re.IGNORECASE)


def nearly(word: str, known: Iterable[str]) -> str | None:
    """The known word or phrase that `word` differs from by a slip of the finger.

    A slip is a letter more, less or other, or two letters swapped. Two slips count from 8 letters on. In a
    word of less than 6 letters the first one must be right (or the first two swapped): "neer" is nearly
    "near", "bear" is another word. Case, spaces, hyphens, accents and a leading article make no difference;
    a word that differs in nothing else is not a slip, and a compound of the known word is not one either.
    """
    letters, parts = _letters(word), _parts(word)
    for each in known:
        other = _letters(each)
        if other not in parts and _is_slip(letters, other):
            return each
    return None


def nearly_shown(prompt: str, names: Iterable[str], known: Iterable[str] = ()) -> tuple[str, str] | None:
    """Words of a prompt that are nearly one of the names, and that name; words that are `known` are right."""
    wanted = [(name, len(name.split()), _letters(name)) for name in names]
    right = {_letters(word) for word in known}
    for count in {count for _, count, _ in wanted}:
        for shown in _windows(prompt, count):
            letters = _letters(shown)
            for name, length, other in wanted:
                if length != count or letters in right or other in _parts(shown):
                    continue
                if _is_slip(letters, other):
                    return shown, name
    return None


def _windows(prompt: str, count: int) -> Iterator[str]:
    words = re.findall(r"[\w'-]+", prompt[: 20 * _SEEN])[:_SEEN]
    return (" ".join(words[i : i + count]) for i in range(len(words) - count + 1))


def _letters(text: str) -> str:
    """Letters and digits, in one form."""
    plain = _ARTICLE.sub("", text.strip()[: 2 * _LONGEST], count=1)
    return "".join(c for c in folded(plain).text if c.isalnum())


def _parts(word: str) -> list[str]:
    """The parts of a compound: "t-shirt" is another word than "shirt", not a slip."""
    return [_letters(part) for part in word[: 2 * _LONGEST].split("-")]


def _is_slip(one: str, other: str) -> bool:
    longer = max(len(one), len(other))
    if one == other or min(len(one), len(other)) < 3 or longer > _LONGEST:
        return False
    if longer < 6 and one[0] != other[0] and one[:2] != other[1::-1]:
        return False
    return _distance(one, other) <= (2 if longer >= 8 else 1)


def _distance(one: str, other: str) -> int:
    """Letters that must be put in, left out, replaced or swapped with the next: optimal string alignment."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        last, before, row = before, row, [i]
        for j, b in enumerate(other, start=1):
            best = min(row[j - 1] + 1, before[j] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                best = min(best, last[j - 2] + 1)
            row.append(best)
    return row[-1]
