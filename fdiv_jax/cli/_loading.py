"""The options of every command that loads a model: which of its files, and in which precision."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from fdiv_jax.pipeline import TextToImagePipeline

__all__ = ["Files", "Loading", "Precision", "lora_argument"]

Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Files:
    """Which files of a model to read, and how to keep them; the words of `fdiv_jax.load_pipeline`."""

    variant: str | None = None
    """The variant of the weights' files, such as fp16; a component without that variant is read from its
    plain files."""
    revision: str | None = None
    """The branch, tag or commit of a model of the hub."""
    offline: bool = False
    """Load a model of the hub from the local cache only."""
    config: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    """For a model of one file that is not as published: a model of the same architecture, for its
    configurations, tokenizer and scheduler."""
    vae: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """An autoencoder instead of the model's own, or for a file without one: a file, or a directory."""
    prediction_type: Literal["epsilon", "v_prediction"] | None = None
    """The prediction of the UNet, for a file of Stable Diffusion 2.x that does not say: epsilon (512 px) or
    v_prediction (768 px)."""
    param_dtype: Precision = "float32"
    """The precision in which the parameters are kept."""
    lora: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="FILE[:STRENGTH]")] = ()
    """A LoRA file to add to the model's weights, with its strength; may be given several times."""

    def load(self, model: str | Path) -> TextToImagePipeline:
        """The pipeline of a directory, a file, a world or a hub id, with the LoRA files added."""
        return self._load(model, "float32")

    def fit(self, model: str | Path) -> bool:
        """Whether a directory has weights of the variant that is asked for; anything but a directory may
        have."""
        from fdiv_jax.checkpoints.weight_files import has_weights

        if self.variant is None or not Path(model).is_dir():
            return True
        return any(has_weights(part, self.variant) for part in Path(model).iterdir() if part.is_dir())

    def _load(self, model: str | Path, dtype: Precision, weights: bool = True) -> TextToImagePipeline:
        import fdiv_jax

        loras = [lora_argument(text) for text in self.lora]
        for file, _ in loras:  # before the model is read, which may take long
            if not file.exists():
                raise FileNotFoundError(f"--lora {file}: no such file")
        pipe = fdiv_jax.load_pipeline(
            model,
            config=self.config,
            vae=self.vae,
            prediction_type=self.prediction_type,
            variant=self.variant,
            revision=self.revision,
            offline=self.offline,
            dtype=dtype,
            param_dtype=self.param_dtype,
            weights=weights,
        )
        for file, strength in loras if weights else ():
            pipe = pipe.with_lora(file, strength)
        return pipe


@dataclass(frozen=True)
class Loading(Files):
    """As `Files`, for commands that compute with the model."""

    dtype: Precision = "float32"
    """The precision of the computation; norms, softmax and losses stay in float32."""

    def load(self, model: str | Path) -> TextToImagePipeline:
        """The pipeline of a directory, a file, a world or a hub id."""
        return self._load(model, self.dtype)

    def outline(self, model: str | Path) -> TextToImagePipeline:
        """The same with shapes in place of the weights, which are not read."""
        return self._load(model, self.dtype, weights=False)


def lora_argument(text: str) -> tuple[Path, float]:
    """The file and the strength that FILE or FILE:STRENGTH names.

    What exists under the whole name is a file; a colon belongs to the name unless a number follows it.

    Raises:
        ValueError: no file before the colon, or a strength that is not finite.
    """
    head, colon, tail = text.rpartition(":")
    if not colon or Path(text).exists():
        return Path(text), 1.0
    try:
        strength = float(tail)
    except ValueError:
        return Path(text), 1.0
    if not head or not math.isfinite(strength):
        raise ValueError(f"--lora {text}: expected FILE or FILE:STRENGTH, the strength a finite number")
    return Path(head), strength
