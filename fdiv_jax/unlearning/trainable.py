"""What learns: weights of the UNet, low-rank changes of them, or the embeddings of a few tokens.

A `Trainable` says how the numbers that learn and those that do not make the UNet's parameters and the
features of a prompt; the training step differentiates through it and does not know which one it runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from fdiv_jax.arrays import Choice, Parameters, RandomKey, TokenIds
from fdiv_jax.nn import Text, with_features
from fdiv_jax.nn.lora import Lora, init_lora, merge_lora
from fdiv_jax.pipeline import TextToImagePipeline
from fdiv_jax.pipeline.programs import features_of
from fdiv_jax.pipeline.tokens import token_ids
from fdiv_jax.unlearning.parameters import Network, Selection, select

__all__ = ["EMBEDDING", "Frozen", "LowRank", "TokenEmbeddings", "Trainable", "Weights", "trainable_of"]

EMBEDDING = "embedding"
"""The group of the target's own token embeddings."""

_TABLE = "token_embedding.embedding"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Frozen:
    """What no step changes: the model as it was.

    Attributes:
        unet: all parameters of the UNet.
        encoders: those of the text encoders, one mapping each, where token embeddings learn; else empty.
        choice: (), int32, which divergence the loss has, where a plan serves several (`switch_losses`).
    """

    unet: Parameters
    encoders: tuple[Parameters, ...] = ()
    choice: Choice | None = None


@runtime_checkable
class Trainable(Protocol):
    """How what learns makes the model."""

    def initial(self, frozen: Frozen, key: RandomKey) -> Parameters:
        """What learns, before the first step, in float32 at least: the model is the frozen one."""
        ...

    def parameters(self, trained: Parameters, frozen: Frozen) -> Parameters:
        """All parameters of the UNet."""
        ...

    def text(self, trained: Parameters, frozen: Frozen, text: Text, tokens: tuple[TokenIds, ...]) -> Text:
        """The features of prompts, given those of the frozen encoders, and the prompts' token ids."""
        ...

    def pipeline(self, pipe: TextToImagePipeline, trained: Parameters, frozen: Frozen) -> TextToImagePipeline:
        """The pipeline with what was learned."""
        ...


@dataclass(frozen=True)
class Weights:
    """Some of the UNet's own parameters."""

    names: tuple[str, ...]

    def initial(self, frozen: Frozen, key: RandomKey) -> Parameters:
        """Copies of these parameters."""
        return {name: _master(frozen.unet[name]) for name in self.names}

    def parameters(self, trained: Parameters, frozen: Frozen) -> Parameters:
        """The frozen parameters, with the trained ones in their places, in the same precision."""
        return {**frozen.unet, **{n: value.astype(frozen.unet[n].dtype) for n, value in trained.items()}}

    def text(self, trained: Parameters, frozen: Frozen, text: Text, tokens: tuple[TokenIds, ...]) -> Text:
        """The features, unchanged."""
        return text

    def pipeline(self, pipe: TextToImagePipeline, trained: Parameters, frozen: Frozen) -> TextToImagePipeline:
        """The pipeline with the trained UNet."""
        return pipe.replace(unet=Network(pipe.unet).module(self.parameters(trained, frozen)))


@dataclass(frozen=True)
class LowRank:
    """Factors of low-rank changes of some of the UNet's kernels; see `fdiv_jax.nn.lora`."""

    names: tuple[str, ...]
    rank: int
    alpha: float

    def initial(self, frozen: Frozen, key: RandomKey) -> Parameters:
        """Factors whose product is zero."""
        return init_lora(frozen.unet, self.names, rank=self.rank, alpha=self.alpha, key=key).factors

    def lora(self, trained: Parameters) -> Lora:
        """The factors with their alphas."""
        return Lora(trained, {name.removesuffix(".kernel"): self.alpha for name in self.names})

    def parameters(self, trained: Parameters, frozen: Frozen) -> Parameters:
        """W + (alpha / rank) down up."""
        return merge_lora(frozen.unet, self.lora(trained))

    def text(self, trained: Parameters, frozen: Frozen, text: Text, tokens: tuple[TokenIds, ...]) -> Text:
        """The features, unchanged."""
        return text

    def pipeline(self, pipe: TextToImagePipeline, trained: Parameters, frozen: Frozen) -> TextToImagePipeline:
        """The pipeline with the changes merged into the UNet."""
        return pipe.replace(unet=Network(pipe.unet).module(self.parameters(trained, frozen)))


