"""Drawn images, kept as files: each is drawn once, whatever protocol, model list or process asks for it."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fdiv_jax.checkpoints import atomic_file, parameters_digest
from fdiv_jax.evaluation.protocol import Protocol
from fdiv_jax.files import JsonMapping, parse_json, read_bytes, refuse_links
from fdiv_jax.nn import named_parameters
from fdiv_jax.pipeline import TextToImagePipeline
from fdiv_jax.pipeline.memory import images_a_call

__all__ = ["ImageStore", "drawing_digest", "pipeline_digest"]

Progress = Callable[[int, int], None]
Picture = tuple[str, int]
"""Prompt and seed."""

_KEY = "fdiv-jax"
"""The text in a PNG that says what it shows."""
_LARGEST = 1 << 28
"""Bytes of a picture, at most."""
_AT_ONCE = 64
"""Images per call at the most: so many are lost when a process is killed."""


def pipeline_digest(pipe: TextToImagePipeline) -> str:
    """SHA-256 of all that a model draws with: the networks, their configurations, schedule and tokenizers."""
    total = hashlib.sha256()
    for name, network in sorted(pipe.components.items()):
        config = getattr(network, "config", "")
        total.update(f"{name} {config!r} {parameters_digest(named_parameters(network))}\n".encode())
    for tokenizer, _ in pipe.text_towers:
        words: Any = tokenizer  # the vocabulary is no part of what a pipeline needs of a tokenizer
        vocabulary = json.dumps(words.get_vocab(), sort_keys=True)
        total.update(f"{tokenizer.model_max_length} {vocabulary}\n".encode("utf-8", "backslashreplace"))
    empty = pipe.extras.get("force_zeros_for_empty_prompt", True)
    total.update(f"{pipe.schedule!r} {empty} {pipe.loaded_with.get('dtype', 'float32')}".encode())
    return total.hexdigest()


def drawing_digest(model: str, drawing: JsonMapping) -> str:
    """The name of the folder of a model's images: its digest, how they are drawn, and on what."""
    content = {"model": model, "drawing": dict(drawing), "jax": [jax.__version__, jax.default_backend()]}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]


class ImageStore:
    """A directory of images, `FOLDER/PROMPT/SEED.png`; without a directory they are kept in memory.

    Every picture is written whole or not at all. One that cannot be read, or is not what its place says, is
    drawn again.
    """

    def __init__(self, directory: Path | None):
        """Nothing is written before the first image."""
        self.directory = directory
        self._kept: dict[tuple[str, Picture], np.ndarray] = {}

    def draw(
        self, folder: str, pipe: TextToImagePipeline, protocol: Protocol, progress: Progress | None = None
    ) -> int:
        """Draw those images of a protocol that are not there, and return their number.

        The batches are those of the whole protocol, and one is drawn whole where any of it is missing, since
        rounding depends on an image's place in its batch.

        Args:
            folder: the `drawing_digest` of the model.
            pipe: the model.
            protocol: what to draw.
            progress: called with (images that are there, images in all).

        Raises:
            OSError: the disk is full or fails; the images so far are kept.
            ValueError: images that are not finite, or a link in the directory.
        """
        every = list(protocol.images())
        missing = {each for each in every if self._look(folder, each) is None}
        size = min(_AT_ONCE, images_a_call(_latent_shape(pipe, protocol)))
        options = dict(protocol.drawing)
        options["size"] = protocol.size
        left = len(missing)
        for first in range(0, len(every), size):
            part = every[first : first + size]
            wanted = missing.intersection(part)
            if not wanted:
                continue
            if progress is not None:
                progress(len(every) - left, len(every))
            filled = [*part, *part[-1:] * (size - len(part))]
            drawn = pipe([p for p, _ in filled], seed=[s for _, s in filled], **options)
            for each, picture in zip(part, drawn, strict=False):
                if each in wanted:
                    self._write(folder, each, picture)
            left -= len(wanted)
        if progress is not None:
            progress(len(every), len(every))
        return len(missing)

    def read(self, folder: str, prompt: str, seeds: Sequence[int]) -> np.ndarray:
        """Images at a prompt: uint8, (seeds, h, w, 3).

        Raises:
            FileNotFoundError: one of them is not there, or damaged; names it.
        """
        found = []
        for seed in seeds:
            picture = self._look(folder, (prompt, seed))
            if picture is None:
                raise FileNotFoundError(f"no image {self._path(folder, (prompt, seed))}")
            found.append(picture)
        return np.stack(found)

    def _path(self, folder: str, picture: Picture) -> Path:
        prompt, seed = picture
        words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:48]
        digest = hashlib.sha256(prompt.encode("utf-8", "backslashreplace")).hexdigest()[:8]
        return (self.directory or Path()) / folder / f"{words}-{digest}".lstrip("-") / f"{seed}.png"

    def _look(self, folder: str, picture: Picture) -> np.ndarray | None:
        """The image, None where there is none that is whole."""
        if self.directory is None:
            return self._kept.get((folder, picture))
        from PIL import Image

        path = self._path(folder, picture)
        if not path.is_file():
            return None
        try:
            with Image.open(io.BytesIO(read_bytes(path, limit=_LARGEST)), formats=["PNG"]) as image:
                told = parse_json(getattr(image, "text", {}).get(_KEY, "{}"), f"{path}: {_KEY}")
                pixels = np.asarray(image)
        except (ValueError, SyntaxError, OSError, Image.DecompressionBombError):
            return None
        whole = pixels.dtype == np.uint8 and pixels.ndim == 3 and told == _told(folder, picture, pixels)
        return pixels if whole else None

    def _write(self, folder: str, picture: Picture, pixels: np.ndarray) -> None:
        if self.directory is None:
            self._kept[folder, picture] = pixels
            return
        from PIL import Image
        from PIL.PngImagePlugin import PngInfo

        path, text = self._path(folder, picture), PngInfo()
        text.add_text(_KEY, json.dumps(_told(folder, picture, pixels)))
        refuse_links(path, self.directory)
        try:
            with atomic_file(path, overwrite=True) as temporary:
                Image.fromarray(pixels).save(temporary, "png", pnginfo=text)
        except OSError as error:
            reason = error.strerror or str(error)
            message = f"cannot write the image {path}: {reason}; the images so far are kept"
            raise OSError(*([] if error.errno is None else [error.errno]), message) from error


def _told(folder: str, picture: Picture, pixels: np.ndarray) -> dict[str, object]:
    """What a PNG says of itself: Pillow does not check the sums that the format has."""
    digest = hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
    return {"folder": folder, "prompt": picture[0], "seed": picture[1], "sha256": digest}


def _latent_shape(pipe: TextToImagePipeline, protocol: Protocol) -> tuple[int, ...]:
    if protocol.size is None:
        return pipe.latent_shape
    factor = pipe.vae.config.downsampling
    return (max(1, protocol.size[0] // factor), max(1, protocol.size[1] // factor), pipe.latent_shape[2])
