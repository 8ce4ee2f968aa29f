"""The options of every command that loads a model: which of its files, and in which precision."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from fdiv_jax.pipeline import TextToImagePipeline

__all__ = ["Files", "Loading", "Precision"]

Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Files:
    """Which files of a model to read, and how to keep them; the words of `fdiv_jax.load_pipeline`."""

    variant: str | None = None
    """The variant of the weights' files, such as fp16; components without it are read without."""
    revision: str | None = None
    """The branch, tag or commit of a model of the hub."""
    offline: bool = False
    """Take a model of the hub from the local cache alone."""
    param_dtype: Precision = "float32"
    """The precision in which the parameters are kept."""

    def load(self, model: str | Path) -> TextToImagePipeline:
        """The pipeline of a directory, a world or a hub id."""
        return self._load(model, "float32")

    def fit(self, model: str | Path) -> bool:
        """Whether a directory has weights of the variant that is asked for; what is no directory may have."""
        from fdiv_jax.checkpoints.weight_files import has_weights

        if self.variant is None or not Path(model).is_dir():
            return True
        return any(has_weights(part, self.variant) for part in Path(model).iterdir() if part.is_dir())

    def _load(self, model: str | Path, dtype: Precision) -> TextToImagePipeline:
        import fdiv_jax

        return fdiv_jax.load_pipeline(
            model,
            variant=self.variant,
            revision=self.revision,
            offline=self.offline,
            dtype=dtype,
            param_dtype=self.param_dtype,
        )


@dataclass(frozen=True)
class Loading(Files):
    """As `Files`, for commands that compute with the model."""

    dtype: Precision = "float32"
    """The precision of the computation; norms, softmax and losses stay in float32."""

    def load(self, model: str | Path) -> TextToImagePipeline:
        """The pipeline of a directory, a world or a hub id."""
        return self._load(model, self.dtype)
