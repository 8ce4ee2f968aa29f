"""The configuration of an unlearning run: one frozen dataclass, checked when it is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from fdiv_jax.distributed import Parallel
from fdiv_jax.divergences import Divergence, divergence
from fdiv_jax.files import JsonMapping, JsonObject
from fdiv_jax.nn import Remat
from fdiv_jax.pipeline import Concept
from fdiv_jax.unlearning import _validate as check
from fdiv_jax.unlearning._validate import set_field as _set
from fdiv_jax.unlearning.comparison import Scale
from fdiv_jax.unlearning.concepts import Erasure
from fdiv_jax.unlearning.config_parts import (
    AdversaryConfig,
    AnchorImagesConfig,
    CriticConfig,
    EditConfig,
    LoraConfig,
    OptimiserConfig,
    PreservationConfig,
    Reference,
    SaliencyConfig,
)
from fdiv_jax.unlearning.losses import LossFamily
from fdiv_jax.unlearning.parameters import GROUPS
from fdiv_jax.unlearning.timesteps import TimestepLaw
from fdiv_jax.unlearning.trainable import EMBEDDING

__all__ = [
    "SETTINGS_SINCE",
    "AdversaryConfig",
    "AnchorImagesConfig",
    "CriticConfig",
    "Devices",
    "EditConfig",
    "LoraConfig",
    "LossFamily",
    "Method",
    "OptimiserConfig",
    "Parallel",
    "PreservationConfig",
    "Reference",
    "SaliencyConfig",
    "Scale",
    "UnlearningConfig",
]

_FIRST_EDIT = ("erase", "preserve", "ridge")
SETTINGS_SINCE: JsonObject = {
    "sigma": 1.0,
    "remat": "none",
    "parallel": None,
    "preservation": {"balance": None},
    "saliency": dataclasses.asdict(SaliencyConfig()),
    "adversary": dataclasses.asdict(AdversaryConfig()),
    "edit": {
        name: value for name, value in dataclasses.asdict(EditConfig()).items() if name not in _FIRST_EDIT
    },
}
"""Settings that configurations of earlier versions lack, and the values that those versions used."""

Devices = Literal["single", "all"]
Method = Literal["descent", "edit"]


@dataclass(frozen=True)
class UnlearningConfig:
    """What to unlearn and how.

    The trained model at the target prompt c* is drawn to the frozen model at the anchor prompt c by
    minimising D_f(p(x_{t-1} | x_t, c) || q(x_{t-1} | x_t, c*)) over noised images x_t of the anchor prompts.

    Raises:
        ValueError: a value out of range, or a combination that makes no sense.
        TypeError: a value of the wrong type. Both name the value and what was expected.

    Source: Novello et al., A unified framework for diffusion model unlearning with f-divergence, 2025.
    """

    target: str = ""
    """The concept to unlearn: one from the model's concepts.json (from the library, for a model without one),
    or a phrase that occurs in every one of `prompts`."""
    anchor: str = "superclass"
    """What takes the target's place: superclass, near (both from the model's concepts.json or the library),
    empty (the empty prompt), negative (away from the target by negative guidance), or a concept or a phrase
    that replaces the target in its prompts (`phrase: TEXT` where it looks like another word); `prompt: TEXT`
    is a whole prompt instead."""
    divergence: str = "squared_hellinger"
    """The divergence to minimise: a name, such as kl, or a generator in t, such as t*log(t)."""
    loss: LossFamily = "closed"
    """How the divergence is computed: closed (its formula in m), exact (quadrature, for any divergence) or
    variational (against a critic)."""
    scale: Scale = "mean"
    """Scale of the squared distance m: mean (summed over channels, averaged over pixels, variance 1), sum
    (summed over both, variance 1), or schedule (between the means of the reverse kernels, over their
    variance)."""
    sigma: float = 1.0
    """Standard deviation of both Gaussians in the unit of `scale`: m is divided by sigma^2. The authors' code
    has 1; the squared Hellinger formula of their README is that of 0.35355339 (m eight times as large)."""
    normalise_curvature: bool = False
    """Divide the loss by f''(1), to compare divergences at equal curvature."""
    trainable: str = "cross-attn"
    """The parameters that learn: cross-attn (to_k and to_v of the cross-attentions), attn (every projection
    of every attention), full, embedding (the targets' own token embeddings), or a regular expression to be
    found in the UNet's dotted names, such as `^(?!.*attn2)` for the rest."""
    prompts: tuple[str, ...] = ()
    """Prompts that show the target; empty: those of the model's concepts.json."""
    concepts: tuple[Erasure, ...] = ()
    """Several concepts to unlearn at once, each with its anchor and prompts, instead of `target`."""
    defined: tuple[Concept, ...] = ()
    """Concepts of the user's own, as a concept file defines them; they come before the model's."""
    method: Method = "descent"
    """How to unlearn: descent (steps of an optimiser), or edit (to_k and to_v of the cross-attentions in
    closed form, see `edit`; loss and steps play no part)."""
    reference: Reference = "frozen"
    """The model that gives the output at the anchor prompt: frozen, or current, under stop-gradient (concept
    ablation)."""
    negative_guidance: float = 1.0
    """Strength eta of the anchor `negative`: the reference is e_0 - eta (e_c - e_0), with the frozen model's
    outputs e_0 at the empty prompt and e_c at the target prompt (ESD)."""
    retained: tuple[str, ...] | None = None
    """Prompts at which the model is to stay as it is: a share of every batch compares it with the frozen
    model there. None: the empty prompt and the prompts of the model's other concepts of the target's kind;
    empty: no prompts, the plain method of the paper."""
    retained_share: float = 0.5
    """The share of a batch at retained prompts, where there are any."""
    steps: int = 300
    """Number of steps of the model."""
    batch_size: int = 16
    """Samples per step, over all devices."""
    accumulation: int = 1
    """Number of parts in which a batch is processed: same gradient, less memory."""
    remat: Remat = "none"
    """What the backward pass computes again instead of keeping it: none, blocks (what is inside each block of
    the UNet: less memory for a third more arithmetic) or full (what is inside each level)."""
    learning_rate: float = 1e-3
    """Learning rate of the trained parameters."""
    seed: int = 0
    """Seed of everything random in the training."""
    timesteps: TimestepLaw = "uniform"
    """Distribution of the timesteps: uniform, or importance (the paper's window from about 200 to 400)."""
    timestep_range: tuple[int, int] | None = None
    """First and last timestep to train on, both included; None: all of the schedule's."""
    devices: Devices = "single"
    """Devices to train on: single, or all of them, which share each batch."""
    parallel: Parallel | None = None
    """How all devices share the work, by pmap (those of one process), data (jit over a mesh of the devices of
    every process, each with the whole model) or fsdp (such a mesh, with the weights sharded over the devices
    of each process and gathered where they are used); None: pmap where `devices` is all."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """The optimiser of the trained parameters."""
    critic: CriticConfig = field(default_factory=CriticConfig)
    """The critic, for the variational loss."""
    images: AnchorImagesConfig = field(default_factory=AnchorImagesConfig)
    """The anchor images."""
    preservation: PreservationConfig = field(default_factory=PreservationConfig)
    """Prior preservation, a term beside the divergence."""
    saliency: SaliencyConfig = field(default_factory=SaliencyConfig)
    """The mask of what learns."""
    adversary: AdversaryConfig = field(default_factory=AdversaryConfig)
    """The attack within every step."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Low-rank changes instead of weights."""
    edit: EditConfig = field(default_factory=EditConfig)
    """The closed-form edit, for the method `edit`."""

    def __post_init__(self) -> None:
        _set(self, "concepts", _erasures(self.concepts))
        _set(self, "defined", _concepts(self.defined))
        if not self.concepts:
            prompts = Erasure(self.target, self.anchor, self.prompts).prompts
        else:
            prompts = check.texts("prompts", self.prompts)
            beside = f"beside {len(self.concepts)} concepts"
            if self.target or prompts:
                raise ValueError(f"target {self.target!r} {beside}; expected one or the other")
            if self.anchor != "superclass":
                raise ValueError(
                    f"anchor {self.anchor!r} {beside}, each of which has its own; expected the anchors with "
                    "the concepts"
                )
        _set(self, "prompts", prompts)
        check.one_of("method", self.method, get_args(Method))
        check.one_of("reference", self.reference, get_args(Reference))
        check.one_of("timesteps", self.timesteps, get_args(TimestepLaw))
        guidance = check.real("negative_guidance", self.negative_guidance, above=0)
        _set(self, "negative_guidance", guidance)
        check.one_of("loss", self.loss, get_args(LossFamily))
        check.one_of("scale", self.scale, get_args(Scale))
        _set(self, "sigma", check.real("sigma", self.sigma, above=0))
        check.one_of("remat", self.remat, get_args(Remat))
        check.one_of("devices", self.devices, get_args(Devices))
        if self.parallel is not None:
            check.one_of("parallel", self.parallel, get_args(Parallel))
        check.truth("normalise_curvature", self.normalise_curvature)
        check.text("trainable", self.trainable)
        if self.retained is not None:
            _set(self, "retained", check.texts("retained", self.retained))
        _set(self, "retained_share", check.real("retained_share", self.retained_share, least=0, below=1))
        _set(self, "steps", check.whole("steps", self.steps, least=1))
        _set(self, "batch_size", check.whole("batch_size", self.batch_size, least=1))
        _set(self, "accumulation", check.whole("accumulation", self.accumulation, least=1))
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"accumulation {self.accumulation} for a batch_size of {self.batch_size}; expected a divisor"
            )
        _set(self, "learning_rate", check.real("learning_rate", self.learning_rate, above=0))
        _set(self, "seed", check.seed("seed", self.seed))
        if self.timestep_range is not None:
            _set(self, "timestep_range", check.span("timestep_range", self.timestep_range))
        for name, kind in _PARTS.items():
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"{name} must be of type {kind.__name__}, got {getattr(self, name)!r}")
        self._check_divergence()
        self._check_combinations()

    def _check_divergence(self) -> None:
        if isinstance(self.divergence, Divergence):
            _set(self, "divergence", self.divergence.name)
        check.text("divergence", self.divergence)
        if self.divergence.lower() == "mse":
            _set(self, "divergence", "kl")
        check.loss_exists(divergence(self.divergence), self.loss, self.normalise_curvature)

    def _check_combinations(self) -> None:
        other = {*GROUPS, EMBEDDING} - {"cross-attn"}
        if self.method == "edit" and (self.trainable in other or self.lora.rank is not None):
            raise ValueError(
                f"method 'edit' with trainable {self.trainable!r}"
                f"{'' if self.lora.rank is None else f' and lora.rank {self.lora.rank}'}: it solves for to_k "
                "and to_v of the cross-attentions; expected 'cross-attn' and no LoRA"
            )
        if self.method == "edit" and any(each.anchor == "negative" for each in self.erasures):
            raise ValueError("anchor 'negative' with method 'edit', which has none; expected another anchor")
        if self.reference == "current":
            if any(each.anchor == "negative" for each in self.erasures):
                raise ValueError("anchor 'negative' is of the frozen model; expected reference 'frozen'")
            if self.retained and self.retained_share:
                raise ValueError(
                    "reference 'current' compares the model with itself at retained prompts, which keeps "
                    "nothing; expected preservation.weight with preservation.at 'retained', or no retained "
                    "prompts"
                )
        if self.saliency.share is not None and self.lora.rank is not None:
            raise ValueError(
                f"saliency.share {self.saliency.share:g} with lora.rank {self.lora.rank}, half of whose "
                "factors have no gradient at first; expected one or the other"
            )
        if self.preservation.weight and self.preservation.at == "random" and self.trainable == EMBEDDING:
            raise ValueError(
                "preservation.at 'random' with trainable 'embedding', which changes no random features; "
                "expected preservation.at 'anchor' or 'retained'"
            )
        descends = self.saliency.share is not None or self.adversary.steps
        if self.method == "edit" and descends:
            what = "adversary.steps" if self.adversary.steps else "saliency.share"
            raise ValueError(f"method 'edit' with {what}, which belongs to steps; expected method 'descent'")
        if self.retained is not None:
            check.prompts_to_preserve(self.preservation.data, self.retained)

    @property
    def erasures(self) -> tuple[Erasure, ...]:
        """The concepts to unlearn, one or several."""
        return self.concepts or (Erasure(self.target, self.anchor, self.prompts),)

    @property
    def sharing(self) -> Parallel | None:
        """How several devices share the work; None: there is one."""
        return self.parallel or ("pmap" if self.devices == "all" else None)

    def to_dict(self) -> JsonObject:
        """The configuration as JSON holds it; `from_dict` gives an equal one back."""
        return _plain(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, mapping: JsonMapping) -> UnlearningConfig:
        """Read what `to_dict` gave.

        Raises:
            ValueError: an unknown key (names the nearest known one), or a value out of range.
            TypeError: a value of the wrong type.
        """
        values = check.known_keys("configuration", mapping, (f.name for f in dataclasses.fields(cls)))
        for name, kind in _PARTS.items():
            if name in values and not isinstance(values[name], kind):
                part = check.known_keys(name, values[name], (f.name for f in dataclasses.fields(kind)))
                values[name] = kind(**part)
        return cls(**values)


