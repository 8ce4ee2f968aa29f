"""CLIP's text tower, names as in transformers.

Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Integer

from fdiv_jax.arrays import PooledText, TextFeatures, TokenIds
from fdiv_jax.files import JsonMapping
from fdiv_jax.nn.clip_layers import CLIPEncoder, CLIPTowerConfig
from fdiv_jax.nn.layers import Precision, layer_norm, linear

_LEGACY_EOS = 2
Positions = Integer[jax.Array, " batch"]
"""The place of one token of each prompt."""


@dataclasses.dataclass(frozen=True)
class CLIPTextConfig(CLIPTowerConfig):
    """`text_encoder/config.json`."""

    vocab_size: int = 49408
    max_position_embeddings: int = 77
    pad_token_id: int | None = 1
    bos_token_id: int | None = 49406
    eos_token_id: int | None = 49407

    model_type: ClassVar[str] = "clip_text_model"
    ranges: ClassVar[Mapping[str, tuple[int, int]]] = {
        **CLIPTowerConfig.ranges,
        "vocab_size": (1, 1 << 24),
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), (0, 1 << 24)),
    }


class CLIPTextFeatures(NamedTuple):
    """The outputs of a text tower for n prompts of l tokens, float32 or wider."""

    hidden: tuple[TextFeatures, ...]
    """n l d: the embeddings and the output of each layer, not normalised; -2 is the penultimate layer's."""
    last: TextFeatures
    """n l d: the last layer's output after the final norm."""
    pooled: PooledText
    """n d: `last` at the end-of-text token; n projection_dim where the tower has a projection."""


class CLIPTextEmbeddings(nnx.Module):
    """Token plus position embeddings."""

    def __init__(self, config: CLIPTextConfig, precision: Precision, rngs: nnx.Rngs):
        """Random parameters, with the sizes in `config`."""
        options = {"dtype": precision.dtype, "param_dtype": precision.param_dtype, "rngs": rngs}
        self.token_embedding = nnx.Embed(config.vocab_size, config.hidden_size, **options)
        self.position_embedding = nnx.Embed(config.max_position_embeddings, config.hidden_size, **options)

    def __call__(self, tokens: TokenIds) -> TextFeatures:
        """n l -> n l d."""
        return self.token_embedding(tokens) + self.position_embedding(jnp.arange(tokens.shape[1]))


class CLIPTextTransformer(nnx.Module):
    """Embeddings, causal encoder, final norm."""

    def __init__(self, config: CLIPTextConfig, precision: Precision, rngs: nnx.Rngs):
        """Random parameters, with the sizes in `config`."""
        self.config = config
        self.embeddings = CLIPTextEmbeddings(config, precision, rngs)
        self.encoder = CLIPEncoder(config, precision, rngs)
        self.final_layer_norm = layer_norm(config.hidden_size, precision, rngs, epsilon=config.layer_norm_eps)

    def __call__(self, tokens: TokenIds) -> CLIPTextFeatures:
        """n l -> the features, `pooled` not projected.

        Raises:
            ValueError: more tokens than `max_position_embeddings`.
        """
        length = tokens.shape[1]
        if length > self.config.max_position_embeddings:
            raise ValueError(
                f"{length} tokens, expected at most max_position_embeddings="
                f"{self.config.max_position_embeddings}"
            )
        causal = jnp.tril(jnp.ones((length, length), bool))[None, None]
        hidden = self.encoder(self.embeddings(tokens), causal)
        last = self.final_layer_norm(hidden[-1])
        return CLIPTextFeatures(hidden, last, last[jnp.arange(len(tokens)), self._end(tokens)])

    def _end(self, tokens: TokenIds) -> Positions:
        """(n,): where each prompt ends. Before 2023 files say eos_token_id 2 and mean the greatest id."""
        eos = self.config.eos_token_id
        return jnp.argmax(tokens if eos == _LEGACY_EOS else tokens == eos, axis=-1)


class CLIPTextModel(nnx.Module):
    """Token ids to the features that the UNet attends to."""

    def __init__(
        self,
        config: CLIPTextConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ):
        """A network with random parameters."""
        self.config = config
        self.text_model = CLIPTextTransformer(config, Precision(dtype, param_dtype), rngs)

    @classmethod
    def from_config(cls, mapping: JsonMapping, *, rngs: nnx.Rngs, **precision: DTypeLike) -> Self:
        """A network from a `config.json` mapping; see `CLIPTextConfig.from_dict` for what it raises."""
        return cls(CLIPTextConfig.from_dict(mapping), rngs=rngs, **precision)

    def features(self, tokens: TokenIds) -> CLIPTextFeatures:
        """n l integers -> the states of every layer, the normalised last one, and the pooled text.

        Raises:
            ValueError: more tokens than `max_position_embeddings`.
        """
        return jax.tree.map(_widened, self.text_model(tokens))

    def __call__(self, tokens: TokenIds) -> TextFeatures:
        """n l integers -> n l hidden_size: the last hidden state after the final norm; see `features`."""
        return self.features(tokens).last


class CLIPTextModelWithProjection(CLIPTextModel):
    """A text tower whose pooled output is mapped to the space that it shares with images."""

    def __init__(
        self,
        config: CLIPTextConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ):
        """A network with random parameters."""
        super().__init__(config, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        precision = Precision(dtype, param_dtype)
        self.text_projection = linear(config.hidden_size, config.projection_dim, precision, rngs, bias=False)

    def features(self, tokens: TokenIds) -> CLIPTextFeatures:
        """As `CLIPTextModel.features`, with `pooled` projected: n projection_dim."""
        features = self.text_model(tokens)
        projected = features._replace(pooled=self.text_projection(features.pooled))
        return jax.tree.map(_widened, projected)


def _widened(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