@dataclass(frozen=True)
class TokenEmbeddings:
    """The rows of the embedding tables that belong to some tokens, in every text encoder.

    Attributes:
        encoders: the text encoders' structures.
        ids: the tokens, for each encoder.
    """

    encoders: tuple[Network, ...]
    ids: tuple[tuple[int, ...], ...]

    def initial(self, frozen: Frozen, key: RandomKey) -> Parameters:
        """The rows as they are, (tokens, width) for each encoder."""
        return {
            name: _master(own[_table_name(own)][np.asarray(ids)])
            for name, own, ids in zip(self._names, frozen.encoders, self.ids, strict=True)
        }

    @property
    def _names(self) -> list[str]:
        return [f"text_encoder{'' if i == 0 else f'_{i + 1}'}" for i in range(len(self.encoders))]

    def _filled(self, trained: Parameters, frozen: Frozen) -> list[Parameters]:
        filled = []
        for name, own, ids in zip(self._names, frozen.encoders, self.ids, strict=True):
            table = _table_name(own)
            rows = own[table].at[np.asarray(ids)].set(trained[name].astype(own[table].dtype))
            filled.append({**own, table: rows})
        return filled

    def parameters(self, trained: Parameters, frozen: Frozen) -> Parameters:
        """The frozen UNet's parameters."""
        return frozen.unet

    def text(self, trained: Parameters, frozen: Frozen, text: Text, tokens: tuple[TokenIds, ...]) -> Text:
        """The prompts' features from the changed tables."""
        encoders = [
            network.module(own)
            for network, own in zip(self.encoders, self._filled(trained, frozen), strict=True)
        ]
        return with_features(text, features_of(encoders, tokens))

    def pipeline(self, pipe: TextToImagePipeline, trained: Parameters, frozen: Frozen) -> TextToImagePipeline:
        """The pipeline with the changed text encoders."""
        filled = zip(self._names, self.encoders, self._filled(trained, frozen), strict=True)
        return pipe.replace(**{name: network.module(own) for name, network, own in filled})


def trainable_of(
    pipe: TextToImagePipeline,
    group: str,
    phrases: Sequence[str] = (),
    *,
    rank: int | None = None,
    alpha: float | None = None,
) -> tuple[Trainable, Frozen, Selection]:
    """What learns in a model, what does not, and a description.

    Args:
        pipe: the model.
        group: `embedding`, or what `select` takes.
        phrases: the targets' names, whose tokens learn in the group `embedding`.
        rank: of low-rank changes; None: the weights themselves learn.
        alpha: their scale times the rank; None: the rank.

    Raises:
        ValueError: a group that matches nothing, a rank that a kernel does not have, a LoRA of the group
            `embedding`, or a phrase without tokens of its own.
    """
    unet = Network.parameters(pipe.unet)
    if group == EMBEDDING:
        if rank is not None:
            raise ValueError(f"lora.rank {rank} with trainable 'embedding'; a LoRA changes kernels alone")
        return _token_embeddings(pipe, unet, phrases)
    selection = select(unet, group)
    frozen = Frozen(unet)
    if rank is None:
        return Weights(selection.names), frozen, selection
    kernels = tuple(name for name in selection.names if name.endswith(".kernel"))
    if not kernels:
        raise ValueError(f"trainable {group!r} with lora.rank {rank}: none of its parameters is a kernel")
    low = LowRank(kernels, rank, float(rank if alpha is None else alpha))
    shapes = jax.eval_shape(low.initial, frozen, jax.random.key(0))
    described = Selection(
        f"{group}, LoRA of rank {rank}",
        selection.pattern,
        tuple(sorted(shapes)),
        sum(int(np.prod(value.shape)) for value in shapes.values()),
        selection.total,
    )
    return low, frozen, described


def _token_embeddings(
    pipe: TextToImagePipeline, unet: Parameters, phrases: Sequence[str]
) -> tuple[Trainable, Frozen, Selection]:
    towers = pipe.text_towers
    ids: list[tuple[int, ...]] = []
    for tokenizer, _ in towers:
        words = {i for own in token_ids(tokenizer, phrases, ends=False) for i in own}
        if not words:
            raise ValueError(f"trainable 'embedding': no tokens in the target's name {list(phrases)}")
        ids.append(tuple(sorted(words)))
    encoders = tuple(Network(encoder) for _, encoder in towers)
    frozen = Frozen(unet, tuple(Network.parameters(encoder) for _, encoder in towers))
    trainable = TokenEmbeddings(encoders, tuple(ids))
    shapes = jax.eval_shape(trainable.initial, frozen, jax.random.key(0))
    described = Selection(
        EMBEDDING,
        f"tokens {[list(own) for own in ids]}",
        tuple(f"{name}.{_TABLE}" for name in shapes),
        sum(int(np.prod(value.shape)) for value in shapes.values()),
        sum(value.size for own in frozen.encoders for value in own.values()),
    )
    return trainable, frozen, described


def _master(value: jax.Array) -> jax.Array:
    """A copy that learns, in float32 at least: half precision would round small steps away."""
    return jnp.array(value, jnp.promote_types(value.dtype, jnp.float32))


def _table_name(parameters: Parameters) -> str:
    return next(name for name in parameters if name.endswith(_TABLE))
