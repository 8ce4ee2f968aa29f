"""Preprocessing of images for CLIP's vision tower, by `preprocessor_config.json`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fdiv_jax.files import JsonMapping, read_json, shown
from fdiv_jax.nn.config import COUNT, require

_MEAN = (0.48145466, 0.4578275, 0.40821073)
_DEVIATION = (0.26862954, 0.26130258, 0.27577711)  # of the images that OpenAI's CLIP was trained on


@dataclasses.dataclass(frozen=True)
class CLIPImageProcessor:
    """Resize, centre crop, normalise: uint8 images to (x / 255 - mean) / std. The arithmetic is Pillow's.

    Attributes:
        size: length of the shorter side after resizing, or (height, width); None: not resized.
        crop: (height, width) of the part kept at the centre; None: not cropped.
        resample: Pillow's number of the filter; 3 is bicubic.
        scale: factor that pixels are multiplied by first.
        mean: subtracted from the scaled pixels, one number per channel.
        std: divides the result, one number per channel.
    """

    size: int | tuple[int, int] | None = 224
    crop: tuple[int, int] | None = (224, 224)
    resample: int = 3
    scale: float = 1 / 255
    mean: tuple[float, ...] = _MEAN
    std: tuple[float, ...] = _DEVIATION

    def __post_init__(self) -> None:
        for name in ("size", "crop"):
            for side in _sides(getattr(self, name)):
                whole = isinstance(side, int) and not isinstance(side, bool)
                require(
                    whole and COUNT[0] <= side <= COUNT[1],
                    f"{name}={shown(getattr(self, name))}, expected whole numbers from 1 to {COUNT[1]}",
                )
        for name in ("mean", "std", "scale"):
            for number in _sides(getattr(self, name)):
                known = isinstance(number, int | float) and not isinstance(number, bool)
                require(
                    known and abs(number) < 1e30,
                    f"{name}={shown(getattr(self, name))}, expected numbers",
                )
        require(self.resample in range(6), f"resample={shown(self.resample)}, expected 0 to 5")
        require(
            len(self.mean) == len(self.std) == 3,
            f"mean {shown(self.mean)} and std {shown(self.std)}, expected 3 each",
        )
        require(all(value > 0 for value in self.std), f"std {self.std}, expected positive numbers")

    @classmethod
    def from_dict(cls, mapping: JsonMapping) -> CLIPImageProcessor:
        """Read a `preprocessor_config.json` mapping, with sizes as numbers (2022) or as mappings.

        Raises:
            NotImplementedError: a size that is neither a shortest edge nor a height and a width.
        """
        size, crop = mapping.get("size", 224), mapping.get("crop_size", 224)
        if isinstance(size, Mapping):
            size = size["shortest_edge"] if size.get("shortest_edge") else _pair("size", size)
        if isinstance(crop, Mapping):
            crop = _pair("crop_size", crop)
        normalise = mapping.get("do_normalize", True)
        return cls(
            size=size if mapping.get("do_resize", True) else None,
            crop=(crop if isinstance(crop, tuple) else (crop, crop))
            if mapping.get("do_center_crop", True)
            else None,
            resample=mapping.get("resample", 3),
            scale=mapping.get("rescale_factor", 1 / 255) if mapping.get("do_rescale", True) else 1.0,
            mean=_listed("image_mean", mapping.get("image_mean", _MEAN)) if normalise else (0.0,) * 3,
            std=_listed("image_std", mapping.get("image_std", _DEVIATION)) if normalise else (1.0,) * 3,
        )

    @classmethod
    def from_directory(cls, directory: str | os.PathLike[str]) -> CLIPImageProcessor:
        """Read `preprocessor_config.json` of a model directory.

        Raises:
            FileNotFoundError: the directory has no such file.
            ValueError: the file is not JSON.
        """
        return cls.from_dict(read_json(Path(directory) / "preprocessor_config.json"))

    def __call__(self, images: np.ndarray | Sequence[np.ndarray | Image.Image]) -> np.ndarray:
        """n images h w 3, uint8 (or Pillow's own), of any sizes -> n H W 3, float32.

        Raises:
            ValueError: no image, one of another shape, or one smaller than the crop.
            TypeError: pixels that are not uint8.
        """
        require(len(images) > 0, "no images, expected at least one")
        return np.stack([self._one(image) for image in images])

    def _one(self, image: np.ndarray | Image.Image) -> np.ndarray:
        if not isinstance(image, Image.Image):
            image = np.asarray(image)
            if image.dtype != np.uint8:
                raise TypeError(f"pixels of dtype {image.dtype}, expected uint8")
            require(
                image.ndim == 3 and image.shape[-1] == 3, f"image of shape {image.shape}, expected (h, w, 3)"
            )
            image = Image.fromarray(image)
        image = image.convert("RGB")
        if self.size is not None:
            height, width = self._resized(image.height, image.width)
            image = image.resize((width, height), Image.Resampling(self.resample))
        pixels = np.asarray(image)
        if self.crop is not None:
            height, width = self.crop
            above, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
            require(
                min(above, left) >= 0, f"image of shape {pixels.shape}, expected at least {height} x {width}"
            )
            pixels = pixels[above : above + height, left : left + width]
        values = pixels.astype(np.float64) * self.scale
        return ((values - np.asarray(self.mean)) / np.asarray(self.std)).astype(np.float32)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if isinstance(self.size, tuple):
            return self.size
        short = self.size or 0
        if height <= width:
            return short, int(short * width / height)
        return int(short * height / width), short


def _listed(name: str, value: Any) -> tuple[Any, ...]:
    require(isinstance(value, list | tuple), f"{name}={shown(value)}, expected a list of numbers")
    return tuple(value)


def _sides(value: object) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else () if value is None else (value,)


def _pair(name: str, value: JsonMapping) -> tuple[int, int]:
    if not (value.get("height") and value.get("width")):
        raise NotImplementedError(f"{name}={dict(value)!r}, expected shortest_edge, or height and width")
    return value["height"], value["width"]
