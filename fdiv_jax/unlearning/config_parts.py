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

    Raises ValueError or TypeError for a value out of range.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    """adamw, or sgd: plain gradient descent, whose path is the one that the theory's rates describe."""
    b1: float = 0.9
    """Decay of AdamW's first moment."""
    b2: float = 0.99
    """Decay of AdamW's second moment."""
    eps: float = 1e-8
    """Added to the root of AdamW's second moment."""
    weight_decay: float = 0.0
    """Decoupled weight decay of AdamW. It would pull what learns to zero, not to where it was."""
    clip_norm: float | None = None
    """Scale gradients of a greater global norm down to it; None: never."""
    schedule: LearningRateSchedule = "constant"
    """Learning rate over the steps: constant, or linear or cosine, which end at zero."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises from zero."""
    ema: float | None = None
    """Decay of an exponential moving average of what learns, which is then the result; None: none."""
    patience: int = 5
    """Steps in a row with a loss, a gradient or a parameter that is not finite before the run stops; such
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

    Raises ValueError or TypeError for a value out of range.
    """

    learning_rate: float = 1e-4
    """Learning rate of the critic's AdamW."""
    warmup: int = 30
    """Steps before the first one of the model in which only the critic learns."""
    steps: int = 1
    """Steps of the critic for each of the model."""
    weight_decay: float = 0.01
    """Weight decay of the critic's AdamW."""
    hidden_channels: tuple[int, ...] = (64, 128, 256)
    """Channels of its stride-2 convolutions."""
    head_channels: int = 512
    """Channels of its last hidden layer."""
    sees: CriticInput = "prediction"
    """What the critic looks at, beside the mask: the networks' predictions (f-DMU), or the x_0 that
    they stand for (DoCo)."""
    spectral_norm: bool = True
    """Divide its kernels by their largest singular values."""
    generator: GeneratorLoss = "conjugate"
    """The model's loss: conjugate, -E_Q[f*(T)], or non-saturating, -E_Q[T]."""

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

    Raises ValueError or TypeError for a value out of range.
    """

    number: int = 200
    """Number of images, shared out evenly (and rounded up) over the anchor prompts."""
    sampler: str = "dpm++"
    """Sampler: ddim or dpm++."""
    steps: int = 25
    """Steps of the sampler."""
    guidance: float = 6.0
    """Classifier-free guidance of the images; the training itself has none."""
    seed: int = 0
    """Seed of the images, apart from the run's own, so that runs of many seeds share them."""
    at: ImagesAt = "anchor"
    """The prompts that the images of a pair are drawn at: anchor, or target."""
    mirror: bool = False
    """Take every image's mirror image as well."""
    folder: str | None = None
    """The user's own images for the anchor prompts, a folder of image files, or one with a metadata.jsonl
    whose lines have `file_name`, `text` (an anchor prompt) and perhaps `mask_file_name`; None: they are
    drawn."""
    resize: bool = False
    """Cut and scale the user's images to the model's size; otherwise they must have it."""

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

    Raises ValueError or TypeError for a value out of range.

    Source: Kumari et al., Ablating concepts in text-to-image diffusion models, 2023; the surgery: Yu et al.,
    Gradient surgery for multi-task learning, 2020, one-sided as in Novello et al., 2025.
    """

    weight: float = 0.0
    """lambda, what the term is multiplied by; 0 leaves it out."""
    at: PreservedPrompts = "anchor"
    """Its prompts and images: the anchors' of the batch, or the retained prompts'."""
    against: PreservedOutput = "model"
    """What the trained model is compared with: the frozen model, or the noise itself (as the authors do)."""
    surgery: bool = True
    """Where the two gradients of a tensor have a negative inner product, take from that of the loss its
    component along the other."""

    def __post_init__(self) -> None:
        set_field(self, "weight", check.real("preservation.weight", self.weight, least=0))
        check.one_of("preservation.at", self.at, get_args(PreservedPrompts))
        check.one_of("preservation.against", self.against, get_args(PreservedOutput))
        check.truth("preservation.surgery", self.surgery)


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank changes instead of the weights themselves.

    Raises ValueError or TypeError for a value out of range.
    """

    rank: int | None = None
    """Rank of the change of every kernel of the group; None: the weights themselves learn."""
    alpha: float | None = None
    """The change is scaled by alpha / rank; None: the rank."""

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

    Raises ValueError or TypeError for a value out of range.

    Source: Gandikota et al., Unified concept editing in diffusion models, 2024.
    """

    erase: float = 1.0
    """Weight of the target tokens, which are to be seen as the anchor's."""
    preserve: float = 1.0
    """Weight of the retained prompts' tokens."""
    ridge: float = 0.5
    """Weight of the pull to the original matrices."""

    def __post_init__(self) -> None:
        set_field(self, "erase", check.real("edit.erase", self.erase, above=0))
        set_field(self, "preserve", check.real("edit.preserve", self.preserve, least=0))
        set_field(self, "ridge", check.real("edit.ridge", self.ridge, above=0))
