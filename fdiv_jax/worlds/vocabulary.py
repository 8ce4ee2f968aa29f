"""The tokenizer of the world `fashion`: CLIP's byte-level pair encoding, learned on its own captions."""

from __future__ import annotations

from typing import Any

from fdiv_jax.worlds.captions import CAPTIONS

TEXT_LENGTH = 16
"""Tokens a prompt is padded to: the longest caption needs 9."""


def build_tokenizer() -> Any:
    """A `transformers.CLIPTokenizer` in which every word of the captions is one token.

    Any other word is spelled in bytes, so every prompt can be read, if not understood.
    """
    from tokenizers import pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    backend = CLIPTokenizer().backend_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=10_000,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        end_of_word_suffix="</w>",
    )
    backend.train_from_iterator(CAPTIONS, trainer)
    learned = backend.get_vocab()
    merges = _merges(backend)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [token for token, _ in sorted(learned.items(), key=lambda entry: entry[1])]
    special = ["<|startoftext|>", "<|endoftext|>"]
    tokens = dict.fromkeys([*alphabet, *(letter + "</w>" for letter in alphabet), *words])
    order = [token for token in tokens if not token.startswith("<|")] + special
    vocabulary = {token: i for i, token in enumerate(order)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TEXT_LENGTH)


def _merges(backend: Any) -> list[tuple[str, str]]:
    import json

    return [tuple(pair) for pair in json.loads(backend.to_str())["model"]["merges"]]
