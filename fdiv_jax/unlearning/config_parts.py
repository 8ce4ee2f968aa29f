"""The parts of a configuration: optimiser, critic, anchor images, preservation, LoRA, closed-form edit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from fdiv_jax.diffusion import SAMPLERS
from fdiv_jax.unlearning import _validate as check
from fdiv_jax.unlearning._validate import set_field

__all__ = [
    "AnchorImagesConfig",
    "CriticConfig",
    "EditConfig",
    "LoraConfig",
    "OptimiserConfig",
    "PreservationConfig",
]

LearningRateSchedule = Literal["constant", "linear", "cosine"]
CriticInput = Literal["prediction", "x0"]
GeneratorLoss = Literal["conjugate", "non-saturating"]
ImagesAt = Literal["anchor", "target"]
PreservedPrompts = Literal["anchor", "retained"]
PreservedOutput = Literal["model", "noise"]
Reference = Literal["frozen", "current"]


@dataclass(frozen=True)
class OptimiserConfig:
    """The optimiser of the trained parameters.

    Raises:
        ValueError: a value out of range.
        TypeError: a value of the wrong type.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    """The optimiser: adamw, or sgd (plain gradient descent, the path that the theory's rates describe)."""
    b1: float = 0.9
    """Decay of AdamW's first moment."""
    b2: float = 0.99
    """Decay of AdamW's second moment."""
    eps: float = 1e-8
    """Constant added to the root of AdamW's second moment."""
    weight_decay: float = 0.0
    """Decoupled weight decay of AdamW. It pulls what learns towards zero, not towards where it began."""
    clip_norm: float | None = None
    """Largest global norm of the gradient; a larger gradient is scaled down to it. None: no limit."""
    schedule: LearningRateSchedule = "constant"
    """Learning rate over the steps: constant, or linear or cosine, both of which end at zero."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises from zero."""
    ema: float | None = None
    """Decay of an exponential moving average of what learns, which is then the result; None: no average."""
    patience: int = 5
    """Consecutive steps with a loss, gradient or parameter that is not finite after which the run stops; such
    steps change nothing."""

    def __post_init__(self) -> None:
        check.one_of("optimiser.name", self.name, ("adamw", "sgd"))
        check.one_of("optimiser.schedule", self.schedule, get_args(LearningRateSchedule))
        set_field(self, "warmup_steps", check.whole("optimiser.warmup_steps", self.warmup_steps, least=0))
        set_field(self, "patience", check.whole("optimiser.patience", self.patience, least=1))
        if self.ema is not None:
            set_field(self, "ema", check.real("optimiser.ema", self.ema, least=0, below=1))
        for name in ("b1", "b2"):
            set_field(self, name, check.real(f"optimiser.{name}", getattr(self, name), least=0, below=1))
        set_field(self, "eps", check.real("optimiser.eps", self.eps, above=0))
        set_field(self, "weight_decay", check.real("optimiser.weight_decay", self.weight_decay, least=0))
        if self.clip_norm is not None:
            set_field(self, "clip_norm", check.real("optimiser.clip_norm", self.clip_norm, above=0))


@dataclass(frozen=True)
class CriticConfig:
    """The critic of the variational loss and its training; the other losses have none.

    Raises:
        ValueError: a value out of range.
        TypeError: a value of the wrong type.
    """

    learning_rate: float = 1e-4
    """Learning rate of the critic's AdamW."""
    warmup: int = 30
    """Number of steps in which only the critic learns, before the first step of the model."""
    steps: int = 1
    """Steps of the critic for each step of the model."""
    weight_decay: float = 0.01
    """Weight decay of the critic's AdamW."""
    hidden_channels: tuple[int, ...] = (64, 128, 256)
    """Channels of the critic's stride-2 convolutions."""
    head_channels: int = 512
    """Channels of the critic's last hidden layer."""
    sees: CriticInput = "prediction"
    """The critic's input, beside the mask: prediction (the networks' outputs, f-DMU), or x0 (the images that
    they stand for, DoCo)."""
    spectral_norm: bool = True
    """Divide the critic's kernels by their largest singular values."""
    generator: GeneratorLoss = "conjugate"
    """The model's loss against the critic: conjugate, -E_Q[f*(T)], or non-saturating, -E_Q[T]."""

    def __post_init__(self) -> None:
        check.one_of("critic.sees", self.sees, get_args(CriticInput))
        check.one_of("critic.generator", self.generator, get_args(GeneratorLoss))
        check.truth("critic.spectral_norm", self.spectral_norm)
        set_field(self, "learning_rate", check.real("critic.learning_rate", self.learning_rate, above=0))
        set_field(self, "warmup", check.whole("critic.warmup", self.warmup, least=0))
        set_field(self, "steps", check.whole("critic.steps", self.steps, least=1))
        set_field(self, "weight_decay", check.real("critic.weight_decay", self.weight_decay, least=0))
        if not isinstance(self.hidden_channels, (tuple, list)) or not self.hidden_channels:
            raise TypeError(f"critic.hidden_channels must be a sequence, got {self.hidden_channels!r}")
        widths = tuple(
            check.whole("critic.hidden_channels", width, least=1) for width in self.hidden_channels
        )
        set_field(self, "hidden_channels", widths)
        set_field(self, "head_channels", check.whole("critic.head_channels", self.head_channels, least=1))


