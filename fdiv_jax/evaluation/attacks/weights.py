"""Attacks on the weights by training: on the concept's own images, or on everything but the concept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import jax

from fdiv_jax.evaluation.attacks.case import Case, ConceptImages, Probe, Tell, looks, search_key
from fdiv_jax.evaluation.attacks.denoising import Denoising, fit, show
from fdiv_jax.unlearning import trainable_of

__all__ = ["Benign", "Relearn"]


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
        return _tuned(case, case.images, self.trainable, self.rank, self.learning_rate, budget, tell)


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
        if case.retained is None:
            raise ValueError("benign fine-tuning without images of other concepts, expected some")
        return _tuned(case, case.retained, self.trainable, None, self.learning_rate, budget, tell)


def _tuned(
    case: Case,
    images: ConceptImages,
    group: str,
    rank: int | None,
    rate: float,
    budget: int,
    tell: Tell,
) -> Iterator[Probe]:
    trainable, frozen, _ = trainable_of(case.pipe, group, rank=rank)
    key, start = jax.random.split(search_key(case.seed))
    initial = trainable.initial(frozen, start)
    plan, shown = Denoising.of(case, trainable), show(case.pipe, images)
    rates = dict.fromkeys(initial, rate)
    for step, learned, loss in fit(plan, initial, frozen, shown, key, rates, looks(budget), tell):
        tuned = trainable.pipeline(case.pipe, learned, frozen)
        yield Probe.of_prompts(step, tuned, case.prompts, loss=loss)
