"""The judge of the world `fashion`: which item and which style an image shows, and how well a prompt fits it.

A small convolutional network trained on real photographs only (drawn in the world's styles), with a
classifier for items, one for styles, and a small CLIP trained by the sigmoid loss (Zhai et al., Sigmoid Loss
for Language Image Pre-Training, 2023). It has never seen a generated image. Its own error on real test images
is kept with its weights: `Judge.report`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fdiv_jax.assets import asset_directory
from fdiv_jax.checkpoints import load_component
from fdiv_jax.files import JsonMapping, JsonObject, read_json
from fdiv_jax.nn import CLIPTextConfig, CLIPTextModel
from fdiv_jax.nn.config import ModelConfig
from fdiv_jax.worlds.captions import ITEM_NAMES, STYLE_NAMES
from fdiv_jax.worlds.vocabulary import TEXT_LENGTH

if TYPE_CHECKING:
    from fdiv_jax.pipeline.tokens import Tokenizer

JUDGE_TEXT = CLIPTextConfig(
    vocab_size=596,
    hidden_size=64,
    intermediate_size=128,
    projection_dim=64,
    num_hidden_layers=1,
    num_attention_heads=4,
    max_position_embeddings=TEXT_LENGTH,
    pad_token_id=595,
    bos_token_id=594,
    eos_token_id=595,
)

_AT_ONCE = 256
"""Most images of a call of the network. Calls have a power of two of them: few programs are compiled."""


class _Block(nnx.Module):
    """A residual block of two 3 x 3 convolutions, the first of which may halve the resolution."""

    def __init__(self, inputs: int, outputs: int, stride: int, rngs: nnx.Rngs):
        self.norm1 = nnx.GroupNorm(inputs, num_groups=8, rngs=rngs)
        self.conv1 = nnx.Conv(inputs, outputs, (3, 3), strides=stride, rngs=rngs)
        self.norm2 = nnx.GroupNorm(outputs, num_groups=8, rngs=rngs)
        self.conv2 = nnx.Conv(outputs, outputs, (3, 3), rngs=rngs)
        if stride != 1 or inputs != outputs:
            self.shortcut = nnx.Conv(inputs, outputs, (1, 1), strides=stride, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = self.conv1(jax.nn.relu(self.norm1(x)))
        hidden = self.conv2(jax.nn.relu(self.norm2(hidden)))
        return hidden + (self.shortcut(x) if hasattr(self, "shortcut") else x)


@dataclasses.dataclass(frozen=True)
class JudgeConfig(ModelConfig):
    """`fashion_judge/config.json`: which classes the heads name, in their order."""

    items: tuple[str, ...] = ITEM_NAMES
    styles: tuple[str, ...] = STYLE_NAMES

    class_name: ClassVar[str] = "JudgeNetwork"


class JudgeNetwork(nnx.Module):
    """The network: a trunk, three heads and a text tower."""

    def __init__(self, config: JudgeConfig, *, rngs: nnx.Rngs):
        """Random parameters."""
        self.config = config
        self.stem = nnx.Conv(3, 32, (4, 4), strides=2, rngs=rngs)
        widths = ((32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2))
        self.blocks = nnx.List([_Block(a, b, stride, rngs) for a, b, stride in widths])
        self.norm = nnx.GroupNorm(128, num_groups=8, rngs=rngs)
        self.item = nnx.Linear(128, len(ITEM_NAMES), rngs=rngs)
        self.style = nnx.Linear(128, len(STYLE_NAMES), rngs=rngs)
        self.embed_image = nnx.Linear(128, 64, use_bias=False, rngs=rngs)
        self.text = CLIPTextModel(JUDGE_TEXT, rngs=rngs)
        self.embed_text = nnx.Linear(64, 64, use_bias=False, rngs=rngs)
        self.logit_scale = nnx.Param(jnp.log(10.0))
        self.logit_bias = nnx.Param(jnp.asarray(-5.0))

    @classmethod
    def from_config(cls, mapping: JsonMapping, *, rngs: nnx.Rngs, **_: object) -> JudgeNetwork:
        """A network from its `config.json`; always in float32."""
        return cls(JudgeConfig.from_dict(mapping), rngs=rngs)

    def features(self, images: jax.Array) -> jax.Array:
        """n 32 32 3 (-1 to 1) -> n 128."""
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)
        return jnp.mean(jax.nn.relu(self.norm(x)), axis=(1, 2))

    def heads(self, features: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Item logits n 10, style logits n 5, unit embeddings n 64."""
        embedding = self.embed_image(features)
        return self.item(features), self.style(features), _unit(embedding)

    def encode_text(self, tokens: jax.Array) -> jax.Array:
        """Unit embeddings n 64 of token ids n l, read at the first end-of-text token."""
        hidden = self.text(tokens)
        end = jnp.argmax(tokens == JUDGE_TEXT.eos_token_id, axis=1)
        return _unit(self.embed_text(hidden[jnp.arange(len(tokens)), end]))


