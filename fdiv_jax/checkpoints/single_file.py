"""A whole model in one file, in the layout of the original Stable Diffusion code.

    model.diffusion_model.*                     the UNet
    first_stage_model.*                         the autoencoder, its attention as 1 x 1 convolutions
    cond_stage_model.transformer.*              the text tower of Stable Diffusion 1, as transformers names it
    cond_stage_model.model.*                    that of Stable Diffusion 2, as OpenCLIP names it
    conditioner.embedders.0.transformer.*, conditioner.embedders.1.model.*      the two towers of XL

Names follow from the configurations (`original_names`). OpenCLIP keeps q, k and v of an attention in one
tensor, and its text projection transposed. Stable Diffusion 2 uses the penultimate layer of its tower: a file
may hold the one after it, and one written from a model that lacks it does not.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from fdiv_jax.checkpoints.files import TensorFiles, cast, errors_from, read_header, write_tensors
from fdiv_jax.checkpoints.original_kinds import Layout, check_kind, check_types
from fdiv_jax.checkpoints.original_names import (
    clip_original_name,
    family,
    open_clip_name,
    unet_original_name,
    vae_original_name,
)
from fdiv_jax.checkpoints.state_dicts import load_state_dict, state_dict, tensor_names
from fdiv_jax.files import listed
from fdiv_jax.nn import AutoencoderKL

__all__ = ["file_layout", "load_autoencoder", "load_single_file", "save_single_file", "stored_dtypes"]

_VAE_MATRIX = re.compile(r"(?:en|de)coder\.mid\.attn_1\.(?:q|k|v|proj_out)\.weight")
_QKV = re.compile(r"(?P<layer>.+\.attn)\.(?P<part>[qkv])\.(?P<leaf>weight|bias)")
# Skipped in the towers' files: buffers, tensors that only training reads, and layers that the model lacks.
_NOT_READ = re.compile(
    r"transformer\.(?:text_model\.)?embeddings\.position_ids|transformer\.text_projection\.weight"
    r"|(?:transformer\.|model\.)?logit_scale|model\.(?:attn_mask|text_projection)"
    r"|model\.transformer\.resblocks\..+|loss\..+|model_ema\..+"
)
_MAX_LISTED = 4
_WRITTEN = Layout()


class _Place(NamedTuple):
    """The place of a component in the file."""

    prefix: str
    rename: Callable[[str], str]

    def locate(self, name: str) -> tuple[str, str | None]:
        """(the file's name of the tensor that holds one of ours, which third of it: q, k, v, or None)."""
        original = self.rename(name)
        if self.rename is open_clip_name and (found := _QKV.fullmatch(original)):
            return f"{self.prefix}{found['layer']}.in_proj_{found['leaf']}", found["part"]
        return self.prefix + original, None


def save_single_file(
    path: str | os.PathLike[str],
    modules: Mapping[str, nnx.Module],
    *,
    dtype: str | None = None,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write one file that A1111, ComfyUI and diffusers' `from_single_file` read, whole or not at all.

    Args:
        path: the file, ending in .safetensors.
        modules: the modules by component: "unet", "vae", "text_encoder" and, for XL, "text_encoder_2".
        dtype: type of all tensors: "float32", "float16", "bfloat16"; None: unchanged.
        metadata: more entries for the file's header.
        overwrite: replace an existing file.

    Raises:
        ValueError: a component missing or unknown, an unknown dtype, or values that it cannot hold.
        NotImplementedError: a latent consistency model.
        FileExistsError: the file exists and `overwrite` is False.
    """
    places = _places(modules)
    tensors: dict[str, np.ndarray] = {}
    fused: dict[str, dict[str, np.ndarray]] = {}
    for component, place in places.items():
        for name, value in state_dict(modules[component]).items():
            original, part = place.locate(name)
            value = _to_original(original.removeprefix(place.prefix), value)
            if part is None:
                tensors[original] = cast(original, value, dtype)
            else:
                fused.setdefault(original, {})[part] = cast(original, value, dtype)
    for original, parts in fused.items():
        tensors[original] = np.concatenate([parts[part] for part in "qkv"])
    return write_tensors(path, tensors, metadata=metadata or {}, overwrite=overwrite)


def load_single_file(
    path: str | os.PathLike[str], modules: Mapping[str, nnx.Module]
) -> dict[str, nnx.Module]:
    """Read a file of the original layout.

    Args:
        path: the file.
        modules: the modules by component, as for `save_single_file`, with the configurations of the file's
            model; they may be abstract, from `nnx.eval_shape`. Without "vae" the file's autoencoder is not
            read.

    Returns:
        The modules with the file's parameters. Averages, schedules and other tensors beside the components
        are skipped.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, one that is no model or a part of one, or tensors of a component that are
            missing, unexpected or misshapen.
        NotImplementedError: a model of another kind, or weights in fp8.
    """
    path = Path(path)
    layout = file_layout(path)
    places = _places(modules, layout, loading=True)
    with TensorFiles([path]) as tensors:
        return {
            component: load_state_dict(
                modules[component], _Component(path, tensors, place, modules[component]), source=str(path)
            )
            for component, place in places.items()
        }


def load_autoencoder(
    path: str | os.PathLike[str], module: AutoencoderKL, prefix: str
) -> tuple[AutoencoderKL, dict[str, str]]:
    """Read the autoencoder of a file of the original layout, below `prefix`; raises as `load_single_file`.

    Returns:
        The module with the file's parameters, and the dtype of each tensor in the file by the module's names.
    """
    path = Path(path)
    place = _Place(prefix, vae_original_name(len(module.config.block_out_channels)))
    with TensorFiles([path]) as tensors:
        filled = load_state_dict(module, _Component(path, tensors, place, module), source=str(path))
        names = tensor_names(module)
        return filled, {name: tensors.dtype(place.locate(name)[0]).name for name in names}


def file_layout(path: Path) -> Layout:
    """The layout of a file, by its header alone.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, one that is no model or a part of one.
        NotImplementedError: a model of another kind, or weights in fp8.
    """
    header = read_header(path)
    with errors_from(path):
        layout = check_kind(header.shapes)
        check_types(header.types)
    return layout


def stored_dtypes(
    path: str | os.PathLike[str], modules: Mapping[str, nnx.Module]
) -> dict[str, dict[str, str]]:
    """Each tensor's dtype in a file of the original layout, by component and by the module's name for it; of
    a file that `load_single_file` reads."""
    places = _places(modules, file_layout(Path(path)), loading=True)
    with TensorFiles([Path(path)]) as tensors:
        return {
            component: {
                name: tensors.dtype(place.locate(name)[0]).name for name in tensor_names(modules[component])
            }
            for component, place in places.items()
        }


class _Component(Mapping[str, np.ndarray]):
    """One component's tensors in a file, by our names, each read on access."""

    def __init__(self, path: Path, tensors: Mapping[str, np.ndarray], place: _Place, module: nnx.Module):
        self._tensors = tensors
        self._where = {name: place.locate(name) for name in tensor_names(module)}
        needed = {original for original, _ in self._where.values()}
        missing = sorted(needed - set(tensors))
        unexpected = [
            name
            for name in tensors
            if name.startswith(place.prefix)
            and name not in needed
            and not _NOT_READ.fullmatch(name.removeprefix(place.prefix))
        ]
        for kind, names in (("missing", missing), ("unexpected", unexpected)):
            if names:
                found = f"{len(names)} {kind}: {listed(names, _MAX_LISTED)}"
                raise ValueError(f"{path} does not fit the model. {found}")

    def __getitem__(self, name: str) -> np.ndarray:
        original, part = self._where[name]
        value = self._tensors[original]
        if part is not None:
            third = len(value) // 3
            value = value["qkv".index(part) * third :][:third]
        return value.T if original.endswith(".model.text_projection") else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


def _places(
    modules: Mapping[str, nnx.Module], layout: Layout = _WRITTEN, *, loading: bool = False
) -> dict[str, _Place]:
    configs: dict[str, Any] = {name: getattr(module, "config", None) for name, module in modules.items()}
    if "unet" not in configs:
        raise ValueError(f"components {', '.join(modules) or 'none'}, expected unet among them")
    if configs["unet"].time_cond_proj_dim is not None:
        raise NotImplementedError(
            "a latent consistency model in one file: the original layout has no place for its guidance "
            "(time_cond_proj_dim); expected a diffusers directory"
        )
    kind = family(configs["unet"])
    expected = {"unet", "vae", "text_encoder"} | ({"text_encoder_2"} if kind == "sdxl" else set())
    if set(modules) != expected and not (loading and set(modules) == expected - {"vae"}):
        raise ValueError(
            f"components {', '.join(sorted(modules))} for a model of the family {kind}, "
            f"expected {', '.join(sorted(expected))}"
        )
    root = layout.root
    places = {"unet": _Place(layout.unet, unet_original_name(configs["unet"]))}
    if "vae" in modules:
        levels = len(configs["vae"].block_out_channels)
        places["vae"] = _Place(f"{root}{layout.vae}", vae_original_name(levels))
    if kind == "sdxl":
        places["text_encoder"] = _Place(f"{root}conditioner.embedders.0.", clip_original_name)
        places["text_encoder_2"] = _Place(f"{root}conditioner.embedders.1.", open_clip_name)
    elif kind == "sd2":
        places["text_encoder"] = _Place(f"{root}cond_stage_model.", open_clip_name)
    else:
        tower = _bare_clip_name if layout.bare else clip_original_name
        places["text_encoder"] = _Place(f"{root}cond_stage_model.", tower)
    return places


def _bare_clip_name(name: str) -> str:
    return clip_original_name(name.removeprefix("text_model."))


def _to_original(name: str, value: np.ndarray) -> np.ndarray:
    if _VAE_MATRIX.fullmatch(name):
        return value[:, :, None, None]
    return value.T if name == "model.text_projection" else value
