"""LoRA files added to a pipeline: their changes become part of its weights."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from fdiv_jax.checkpoints import load_lora
from fdiv_jax.nn.lora import merge_module

if TYPE_CHECKING:
    from fdiv_jax.pipeline.text_to_image import TextToImagePipeline

__all__ = ["origin", "with_lora"]


def origin(pipe: TextToImagePipeline) -> dict[str, Any]:
    """The origin of a pipeline as JSON values: `name`, what it was loaded with (see
    `TextToImagePipeline.loaded_with`), and `loras` that were added."""
    loras = {"loras": [list(lora) for lora in pipe.loras]} if pipe.loras else {}
    return {"name": pipe.name, **pipe.loaded_with, **loras}


def with_lora(
    pipe: TextToImagePipeline, file: str | os.PathLike[str], strength: float = 1.0
) -> TextToImagePipeline:
    """A copy of a pipeline with the changes of a LoRA file added to its weights.

    W + strength (alpha / rank) up down for each layer of the file, as diffusers fuses it with `lora_scale`
    strength. Several files are added one after the other.

    Args:
        pipe: the model; its networks stay as they are.
        file: a LoRA file in any layout that `fdiv_jax.checkpoints.load_lora` reads, or a directory with one.
        strength: a scale for the whole file; 0 leaves a LoRA out, a negative one reverses it.

    Raises:
        FileNotFoundError: as for `load_lora`.
        NotImplementedError: as for `load_lora`.
        ValueError: as for `load_lora`, or a strength that is not a finite number or that makes weights
            infinite in the precision of the parameters.
    """
    if (
        isinstance(strength, bool)
        or not isinstance(strength, (int, float, np.number))
        or not np.isfinite(strength)
    ):
        raise ValueError(f"strength {strength!r}, expected a finite number")
    changed = {}
    for component, lora in load_lora(file, pipe.components).items():
        try:
            changed[component] = merge_module(pipe.components[component], lora, strength=float(strength))
        except ValueError as error:
            raise ValueError(f"{file} at strength {strength:g}: {component} {error}") from error
    return pipe.replace(**changed, loras=(*pipe.loras, (str(file), float(strength))))
