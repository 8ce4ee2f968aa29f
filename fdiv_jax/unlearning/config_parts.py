"""The parts of a configuration: optimiser, critic, anchor images, preservation, saliency, adversary, LoRA,
closed-form edit."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from fdiv_jax.diffusion import SAMPLERS
from fdiv_jax.pipeline.drawing_defaults import DrawingDefaults
from fdiv_jax.unlearning import _validate as check
from fdiv_jax.unlearning._validate import set_field

if TYPE_CHECKING:
    from fdiv_jax.pipeline import TextToImagePipeline

__all__ = [
    "AdversaryConfig",
    "AnchorImagesConfig",
    "CriticConfig",
    "EditConfig",
    "LoraConfig",
    "OptimiserConfig",
    "PreservationConfig",
    "SaliencyConfig",
]

LearningRateSchedule = Literal["constant", "linear", "cosine"]
CriticInput = Literal["prediction", "x0"]
GeneratorLoss = Literal["conjugate", "non-saturating"]
ImagesAt = Literal["anchor", "target"]
PreservedPrompts = Literal["anchor", "retained", "random"]
AttackedFeatures = Literal["prompt", "token"]
PreservedOutput = Literal["model", "noise"]
Reference = Literal["frozen", "current"]
EditForm = Literal["uce", "rece", "speed", "refinement"]

_ORDINARY = DrawingDefaults("dpm++", 25, 6.0)
"""How the images of a model that was not distilled are drawn where nothing is said."""


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
    sampler: str | None = None
    """The sampler: ddim, dpm++, dpmsolver++karras, euler, euler_karras, euler_a or lcm; None: dpm++, or the
    model's own where it was distilled to draw in a few steps (turbo, LCM)."""
    steps: int | None = None
    """Number of steps of the sampler; None: 25, or the model's own."""
    guidance: float | None = None
    """Classifier-free guidance of the images; the training itself uses none, but for latent consistency
    models, which take it as an input. None: 6, or the model's own."""
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
        if self.sampler is not None:
            check.one_of("images.sampler", self.sampler, SAMPLERS)
        if self.steps is not None:
            set_field(self, "steps", check.whole("images.steps", self.steps, least=1))
        if self.guidance is not None:
            set_field(self, "guidance", check.real("images.guidance", self.guidance, least=0))
        set_field(self, "seed", check.seed("images.seed", self.seed))

    def resolved(self, pipe: TextToImagePipeline) -> AnchorImagesConfig:
        """The same with sampler, steps and guidance named."""
        drawing = self.drawing(pipe)
        return replace(self, sampler=drawing.sampler, steps=drawing.steps, guidance=drawing.guidance)

    def drawing(self, pipe: TextToImagePipeline) -> DrawingDefaults:
        """Sampler, steps and guidance of a model's images."""
        own = pipe.drawing_defaults
        if not own.reason:
            own = _ORDINARY
        given = {"sampler": self.sampler, "steps": self.steps, "guidance": self.guidance}
        return own._replace(**{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True)
class PreservationConfig:
    """Prior preservation: weight times the mean squared error at prompts where the model is to stay.

    Raises:
        ValueError: a value out of range.
        TypeError: a value of the wrong type.

    Source: Kumari et al., Ablating concepts in text-to-image diffusion models, 2023; the surgery: Yu et al.,
    Gradient surgery for multi-task learning, 2020, one-sided as in Novello et al., 2025; random: Lyu et al.,
    One-dimensional adapter to rule them all, 2024; the balance: Wu et al., Erasing undesirable influence in
    diffusion models, 2024.
    """

    weight: float = 0.0
    """Weight lambda of prior preservation; 0 leaves it out."""
    at: PreservedPrompts = "anchor"
    """Prompts and images of prior preservation: anchor (those of the batch), retained (the retained
    prompts'), or random (the images of the batch, with random text features as long as the target prompt's
    and rarely near them: the latent anchoring of SPM)."""
    against: PreservedOutput = "model"
    """Goal of the trained model's output: model (the frozen model's output), or noise (the noise itself, as
    the authors do)."""
    surgery: bool = True
    """Where a tensor's two gradients have a negative inner product, remove from that of the loss its
    component along the other (gradient surgery)."""
    balance: float | None = None
    """Multiply the gradient of the loss by max(balance - c, 0), c the cosine between it and that of prior
    preservation (EraseDiff's rule, without surgery); None: by 1."""

    def __post_init__(self) -> None:
        set_field(self, "weight", check.real("preservation.weight", self.weight, least=0))
        check.one_of("preservation.at", self.at, get_args(PreservedPrompts))
        check.one_of("preservation.against", self.against, get_args(PreservedOutput))
        check.truth("preservation.surgery", self.surgery)
        if self.balance is None:
            return
        set_field(self, "balance", check.real("preservation.balance", self.balance, above=0))
        if self.surgery or not self.weight:
            beside = "beside preservation.surgery" if self.surgery else "without preservation.weight"
            raise ValueError(
                f"preservation.balance {self.balance:g} {beside}; expected preservation.surgery False and a "
                "preservation.weight"
            )

    @property
    def data(self) -> PreservedPrompts | None:
        """The prompts whose rows every batch brings for the term; None: it needs no other than the loss."""
        return self.at if self.weight and self.at != "random" else None


@dataclass(frozen=True)
class SaliencyConfig:
    """The mask of the parameters that learn: those that matter most for what is to be forgotten.

    Before the first step the gradient of the noise's squared error at the target prompts, with guidance, is
    added up over all of their images; the parameters with the largest absolute sums learn, the others stay.

    Raises:
        ValueError: a share outside (0, 1].
        TypeError: a value of the wrong type.

    Source: Fan et al., SalUn: empowering machine unlearning via gradient-based weight saliency, 2024.
    """

    share: float | None = None
    """Share of the parameters that learns, in (0, 1]; None: no mask is made, all of them learn."""
    guidance: float = 7.5
    """Classifier-free guidance g of the prediction (1 + g) e_c - g e_0 whose error is looked at."""

    def __post_init__(self) -> None:
        set_field(self, "guidance", check.real("saliency.guidance", self.guidance, least=0))
        if self.share is None:
            return
        share = check.real("saliency.share", self.share)
        if not 0 < share <= 1:
            raise ValueError(f"saliency.share must be a share in (0, 1], got {self.share!r}")
        set_field(self, "share", share)


@dataclass(frozen=True)
class AdversaryConfig:
    """An attack within every step: text features near the target prompts' at which the concept comes back.

    From a random start, signed-gradient steps on the features c that the UNet attends to bring the trained
    model's output at c + d nearer to the frozen model's at the target prompt, |d| <= radius in every
    coordinate; the loss is then taken at c + d. They are the same steps for every f, which rises with m.
    Retained samples are left alone.

    Raises:
        ValueError: a value out of range, or a setting without steps.
        TypeError: a value of the wrong type.

    Source: Zhang et al., Defensive unlearning with adversarial training for robust concept erasure in
    diffusion models, 2024; the steps: Madry et al., Towards deep learning models resistant to adversarial
    attacks, 2018.
    """

    steps: int = 0
    """Number of signed-gradient steps of the attack within each step of the model; 0: no adversary."""
    at: AttackedFeatures = "prompt"
    """The features that are attacked: prompt (those of every token), or token (those of the last padding
    token alone, which stand for an extra word)."""
    radius: float = 0.5
    """Greatest change of a coordinate of the features."""
    step: float | None = None
    """Change of a coordinate in one step of the attack; None: 2.5 radius / steps."""
    after: int = 0
    """Number of steps of the model before the first attack."""

    def __post_init__(self) -> None:
        check.one_of("adversary.at", self.at, get_args(AttackedFeatures))
        set_field(self, "steps", check.whole("adversary.steps", self.steps, least=0))
        set_field(self, "after", check.whole("adversary.after", self.after, least=0))
        set_field(self, "radius", check.real("adversary.radius", self.radius, above=0))
        if self.step is not None:
            set_field(self, "step", check.real("adversary.step", self.step, above=0))
        for name in _chosen(self):
            if not self.steps:
                raise ValueError(
                    f"adversary.{name} {getattr(self, name)!r} without adversary.steps; expected "
                    "adversary.steps >= 1"
                )

    @property
    def stride(self) -> float:
        """The change of a coordinate in one step."""
        return 2.5 * self.radius / max(self.steps, 1) if self.step is None else self.step


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

        uce           ridge regression: the target's tokens are seen as the anchor's, the retained ones stay
        rece          that, then again for the embeddings by which the edited model still finds the target
        speed         ridge regression among the changes that retained tokens do not see at all
        refinement    uce for the tokens around the concept in place of its own (the first stage of MACE)

    Raises:
        ValueError: a value out of range, or a setting that the form does not have.
        TypeError: a value of the wrong type.

    Source: Gandikota et al., Unified concept editing in diffusion models, 2024; Gong et al., Reliable and
    efficient concept erasure of text-to-image diffusion models, 2024; Li et al., SPEED: scalable, precise,
    and efficient concept erasure for diffusion models, 2026; Lu et al., MACE: mass concept erasure in
    diffusion models, 2024.
    """

    form: EditForm = "uce"
    """The equation that is solved: uce, rece, speed or refinement."""
    erase: float = 1.0
    """Weight of the target's tokens, which are mapped to the anchor's."""
    preserve: float = 1.0
    """Weight of the retained prompts' tokens, which keep their values; `speed` holds them by a constraint
    instead."""
    ridge: float = 0.5
    """Weight of the distance to the original matrices."""
    rounds: int = 1
    """Number of times that rece derives embeddings and edits them away."""
    regularisation: float = 0.1
    """Weight of the squared norm of the embeddings that rece derives."""
    threshold: float = 0.1
    """Mean square along a direction from which on the retained tokens count as lying in it (speed)."""
    filtered: bool = True
    """Hold only the retained tokens that an edit without constraints would change more than the average
    (speed: influence-based prior filtering)."""
    augment: int = 10
    """Number of copies of each held token, moved along the direction that a matrix sees least, of which those
    that would change more than the average are held as well; 0: none (speed: directed prior augmentation)."""

    def __post_init__(self) -> None:
        check.one_of("edit.form", self.form, get_args(EditForm))
        set_field(self, "erase", check.real("edit.erase", self.erase, above=0))
        set_field(self, "preserve", check.real("edit.preserve", self.preserve, least=0))
        set_field(self, "ridge", check.real("edit.ridge", self.ridge, above=0))
        set_field(self, "rounds", check.whole("edit.rounds", self.rounds, least=1))
        regularisation = check.real("edit.regularisation", self.regularisation, above=0)
        set_field(self, "regularisation", regularisation)
        set_field(self, "threshold", check.real("edit.threshold", self.threshold, above=0))
        check.truth("edit.filtered", self.filtered)
        set_field(self, "augment", check.whole("edit.augment", self.augment, least=0))
        for name in _chosen(self):
            form = _FORMS.get(name, self.form)
            if form != self.form:
                raise ValueError(
                    f"edit.{name} {getattr(self, name)!r} with edit.form {self.form!r}, which has none; "
                    f"expected edit.form {form!r}"
                )


_FORMS = {"rounds": "rece", "regularisation": "rece"}
_FORMS |= dict.fromkeys(("threshold", "filtered", "augment"), "speed")
"""The settings that one form alone has."""


def _chosen(settings: Any) -> list[str]:
    """The settings that are not the default ones."""
    return [each.name for each in fields(settings) if getattr(settings, each.name) != each.default]
