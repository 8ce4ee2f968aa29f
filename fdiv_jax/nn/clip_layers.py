"""The parts that CLIP's two towers share: common configuration and encoder, names as in transformers.

Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from flax import nnx

from fdiv_jax.arrays import TokenFeatures
from fdiv_jax.files import JsonObject
from fdiv_jax.nn.attention import AttentionLayer, AttentionMask
from fdiv_jax.nn.config import ModelConfig, require
from fdiv_jax.nn.layers import Precision, activation, layer_norm, linear

NOT_READ = (
    "add_cross_attention",
    "architectures",
    "attention_dropout",
    "chunk_size_feed_forward",
    "diversity_penalty",
    "dropout",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "id2label",
    "initializer_factor",
    "initializer_range",
    "is_decoder",
    "label2id",
    "length_penalty",
    "logit_scale_init_value",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "problem_type",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "temperature",
    "tie_encoder_decoder",
    "tie_word_embeddings",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "typical_p",
    "use_bfloat16",
    "use_cache",
)
"""Keys of a configuration that training, generation or bookkeeping reads, and inference does not."""


@dataclasses.dataclass(frozen=True)
class CLIPTowerConfig(ModelConfig):
    """The common part of the configurations of both towers."""

    hidden_size: int = 512
    intermediate_size: int = 2048
    projection_dim: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    model_type: ClassVar[str] = ""
    neutral: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "model_type": ("clip_text_model", "clip_vision_model"),
        **dict.fromkeys(NOT_READ, ()),
    }
    ranges: ClassVar[Mapping[str, tuple[int, int]]] = {
        "intermediate_size": (1, 1 << 20),
        "layer_norm_eps": (0, 1),
        "num_hidden_layers": (1, 256),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.num_attention_heads > 0 and self.hidden_size % self.num_attention_heads == 0,
            f"{self.num_attention_heads} attention heads do not divide hidden_size={self.hidden_size}",
        )
        activation(self.hidden_act)

    def to_dict(self) -> JsonObject:
        """The mapping for `config.json`, with the keys by which transformers recognises the model."""
        return {"model_type": self.model_type, **super().to_dict()}


class CLIPAttention(AttentionLayer):
    """Multi-head self-attention with the names of transformers."""

    def __init__(self, config: CLIPTowerConfig, precision: Precision, rngs: nnx.Rngs):
        """Random parameters, with the sizes in `config`."""
        width = config.hidden_size
        super().__init__(config.num_attention_heads)
        self.k_proj = linear(width, width, precision, rngs)
        self.v_proj = linear(width, width, precision, rngs)
        self.q_proj = linear(width, width, precision, rngs)
        self.out_proj = linear(width, width, precision, rngs)

    def __call__(self, x: TokenFeatures, mask: AttentionMask | None) -> TokenFeatures:
        """n l d -> n l d."""
        return self.out_proj(self.attend(self.q_proj(x), self.k_proj(x), self.v_proj(x), mask))


class CLIPMLP(nnx.Module):
    """The position-wise network."""

    def __init__(self, config: CLIPTowerConfig, precision: Precision, rngs: nnx.Rngs):
        """Random parameters, with the sizes in `config`."""
        self.act = activation(config.hidden_act)
        self.fc1 = linear(config.hidden_size, config.intermediate_size, precision, rngs)
        self.fc2 = linear(config.intermediate_size, config.hidden_size, precision, rngs)

    def __call__(self, x: TokenFeatures) -> TokenFeatures:
        """n l d -> n l d."""
        return self.fc2(self.act(self.fc1(x)))


class CLIPEncoderLayer(nnx.Module):
    """Attention and network, each behind a layer norm, with a residual."""

    def __init__(self, config: CLIPTowerConfig, precision: Precision, rngs: nnx.Rngs):
        """Random parameters, with the sizes in `config`."""
        epsilon = config.layer_norm_eps
        self.self_attn = CLIPAttention(config, precision, rngs)
        self.layer_norm1 = layer_norm(config.hidden_size, precision, rngs, epsilon=epsilon)
        self.mlp = CLIPMLP(config, precision, rngs)
        self.layer_norm2 = layer_norm(config.hidden_size, precision, rngs, epsilon=epsilon)

    def __call__(self, x: TokenFeatures, mask: AttentionMask | None) -> TokenFeatures:
        """n l d -> n l d."""
        x = x + self.self_attn(self.layer_norm1(x), mask)
        return x + self.mlp(self.layer_norm2(x))


class CLIPEncoder(nnx.Module):
    """A stack of layers."""

    def __init__(self, config: CLIPTowerConfig, precision: Precision, rngs: nnx.Rngs):
        """Random parameters, with the sizes in `config`."""
        self.layers = nnx.List(
            [CLIPEncoderLayer(config, precision, rngs) for _ in range(config.num_hidden_layers)]
        )

    def __call__(self, x: TokenFeatures, mask: AttentionMask | None = None) -> tuple[TokenFeatures, ...]:
        """n l d -> the input and the output of each layer, layers + 1 arrays n l d."""
        states = [x]
        for layer in self.layers:
            states.append(layer(states[-1], mask))
        return tuple(states)