_PARTS: dict[str, type] = {
    "optimiser": OptimiserConfig,
    "critic": CriticConfig,
    "images": AnchorImagesConfig,
    "preservation": PreservationConfig,
    "saliency": SaliencyConfig,
    "adversary": AdversaryConfig,
    "lora": LoraConfig,
    "edit": EditConfig,
}


def _concepts(value: object) -> tuple[Concept, ...]:
    if isinstance(value, (str, Mapping)) or not isinstance(value, (tuple, list)):
        raise TypeError(f"defined must be a sequence of concepts, got {value!r}")
    for each in value:
        if not isinstance(each, (Concept, Mapping)):
            raise TypeError(f"defined must be a sequence of concepts, got {each!r} in it")
    return tuple(
        each
        if isinstance(each, Concept)
        else Concept.from_dict(each.get("name", ""), {k: v for k, v in each.items() if k != "name"})
        for each in value
    )


def _erasures(value: object) -> tuple[Erasure, ...]:
    if isinstance(value, (str, Mapping)) or not isinstance(value, (tuple, list)):
        raise TypeError(f"concepts must be a sequence of erasures, got {value!r}")
    fields = tuple(f.name for f in dataclasses.fields(Erasure))
    return tuple(
        each if isinstance(each, Erasure) else Erasure(**check.known_keys("concepts", each, fields))
        for each in value
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (tuple, list)) else value
