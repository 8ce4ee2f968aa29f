"""What an unlearning run is told: one frozen dataclass, checked when it is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from fdiv_jax.diffusion import SAMPLERS
from fdiv_jax.divergences import Divergence, divergence
from fdiv_jax.unlearning import _validate as check

__all__ = [
    "AnchorImagesConfig",
    "CriticConfig",
    "Devices",
    "LossFamily",
    "OptimiserConfig",
    "Scale",
    "UnlearningConfig",
]

LossFamily = Literal["closed", "exact", "variational"]
Scale = Literal["mean", "sum", "schedule"]
Devices = Literal["single", "all"]


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
    """Of AdamW, decoupled. It would pull the trained parameters to zero, not to where they were."""
    clip_norm: float | None = None
    """Scale gradients of a greater global norm down to it; None: never."""

    def __post_init__(self) -> None:
        check.one_of("optimiser.name", self.name, ("adamw", "sgd"))
        for name in ("b1", "b2"):
            _set(self, name, check.real(f"optimiser.{name}", getattr(self, name), least=0, below=1))
        _set(self, "eps", check.real("optimiser.eps", self.eps, above=0))
        _set(self, "weight_decay", check.real("optimiser.weight_decay", self.weight_decay, least=0))
        if self.clip_norm is not None:
            _set(self, "clip_norm", check.real("optimiser.clip_norm", self.clip_norm, above=0))


@dataclass(frozen=True)
class CriticConfig:
    """The critic of the variational loss and its training; the other losses have none.

    Raises ValueError or TypeError for a value out of range.
    """

    learning_rate: float = 1e-4
    """Of the critic's AdamW."""
    warmup: int = 30
    """Steps before the first one of the model in which only the critic learns."""
    steps: int = 1
    """Steps of the critic for each of the model."""
    weight_decay: float = 0.01
    """Of the critic's AdamW."""
    hidden_channels: tuple[int, ...] = (64, 128, 256)
    """Channels of its stride-2 convolutions."""
    head_channels: int = 512
    """Channels of its last hidden layer."""

    def __post_init__(self) -> None:
        _set(self, "learning_rate", check.real("critic.learning_rate", self.learning_rate, above=0))
        _set(self, "warmup", check.whole("critic.warmup", self.warmup, least=0))
        _set(self, "steps", check.whole("critic.steps", self.steps, least=1))
        _set(self, "weight_decay", check.real("critic.weight_decay", self.weight_decay, least=0))
        if not isinstance(self.hidden_channels, (tuple, list)) or not self.hidden_channels:
            raise TypeError(f"critic.hidden_channels must be a sequence, got {self.hidden_channels!r}")
        widths = tuple(
            check.whole("critic.hidden_channels", width, least=1) for width in self.hidden_channels
        )
        _set(self, "hidden_channels", widths)
        _set(self, "head_channels", check.whole("critic.head_channels", self.head_channels, least=1))


@dataclass(frozen=True)
class AnchorImagesConfig:
    """The images that the frozen model draws at the anchor prompts: the x_0 of the training.

    Raises ValueError or TypeError for a value out of range.
    """

    number: int = 200
    """Images in all, shared out evenly (and rounded up) over the anchor prompts."""
    sampler: str = "dpm++"
    """Sampler: ddim or dpm++."""
    steps: int = 25
    """Steps of the sampler."""
    guidance: float = 6.0
    """Classifier-free guidance of the images; the training itself has none."""
    seed: int = 0
    """Seed of the images, apart from the run's own, so that runs of many seeds share them."""

    def __post_init__(self) -> None:
        _set(self, "number", check.whole("images.number", self.number, least=1))
        check.one_of("images.sampler", self.sampler, SAMPLERS)
        _set(self, "steps", check.whole("images.steps", self.steps, least=1))
        _set(self, "guidance", check.real("images.guidance", self.guidance, least=0))
        _set(self, "seed", check.whole("images.seed", self.seed, least=0))


