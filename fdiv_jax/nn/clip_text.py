"""CLIP's text tower, names as in transformers.

Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from fdiv_jax.nn.attention import dot_product_attention
from fdiv_jax.nn.config import ModelConfig, require
from fdiv_jax.nn.layers import Precision, activation, layer_norm, linear

_NOT_READ = (
    "architectures",
    "attention_dropout",
    "chunk_size_feed_forward",
    "dropout",
    "dtype",
    "id2label",
    "initializer_factor",
    "initializer_range",
    "is_decoder",
    "label2id",
    "output_attentions",
    "output_hidden_states",
    "problem_type",
    "return_dict",
    "torch_dtype",
    "transformers_version",
    "use_cache",
)
"""What training or bookkeeping reads from a configuration, and inference does not."""


@dataclasses.dataclass(frozen=True)
class CLIPTextConfig(ModelConfig):
    """`text_encoder/config.json`."""

    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    projection_dim: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    pad_token_id: int | None = 1
    bos_token_id: int | None = 49406
    eos_token_id: int | None = 49407

    class_name: ClassVar[str] = ""
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "model_type": ("clip_text_model",),
        **dict.fromkeys(_NOT_READ, ()),
    }

    def __post_init__(self) -> None:
        require(
            self.hidden_size % self.num_attention_heads == 0,
            f"{self.num_attention_heads} attention heads do not divide hidden_size={self.hidden_size}",
        )
        activation(self.hidden_act)

    def to_dict(self) -> dict[str, Any]:
        """The mapping for `config.json`, with what transformers needs to know the model."""
        return {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model", **super().to_dict()}


class CLIPTextEmbeddings(nnx.Module):
    """Token plus position embeddings."""

    def __init__(self, config: CLIPTextConfig, precision: Precision, rngs: nnx.Rngs):
        """As `config` says."""
        options = {"dtype": precision.dtype, "param_dtype": precision.param_dtype, "rngs": rngs}
        self.token_embedding = nnx.Embed(config.vocab_size, config.hidden_size, **options)
        self.position_embedding = nnx.Embed(config.max_position_embeddings, config.hidden_size, **options)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """n l -> n l d."""
        return self.token_embedding(tokens) + self.position_embedding(jnp.arange(tokens.shape[1]))


class CLIPAttention(nnx.Module):
    """Multi-head self-attention with the names of transformers."""

    def __init__(self, config: CLIPTextConfig, precision: Precision, rngs: nnx.Rngs):
        """As `config` says."""
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.k_proj = linear(width, width, precision, rngs)
        self.v_proj = linear(width, width, precision, rngs)
        self.q_proj = linear(width, width, precision, rngs)
        self.out_proj = linear(width, width, precision, rngs)

    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """n l d -> n l d."""
        split = lambda y: y.reshape(*y.shape[:2], self.heads, -1)  # noqa: E731
        out = dot_product_attention(split(self.q_proj(x)), split(self.k_proj(x)), split(self.v_proj(x)), mask)
        return self.out_proj(out.reshape(x.shape))


class CLIPMLP(nnx.Module):
    """The position-wise network."""

    def __init__(self, config: CLIPTextConfig, precision: Precision, rngs: nnx.Rngs):
        """As `config` says."""
        self.act = activation(config.hidden_act)
        self.fc1 = linear(config.hidden_size, config.intermediate_size, precision, rngs)
        self.fc2 = linear(config.intermediate_size, config.hidden_size, precision, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """n l d -> n l d."""
        return self.fc2(self.act(self.fc1(x)))


class CLIPEncoderLayer(nnx.Module):
    """Attention and network, each behind a layer norm, with a residual."""

    def __init__(self, config: CLIPTextConfig, precision: Precision, rngs: nnx.Rngs):
        """As `config` says."""
        epsilon = config.layer_norm_eps
        self.self_attn = CLIPAttention(config, precision, rngs)
        self.layer_norm1 = layer_norm(config.hidden_size, precision, rngs, epsilon=epsilon)
        self.mlp = CLIPMLP(config, precision, rngs)
        self.layer_norm2 = layer_norm(config.hidden_size, precision, rngs, epsilon=epsilon)

    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """n l d -> n l d."""
        x = x + self.self_attn(self.layer_norm1(x), mask)
        return x + self.mlp(self.layer_norm2(x))


class CLIPEncoder(nnx.Module):
    """A stack of layers."""

    def __init__(self, config: CLIPTextConfig, precision: Precision, rngs: nnx.Rngs):
        """As `config` says."""
        self.layers = nnx.List(
            [CLIPEncoderLayer(config, precision, rngs) for _ in range(config.num_hidden_layers)]
        )

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """n l d -> n l d."""
        for layer in self.layers:
            x = layer(x, mask)
        return x


class CLIPTextTransformer(nnx.Module):
    """Embeddings, causal encoder, final norm."""

    def __init__(self, config: CLIPTextConfig, precision: Precision, rngs: nnx.Rngs):
        """As `config` says."""
        self.embeddings = CLIPTextEmbeddings(config, precision, rngs)
        self.encoder = CLIPEncoder(config, precision, rngs)
        self.final_layer_norm = layer_norm(config.hidden_size, precision, rngs, epsilon=config.layer_norm_eps)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """n l -> n l d."""
        length = tokens.shape[1]
        causal = jnp.tril(jnp.ones((length, length), bool))[None, None]
        return self.final_layer_norm(self.encoder(self.embeddings(tokens), causal))


class CLIPTextModel(nnx.Module):
    """Token ids to the features that the UNet attends to (the last hidden state after the final norm)."""

    def __init__(
        self,
        config: CLIPTextConfig,
        *,
        rngs: nnx.Rngs,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
    ):
        """A network with random parameters."""
        self.config = config
        self.text_model = CLIPTextTransformer(config, Precision(dtype, param_dtype), rngs)

    @classmethod
    def from_config(cls, mapping: Mapping[str, Any], *, rngs: nnx.Rngs, **precision: Any) -> CLIPTextModel:
        """A network from a `config.json` mapping; see `CLIPTextConfig.from_dict` for what it raises."""
        return cls(CLIPTextConfig.from_dict(mapping), rngs=rngs, **precision)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """n l integers -> n l hidden_size, float32 or wider.

        Raises:
            ValueError: more tokens than `max_position_embeddings`.
        """
        if tokens.shape[1] > self.config.max_position_embeddings:
            raise ValueError(
                f"{tokens.shape[1]} tokens, expected at most max_position_embeddings="
                f"{self.config.max_position_embeddings}"
            )
        features = self.text_model(tokens)
        return features.astype(jnp.promote_types(features.dtype, jnp.float32))
