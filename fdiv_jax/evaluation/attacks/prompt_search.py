"""Attacks by words: tokens of the model's own vocabulary in the concept's place, found by swaps.

With the weights, swaps are proposed by the gradient of the denoising loss and tried on it; without them, they
are random and judged by what the model draws.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from fdiv_jax.arrays import Parameters
from fdiv_jax.compiling import jit
from fdiv_jax.evaluation.attacks.case import (
    Case,
    Drawing,
    Probe,
    Tell,
    looks,
    replaced,
    search_key,
    search_seeds,
)
from fdiv_jax.evaluation.attacks.denoising import (
    Denoising,
    Noised,
    Shown,
    denoising_loss,
    draw_batch,
    loss_and_gradient,
    show,
)
from fdiv_jax.evaluation.attacks.tokens import (
    Slots,
    Vocabulary,
    check_length,
    own_words,
    reads_back,
    slots,
    vocabulary,
)
from fdiv_jax.unlearning import Frozen

__all__ = ["BlackBoxSearch", "PromptSearch"]


@dataclass(frozen=True)
class PromptSearch:
    """Tokens in the concept's place, swapped as the gradient of the denoising loss proposes.

    A round takes the gradient g_j of the loss for the vector at each place j, ranks the vocabulary by
    (e_v - e_j) . g_j, tries `candidates` swaps among the `top` of each place on the same batch, and keeps the
    best of them if it is better than no swap.

    Source: Zhang et al., To generate or not? Safety-driven unlearned diffusion models are still easy to
    generate unsafe images, 2024 (UnlearnDiffAtk, the loss); Zou et al., Universal and transferable
    adversarial attacks on aligned language models, 2023 (GCG, the swaps).
    """

    axis: ClassVar[str] = "rounds of swaps"
    searches: ClassVar[bool] = True
    assumes: ClassVar[str] = "the model's weights, images of the concept, and only words as prompts"

    tokens: int = 4
    """Places in the concept's place; at least as many as its own tokens."""
    candidates: int = 16
    """Swaps tried in a round."""
    top: int = 32
    """Tokens of each place that swaps are drawn from."""

    def probes(self, case: Case, budget: int, tell: Tell) -> Iterator[Probe]:
        """The model at the words found after more and more rounds."""
        search = _Search.of(case, self.tokens)
        plan, shown = Denoising.of(case, search.places.trainable), show(case.pipe, search.places.images(case))
        rng, key = np.random.default_rng((case.seed, 1)), search_key(case.seed)
        at, loss = looks(budget), float("nan")
        for step in range(1, budget + 1):
            noised = draw_batch(case.pipe.schedule, shown, jax.random.fold_in(key, step), case.batch)
            rows = search.places.rows(search.known.ids[search.chosen])
            _, gradient = _look(plan, rows, search.places.frozen, shown, noised)
            scores = search.scores(gradient)
            tried = [search.chosen, *search.swaps(rng, self.candidates, scores, self.top)]
            padded = np.array(tried + [search.chosen] * (self.candidates + 1 - len(tried)))
            ids = search.known.ids[padded]  # candidates, places, encoders
            stacked = jax.vmap(search.places.rows)(jnp.asarray(ids))
            losses = np.asarray(_losses(plan, stacked, search.places.frozen, shown, noised))
            best = int(losses.argmin())
            search.chosen, loss = padded[best], float(losses[best])
            tell(step, f"loss {loss:.4f} {search.text!r}")
            if step in at:
                yield search.probe(step, loss=loss)


@dataclass(frozen=True)
class BlackBoxSearch:
    """Tokens in the concept's place, swapped at random and kept where no fewer images are recognised.

    The attacker sees images only, and recognises the concept by a classifier of his own.
    """

    axis: ClassVar[str] = "prompts tried"
    searches: ClassVar[bool] = True
    assumes: ClassVar[str] = "a model that draws what it is asked for, and a classifier of the concept"

    tokens: int = 4
    """Places in the concept's place; at least as many as its own tokens."""
    images: int = 10
    """Images drawn for each prompt that is tried."""

    def probes(self, case: Case, budget: int, tell: Tell) -> Iterator[Probe]:
        """The model at the words found after more and more tries."""
        search, rng, at = _Search.of(case, self.tokens), np.random.default_rng((case.seed, 2)), looks(budget)
        drawing = Drawing(tuple(search_seeds(case.seed, self.images)))
        best = -1
        for step in range(1, budget + 1):
            proposed = search.swaps(rng, 1) if step > 1 else [search.chosen]
            for chosen in proposed:
                images = drawing.draw(case.pipe, search.prompts(chosen))
                found = int(np.sum(case.recognise(images)))
                if found >= best:
                    search.chosen, best = chosen, found
            tell(step, f"{max(best, 0)} of {self.images} {search.text!r}")
            if step in at:
                yield search.probe(step, recognised_in_the_search=best)


