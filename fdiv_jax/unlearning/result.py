"""What an unlearning run gives back, and its directory on disk."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from fdiv_jax.arrays import Parameters
from fdiv_jax.checkpoints import atomic_directory, atomic_file, check_place, save_lora
from fdiv_jax.divergences import divergence
from fdiv_jax.files import JsonMapping, JsonObject, read_json
from fdiv_jax.pipeline import TextToImagePipeline
from fdiv_jax.unlearning._metrics import Row, metrics_line
from fdiv_jax.unlearning.concepts import PromptPair
from fdiv_jax.unlearning.config import UnlearningConfig
from fdiv_jax.unlearning.outcome import Outcome, outcome_of
from fdiv_jax.unlearning.parameters import Selection
from fdiv_jax.unlearning.trainable import LowRank, Trainable

__all__ = [
    "RESULT",
    "DivergedError",
    "Row",
    "UnlearningResult",
    "check_output",
    "description",
    "record",
    "versions",
]

RESULT = "result.json"
"""The summary of a run, in its directory."""

History = Mapping[str, np.ndarray]

_PACKAGES = ("fdiv-jax", "jax", "jaxlib", "flax", "optax", "numpy", "sympy", "transformers", "safetensors")


class DivergedError(ValueError):
    """Too many steps in a row with a loss, a gradient or a parameter that is not finite.

    Attributes:
        step: the step it was seen in, from 1.
        history: what was recorded up to there, that step included.
    """

    def __init__(self, message: str, step: int, history: History):
        super().__init__(message)
        self.step = step
        self.history = history


@dataclass(frozen=True)
class UnlearningResult:
    """The unlearned model and how it came to be.

    Attributes:
        pipeline: the unlearned model.
        history: one entry per step, in arrays: `step` (from 1), `warmup` (True while the critic alone
            learns),
            `loss`, `m` and `m_max` (mean and greatest of the batch), `weight` (mean w_f(m)),
            `gradient_norm` (0 in the warm-up, where it is not computed), `skipped` (True where the numbers
            were not finite and nothing changed), and `critic_value`, `prior_loss`, `conflicts` where there
            are such; empty for the method `edit`.
        config: what was asked for.
        pairs: of prompts, resolved.
        retained: prompts at which the model was to stay as it was.
        selection: the parameters that learned.
        learned: what they became.
        trainable: how they make the model.
        divergence: name, generator and curvature, as text.
        model: the name of the model, the LoRA files added to it and the hash of its parameters before.
        devices: what it ran on.
        images: the hash of the user's images; empty where they were drawn.
        seconds: wall time of the steps that this process did, compilation included.
        images_per_second: speed of the steps without compilation; 0 where too few were done to tell.
        resumed_at: steps that earlier processes did.
    """

    pipeline: TextToImagePipeline
    history: History
    config: UnlearningConfig
    pairs: tuple[PromptPair, ...]
    selection: Selection
    retained: tuple[str, ...] = ()
    learned: Parameters = field(default_factory=dict, repr=False)
    trainable: Trainable | None = None
    divergence: Mapping[str, str] = field(default_factory=dict)
    model: JsonMapping = field(default_factory=dict)
    devices: tuple[str, ...] = ()
    images: str = ""
    seconds: float = 0.0
    images_per_second: float = 0.0
    resumed_at: int = 0

    def description(self) -> JsonObject:
        """What `config.json` of the run directory holds: enough to repeat the run."""
        return description(
            self.config, self.pairs, self.retained, self.selection, self.model, self.devices, self.images
        )

    def rows(self) -> list[Row]:
        """The history as a list of one mapping a step."""
        names = list(self.history)
        return [
            dict(zip(names, (value.item() for value in values), strict=True))
            for values in zip(*self.history.values(), strict=True)
        ]

    @property
    def outcome(self) -> Outcome | None:
        """m at both ends, and a warning where it did not fall; None for the method `edit`."""
        return outcome_of(self.history, self.config.learning_rate)

    def summary(self) -> JsonObject:
        """What `result.json` of the run directory holds: how the run went, in a few numbers."""
        outcome, history = self.outcome, self.history
        numbers: JsonObject = {
            "steps": len(history.get("step", ())),
            "skipped_steps": int(np.sum(history.get("skipped", 0))),
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self.images_per_second, 3) or None,
        }
        if outcome is not None:
            numbers |= {
                "m_first": outcome.first if np.isfinite(outcome.first) else None,
                "m_last": outcome.last if np.isfinite(outcome.last) else None,
                "averaged_over_steps": outcome.span,
            }
        return numbers | {"warnings": [outcome.warning] if outcome is not None and outcome.warning else []}

    def save(self, directory: str | os.PathLike[str]) -> Path:
        """Write the run directory, whole or not at all: config.json, metrics.jsonl, and what `write` writes.

        Raises:
            FileExistsError: the directory holds something already.
        """
        path = Path(directory)
        with atomic_directory(path) as temporary:
            (temporary / "config.json").write_text(json.dumps(self.description(), indent=2) + "\n")
            lines = "".join(metrics_line(row) for row in self.rows())
            (temporary / "metrics.jsonl").write_text(lines)
            self.write(temporary)
        return path

    def write(self, directory: Path) -> None:
        """Write result.json, pipeline/ (a diffusers directory), and lora.safetensors of a learned LoRA."""
        (directory / RESULT).write_text(json.dumps(self.summary(), indent=2) + "\n")
        if isinstance(self.trainable, LowRank):
            lora = self.trainable.lora({name: jnp.asarray(value) for name, value in self.learned.items()})
            save_lora(directory / "lora.safetensors", {"unet": lora}, overwrite=True)
        self.pipeline.save(directory / "pipeline")


def description(
    config: UnlearningConfig,
    pairs: Sequence[PromptPair],
    retained: Sequence[str],
    selection: Selection,
    model: JsonMapping,
    devices: Sequence[str],
    images: str = "",
) -> JsonObject:
    """What `config.json` of a run directory holds: enough to repeat the run."""
    d = divergence(config.divergence)
    return {
        "config": config.to_dict(),
        "resolved": {
            "pairs": [{"target": pair.target, "anchor": pair.anchor} for pair in pairs],
            "retained": list(retained),
            "divergence": {
                "name": d.name,
                "generator": str(d.generator),
                "curvature": str(d.curvature),
            },
            "trainable": {
                "pattern": selection.pattern,
                "parameters": selection.count,
                "of": selection.total,
                "names": list(selection.names),
            },
        },
        "model": dict(model),
        **({"images": images} if images else {}),
        "seed": config.seed,
        "devices": list(devices),
        "versions": versions(),
    }


def record(directory: Path, **facts: object) -> None:
    """Add entries to the `result.json` of a run directory; nothing where that is not to be read, as in the
    directory of another version."""
    path = directory / RESULT
    try:
        summary = read_json(path)
    except (OSError, ValueError):
        return
    with atomic_file(path, overwrite=True) as temporary:
        temporary.write_text(json.dumps({**summary, **facts}, indent=2) + "\n")


def check_output(directory: str | os.PathLike[str], *, resume: bool = False) -> Path:
    """The run directory, when a run may write it; with `resume`, it may hold something.

    Raises:
        FileExistsError: it holds something already, and `resume` is off.
        NotADirectoryError: it, or what it would be in, is a file.
        PermissionError: it cannot be made there.
    """
    path = Path(directory)
    if path.is_dir():
        if any(path.iterdir()) and not resume:
            raise FileExistsError(
                f"output {path} exists and is not empty; expected an empty or a new directory; "
                "resume goes on with it"
            )
    elif path.exists():
        raise NotADirectoryError(f"output {path} is a file; expected an empty or a new directory")
    check_place(path)
    return path


def versions(packages: Sequence[str] = _PACKAGES) -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    result = {"python": platform.python_version()}
    for name in packages:
        try:
            result[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            result[name] = "not installed"
    return result
