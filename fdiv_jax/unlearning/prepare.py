"""A run before its first step: everything that a configuration leaves open, resolved for a model."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from fdiv_jax.checkpoints import model_digest
from fdiv_jax.diffusion import NoiseSchedule
from fdiv_jax.distributed import devices_of
from fdiv_jax.files import JsonObject, default_cache
from fdiv_jax.nn import Remat, UNet2DConditionModel, with_remat
from fdiv_jax.pipeline import TextToImagePipeline
from fdiv_jax.pipeline.loras import origin
from fdiv_jax.unlearning import _validate as check
from fdiv_jax.unlearning.cache import ArrayCache
from fdiv_jax.unlearning.concepts import PromptPair, resolve_all, resolve_retained, target_words
from fdiv_jax.unlearning.config import UnlearningConfig
from fdiv_jax.unlearning.data import AnchorData, prepare_data
from fdiv_jax.unlearning.edit import check_editable
from fdiv_jax.unlearning.library import known_concepts
from fdiv_jax.unlearning.losses import GaussianLoss, VariationalLoss, make_loss, switch_losses
from fdiv_jax.unlearning.parameters import Network, Selection
from fdiv_jax.unlearning.result import description
from fdiv_jax.unlearning.state import Plan
from fdiv_jax.unlearning.timesteps import timesteps_of
from fdiv_jax.unlearning.trainable import Frozen, trainable_of
from fdiv_jax.unlearning.user_images import OwnImages, read_own_images

__all__ = ["Cache", "Prepared", "array_cache", "loss_of", "prepare", "share_program"]

_IN_ORDER = "--xla_cpu_enable_concurrency_optimized_scheduler"
Cache = str | os.PathLike[str] | Literal[False] | None


@dataclass(frozen=True)
class Prepared:
    """A run of which everything is resolved and nothing is done.

    Attributes:
        pipe: the frozen model.
        config: what was asked for.
        pairs: of prompts, and `negative`, eta of the guidance away from each target.
        retained: prompts at which the model is to stay as it is.
        plan: the step.
        frozen: what no step changes.
        selection: what learns.
        devices: that take part.
        model: hash of the frozen model.
        own: the user's images, or None.
    """

    pipe: TextToImagePipeline
    config: UnlearningConfig
    pairs: tuple[PromptPair, ...]
    negative: tuple[float, ...]
    retained: tuple[str, ...]
    plan: Plan
    frozen: Frozen
    selection: Selection
    devices: tuple[Any, ...]
    model: str
    own: OwnImages | None = None

    def facts(self) -> JsonObject:
        """The fields of an `UnlearningResult` that are known before the first step."""
        return {
            "config": self.config,
            "pairs": self.pairs,
            "retained": self.retained,
            "selection": self.selection,
            "model": {**origin(self.pipe), "sha256": self.model},
            "devices": tuple(str(device) for device in self.devices),
            "images": "" if self.own is None else self.own.digest,
        }

    def description(self) -> JsonObject:
        """What `config.json` of the run directory holds: enough to repeat the run."""
        return description(**self.facts())

    def data(self, cache: Cache, progress: Callable[[int, int], None] | None = None) -> AnchorData:
        """The training data, drawn or read."""
        config = self.config
        preserved = config.preservation.data
        share = config.retained_share if config.reference == "frozen" else 0.0
        return prepare_data(
            self.pipe,
            self.pairs,
            config.images,
            array_cache(cache),
            retained=self.retained if share or preserved == "retained" else (),
            retained_share=share,
            negative=self.negative,
            tokens=bool(self.frozen.encoders),
            prior=preserved,
            own=self.own,
            model=self.model,
            progress=progress,
        )


def array_cache(cache: Cache) -> ArrayCache:
    """Where arrays are kept: in a directory, by default the user's; False: nowhere."""
    return ArrayCache(None if cache is False else (default_cache() if cache is None else Path(cache)))