@dataclass(frozen=True)
class AnchorImagesConfig:
    """The images that the frozen model draws at the anchor prompts: the x_0 of the training.

    Raises:
        ValueError: a value out of range.
        TypeError: a value of the wrong type.
    """

    number: int = 200
    """Number of images, divided evenly (rounded up) among the anchor prompts."""
    sampler: str = "dpm++"
    """The sampler: ddim, dpm++, dpmsolver++karras, euler, euler_karras or euler_a."""
    steps: int = 25
    """Number of steps of the sampler."""
    guidance: float = 6.0
    """Classifier-free guidance of the images; the training itself uses no guidance."""
    seed: int = 0
    """Seed of the images, separate from that of the training, so that runs with different seeds share
    them."""
    at: ImagesAt = "anchor"
    """The prompts that the images of a pair are drawn at: anchor, or target."""
    mirror: bool = False
    """Add the mirror image of every image."""
    folder: str | None = None
    """Folder of your own images for the anchor prompts, perhaps with a metadata.jsonl whose lines have
    `file_name`, `text` (an anchor prompt) and optionally `mask_file_name`; None: the model draws them."""
    resize: bool = False
    """Crop and scale the images of the folder to the model's size; otherwise they must have that size."""

    def __post_init__(self) -> None:
        check.one_of("images.at", self.at, get_args(ImagesAt))
        check.truth("images.mirror", self.mirror)
        check.truth("images.resize", self.resize)
        if self.folder is not None:
            set_field(self, "folder", check.text("images.folder", str(self.folder)))
        set_field(self, "number", check.whole("images.number", self.number, least=1))
        check.one_of("images.sampler", self.sampler, SAMPLERS)
        set_field(self, "steps", check.whole("images.steps", self.steps, least=1))
        set_field(self, "guidance", check.real("images.guidance", self.guidance, least=0))
        set_field(self, "seed", check.seed("images.seed", self.seed))


@dataclass(frozen=True)
class PreservationConfig:
    """Prior preservation: weight times the mean squared error at prompts where the model is to stay.

    Raises:
        ValueError: a value out of range.
        TypeError: a value of the wrong type.

    Source: Kumari et al., Ablating concepts in text-to-image diffusion models, 2023; the surgery: Yu et al.,
    Gradient surgery for multi-task learning, 2020, one-sided as in Novello et al., 2025.
    """

    weight: float = 0.0
    """Weight lambda of prior preservation; 0 leaves it out."""
    at: PreservedPrompts = "anchor"
    """Prompts and images of prior preservation: anchor (those of the batch), or retained (the retained
    prompts')."""
    against: PreservedOutput = "model"
    """Goal of the trained model's output: model (the frozen model's output), or noise (the noise itself, as
    the authors do)."""
    surgery: bool = True
    """Where a tensor's two gradients have a negative inner product, remove from that of the loss its
    component along the other (gradient surgery)."""

    def __post_init__(self) -> None:
        set_field(self, "weight", check.real("preservation.weight", self.weight, least=0))
        check.one_of("preservation.at", self.at, get_args(PreservedPrompts))
        check.one_of("preservation.against", self.against, get_args(PreservedOutput))
        check.truth("preservation.surgery", self.surgery)


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank changes instead of the weights themselves.

    Raises:
        ValueError: a value out of range.
        TypeError: a value of the wrong type.
    """

    rank: int | None = None
    """Rank of the change of every kernel of the group; None: the weights themselves learn."""
    alpha: float | None = None
    """Numerator of the scale alpha / rank of the change; None: the rank, a scale of 1."""

    def __post_init__(self) -> None:
        if self.rank is not None:
            set_field(self, "rank", check.whole("lora.rank", self.rank, least=1))
        if self.alpha is not None:
            set_field(self, "alpha", check.real("lora.alpha", self.alpha, above=0))
            if self.rank is None:
                raise ValueError(f"lora.alpha {self.alpha:g} without lora.rank")


@dataclass(frozen=True)
class EditConfig:
    """The closed-form edit of the cross-attentions' to_k and to_v (method "edit").

    Raises:
        ValueError: a value out of range.
        TypeError: a value of the wrong type.

    Source: Gandikota et al., Unified concept editing in diffusion models, 2024.
    """

    erase: float = 1.0
    """Weight of the target's tokens, which are mapped to the anchor's."""
    preserve: float = 1.0
    """Weight of the retained prompts' tokens, which keep their values."""
    ridge: float = 0.5
    """Weight of the distance to the original matrices."""

    def __post_init__(self) -> None:
        set_field(self, "erase", check.real("edit.erase", self.erase, above=0))
        set_field(self, "preserve", check.real("edit.preserve", self.preserve, least=0))
        set_field(self, "ridge", check.real("edit.ridge", self.ridge, above=0))
