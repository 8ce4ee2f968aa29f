"""Hashes of parameters and of files, which tell one model from another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from fdiv_jax.checkpoints.state_dicts import state_dict
from fdiv_jax.nn import named_parameters

__all__ = ["files_digest", "model_digest", "module_digest", "parameters_digest", "tensors_digest"]


def files_digest(files: Iterable[Path]) -> str:
    """SHA-256 of the content of files, one after the other."""
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                total.update(block)
    return total.hexdigest()


def model_digest(components: Mapping[str, nnx.Module]) -> str:
    """SHA-256 of every bit of the parameters that draw latents: those of the UNet and the text encoders.

    Args:
        components: the networks of a pipeline by name (`TextToImagePipeline.components`); the VAE's
            parameters do not count.
    """
    return parameters_digest(
        *(named_parameters(network) for name, network in components.items() if name != "vae")
    )


def parameters_digest(*trees: Mapping[str, jax.Array]) -> str:
    """SHA-256 of parameters: names, types, shapes and every bit of the values."""
    total = hashlib.sha256()
    for tree in trees:
        for name in sorted(tree):
            value = np.ascontiguousarray(jax.device_get(tree[name]))
            total.update(f"{name} {value.dtype} {value.shape}\n".encode())
            total.update(value.reshape(-1).view(np.uint8).data)
    return total.hexdigest()


def module_digest(module: nnx.Module) -> str:
    """SHA-256 of a module's parameters: their names, shapes and values in float32.

    A model read from a file in half precision has the digest of the same values in single precision.
    """
    return tensors_digest(state_dict(module))


def tensors_digest(tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of tensors: their names, shapes and values in float32."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        total.update(f"{name} {value.shape}\n".encode())
        total.update(np.ascontiguousarray(value, np.float32).data)
    return total.hexdigest()
