"""Token ids of prompts, as in diffusers' pipelines."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

__all__ = ["Tokenizer", "token_ids", "token_rows", "warn_of_cuts", "with_all_vectors"]


class Tokenizer(Protocol):
    """What is asked of a tokenizer of transformers."""

    model_max_length: int
    pad_token: str | None
    eos_token_id: int
    backend_tokenizer: Any

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """Numbers of the tokens beside the vocabulary."""
        ...

    def __len__(self) -> int: ...

    def __call__(self, text: Sequence[str], **options: object) -> Mapping[str, Any]:
        """The texts as numbers, under `input_ids`."""
        ...

    def tokenize(self, text: str) -> list[str]:
        """The tokens of a text."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of some numbers."""
        ...

    def save_pretrained(self, save_directory: str | Path) -> object:
        """Write the files that transformers reads."""
        ...


def with_all_vectors(prompts: Sequence[str], tokenizer: Tokenizer) -> list[str]:
    """The prompts with all vectors of textual-inversion tokens that have several.

    "<cat-toy>" becomes "<cat-toy> <cat-toy>_1 <cat-toy>_2" where the vocabulary has these.

    As in diffusers' `TextualInversionLoaderMixin.maybe_convert_prompt`, every occurrence of the token's
    text is replaced, also one that is followed by its other vectors already. Where the result depends on
    which token comes first, which diffusers leaves to the hash seed, it is the one that the prompt has first.
    """
    added = tokenizer.added_tokens_encoder
    if not any(f"{token}_1" in added for token in added):
        return list(prompts)
    return [_expanded(prompt, tokenizer, added) for prompt in prompts]


def _expanded(prompt: str, tokenizer: Tokenizer, added: dict[str, int]) -> str:
    for token in dict.fromkeys(tokenizer.tokenize(prompt)):
        if token in added:
            vectors = [token]
            while (following := f"{token}_{len(vectors)}") in added:
                vectors.append(following)
            prompt = prompt.replace(token, " ".join(vectors))
    return prompt


def token_ids(tokenizer: Tokenizer, prompts: Sequence[str], *, ends: bool = True) -> list[list[int]]:
    """The ids of every prompt in full length, with or without the marks of its ends."""
    texts = with_all_vectors(prompts, tokenizer)
    return tokenizer(texts, add_special_tokens=ends, verbose=False)["input_ids"]


def token_rows(tokenizer: Tokenizer, prompts: Sequence[str], length: int) -> np.ndarray:
    """The ids of the prompts, filled up or cut to `length`: (n, length), int32."""
    ids = tokenizer(
        with_all_vectors(prompts, tokenizer),
        padding="max_length",
        max_length=length,
        truncation=True,
        return_tensors="np",
    )["input_ids"]
    return np.asarray(ids, np.int32)


def warn_of_cuts(tokenizers: Sequence[Tokenizer], prompts: Sequence[str], length: int) -> None:
    """Warn of prompts over `length` tokens, both ends' marks included, and name the text that is lost."""
    for tokenizer in tokenizers:
        ids = token_ids(tokenizer, list(dict.fromkeys(prompts)))
        lost = [own for own in ids if len(own) > length]
        if lost:
            start, end = tokenizer.decode(lost[0][1 : length - 1]), tokenizer.decode(lost[0][length - 1 : -1])
            warnings.warn(
                f"{len(lost)} of {len(ids)} prompts are cut to {length} tokens: {start!r} loses {end!r}",
                stacklevel=3,
            )
            return
