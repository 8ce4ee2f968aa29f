"""Attacks on the weights by training: on the concept's own images, or on everything but the concept."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import ClassVar

import jax

from fdiv_jax.arrays import Parameters, RandomKey
from fdiv_jax.evaluation.attacks.case import Case, ConceptImages, Probe, Tell, looks, search_key
from fdiv_jax.evaluation.attacks.denoising import Denoising, Shown, fit, show
from fdiv_jax.unlearning import Frozen, Trainable, trainable_of

__all__ = ["Benign", "Relearn", "Tuning"]


@dataclass(frozen=True)
class Relearn:
    """A LoRA trained on images of the concept, under the concept's own prompts.

    Training teaches, and so brings the concept to a model that never knew it as well, only later: what counts
    is how much earlier than the floor a model has it.
    """

    axis: ClassVar[str] = "optimiser steps"
    searches: ClassVar[bool] = True
    assumes: ClassVar[str] = (
        "the model's weights, images of the concept, and that users run the changed weights"
    )

    rank: int = 4
    """Rank of each kernel's change."""
    trainable: str = "cross-attn"
    """The group of kernels, as in an unlearning run."""
    learning_rate: float = 1e-3
    """Adam's."""

    def probes(self, case: Case, budget: int, tell: Tell) -> Iterator[Probe]:
        """The model with the LoRA, after more and more steps."""
        tuning = Tuning.of(case, case.images, self.trainable, self.rank)
        return tuning.probes(self.learning_rate, budget, tell)


@dataclass(frozen=True)
class Benign:
    """Fine-tuning on other concepts' images and prompts, by somebody who never sees the erased one.

    Source: Suriyakumar et al., Unstable unlearning: the hidden risk of concept resurgence in diffusion
    models, 2024.
    """

    axis: ClassVar[str] = "optimiser steps"
    searches: ClassVar[bool] = True
    assumes: ClassVar[str] = "nothing: a user who fine-tunes on concepts that were kept"

    trainable: str = "cross-attn"
    """The group of parameters, as in an unlearning run."""
    learning_rate: float = 1e-3
    """Adam's."""

    def probes(self, case: Case, budget: int, tell: Tell) -> Iterator[Probe]:
        """The model, after more and more steps, at the concept's prompts."""
        return Tuning.of(case, case.others, self.trainable).probes(self.learning_rate, budget, tell)


@dataclass(frozen=True)
class Tuning:
    """The training of a case's model on images.

    Attributes:
        case: the case.
        trainable, frozen: what learns, and the model as it is.
        plan, shown: the step, and the images as the network sees them.
        initial: what learns, before the first step.
        key: of the training.
    """

    case: Case
    trainable: Trainable
    frozen: Frozen
    plan: Denoising
    shown: Shown
    initial: Parameters
    key: RandomKey

    @classmethod
    def of(cls, case: Case, images: ConceptImages, group: str, rank: int | None = None) -> Tuning:
        """Of a group of parameters, or of low-rank changes of them."""
        trainable, frozen, _ = trainable_of(case.pipe, group, rank=rank)
        key, start = jax.random.split(search_key(case.seed))
        plan, shown = Denoising.of(case, trainable), show(case.pipe, images)
        return cls(case, trainable, frozen, plan, shown, trainable.initial(frozen, start), key)

    def after(self, at: Collection[int], rate: float, tell: Tell) -> Iterator[tuple[int, Parameters, float]]:
        """(steps, what was learned, mean loss of the last ones) at each of `at`; see `fit`."""
        rates = dict.fromkeys(self.initial, rate)
        return fit(self.plan, self.initial, self.frozen, self.shown, self.key, rates, at, tell)

    def probes(self, rate: float, budget: int, tell: Tell) -> Iterator[Probe]:
        """The model at the concept's prompts, after more and more steps."""
        for step, learned, loss in self.after(looks(budget), rate, tell):
            tuned = self.trainable.pipeline(self.case.pipe, learned, self.frozen)
            yield Probe.of_prompts(step, tuned, self.case.prompts, loss=loss)
