"""The tokenizer of the world `fashion`: CLIP's byte-level pair encoding, learned on its own captions."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

from fdiv_jax.worlds.captions import CAPTIONS

if TYPE_CHECKING:
    from fdiv_jax.pipeline.tokens import Tokenizer

TEXT_LENGTH = 16
"""Tokens a prompt is padded to: the longest caption needs 9."""


def build_tokenizer() -> Tokenizer:
    """A `transformers.CLIPTokenizer` in which every word of the captions is one token.

    Any other word is spelled in bytes, so every prompt can be read, if not understood.
    """
    from tokenizers import pre_tokenizers

    from fdiv_jax.pipeline.clip_tokenizer import clip_tokenizer_class

    CLIPTokenizer = clip_tokenizer_class()
    backend = CLIPTokenizer().backend_tokenizer
    words = Counter(
        word
        for text in CAPTIONS
        for word, _ in backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text))
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = [*alphabet, *(letter + "</w>" for letter in alphabet)]
    merges = learn_merges(words, {letter: i for i, letter in enumerate(letters)})
    tokens = [*letters, *(a + b for a, b in merges), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TEXT_LENGTH)


def learn_merges(words: Counter[str], ids: dict[str, int]) -> list[tuple[str, str]]:
    """Byte-pair encoding to the end, when every word is one token.

    The commonest pair is merged first; of equally common ones, that whose parts came first. (The trainer of
    the library `tokenizers` breaks such ties differently in every process.)

    Args:
        words: how often each word occurs.
        ids: the letters, plain and with the end-of-word mark, in order.
    """
    order = dict(ids)
    spelled = {word: [*word[:-1], word[-1] + "</w>"] for word in words}
    merges: list[tuple[str, str]] = []
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in spelled.items():
            for pair in pairwise(parts):
                pairs[pair] += words[word]
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], order[pair[0]], order[pair[1]]))
        merges.append(best)
        order.setdefault("".join(best), len(order))
        spelled = {word: _merge(parts, best) for word, parts in spelled.items()}


def _merge(parts: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for part in parts:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return merged
