"""The words that an attack may write: tokens of the model's own vocabulary, and places for free vectors."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from fdiv_jax.arrays import Parameters
from fdiv_jax.evaluation.attacks.case import Case, ConceptImages, replaced
from fdiv_jax.pipeline import TextToImagePipeline
from fdiv_jax.pipeline.tokens import Tokenizer, token_ids
from fdiv_jax.unlearning import Frozen, Network, TokenEmbeddings

__all__ = [
    "Slots",
    "Vocabulary",
    "check_length",
    "own_rows",
    "own_words",
    "reads_back",
    "slots",
    "vocabulary",
]


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Words that are one token for every text encoder, and come back as they were when they are read again.

    Attributes:
        words: the words.
        ids: (words, encoders), their tokens.
    """

    words: tuple[str, ...]
    ids: np.ndarray


def vocabulary(pipe: TextToImagePipeline) -> Vocabulary:
    """The words of a model: no marks of ends, no padding, no added tokens, no mere parts of words."""
    return _vocabulary(*(tokenizer for tokenizer, _ in pipe.text_towers))


@functools.lru_cache(maxsize=4)
def _vocabulary(*tokenizers: Tokenizer) -> Vocabulary:
    first = tokenizers[0]
    special = {i for tokenizer in tokenizers for i in _special(tokenizer)}
    # Several tokens may have one text, as "ab" inside a word and at its end: the text decides what is read.
    texts = (first.decode([i]).strip() for i in range(len(first)) if i not in special)
    known = list(dict.fromkeys(text for text in texts if _is_word(text)))
    columns = [token_ids(tokenizer, known, ends=False) for tokenizer in tokenizers]
    kept = [
        k
        for k, word in enumerate(known)
        if all(len(column[k]) == 1 and column[k][0] not in special for column in columns)
        and first.decode(columns[0][k]).strip() == word
    ]
    ids = np.array([[column[k][0] for column in columns] for k in kept], np.int32).reshape(
        -1, len(tokenizers)
    )
    return Vocabulary(tuple(known[k] for k in kept), ids)


def _is_word(text: str) -> bool:
    return bool(text) and text.isprintable() and not any(c.isspace() for c in text)


def _special(tokenizer: Tokenizer) -> set[int]:
    ends = token_ids(tokenizer, [""])[0]
    padding = (
        [] if tokenizer.pad_token is None else token_ids(tokenizer, [tokenizer.pad_token], ends=False)[0]
    )
    return {*ends, *padding, *tokenizer.added_tokens_encoder.values()}


@dataclass(frozen=True, eq=False)
class Slots:
    """Places in the prompts, in the concept's place, that stand for vectors of the attacker's choice.

    A place is a word of the vocabulary that the prompts do not have; its row in the embedding tables is what
    the attacker chooses. No table and no tokenizer grows, so that all prompts are read as before.

    Attributes:
        trainable: the rows.
        frozen: the model.
        word: the words of the places, which the prompts have in the concept's place.
    """

    trainable: TokenEmbeddings
    frozen: Frozen
    word: str

    def images(self, case: Case) -> ConceptImages:
        """The concept's images, captioned with the places."""
        captions = replaced(case.word, self.word, case.images.captions)
        return ConceptImages(case.images.pixels, captions)

    def prompts(self, case: Case) -> tuple[str, ...]:
        """The concept's prompts with the places."""
        return replaced(case.word, self.word, case.prompts)

    def rows(self, ids: np.ndarray | jax.Array) -> Parameters:
        """The rows of tokens (places, encoders), as values for the places."""
        names = self.trainable.initial(self.frozen, jnp.zeros(2, jnp.uint32))
        return {
            name: table[jnp.asarray(column)].astype(names[name].dtype)
            for (name, table), column in zip(self.tables.items(), ids.T, strict=True)
        }

    @property
    def tables(self) -> Parameters:
        """The embedding tables, by the names of what learns."""
        suffix = "token_embedding.embedding"
        found = (next(own[name] for name in own if name.endswith(suffix)) for own in self.frozen.encoders)
        names = self.trainable.initial(self.frozen, jnp.zeros(2, jnp.uint32))
        return dict(zip(names, found, strict=True))


def slots(case: Case, count: int) -> Slots:
    """Places for `count` vectors.

    Raises:
        ValueError: prompts that would not fit into the model's text length, or a vocabulary without words to
            spare.
    """
    pipe, known = case.pipe, vocabulary(case.pipe)
    prompts = [*case.prompts, *case.images.captions, *(p for c in pipe.concepts.values() for p in c.prompts)]
    taken = {
        i
        for tokenizer, _ in pipe.text_towers
        for own in token_ids(tokenizer, list(dict.fromkeys(prompts)))
        for i in own
    }
    spare = [
        k
        for k in range(len(known.words))
        if known.words[k].isalpha() and taken.isdisjoint(known.ids[k].tolist())
    ][-count:]
    if len(spare) < count:
        raise ValueError(
            f"{count} places for vectors, but the vocabulary has {len(spare)} words beside the prompts'"
        )
    word = " ".join(known.words[k] for k in spare)
    check_length(pipe, replaced(case.word, word, [*case.prompts, *case.images.captions]))
    encoders = [encoder for _, encoder in pipe.text_towers]
    frozen = Frozen(Network.parameters(pipe.unet), tuple(Network.parameters(each) for each in encoders))
    ids = tuple(tuple(int(i) for i in column) for column in known.ids[spare].T)
    return Slots(TokenEmbeddings(tuple(Network(each) for each in encoders), ids), frozen, word)


def check_length(pipe: TextToImagePipeline, prompts: Sequence[str]) -> None:
    """Refuse prompts that the model would cut.

    Raises:
        ValueError: names the prompt.
    """
    for tokenizer, _ in pipe.text_towers:
        for prompt, own in zip(prompts, token_ids(tokenizer, list(prompts)), strict=True):
            if len(own) > pipe.text_length:
                raise ValueError(
                    f"the prompt {prompt!r} has {len(own)} tokens, the model reads {pipe.text_length}; "
                    "expected fewer tokens for the attack"
                )


def own_rows(case: Case) -> np.ndarray:
    """(tokens, encoders): the tokens of the concept's word; encoders with fewer of them repeat the last."""
    columns = [token_ids(tokenizer, [case.word], ends=False)[0] for tokenizer, _ in case.pipe.text_towers]
    longest = max(map(len, columns))
    return np.array([[*own, *own[-1:] * (longest - len(own))] for own in columns], np.int32).T


def own_words(pipe: TextToImagePipeline, word: str) -> list[int]:
    """The places in the vocabulary of the tokens of a word; none where one is a part of words only."""
    known, ids = vocabulary(pipe), token_ids(pipe.tokenizer, [word], ends=False)[0]
    places = {int(i): k for k, i in enumerate(known.ids[:, 0])}
    found = [places[i] for i in ids if i in places]
    return found if len(found) == len(ids) else []


def reads_back(case: Case, known: Vocabulary, chosen: np.ndarray) -> bool:
    """Whether every encoder reads words, written one after the other, as the tokens that they
    are, alone and in the first of the case's prompts."""
    text = " ".join(known.words[k] for k in chosen)
    (prompt,) = replaced(case.word, text, case.prompts[:1])
    for (tokenizer, _), column in zip(case.pipe.text_towers, known.ids.T, strict=True):
        wanted = [int(i) for i in column[chosen]]
        alone, inside = token_ids(tokenizer, [text, prompt], ends=False)
        size = len(wanted)
        if alone != wanted or not any(inside[i : i + size] == wanted for i in range(len(inside) - size + 1)):
            return False
    return True
