"""The user's own images: a folder of image files, perhaps with captions and masks in a metadata.jsonl."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageOps

from fdiv_jax.files import one_line, parse_json, read_text, shown
from fdiv_jax.pipeline import TextToImagePipeline
from fdiv_jax.unlearning import _validate as check
from fdiv_jax.unlearning.concepts import PromptPair
from fdiv_jax.unlearning.config_parts import AnchorImagesConfig

__all__ = ["OwnImages", "UserImages", "latent_mask", "read_images", "read_own_images"]

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_METADATA = "metadata.jsonl"
_KEYS = ("file_name", "text", "mask_file_name")


@dataclass(frozen=True, eq=False)
class UserImages:
    """Images of one size.

    Attributes:
        pixels: images h w 3, uint8.
        captions: a prompt for each; None: of any prompt.
        masks: images h w, float32 in [0, 1], where the loss counts; None: everywhere.
        digest: a hash of all of the above.
        files: their names in the folder.
    """

    pixels: np.ndarray
    captions: tuple[str | None, ...]
    masks: np.ndarray | None
    digest: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class _Listed:
    """An image that is to be read: its name in the folder, its caption, the name of its mask."""

    name: str
    caption: str | None = None
    mask: str | None = None


def read_images(folder: str | os.PathLike[str], size: tuple[int, int], *, resize: bool = False) -> UserImages:
    """The images of a folder, in the order of their names.

    Without a `metadata.jsonl` these are its png, jpg, jpeg, webp and bmp files, hidden ones left out, without
    captions. With one, as in Hugging Face's imagefolder, a line is a JSON object with `file_name`, `text`
    (the image's prompt, or null) and perhaps `mask_file_name` (a grey image, white where the loss counts).

    Images are turned as their EXIF orientation says; what is transparent is laid on white.

    Args:
        folder: the directory; images and masks may be below it.
        size: (h, w) in pixels, that every image must have.
        resize: cut the middle of this shape out of each instead, and scale it (Lanczos; masks by areas).

    Raises:
        FileNotFoundError: no such folder, or a file of metadata.jsonl that is not there.
        NotADirectoryError: a file.
        ValueError: no images; a file that is no such image, damaged, too large (`PIL.Image.MAX_IMAGE_PIXELS`)
            or of another size; a line that is not as above; a name that comes twice or leads out of the
            folder; a mask of another size than its image's, with transparency, or black where it is used; an
            image that metadata.jsonl leaves out. Each names the file.
    """
    h, w = (check.whole("size", side, least=1) for side in size)
    path = Path(folder)
    if not path.exists():
        raise FileNotFoundError(f"no folder {path}")
    if not path.is_dir():
        raise NotADirectoryError(f"{path} is a file, expected a folder of images")
    present = sorted(
        each.name
        for each in path.iterdir()
        if each.suffix.lower() in _SUFFIXES and not each.name.startswith(".") and each.is_file()
    )
    listed = _read_metadata(path, present)
    if not listed:
        raise ValueError(f"{path}: no images; expected {', '.join(_SUFFIXES)} files")
    pixels, masks = [], []
    for each in listed:
        image = _open(path / each.name)
        mask = None if each.mask is None else _open_mask(path / each.mask, path / each.name, image.size)
        if image.size != (w, h) and not resize:
            others = f", the ones before it {h} x {w}" if pixels else ""
            raise ValueError(
                f"{path / each.name}: {image.height} x {image.width} pixels{others}; expected {h} x {w} "
                "(height x width), or images.resize to cut and scale"
            )
        pixels.append(np.asarray(_fitted(image, (w, h), Image.Resampling.LANCZOS)))
        masks.append(_mask_values(mask, (w, h), path / str(each.mask)))
    captions = tuple(each.caption for each in listed)
    stacked = np.stack(pixels)
    stacked_masks = np.stack(masks) if any(each.mask is not None for each in listed) else None
    return UserImages(
        stacked,
        captions,
        stacked_masks,
        _digest(stacked, captions, stacked_masks),
        tuple(each.name for each in listed),
    )


def latent_mask(mask: np.ndarray, factor: int) -> np.ndarray:
    """A mask (..., h, w) at the resolution of the latents, (..., h / factor, w / factor), by areas' means.

    Raises:
        ValueError: sides that `factor` does not divide.
    """
    factor = check.whole("factor", factor, least=1)
    h, w = mask.shape[-2:]
    if h % factor or w % factor:
        raise ValueError(f"a mask of {h} x {w} for a factor of {factor}; expected multiples of it")
    parts = mask.reshape(*mask.shape[:-2], h // factor, factor, w // factor, factor)
    return parts.mean(axis=(-3, -1), dtype=np.float32)


def _read_metadata(folder: Path, present: Sequence[str]) -> list[_Listed]:
    """What metadata.jsonl lists, or, where there is none, all images, in the order of their names."""
    path = folder / _METADATA
    if not path.exists():
        if (folder / "metadata.csv").exists():
            raise ValueError(f"{folder / 'metadata.csv'} is not read; expected {_METADATA}")
        return [_Listed(name) for name in present]
    lines = read_text(path).split("\n")
    found: dict[str, tuple[_Listed, int]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        each = _read_line(folder, line, where)
        if each.name in found:
            raise ValueError(f"{where}: file_name {shown(each.name)} again, as in line {found[each.name][1]}")
        found[each.name] = (each, number)
    used = {name for each, _ in found.values() for name in (each.name, each.mask)}
    forgotten = [name for name in present if name not in used]
    if found and forgotten:
        raise ValueError(f"{folder / forgotten[0]} is not in {_METADATA}; expected every image of the folder")
    return [found[name][0] for name in sorted(found)]


def _read_line(folder: Path, line: str, where: str) -> _Listed:
    entry = parse_json(line, where)
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: {shown(entry)}, expected an object with {', '.join(_KEYS[:2])}")
    for key in entry:
        hint = "" if key in _KEYS else check.nearest(key, _KEYS)
        if hint:
            raise ValueError(f"{where}: unknown key {shown(key)}{hint}")
    for key in _KEYS[:2]:
        if key not in entry:
            raise ValueError(f"{where}: no {key}; expected {' and '.join(_KEYS[:2])}")
    caption = entry["text"]
    if not isinstance(caption, str | None):
        raise ValueError(f"{where}: text must be a string or null, got {shown(caption)}")
    mask = entry.get("mask_file_name")
    return _Listed(
        _name_below(folder, entry["file_name"], f"{where}: file_name"),
        caption,
        None if mask is None else _name_below(folder, mask, f"{where}: mask_file_name"),
    )


def _name_below(folder: Path, name: object, what: str) -> str:
    """The name of a file of the folder, written in one way."""
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise ValueError(f"{what} must be the name of a file, got {shown(name)}")
    path = PureWindowsPath(name)  # takes both kinds of slashes
    if path.anchor or ".." in path.parts:
        raise ValueError(f"{what} {shown(name)} leads out of the folder; expected a file below it")
    if path.suffix.lower() not in _SUFFIXES:
        raise ValueError(f"{what} {shown(name)} is not one of {', '.join(_SUFFIXES)}")
    if not (folder / path.as_posix()).is_file():
        raise FileNotFoundError(f"{what} {shown(name)}: there is no such file in {folder}")
    return path.as_posix()


def _load(path: Path) -> Image.Image:
    """The image of a file, in whatever mode it is, upright.

    Only the formats' own readers are tried: others run programs. Whatever goes wrong in them is the file's.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as image:
                image.load()
                return ImageOps.exif_transpose(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{path}: too many pixels ({one_line(error, 80)})") from error
    except Exception as error:
        raise ValueError(f"{path}: cannot be read as an image ({one_line(error, 80)})") from error


def _open(path: Path) -> Image.Image:
    """The image of a file in RGB."""
    image = _load(path)
    if image.mode == "I" or image.mode.startswith("I;"):
        image = _eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _open_mask(path: Path, of: Path, size: tuple[int, int]) -> Image.Image:
    image = _load(path)
    if image.mode == "I" or image.mode.startswith("I;"):
        image = _eight_bits(image)
    if image.has_transparency_data:
        raise ValueError(f"{path}: a mask with transparency; expected black and white")
    if image.size != size:
        raise ValueError(
            f"{path}: a mask of {image.height} x {image.width} for {of} of {size[1]} x {size[0]}; expected "
            "the same size"
        )
    return image.convert("L")


def _eight_bits(image: Image.Image) -> Image.Image:
    """A grey image of 16 bits in 8."""
    return Image.fromarray(np.round(np.asarray(image, np.float64) / 257).astype(np.uint8))


def _fitted(image: Image.Image, size: tuple[int, int], method: Image.Resampling) -> Image.Image:
    """The middle of an image, of the shape of `size` (w, h) to within a pixel, scaled to it."""
    scale = max(size[0] / image.width, size[1] / image.height)
    w, h = max(1, round(size[0] / scale)), max(1, round(size[1] / scale))
    left, top = (image.width - w) // 2, (image.height - h) // 2
    return image.crop((left, top, left + w, top + h)).resize(size, method)


def _mask_values(mask: Image.Image | None, size: tuple[int, int], path: Path) -> np.ndarray:
    if mask is None:
        return np.ones(size[::-1], np.float32)
    values = np.asarray(_fitted(mask, size, Image.Resampling.BOX), np.float32) / 255
    if not values.any():
        raise ValueError(f"{path}: a mask that is black everywhere; expected white where the loss counts")
    return values


def _digest(pixels: np.ndarray, captions: tuple[str | None, ...], masks: np.ndarray | None) -> str:
    total = hashlib.sha256(json.dumps([pixels.shape, captions, masks is not None]).encode())
    total.update(pixels.tobytes())
    if masks is not None:
        total.update(masks.tobytes())
    return total.hexdigest()


@dataclass(frozen=True)
class OwnImages:
    """The user's images: uint8 n H W 3, masks n H W or None, for each pair which ones are its own, and a hash
    of what was read."""

    pixels: np.ndarray
    masks: np.ndarray | None
    images_of: tuple[np.ndarray, ...]
    digest: str = ""

    def beside(
        self, drawn: np.ndarray, pipe: TextToImagePipeline
    ) -> tuple[np.ndarray, np.ndarray | None, list[np.ndarray]]:
        """Their latents behind the drawn ones, masks of all, and the places."""
        masks = None
        if self.masks is not None:
            own = latent_mask(self.masks, pipe.vae.config.downsampling)
            masks = np.concatenate([np.ones(drawn.shape[:3], np.float32), own])
        latents = np.asarray(pipe.encode_images(jnp.asarray(self.pixels)), np.float32)
        return np.concatenate([drawn, latents]), masks, [places + len(drawn) for places in self.images_of]


def read_own_images(
    pipe: TextToImagePipeline, config: AnchorImagesConfig, pairs: Sequence[PromptPair]
) -> OwnImages:
    """The images of `config.folder` for the pairs; see `read_images`.

    Raises:
        ValueError: images that do not fit the model, or belong to no prompt; a prompt without any.
    """
    shown = [pair.target if config.at == "target" else pair.anchor for pair in pairs]
    factor = pipe.vae.config.downsampling
    h, w, _ = pipe.latent_shape
    found = read_images(str(config.folder), (h * factor, w * factor), resize=config.resize)
    pixels, masks = found.pixels, found.masks
    captions = list(found.captions)
    unknown = sorted({text for text in captions if text is not None and text not in shown})
    if unknown:
        raise ValueError(
            f"images.folder {config.folder}: {unknown[0]!r} is no {config.at} prompt; expected one of "
            f"{', '.join(map(repr, dict.fromkeys(shown)))}"
        )
    if config.mirror:
        pixels = np.concatenate([pixels, pixels[:, :, ::-1]])
        masks = None if masks is None else np.concatenate([masks, masks[:, :, ::-1]])
        captions = captions * 2
    images_of = tuple(np.array([i for i, c in enumerate(captions) if c in (None, p)], int) for p in shown)
    for prompt, places in zip(shown, images_of, strict=True):
        if not len(places):
            raise ValueError(f"images.folder {config.folder} has no image for the prompt {prompt!r}")
    return OwnImages(pixels, masks, images_of, found.digest)
