"""CLIP's tokenizer: its class, without the advice that comes with it, and the one of the published models."""

from __future__ import annotations

import functools
import gzip
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fdiv_jax.assets import asset_directory

if TYPE_CHECKING:
    from fdiv_jax.pipeline.tokens import Tokenizer

__all__ = ["CLIP_TOKENS", "check_tokenizer", "clip_tokenizer_class", "load_tokenizer", "published_tokenizer"]

CLIP_TOKENS = 49_408
"""Tokens of the published models: bytes, bytes that end a word, merges, and the two ends of a text."""
_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"))
_QUIET = "TRANSFORMERS_NO_ADVISORY_WARNINGS"
_START, _END = "<|startoftext|>", "<|endoftext|>"
_PRINTED = (*range(33, 127), *range(161, 173), *range(174, 256))
"""The bytes that byte-level BPE writes as the character of that number; the others follow from 256 on."""


def clip_tokenizer_class() -> Any:
    """`transformers.CLIPTokenizer`; imported without the advice to install PyTorch, which is not needed."""
    before = os.environ.get(_QUIET)
    os.environ.setdefault(_QUIET, "1")
    try:
        from transformers import CLIPTokenizer
    finally:
        if before is None:
            del os.environ[_QUIET]
    return CLIPTokenizer


def load_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer of a directory, as transformers writes it.

    Raises:
        FileNotFoundError: no such directory, or none of a tokenizer.
        ValueError: files of another kind.
    """
    if not directory.is_dir():
        raise FileNotFoundError(f"no tokenizer directory {directory}")
    if not any(all((directory / name).is_file() for name in names) for names in _FILES):
        raise FileNotFoundError(f"no tokenizer.json, and not both vocab.json and merges.txt, in {directory}")
    try:
        return clip_tokenizer_class().from_pretrained(str(directory), local_files_only=True)
    except Exception as error:  # the library passes on its parsers' errors, plain Exception among them
        raise ValueError(f"{directory}: not a CLIP tokenizer ({error})") from error


def check_tokenizer(directory: Path, tokenizer: Tokenizer, size: int) -> None:
    """Check that a tokenizer can pad and cut, and that each token has one of the `size` rows of an embedding.

    Raises:
        ValueError: a tokenizer that does not fit.
    """
    length = tokenizer.model_max_length
    if not isinstance(length, int) or length < 3:
        raise ValueError(f"{directory}: model_max_length {length!r}, expected a whole number of at least 3")
    if tokenizer.pad_token is None:
        raise ValueError(f"{directory}: no pad_token, with which short prompts are filled up")
    if not 2 < len(tokenizer) <= size:
        raise ValueError(
            f"{directory}: a vocabulary of {len(tokenizer)} tokens for a text encoder of {size} (vocab_size)"
        )


def published_tokenizer(pad_token: str, length: int = 77) -> Any:
    """The tokenizer of the published Stable Diffusion models, which ships with the package.

    Its vocabulary follows from CLIP's merges: the 256 bytes, the same at the end of a word, one token per
    merge, start and end of a text. Radford et al., Learning Transferable Visual Models From Natural Language
    Supervision, 2021.

    Args:
        pad_token: fills up short prompts: "<|endoftext|>" for Stable Diffusion 1.x and the first tower of
            XL, "!" for 2.x and the second tower of XL.
        length: tokens to which prompts are cut and filled up.
    """
    vocabulary, merges = _vocabulary()
    return clip_tokenizer_class()(
        vocab=dict(vocabulary), merges=list(merges), pad_token=pad_token, model_max_length=length
    )


@functools.cache
def _vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The number of each token, and the merges in their order."""
    packed = (asset_directory("clip") / "merges.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode().splitlines()[1:]  # the first names the format
    merges = [(first, second) for first, second in (line.split(" ") for line in lines)]
    characters = [chr(one) for one in (*_PRINTED, *range(256, 512 - len(_PRINTED)))]
    tokens = [*characters, *(f"{one}</w>" for one in characters), *map("".join, merges), _START, _END]
    return {token: number for number, token in enumerate(tokens)}, merges