@dataclass(frozen=True)
class UnlearningConfig:
    """What to unlearn and how.

    The trained model at the target prompt c* is drawn to the frozen model at the anchor prompt c by
    minimising D_f(p(x_{t-1} | x_t, c) || q(x_{t-1} | x_t, c*)) over noised images x_t of the anchor prompts.

    Raises ValueError for a value out of range or a combination that makes no sense, TypeError for a value of
    another kind; both name the value and what was expected.

    Source: Novello et al., A unified framework for diffusion model unlearning with f-divergence, 2025.
    """

    target: str
    """The concept to unlearn: one of the model's own (see its concepts.json), or a phrase that occurs in
    every one of `prompts`."""
    anchor: str = "superclass"
    """What takes its place: superclass, near (both from the model's concepts.json), empty (the empty
    prompt), or a phrase or concept that replaces the target in its prompts; `prompt: TEXT` is a whole prompt
    instead."""
    divergence: str = "squared_hellinger"
    """A name of the catalogue or any generator in t."""
    loss: LossFamily = "closed"
    """closed: the divergence's formula in m; exact: quadrature, for any divergence; variational: against a
    critic."""
    scale: Scale = "mean"
    """What the squared distance m is: mean (summed over channels, averaged over pixels, variance 1), sum
    (summed over both, variance 1), or schedule (that of the reverse kernels, over their variance)."""
    normalise_curvature: bool = False
    """Divide the loss by f''(1), to compare divergences at equal curvature."""
    trainable: str = "cross-attn"
    """The parameters that learn: cross-attn (to_k and to_v of the cross-attentions), attn (every projection
    of every attention), full, or a regular expression to be found in the parameters' dotted names."""
    prompts: tuple[str, ...] = ()
    """Prompts that show the target; empty: those of the model's concepts.json."""
    retained: tuple[str, ...] | None = None
    """Prompts at which the model is to stay as it is: a share of every batch compares the model with itself
    there. None: the empty prompt and the prompts of the model's other concepts of the target's kind; empty:
    none, the plain method of the paper."""
    retained_share: float = 0.5
    """The share of a batch at retained prompts, where there are any."""
    steps: int = 300
    """Steps of the model."""
    batch_size: int = 16
    """Samples a step, over all devices."""
    learning_rate: float = 1e-3
    """Of the trained parameters; constant."""
    seed: int = 0
    """Of everything random in the training."""
    timestep_range: tuple[int, int] | None = None
    """Timesteps are uniform from the first of these to the last, both included; None: all of the
    schedule's."""
    devices: Devices = "single"
    """single, or all: data parallelism over all local devices."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """The optimiser of the trained parameters."""
    critic: CriticConfig = field(default_factory=CriticConfig)
    """The critic, for the variational loss."""
    images: AnchorImagesConfig = field(default_factory=AnchorImagesConfig)
    """The anchor images."""

    def __post_init__(self) -> None:
        _set(self, "target", check.text("target", self.target))
        hint = "; the empty prompt is anchor 'empty'"
        _set(self, "anchor", check.text("anchor", self.anchor, hint))
        check.one_of("loss", self.loss, get_args(LossFamily))
        check.one_of("scale", self.scale, get_args(Scale))
        check.one_of("devices", self.devices, get_args(Devices))
        check.truth("normalise_curvature", self.normalise_curvature)
        check.text("trainable", self.trainable)
        _set(self, "prompts", check.texts("prompts", self.prompts))
        if self.retained is not None:
            _set(self, "retained", check.texts("retained", self.retained))
        _set(self, "retained_share", check.real("retained_share", self.retained_share, least=0, below=1))
        _set(self, "steps", check.whole("steps", self.steps, least=1))
        _set(self, "batch_size", check.whole("batch_size", self.batch_size, least=1))
        _set(self, "learning_rate", check.real("learning_rate", self.learning_rate, above=0))
        _set(self, "seed", check.whole("seed", self.seed, least=0))
        _set(self, "timestep_range", _timestep_range(self.timestep_range))
        for name, kind in _PARTS.items():
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"{name} must be of type {kind.__name__}, got {getattr(self, name)!r}")
        self._check_divergence()

    def _check_divergence(self) -> None:
        if isinstance(self.divergence, Divergence):
            _set(self, "divergence", self.divergence.name)
        check.text("divergence", self.divergence)
        if self.divergence.lower() == "mse":
            raise ValueError("divergence 'mse': the squared error is the kl member, D = m/2; expected 'kl'")
        d = divergence(self.divergence)
        if self.loss == "closed" and d.closed_form is None:
            raise ValueError(
                f"loss 'closed': {d.name} has no closed form in m; expected loss 'exact' (quadrature, any "
                "divergence) or 'variational'"
            )
        if self.normalise_curvature and not d.curvature.is_finite:
            raise ValueError(
                f"normalise_curvature: the curvature f''(1) of {d.name} is infinite (a kink at t = 1)"
            )

    def to_dict(self) -> dict[str, Any]:
        """The configuration as JSON holds it; `from_dict` reads it back to an equal one."""
        return _plain(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> UnlearningConfig:
        """Read what `to_dict` gave.

        Raises:
            ValueError: an unknown key (names the nearest known one), or a value out of range.
            TypeError: a value of another kind.
        """
        values = check.known_keys("configuration", mapping, (f.name for f in dataclasses.fields(cls)))
        for name, kind in _PARTS.items():
            if name in values and not isinstance(values[name], kind):
                part = check.known_keys(name, values[name], (f.name for f in dataclasses.fields(kind)))
                values[name] = kind(**part)
        return cls(**values)


_PARTS: dict[str, type] = {"optimiser": OptimiserConfig, "critic": CriticConfig, "images": AnchorImagesConfig}


def _timestep_range(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"timestep_range must be a pair (first, last), got {value!r}")
    first, last = (check.whole("timestep_range", t, least=0) for t in value)
    if first > last:
        raise ValueError(f"timestep_range must be (first, last) with first <= last, got {(first, last)}")
    return first, last


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (tuple, list)) else value


def _set(instance: Any, name: str, value: Any) -> None:
    """Set a field of a frozen dataclass while it is being made."""
    object.__setattr__(instance, name, value)