def _unit(x: jax.Array) -> jax.Array:
    return x / jnp.sqrt(jnp.sum(x**2, axis=-1, keepdims=True) + 1e-12)


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What the judge says of n images.

    Attributes:
        items: n 10, probabilities in the order of `ITEM_NAMES`.
        styles: n 5, probabilities in the order of `STYLE_NAMES`.
        embeddings: n 64, unit vectors of the small CLIP.
    """

    items: np.ndarray
    styles: np.ndarray
    embeddings: np.ndarray

    def item_rate(self, name: str) -> float:
        """The share of images judged to show that item."""
        return float(np.mean(self.items.argmax(-1) == _index(ITEM_NAMES, name)))

    def style_rate(self, name: str) -> float:
        """The share of images judged to be in that style."""
        return float(np.mean(self.styles.argmax(-1) == _index(STYLE_NAMES, name)))


def _index(names: tuple[str, ...], name: str) -> int:
    if name not in names:
        raise ValueError(f"{name!r}, expected one of {', '.join(names)}")
    return names.index(name)


class Judge:
    """The trained judge. `report` holds its accuracy on real test images, as measured when it was built."""

    def __init__(
        self, network: JudgeNetwork, tokenizer: Tokenizer | None = None, report: JsonObject | None = None
    ):
        """A judge of that network; the tokenizer is the world's."""
        self._graph, self._parameters = nnx.split(network)
        self._tokenizer = tokenizer
        self.report = report or {}

    def __call__(self, images: np.ndarray | jax.Array) -> Judgement:
        """Judge images: n 32 32 3, uint8, or floating-point with -1 black and 1 white.

        Raises:
            ValueError: another shape.
        """
        return Judgement(*self._of_all(_judge, images))

    def _of_all(
        self, program: Callable[..., Sequence[jax.Array]], images: np.ndarray | jax.Array
    ) -> list[np.ndarray]:
        """What a compiled program of the network says of all images, in parts."""
        images = np.asarray(images)
        if images.ndim != 4 or images.shape[1:] != (32, 32, 3):
            raise ValueError(f"images of shape {images.shape}, expected (n, 32, 32, 3)")
        if images.dtype == np.uint8:
            images = images.astype(np.float32) / 127.5 - 1.0
        found = []
        for i in range(0, max(1, len(images)), _AT_ONCE):
            part = images[i : i + _AT_ONCE]
            full = 1 << max(0, len(part) - 1).bit_length()
            padded = np.zeros((full, *images.shape[1:]), np.float32)
            padded[: len(part)] = part
            told = program(self._graph, self._parameters, jnp.asarray(padded))
            found.append([np.asarray(each)[: len(part)] for each in told])
        return [np.concatenate(each) for each in zip(*found, strict=True)]

    def features(self, images: np.ndarray | jax.Array) -> np.ndarray:
        """The features below the heads: n 128, of images as for a call.

        Raises:
            ValueError: another shape.
        """
        return self._of_all(_features, images)[0]

    def clip_similarity(self, images: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        """Cosines of the small CLIP, n images times k prompts."""
        if self._tokenizer is None:
            from fdiv_jax.worlds.vocabulary import build_tokenizer

            self._tokenizer = build_tokenizer()
        tokens = self._tokenizer(
            list(prompts), padding="max_length", max_length=TEXT_LENGTH, truncation=True, return_tensors="np"
        )["input_ids"]
        texts = _embed_text(self._graph, self._parameters, jnp.asarray(tokens))
        return self(images).embeddings @ np.asarray(texts).T


@functools.partial(jax.jit, static_argnums=0)
def _judge(
    graph: nnx.GraphDef[JudgeNetwork], parameters: nnx.State, images: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    network = nnx.merge(graph, parameters)
    items, styles, embeddings = network.heads(network.features(images))
    return jax.nn.softmax(items), jax.nn.softmax(styles), embeddings


@functools.partial(jax.jit, static_argnums=0)
def _features(
    graph: nnx.GraphDef[JudgeNetwork], parameters: nnx.State, images: jax.Array
) -> tuple[jax.Array]:
    return (nnx.merge(graph, parameters).features(images),)


@functools.partial(jax.jit, static_argnums=0)
def _embed_text(graph: nnx.GraphDef[JudgeNetwork], parameters: nnx.State, tokens: jax.Array) -> jax.Array:
    return nnx.merge(graph, parameters).encode_text(tokens)


def load_judge(directory: Path | None = None) -> Judge:
    """The judge that ships with the package.

    Raises:
        FileNotFoundError: no weights there; says how to build them.
    """
    place = directory or asset_directory("fashion_judge")
    if not (place / "report.json").is_file():
        raise FileNotFoundError(f"no judge in {place}; build it by python -m fdiv_jax.worlds.build_fashion")
    network = load_component(place, JudgeNetwork).model
    return Judge(network, report=read_json(place / "report.json"))
