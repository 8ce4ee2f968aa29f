"""CLIP score and CLIP accuracy: how well images fit a text, by a CLIP model in a transformers directory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fdiv_jax.arrays import StoredImages
from fdiv_jax.checkpoints import load_component
from fdiv_jax.checkpoints.files import errors_from
from fdiv_jax.compiling import jit
from fdiv_jax.evaluation.features import Features, check_images
from fdiv_jax.nn import CLIPImageProcessor, CLIPModel
from fdiv_jax.pipeline.clip_tokenizer import check_tokenizer, load_tokenizer
from fdiv_jax.pipeline.hub import download, is_hub_id
from fdiv_jax.pipeline.tokens import Tokenizer, token_rows

__all__ = ["ClipScorer", "clip_scores", "concept_text"]

_FILES = ("config.json", "model*.safetensors", "model.safetensors.index.json", "preprocessor_config.json")
_TOKENIZER_FILES = ("tokenizer*", "vocab.json", "merges.txt", "special_tokens_map.json")
_WEIGHT = 2.5


def concept_text(concept: str, *, style: bool = False) -> str:
    """The text that images of a concept are scored against: "A photo depicts {concept}".

    A style is "{concept} style", but for "painting", which is none, and for a name that ends so already.

    Source: Hessel et al., CLIPScore: a reference-free evaluation metric for image captioning, 2021; styles as
    in Kumari et al., Ablating concepts in text-to-image diffusion models, 2023.
    """
    named = style and concept != "painting" and not concept.endswith(" style")
    return f"A photo depicts {concept}{' style' if named else ''}"


def clip_scores(cosines: np.ndarray) -> np.ndarray:
    """2.5 max(cos, 0) of the cosines of images with texts.

    Source: Hessel et al., CLIPScore: a reference-free evaluation metric for image captioning, 2021.
    """
    return _WEIGHT * np.maximum(cosines, 0.0)


class ClipScorer:
    """Scores of images against texts by both towers of a CLIP model.

        score = 2.5 max(cos(image, text), 0)

    Source: Hessel et al., CLIPScore: a reference-free evaluation metric for image captioning, 2021.
    """

    def __init__(
        self,
        model: CLIPModel,
        tokenizer: Tokenizer,
        processor: CLIPImageProcessor,
        *,
        name: str = "clip",
        batch: int = 32,
    ):
        """A scorer of these parts; `from_directory` and `load` read them.

        Args:
            model: both towers.
            tokenizer: of the model.
            processor: prepares images.
            name: names the scores and features.
            batch: images or texts embedded at once.
        """
        self.name = name
        self._graph, self._parameters = nnx.split(model)
        self._length = model.config.text_config.max_position_embeddings
        self._tokenizer, self._processor, self._batch = tokenizer, processor, batch
        self._embed_texts = jit(lambda state, x: nnx.merge(self._graph, state).embed_texts(x))
        self._embed_images = jit(lambda state, x: nnx.merge(self._graph, state).embed_images(x))

    @classmethod
    def from_directory(cls, directory: str | os.PathLike[str], *, name: str | None = None) -> ClipScorer:
        """Read a directory as transformers writes a `CLIPModel` with its processor.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: tensors that are missing, unexpected or of another size, a tokenizer with more
                tokens than the model, or a processor that makes images of another size.
            NotImplementedError: a model that is not a CLIP of two towers.
        """
        place = Path(directory)
        if not place.is_dir():
            raise FileNotFoundError(f"no directory {place}, expected one with a CLIP model")
        model = load_component(place, CLIPModel).model
        with errors_from(place / "preprocessor_config.json"):
            processor = CLIPImageProcessor.from_directory(place)
            side = model.config.vision_config.image_size
            made = processor.crop or (processor.size if isinstance(processor.size, tuple) else None)
            if made is not None and made != (side, side):
                raise ValueError(
                    f"makes images of {made[0]} x {made[1]}, and the model takes {side} x {side}"
                )
        tokenizer = load_tokenizer(place)
        check_tokenizer(place, tokenizer, model.config.text_config.vocab_size)
        return cls(model, tokenizer, processor, name=name or place.resolve().name)

    @classmethod
    def load(
        cls, model: str | os.PathLike[str], *, revision: str | None = None, offline: bool = False
    ) -> ClipScorer:
        """Read a directory, or a model of the hub such as "openai/clip-vit-base-patch32".

        Args:
            model: a directory or a hub id.
            revision: branch, tag or commit of a hub model.
            offline: take it from the local cache only.

        Raises:
            FileNotFoundError: no such directory or model.
            ValueError: as for `from_directory`.
            NotImplementedError: as for `from_directory`.
        """
        if Path(model).is_dir() or not (isinstance(model, str) and is_hub_id(model)):
            return cls.from_directory(model)
        files = (*_FILES, *_TOKENIZER_FILES)
        place = download(model, files, revision=revision, offline=offline)
        return cls.from_directory(place, name=model.split("/")[-1])

    def embed_images(self, images: StoredImages) -> np.ndarray:
        """uint8 images n h w 3 -> n d, of length 1."""
        images = check_images(images)
        return self._batched(self._processor, self._embed_images, images)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Texts -> n d, of length 1; each is cut to the model's length.

        Raises:
            ValueError: no text, or one string in place of a list.
        """
        if isinstance(texts, str) or not len(texts):
            raise ValueError(f"texts {texts!r}, expected a list of one or more")
        return self._batched(
            lambda part: token_rows(self._tokenizer, list(part), self._length), self._embed_texts, texts
        )

    def similarities(self, images: StoredImages, texts: Sequence[str]) -> np.ndarray:
        """The cosine of each image with each text: n images times k texts."""
        return self.embed_images(images) @ self.embed_texts(texts).T

    def score(self, images: StoredImages, texts: str | Sequence[str]) -> np.ndarray:
        """CLIP scores of n images, each against its own text, or all against one.

        Raises:
            ValueError: as many texts as neither 1 nor n.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        if len(texts) not in (1, len(images)):
            raise ValueError(f"{len(texts)} texts for {len(images)} images, expected one for all or for each")
        different = list(dict.fromkeys(texts))
        rows = self.embed_texts(different)[[different.index(text) for text in texts]]
        return clip_scores((self.embed_images(images) * rows).sum(-1))

    def prefers(self, images: StoredImages, text: str, other: str) -> np.ndarray:
        """For n images 1.0 where one fits the text better than the other, or 0.0: CLIP accuracy is the mean.

        Of the cosines themselves, since two negative ones have the same score.
        """
        cosines = self.similarities(images, [text, other])
        return (cosines[:, 0] > cosines[:, 1]).astype(np.float64)

    def features(self) -> Features:
        """The image embeddings as a source of features, for CMMD and KID."""
        return Features(self.name, self.embed_images, self._batch)

    def _batched(self, prepare, embed, things) -> np.ndarray:
        """Embed a batch at a time; what is short of one is filled up, so that there are few programs."""
        found = []
        with jax.default_matmul_precision("highest"):
            for i in range(0, len(things), self._batch):
                rows = np.asarray(prepare(things[i : i + self._batch]))
                size = min(self._batch, max(8, 1 << (len(rows) - 1).bit_length()))
                padded = np.concatenate([rows, np.repeat(rows[:1], size - len(rows), axis=0)])
                found.append(np.asarray(embed(self._parameters, jnp.asarray(padded)))[: len(rows)])
        return np.concatenate(found)
