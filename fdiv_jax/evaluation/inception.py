"""Features of FID's Inception-v3, with the resizing of each of the programs that compute FID."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

from fdiv_jax.arrays import StoredImages
from fdiv_jax.checkpoints import load_state_dict
from fdiv_jax.checkpoints.files import TensorFiles, errors_from
from fdiv_jax.compiling import jit
from fdiv_jax.evaluation.features import Features, check_images
from fdiv_jax.nn import InceptionV3, abstract_module

__all__ = ["Resizing", "inception_features", "load_inception", "resized"]

Resizing = Literal["pytorch-fid", "torch-fidelity", "clean-fid"]
"""The program whose resizing is meant; the same images give another FID by each."""
_SIDE = 299
_CLASSES = 1008
"""Of the network of 2015; those of ImageNet are 1000."""


def inception_features(
    weights: str | os.PathLike[str], *, resizing: Resizing = "pytorch-fid", batch: int = 16
) -> Features:
    """The 2048 pool features of FID's Inception-v3.

    Args:
        weights: see `load_inception`.
        resizing: whose resizing to 299 x 299.
        batch: images embedded at once.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unknown resizing, or as for `load_inception`.
    """
    if resizing not in get_args(Resizing):
        raise ValueError(f"resizing {resizing!r}, expected one of {', '.join(get_args(Resizing))}")
    graph, parameters = nnx.split(load_inception(weights))
    embed = jit(lambda state, x: nnx.merge(graph, state)(x))

    def function(images: StoredImages) -> np.ndarray:
        pixels = resized(images, resizing)
        padded = np.concatenate([pixels, np.repeat(pixels[:1], batch - len(pixels), axis=0)])
        with jax.default_matmul_precision("highest"):
            return np.asarray(embed(parameters, jnp.asarray(padded)))[: len(pixels)]

    return Features(f"inception-v3 ({resizing})", function, batch)


def load_inception(weights: str | os.PathLike[str]) -> InceptionV3:
    """FID's Inception-v3 from one safetensors file, named as the weights of pytorch-fid and torch-fidelity.

    These programs download `pt_inception-2015-12-05-6726825d.pth`; its state dict, saved by
    `safetensors.torch.save_file`, is the file. The classifier (`fc`) and counters of batches are left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, the network of today's libraries (1000 classes), or tensors that are
            missing, unexpected or of another shape.
    """
    file = Path(weights)
    if not file.is_file():
        raise FileNotFoundError(f"no file {file}, expected Inception-v3's weights as safetensors")
    model = abstract_module(lambda rngs: InceptionV3(rngs=rngs))
    with TensorFiles([file]) as tensors, errors_from(file):
        classes = tensors["fc.weight"].shape[0] if "fc.weight" in tensors else _CLASSES
        if classes != _CLASSES:
            raise ValueError(
                f"an Inception-v3 of {classes} classes, whose features are others; expected that of FID "
                f"(2015-12-05, {_CLASSES} classes)"
            )
        used = [
            name
            for name in tensors
            if not name.startswith("fc.") and not name.endswith(".num_batches_tracked")
        ]
        return load_state_dict(model, {name: tensors[name] for name in used}, source="the file")


def resized(images: StoredImages, resizing: Resizing) -> np.ndarray:
    """uint8 images n h w 3 as Inception-v3 takes them: n 299 299 3, float32, about -1 to 1.

    * pytorch-fid: bilinear between the centres of pixels, of x / 255, then 2 x - 1.
    * torch-fidelity: bilinear as TensorFlow 1 has it, from the corners of pixels, then (x - 128) / 128.
    * clean-fid: Pillow's bicubic filter, which averages where it makes smaller, then (x - 128) / 128.
    """
    images = check_images(images)
    if resizing == "clean-fid":
        values = np.stack([_bicubic(image) for image in images])
        return ((values - 128.0) / 128.0).astype(np.float32)
    offset = 0.5 if resizing == "pytorch-fid" else 0.0
    down, across = (_bilinear(size, _SIDE, offset) for size in images.shape[1:3])
    values = np.einsum("ih,nhwc,jw->nijc", down, images.astype(np.float64), across, optimize=True)
    if resizing == "pytorch-fid":
        return (values * (2.0 / 255.0) - 1.0).astype(np.float32)
    return ((values - 128.0) / 128.0).astype(np.float32)


def _bilinear(size: int, to: int, offset: float) -> np.ndarray:
    """to x size: the weights of the two pixels around (i + offset) size / to - offset, for each new one i."""
    place = np.maximum((np.arange(to) + offset) * (size / to) - offset, 0.0)
    first = np.minimum(place.astype(int), size - 1)
    share = place - first
    weights = np.zeros((to, size))
    weights[np.arange(to), first] += 1.0 - share
    weights[np.arange(to), np.minimum(first + 1, size - 1)] += share
    return weights


def _bicubic(image: np.ndarray) -> np.ndarray:
    channels = [Image.fromarray(image[..., c].astype(np.float32)) for c in range(3)]
    return np.stack(
        [np.asarray(each.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)) for each in channels], axis=-1
    )
