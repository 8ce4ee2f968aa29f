"""Attacks through the text encoder's input: vectors that are not of the vocabulary."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from fdiv_jax.arrays import Parameters
from fdiv_jax.evaluation.attacks.case import Case, Probe, Tell, looks, search_key
from fdiv_jax.evaluation.attacks.denoising import Denoising, fit, show
from fdiv_jax.evaluation.attacks.tokens import Slots, own_rows, slots

__all__ = ["ConceptInversion", "SoftPrompt"]


@dataclass(frozen=True)
class ConceptInversion:
    """One new word whose embedding is learned from images of the concept.

    The word begins as a draw from the Gaussian of the vocabulary's embeddings, so that nothing of the
    concept's own name goes in.

    Source: Pham, Marshall, Cohen, Mittal, Hegde, Circumventing concept erasure methods for text-to-image
    generative models, 2024; Gal et al., An image is worth one word, 2023.
    """

    axis: ClassVar[str] = "optimiser steps"
    searches: ClassVar[bool] = True
    assumes: ClassVar[str] = "the model's weights, images of the concept, and a way to feed it an embedding"

    learning_rate: float = 0.05
    """Adam's, in units of the root mean square of the embedding table."""

    def probes(self, case: Case, budget: int, tell: Tell) -> Iterator[Probe]:
        """The model with the word, after more and more steps."""
        places = slots(case, 1)
        key, start = jax.random.split(search_key(case.seed))
        return _learned(case, places, _drawn(places, start), self.learning_rate, key, budget, tell)


@dataclass(frozen=True)
class SoftPrompt:
    """Several free vectors in place of the concept's word: that word at first, and draws of the vocabulary.

    Source: Zhang et al., To generate or not? Safety-driven unlearned diffusion models are still easy to
    generate unsafe images, 2024, with vectors for tokens.
    """

    axis: ClassVar[str] = "optimiser steps"
    searches: ClassVar[bool] = True
    assumes: ClassVar[str] = ConceptInversion.assumes

    vectors: int = 4
    """Vectors in the word's place."""
    learning_rate: float = 0.05
    """Adam's, in units of the root mean square of the embedding table."""

    def probes(self, case: Case, budget: int, tell: Tell) -> Iterator[Probe]:
        """The model with the vectors, after more and more steps."""
        own = own_rows(case)
        places = slots(case, max(self.vectors, len(own)))
        key, start = jax.random.split(search_key(case.seed))
        rows = {
            name: drawn.at[: len(own)].set(own_row)
            for (name, drawn), own_row in zip(
                _drawn(places, start).items(), places.rows(own).values(), strict=True
            )
        }
        return _learned(case, places, rows, self.learning_rate, key, budget, tell)


def _drawn(places: Slots, key: jax.Array) -> Parameters:
    """Vectors from the Gaussian, coordinate by coordinate, of each table's rows."""
    count = len(places.trainable.ids[0])
    found = {}
    for number, (name, table) in enumerate(places.tables.items()):
        wide = table.astype(jnp.float32)
        noise = jax.random.normal(jax.random.fold_in(key, number), (count, table.shape[1]))
        found[name] = wide.mean(0) + wide.std(0) * noise
    return found


def _learned(
    case: Case, places: Slots, rows: Parameters, rate: float, key: jax.Array, budget: int, tell: Tell
) -> Iterator[Probe]:
    rates = {
        name: rate * float(np.sqrt(np.mean(np.square(np.asarray(table, np.float32)))))
        for name, table in places.tables.items()
    }
    plan, shown = Denoising.of(case, places.trainable), show(case.pipe, places.images(case))
    for step, learned, loss in fit(plan, rows, places.frozen, shown, key, rates, looks(budget), tell):
        attacked = places.trainable.pipeline(case.pipe, learned, places.frozen)
        yield Probe.of_prompts(step, attacked, places.prompts(case), loss=loss)
