"""An autoencoder given beside a model: a file in the original layout, its directory, or a model's."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from jax.typing import DTypeLike

from fdiv_jax.checkpoints import load_component
from fdiv_jax.checkpoints.components import LoadedComponent
from fdiv_jax.checkpoints.files import errors_from, read_header
from fdiv_jax.checkpoints.original_kinds import Layout, check_types, find_layout, is_autoencoder
from fdiv_jax.checkpoints.original_shapes import below, vae_settings
from fdiv_jax.checkpoints.single_file import load_autoencoder
from fdiv_jax.files import JsonMapping
from fdiv_jax.nn import AutoencoderKL, abstract_network

__all__ = ["check_vae", "load_vae"]

_FORMS = "expected a .safetensors file in the original layout, the directory of an autoencoder, or a model's"


def check_vae(layout: Layout, vae: str | os.PathLike[str] | None) -> None:
    """Check that a model of one file has an autoencoder, in it or beside it.

    Raises:
        ValueError: neither.
    """
    if layout.vae is None and vae is None:
        raise ValueError(
            "a model without its autoencoder (no first_stage_model.*): name one by --vae (vae=... in Python)"
        )


def load_vae(
    vae: str | os.PathLike[str], settings: JsonMapping, *, dtype: DTypeLike, param_dtype: DTypeLike
) -> LoadedComponent[AutoencoderKL]:
    """The autoencoder of a file or a directory.

    Args:
        vae: a file that holds an autoencoder in the original layout (a whole model may), a directory with
            its `config.json`, or a diffusers directory, whose vae it is.
        settings: what a file's shapes do not show, such as `scaling_factor`, from the model that it is for.
        dtype: the precision of the computation.
        param_dtype: that of the parameters.

    Raises:
        FileNotFoundError: no such file or directory.
        ValueError: another kind of file, or tensors that do not fit.
        NotImplementedError: an autoencoder that is not supported.
    """
    path = Path(vae)
    if path.is_dir():
        directory = path / "vae" if (path / "model_index.json").is_file() else path
        if not (directory / "config.json").is_file():
            raise FileNotFoundError(f"vae {vae}: no {directory / 'config.json'}; {_FORMS}")
        return load_component(directory, AutoencoderKL, dtype=dtype, param_dtype=param_dtype)
    if not path.is_file():
        raise FileNotFoundError(f"vae {vae}: no such file or directory; {_FORMS}")
    header = read_header(path)
    with errors_from(path):
        prefix = _prefix(header.shapes)
        check_types(header.types)
        config = {**settings, **vae_settings(below(header.shapes, prefix))}
        module = abstract_network(AutoencoderKL, config, dtype=dtype, param_dtype=param_dtype)
    filled, types = load_autoencoder(path, module, prefix)
    return LoadedComponent(filled, config, types)


def _prefix(names: Collection[str]) -> str:
    """What stands in front of the names of an autoencoder."""
    layout = find_layout(names)
    if layout is not None and layout.vae is not None:
        return layout.root + layout.vae
    if layout is None and is_autoencoder(names):
        for prefix in ("first_stage_model.", "vae."):
            if any(name.startswith(f"{prefix}decoder.") for name in names):
                return prefix
        return ""
    raise ValueError(f"no autoencoder in the original layout; {_FORMS}")