def prepare(pipe: TextToImagePipeline, config: UnlearningConfig, *, model: str | None = None) -> Prepared:
    """Resolve a configuration for a model; `model` is its `model_digest`, when it is known.

    Raises:
        ValueError: what does not fit the model, see `unlearn`.
    """
    config = dataclasses.replace(config, images=config.images.resolved(pipe))  # what was drawn is on record
    concepts = known_concepts(pipe.concepts, config.defined)
    pairs = resolve_all(concepts, config.erasures)
    check_told_apart(pipe, pairs)
    guided = {
        pair
        for each in config.erasures
        if each.anchor == "negative"
        for pair in resolve_all(concepts, [each])
    }
    retained = resolve_retained(concepts, [each.target for each in config.erasures], config.retained)
    check.prompts_to_preserve(config.preservation.data, retained)
    words = target_words(concepts, config.erasures)
    trainable, frozen, selection = trainable_of(
        pipe, config.trainable, words, rank=config.lora.rank, alpha=config.lora.alpha
    )
    if config.method == "edit":
        check_editable(selection)
    devices = devices_of(config.sharing)
    if (config.batch_size // config.accumulation) % len(devices):
        raise ValueError(
            f"batch_size {config.batch_size} for {len(devices)} devices and an accumulation of "
            f"{config.accumulation}; expected a multiple of {len(devices) * config.accumulation}"
        )
    plan = Plan(
        network=Network(_rematerialised(pipe.unet, config.remat)),
        trainable=trainable,
        loss=loss_of(config, pipe.schedule, pipe.latent_shape),
        schedule=pipe.schedule,
        timesteps=timesteps_of(pipe.schedule, config.timestep_range, config.timesteps),
        optimiser=config.optimiser,
        steps=0 if config.optimiser.schedule == "constant" else config.steps,
        reference=config.reference,
        accumulation=config.accumulation,
        preservation=config.preservation,
        saliency=config.saliency,
        adversary=config.adversary,
    )
    return Prepared(
        pipe,
        config,
        pairs,
        tuple(config.negative_guidance if pair in guided else 0.0 for pair in pairs),
        retained,
        plan,
        frozen,
        selection,
        devices,
        model or model_digest(pipe.components),
        None if config.images.folder is None else read_own_images(pipe, config.images, pairs),
    )


def _rematerialised(unet: UNet2DConditionModel, remat: Remat) -> UNet2DConditionModel:
    """The UNet with this rematerialisation, where it saves memory.

    XLA orders a CPU's work for its threads, begins what can be begun, and so keeps what should be computed
    again; the option that changes it is read from the environment alone.
    """
    if remat == "none":
        return unet
    if jax.default_backend() == "cpu" and _IN_ORDER not in os.environ.get("XLA_FLAGS", ""):
        warnings.warn(
            f"remat {remat!r} is left out: on a CPU it takes no less memory unless "
            f"XLA_FLAGS={_IN_ORDER}=false is in the environment",
            stacklevel=3,
        )
        return unet
    return with_remat(unet, remat)


def loss_of(
    config: UnlearningConfig, schedule: NoiseSchedule, latent_shape: tuple[int, int, int]
) -> GaussianLoss | VariationalLoss:
    """The loss that a configuration asks for; see `make_loss`."""
    return make_loss(
        config.divergence,
        config.loss,
        schedule=schedule,
        latent_shape=latent_shape,
        scale=config.scale,
        sigma=config.sigma,
        normalise_curvature=config.normalise_curvature,
        critic=config.critic,
    )


def share_program(runs: Sequence[Prepared]) -> list[Prepared]:
    """The same runs with one plan for all that differ in their divergence alone, so that their step is
    compiled once; see `DivergenceSwitch`.

    Runs whose plans differ in more keep plans of their own. The numbers are those of the runs with their own
    plans, to rounding.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for number, run in enumerate(runs):
        own: Any = run.plan.loss
        loss = dataclasses.replace(own, divergence=None, factor=1.0)
        alike = (dataclasses.replace(run.plan, loss=loss), run.config.normalise_curvature)
        groups.setdefault(alike, []).append(number)
    shared = list(runs)
    for numbers in groups.values():
        loss, choices = switch_losses([runs[number].plan.loss for number in numbers])
        if loss == runs[numbers[0]].plan.loss:
            continue  # all have one divergence
        for number, choice in zip(numbers, choices, strict=True):
            run = runs[number]
            frozen = dataclasses.replace(run.frozen, choice=jnp.asarray(choice, jnp.int32))
            shared[number] = dataclasses.replace(
                run, plan=dataclasses.replace(run.plan, loss=loss), frozen=frozen
            )
    return shared


def check_told_apart(pipe: TextToImagePipeline, pairs: Sequence[PromptPair]) -> None:
    """Refuse pairs of prompts that the model cannot tell apart: their loss is 0 and changes nothing.

    Raises:
        ValueError: a target prompt and its anchor prompt are the same tokens; names them.
    """
    sides = [pair.target for pair in pairs], [pair.anchor for pair in pairs]
    ids = [np.concatenate(pipe.tokenize(prompts), axis=1) for prompts in sides]
    for pair, target, anchor in zip(pairs, *ids, strict=True):
        if np.array_equal(target, anchor):
            raise ValueError(
                f"the target prompt {pair.target!r} and the anchor prompt {pair.anchor!r} are the same "
                f"{pipe.text_length} tokens to the model, which cuts longer prompts; expected the target "
                "nearer to the beginning"
            )
