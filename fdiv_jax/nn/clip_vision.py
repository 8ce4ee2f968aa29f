"""CLIP's vision tower and the pair of both towers, names as in transformers.

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
from jaxtyping import Float, Integer

from fdiv_jax.arrays import Embeddings, Images, TokenFeatures, TokenIds
from fdiv_jax.files import JsonMapping, JsonObject
from fdiv_jax.nn.clip_layers import NOT_READ, CLIPEncoder, CLIPTowerConfig
from fdiv_jax.nn.clip_text import CLIPTextConfig, CLIPTextTransformer
from fdiv_jax.nn.config import ModelConfig, require
from fdiv_jax.nn.layers import Precision, layer_norm, linear


@dataclasses.dataclass(frozen=True)
class CLIPVisionConfig(CLIPTowerConfig):
    """The configuration of a vision tower; the defaults are those of ViT-B/32."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 32

    model_type: ClassVar[str] = "clip_vision_model"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.patch_size <= self.image_size,
            f"patch_size={self.patch_size} for images of image_size={self.image_size}",
        )


@dataclasses.dataclass(frozen=True)
class CLIPConfig(ModelConfig):
    """The configuration of both towers in one directory."""

    text_config: CLIPTextConfig = dataclasses.field(default_factory=CLIPTextConfig)
    vision_config: CLIPVisionConfig = dataclasses.field(default_factory=CLIPVisionConfig)
    projection_dim: int = 512
    logit_scale_init_value: float = 2.6592

    neutral: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "model_type": ("clip",),
        **dict.fromkeys(NOT_READ, ()),
    }
    ranges: ClassVar[Mapping[str, tuple[int, int]]] = {"logit_scale_init_value": (-1000, 1000)}

    @classmethod
    def from_dict(cls, mapping: JsonMapping) -> Self:
        """Read a `config.json` mapping.

        Files of 2022 repeat a tower's settings as `text_config_dict` and `vision_config_dict`; these count,
        and what they leave out has the default value.

        Raises:
            NotImplementedError: as for `ModelConfig.from_dict`, for either tower.
            ValueError: as for `ModelConfig.from_dict`, for either tower.
        """
        towers: dict[str, ModelConfig] = {}
        for name, tower in (("text_config", CLIPTextConfig), ("vision_config", CLIPVisionConfig)):
            towers[name] = tower.from_dict(mapping.get(f"{name}_dict") or mapping.get(name) or {})
        own = {key: value for key, value in mapping.items() if key.removesuffix("_dict") not in towers}
        return dataclasses.replace(super().from_dict(own), **towers)

    def to_dict(self) -> JsonObject:
        """The mapping for `config.json`."""
        towers = {"text_config": self.text_config.to_dict(), "vision_config": self.vision_config.to_dict()}
        return {**super().to_dict(), "model_type": "clip", **towers}


Texts = Integer[jax.Array, "texts tokens"]
Similarities = Float[jax.Array, "texts batch"]
"""Of every text with every image."""


class CLIPVisionFeatures(NamedTuple):
    """The outputs of a vision tower for n images, float32 or wider; l is 1 + the number of patches."""

    hidden: tuple[TokenFeatures, ...]
    """n l d: the normalised embeddings and the output of each layer, the image's own token first."""
    last: TokenFeatures
    """n l d: the last layer's output, not normalised."""
    pooled: Embeddings
    """n d: the image's token after the final norm; n projection_dim where the tower has a projection."""