@dataclass
class _Search:
    """Words in the concept's place.

    Attributes:
        case: the model and its concept.
        known: the words to choose from.
        places: where they stand.
        chosen: (places,), which words stand there now.
    """

    case: Case
    known: Vocabulary
    places: Slots
    chosen: np.ndarray

    @classmethod
    def of(cls, case: Case, tokens: int) -> _Search:
        """Begins with the concept's own words, repeated, so that the frozen model shows the concept from the
        start, as a ceiling has to; with random ones where the vocabulary does not have its own."""
        if tokens < 1:
            raise ValueError(f"tokens={tokens}, expected at least 1")
        known, own = vocabulary(case.pipe), own_words(case.pipe, case.word)
        count = max(tokens, len(own))
        places = slots(case, count)
        rng = np.random.default_rng((case.seed, 0))
        for number in range(1000):
            own_first = number == 0 and own
            chosen = np.resize(own, count) if own_first else rng.integers(len(known.words), size=count)
            search = cls(case, known, places, chosen)
            if search._fits(chosen):
                return search
        raise ValueError(f"no {count} words of the vocabulary in a row are read back as they were")

    @property
    def text(self) -> str:
        """The words."""
        return " ".join(self.known.words[k] for k in self.chosen)

    def prompts(self, chosen: np.ndarray) -> tuple[str, ...]:
        """The concept's prompts with words in its place."""
        return replaced(self.case.word, " ".join(self.known.words[k] for k in chosen), self.case.prompts)

    def scores(self, gradient: Parameters) -> np.ndarray:
        """(places, words): the decrease of the loss that each swap promises, to first order, up to a number
        of the place."""
        total = 0.0
        for (name, table), column in zip(self.places.tables.items(), self.known.ids.T, strict=True):
            total = total - np.asarray(gradient[name] @ table[jnp.asarray(column)].astype(jnp.float32).T)
        return np.asarray(total)

    def swaps(
        self, rng: np.random.Generator, count: int, scores: np.ndarray | None = None, top: int = 0
    ) -> list[np.ndarray]:
        """At most `count` words with one swap each that the model reads as they are, all different."""
        size = len(self.known.words)
        best = None if scores is None else np.argsort(-scores, axis=1, kind="stable")[:, :top]
        found: dict[tuple[int, ...], np.ndarray] = {}
        for _ in range(4 * count):
            place = int(rng.integers(len(self.chosen)))
            word = int(rng.integers(size) if best is None else rng.choice(best[place]))
            changed = self.chosen.copy()
            changed[place] = word
            if word != self.chosen[place] and tuple(changed) not in found and self._fits(changed):
                found[tuple(changed)] = changed
                if len(found) == count:
                    break
        return list(found.values())

    def probe(self, at: int, **detail: float) -> Probe:
        """The model at the words."""
        prompts = self.prompts(self.chosen)
        check_length(self.case.pipe, prompts)
        return Probe.of_prompts(at, self.case.pipe, prompts, "", words=self.text, **detail)

    def _fits(self, chosen: np.ndarray) -> bool:
        return reads_back(self.case, self.known, chosen)


_look = jit(loss_and_gradient, static_argnums=0)


@functools.partial(jit, static_argnums=0)
def _losses(
    plan: Denoising, candidates: Parameters, frozen: Frozen, shown: Shown, noised: Noised
) -> Sequence[jax.Array]:
    """The loss of every candidate on one batch, one after the other."""
    return jax.lax.map(lambda rows: denoising_loss(plan, rows, frozen, shown, noised), candidates)
