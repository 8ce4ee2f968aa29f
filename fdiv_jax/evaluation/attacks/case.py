"""What an attacker is given, and what an attack gives back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import jax
import numpy as np

from fdiv_jax.arrays import RandomKey, StoredImages
from fdiv_jax.evaluation.clip_score import ClipScorer
from fdiv_jax.files import JsonObject
from fdiv_jax.pipeline import TextToImagePipeline
from fdiv_jax.pipeline.words import around_phrase, has_phrase

__all__ = [
    "FIRST_SEARCH_SEED",
    "Attack",
    "Case",
    "ConceptImages",
    "Drawing",
    "Probe",
    "Recogniser",
    "Tell",
    "clip_recogniser",
    "looks",
    "replaced",
    "search_key",
    "search_seeds",
    "settings_of",
]

Recogniser = Callable[[StoredImages], np.ndarray]
"""Which of n images show the concept: uint8 n H W 3 -> n booleans."""
Tell = Callable[[int, str], None]
"""Called with how much of the budget is spent and the figure that matters."""

_SEARCH = 0x5EA2C4
"""Sets the random numbers of a search apart from those of the images that it is judged by."""
FIRST_SEARCH_SEED = 2**31
"""Seeds of images that a search may look at begin here; those that it is judged by are smaller."""


@dataclass(frozen=True, eq=False)
class ConceptImages:
    """Images with their prompts: uint8 n H W 3, and n texts."""

    pixels: np.ndarray
    captions: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or self.pixels.shape[-1] != 3 or self.pixels.dtype != np.uint8:
            raise ValueError(
                f"images of {self.pixels.dtype} {self.pixels.shape}, expected uint8 of shape (n, h, w, 3)"
            )
        if not len(self.pixels) or len(self.captions) != len(self.pixels):
            raise ValueError(
                f"{len(self.captions)} captions for {len(self.pixels)} images, expected one each"
            )

    def upside_down(self) -> ConceptImages:
        """The same images, turned over, with the same captions."""
        return ConceptImages(self.pixels[:, ::-1], self.captions)


@dataclass(frozen=True)
class Drawing:
    """How images are drawn to see whether an attack succeeded: seeds, one per image, and the sampler."""

    seeds: tuple[int, ...]
    steps: int = 12
    guidance: float = 3.0
    sampler: str = "dpmsolver++"

    def draw(self, pipe: TextToImagePipeline, prompts: Sequence[str]) -> StoredImages:
        """One image per seed; image i is of prompt i modulo their number."""
        return pipe(
            [prompts[i % len(prompts)] for i in range(len(self.seeds))],
            seed=list(self.seeds),
            steps=self.steps,
            guidance=self.guidance,
            sampler=self.sampler,
        )


@dataclass(frozen=True)
class Case:
    """A model under attack, and what the attacker has.

    Attributes:
        pipe: the model; its weights are the attacker's to look at.
        word: what names the concept in its prompts, "sneaker".
        prompts: prompts that show the concept, each with the word in it.
        images: images of the concept.
        recognise: the attacker's own classifier.
        retained: images of other concepts, at their own prompts, for attacks that never see the concept.
        seed: of everything random in the search.
        batch: samples per step.
        accumulation: parts that a batch is computed in, one after the other, for less memory.
    """

    pipe: TextToImagePipeline
    word: str
    prompts: tuple[str, ...]
    images: ConceptImages
    recognise: Recogniser
    retained: ConceptImages | None = None
    seed: int = 0
    batch: int = 8
    accumulation: int = 1

    def __post_init__(self) -> None:
        for prompt in (*self.prompts, *self.images.captions):
            if not has_phrase(self.word, prompt):
                raise ValueError(f"the prompt {prompt!r} does not contain {self.word!r}")
        if self.batch < 1 or self.accumulation < 1 or self.batch % self.accumulation:
            raise ValueError(
                f"a batch of {self.batch} in {self.accumulation} parts; expected positive numbers, the "
                "second a divisor of the first"
            )

    @property
    def others(self) -> ConceptImages:
        """`retained`, for what trains on it.

        Raises:
            ValueError: there are none.
        """
        if self.retained is None:
            raise ValueError("benign fine-tuning without images of other concepts, expected some")
        return self.retained


@dataclass(frozen=True)
class Probe:
    """What the attacker has at one point of the curve.

    Attributes:
        at: the budget that is spent, or the strength of the probe, in the attack's unit.
        draw: images at fresh noise.
        label: the point in words, where the number does not say it.
        detail: what the search found, for the record.
        pipeline: the model, perhaps changed; None where images are drawn in another way.
        prompts: what it is asked for.
    """

    at: float
    draw: Callable[[Drawing], StoredImages]
    label: str = ""
    detail: JsonObject = field(default_factory=dict)
    pipeline: TextToImagePipeline | None = None
    prompts: tuple[str, ...] = ()

    @classmethod
    def of_prompts(
        cls, at: float, pipe: TextToImagePipeline, prompts: Sequence[str], label: str = "", **detail: object
    ) -> Probe:
        """A model, perhaps changed, at prompts, perhaps changed."""
        return cls(at, lambda drawing: drawing.draw(pipe, prompts), label, dict(detail), pipe, tuple(prompts))


class Attack(Protocol):
    """A way to bring a concept back: a frozen dataclass of its settings.

    Attributes:
        axis: what the curve is drawn over, "optimiser steps".
        searches: whether a budget says how long it goes on; if not, it walks over a scale of its own.
        assumes: what the attacker must have.
    """

    axis: ClassVar[str]
    searches: ClassVar[bool]
    assumes: ClassVar[str]

    def probes(self, case: Case, budget: int, tell: Tell) -> Iterator[Probe]:
        """The points of the curve, in order; the same for the same case and budget."""
        ...


def clip_recogniser(scorer: ClipScorer, text: str, other: str) -> Recogniser:
    """Which images fit a text better than another, by a CLIP model: the mean is the CLIP accuracy."""
    return lambda images: scorer.prefers(images, text, other) > 0


def settings_of(attack: Attack) -> JsonObject:
    """The settings of an attack, for the record."""
    return dataclasses.asdict(attack)  # type: ignore[call-overload]


def looks(budget: int) -> list[int]:
    """The budgets at which a search is looked at: a quarter, a half, all of it."""
    return sorted({-(-budget // part) for part in (4, 2, 1)})


def replaced(word: str, by: str, prompts: Sequence[str]) -> tuple[str, ...]:
    """The prompts with another text in the word's place, wherever they have it."""
    return tuple(by.join(around_phrase(word, prompt)) for prompt in prompts)


def search_key(seed: int) -> RandomKey:
    """The key of a search; no image that it is judged by is drawn from it."""
    return jax.random.fold_in(jax.random.key(seed), _SEARCH)


def search_seeds(seed: int, count: int) -> list[int]:
    """Seeds of images that a search may look at."""
    start = FIRST_SEARCH_SEED + seed % 1000 * 1_000_000
    return list(range(start, start + count))