class CLIPVisionEmbeddings(nnx.Module):
    """One token for the image and one per patch, plus position embeddings."""

    def __init__(self, config: CLIPVisionConfig, precision: Precision, rngs: nnx.Rngs):
        """Random parameters, with the sizes in `config`."""
        self.dtype = precision.dtype
        self.patch_embedding = nnx.Conv(
            config.num_channels,
            config.hidden_size,
            (config.patch_size, config.patch_size),
            strides=(config.patch_size, config.patch_size),
            padding="VALID",
            use_bias=False,
            dtype=precision.dtype,
            param_dtype=precision.param_dtype,
            rngs=rngs,
        )
        width = config.hidden_size
        self.class_embedding = nnx.Param(jax.random.normal(rngs.params(), (width,), precision.param_dtype))
        self.position_embedding = nnx.Embed(
            (config.image_size // config.patch_size) ** 2 + 1,
            width,
            dtype=precision.dtype,
            param_dtype=precision.param_dtype,
            rngs=rngs,
        )

    def __call__(self, images: Images) -> TokenFeatures:
        """n h w c -> n l d."""
        patches = self.patch_embedding(images.astype(self.dtype))
        n, _, _, width = patches.shape
        own = jnp.broadcast_to(self.class_embedding[...].astype(self.dtype), (n, 1, width))
        tokens = jnp.concatenate([own, patches.reshape(n, -1, width)], axis=1)
        return tokens + self.position_embedding(jnp.arange(tokens.shape[1]))


class CLIPVisionTransformer(nnx.Module):
    """Embeddings, a norm, the encoder, and a norm of the image's token."""

    def __init__(self, config: CLIPVisionConfig, precision: Precision, rngs: nnx.Rngs):
        """Random parameters, with the sizes in `config`."""
        self.config = config
        self.embeddings = CLIPVisionEmbeddings(config, precision, rngs)
        epsilon, width = config.layer_norm_eps, config.hidden_size
        self.pre_layrnorm = layer_norm(width, precision, rngs, epsilon=epsilon)  # their spelling
        self.encoder = CLIPEncoder(config, precision, rngs)
        self.post_layernorm = layer_norm(width, precision, rngs, epsilon=epsilon)

    def __call__(self, images: Images) -> CLIPVisionFeatures:
        """n h w c -> the features, `pooled` not projected.

        Raises:
            ValueError: images of another size than the configuration's.
        """
        c = self.config
        expected = (c.image_size, c.image_size, c.num_channels)
        if images.ndim != 4 or images.shape[1:] != expected:
            raise ValueError(f"images of shape {images.shape}, expected (n, {', '.join(map(str, expected))})")
        hidden = self.encoder(self.pre_layrnorm(self.embeddings(images)))
        return CLIPVisionFeatures(hidden, hidden[-1], self.post_layernorm(hidden[-1][:, 0]))


class CLIPVisionModelWithProjection(nnx.Module):
    """Images to vectors in the space that they share with text."""

    def __init__(
        self,
        config: CLIPVisionConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ):
        """A network with random parameters."""
        self.config = config
        precision = Precision(dtype, param_dtype)
        self.vision_model = CLIPVisionTransformer(config, precision, rngs)
        self.visual_projection = linear(
            config.hidden_size, config.projection_dim, precision, rngs, bias=False
        )

    @classmethod
    def from_config(cls, mapping: JsonMapping, *, rngs: nnx.Rngs, **precision: DTypeLike) -> Self:
        """A network from a `config.json` mapping; see `CLIPVisionConfig.from_dict` for what it raises."""
        return cls(CLIPVisionConfig.from_dict(mapping), rngs=rngs, **precision)

    def features(self, images: Images) -> CLIPVisionFeatures:
        """Preprocessed images n h w c (see `CLIPImageProcessor`) -> the states, and `pooled` projected."""
        features = self.vision_model(images)
        projected = features._replace(pooled=self.visual_projection(features.pooled))
        return jax.tree.map(_widened, projected)

    def __call__(self, images: Images) -> Embeddings:
        """Preprocessed images n h w c -> n projection_dim, not normalised."""
        return self.features(images).pooled


class CLIPModel(nnx.Module):
    """Both towers: vectors of texts and of images whose angles say how well they fit."""

    def __init__(
        self,
        config: CLIPConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ):
        """A network with random parameters."""
        self.config = config
        precision = Precision(dtype, param_dtype)
        self.text_model = CLIPTextTransformer(config.text_config, precision, rngs)
        self.vision_model = CLIPVisionTransformer(config.vision_config, precision, rngs)
        out = config.projection_dim
        self.visual_projection = linear(config.vision_config.hidden_size, out, precision, rngs, bias=False)
        self.text_projection = linear(config.text_config.hidden_size, out, precision, rngs, bias=False)
        self.logit_scale = nnx.Param(jnp.asarray(config.logit_scale_init_value, param_dtype))

    @classmethod
    def from_config(cls, mapping: JsonMapping, *, rngs: nnx.Rngs, **precision: DTypeLike) -> Self:
        """A network from a `config.json` mapping; see `CLIPConfig.from_dict` for what it raises."""
        return cls(CLIPConfig.from_dict(mapping), rngs=rngs, **precision)

    def embed_texts(self, tokens: TokenIds) -> Embeddings:
        """n l integers -> n projection_dim, of length 1."""
        return _unit(self.text_projection(self.text_model(tokens).pooled))

    def embed_images(self, images: Images) -> Embeddings:
        """Preprocessed images n h w c (see `CLIPImageProcessor`) -> n projection_dim, of length 1."""
        return _unit(self.visual_projection(self.vision_model(images).pooled))

    def __call__(self, tokens: Texts, images: Images) -> Similarities:
        """exp(logit_scale) cos(text i, image j): n l and m h w c -> n m."""
        scale = jnp.exp(_widened(self.logit_scale[...]))
        return scale * self.embed_texts(tokens) @ self.embed_images(images).T


def _widened(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _unit(x: jax.Array) -> jax.Array:
    x = _widened(x)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)
