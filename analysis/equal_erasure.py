"""Runs of unlearning compared where they have erased equally much: paths, and the model on one at a given m.

A path is the model every few steps of a run. Where the held-out m at the target first falls to a level, the
parameters between the two looks around it are mixed so that m is that level; what the run did to everything
else is then measured there, on images that every model draws from the same noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.optimize import brentq

from fdiv_jax.divergences import divergence
from fdiv_jax.evaluation import kid
from fdiv_jax.pipeline import TextToImagePipeline
from fdiv_jax.unlearning import (
    LinearisedRun,
    Network,
    Prepared,
    UnlearningConfig,
    Watch,
    share_program,
    train,
)
from fdiv_jax.unlearning.first_steps import steps_to
from fdiv_jax.worlds import ITEM_NAMES, STYLE_NAMES, caption

from .trials import Laboratory, Trial

__all__ = ["Gallery", "HeldOut", "Path", "Seen", "common_level", "follow", "gradients_at"]

_TOLERANCE = 1e-2  # of the way from one look to the next


class _Looks(Watch):
    """An observer that keeps what the model has learned, every few steps."""

    def __init__(self, prepared: Prepared, every: int):
        super().__init__(every, prepared.config.steps)
        self.steps: list[int] = []
        self.learned: list[np.ndarray] = []
        self._names = prepared.selection.names

    def model(self, done: int, pipeline: Callable[[], TextToImagePipeline]) -> None:
        """Keep the parameters that learn."""
        parameters = Network.parameters(pipeline().unet)
        self.steps.append(done)
        self.learned.append(np.asarray(ravel_pytree({name: parameters[name] for name in self._names})[0]))


@dataclass(frozen=True)
class Path:
    """The model along a run.

    Attributes:
        steps: (n,), the numbers of steps after which it was looked at, the first 0.
        learned: (n, P), what it had learned by then, flat.
        m: (n,), held out, at the target.
    """

    steps: np.ndarray
    learned: np.ndarray
    m: np.ndarray

    def arrival(self, level: float) -> float:
        """Steps until m is the share `level` of what it was, log m straight between looks; inf: never."""
        looks = steps_to(self.m, level * self.m[0])
        return float(np.interp(looks, np.arange(len(self.steps)), self.steps)) if looks < np.inf else looks

    def at(self, level: float, measure: Callable[[np.ndarray], float]) -> np.ndarray | None:
        """What was learned where m, which `measure` gives, first is the share `level` of what it was."""
        below = np.flatnonzero(self.m <= level * self.m[0])
        if not below.size or below[0] == 0:
            return None
        before, after = self.learned[below[0] - 1], self.learned[below[0]]
        goal = np.sqrt(level * self.m[0])

        def excess(share: float) -> float:  # nearly straight: the outputs move as the parameters do
            return float(np.sqrt(measure(before + share * (after - before))) - goal)

        if excess(1.0) >= 0:  # the level is that of this very look, but for rounding
            return after
        share = brentq(excess, 0.0, 1.0, xtol=_TOLERANCE)
        return before + share * (after - before)


def common_level(paths: Iterable[Path], least: float) -> float:
    """The smallest share of its m at the start that every path comes down to, or `least`."""
    return max(least, *(float(path.m.min() / path.m[0]) for path in paths))


class HeldOut:
    """The mean m on images that no step sees, with noise and timesteps that are the same at every look."""

    def __init__(self, laboratory: Laboratory, config: UnlearningConfig, number: int):
        """The distance of a run's target prompts to its anchor; of `number` images, in the unit `mean`."""
        images = replace(config.images, seed=config.images.seed + 1000)
        held_out = replace(config, images=images, divergence="kl", loss="closed", scale="mean")
        prepared = laboratory.prepare(held_out)
        batch = prepared.data(laboratory.shelf / "anchors").batch(0, 0, number)
        self._seen = LinearisedRun(prepared, [batch], key=jax.random.key(1))

    def __call__(self, learned: np.ndarray) -> float:
        """The mean m of what was learned, flat."""
        return float(self._seen.outputs(learned).m.mean())


def follow(
    laboratory: Laboratory, configs: Sequence[UnlearningConfig], every: int, held_out: HeldOut
) -> list[Path]:
    """Make runs that differ in their divergence alone, side by side on the same batches."""
    cells = share_program([laboratory.prepare(config) for config in configs])
    looks = [_Looks(cell, every) for cell in cells]
    train(
        cells,
        [None] * len(cells),
        [[each] for each in looks],
        progress=False,
        cache=laboratory.shelf / "anchors",
    )
    return [
        Path(
            np.array(each.steps),
            np.stack(each.learned),
            np.array([held_out(vector) for vector in each.learned]),
        )
        for each in looks
    ]


def gradients_at(
    laboratory: Laboratory,
    config: UnlearningConfig,
    names: Sequence[str],
    unit: float,
    learned: Iterable[np.ndarray],
) -> np.ndarray:
    """The gradient of each divergence at the same parameters and batches: (parameters, divergences, P).

    Number k of the parameters sees the run's own batch k, with noise of its own. The gradient of a sample's
    D_f is (1/2) w_f(m) grad m: one pass through the network serves all divergences.

    Args:
        laboratory: where the frozen model is.
        config: of the run.
        names: of the divergences.
        unit: what m in the unit `mean` is multiplied by.
        learned: the parameters, flat.
    """
    prepared = laboratory.prepare(replace(config, divergence="kl", loss="closed", scale="mean"))
    data = prepared.data(laboratory.shelf / "anchors")
    members = [divergence(name) for name in names]
    found = []
    for number, vector in enumerate(learned):
        batch = data.batch(config.seed, number, config.batch_size)
        key = jax.random.fold_in(jax.random.key(config.seed), number)
        here = LinearisedRun(prepared, [batch], key=key).at(vector)
        m = jnp.asarray(unit * here.outputs().m, jnp.float32)
        found.append(here.gradients(unit * np.stack([d.gaussian_weight(m) for d in members])))
    return np.array(found)


class Seen(NamedTuple):
    """What a change did to images drawn from the same noise, against the frozen model's.

    Attributes:
        target: the mean probability that images at the target's prompts show the target, for the judge.
        retained: the mean probability that other images show what they are to show.
        feature: mean squared distance of the retained images' embeddings (unit vectors).
        pixel: mean squared difference of their pixels, black 0 and white 1.
        kid: of the retained images' embeddings.
    """

    target: float
    retained: float
    feature: float
    pixel: float
    kid: float


class Gallery:
    """Images at fixed prompts, always from the same noise, and what the judge sees in them."""

    def __init__(
        self,
        laboratory: Laboratory,
        shown: Sequence[tuple[str, str]],
        target: Sequence[bool],
    ):
        """`shown`: item and style of each prompt; `target`: whether it is one of the target's."""
        self._laboratory = laboratory
        self._prompts = [caption(item, style) for item, style in shown]
        self._items = np.array([ITEM_NAMES.index(item) for item, _ in shown])
        self._styles = np.array([STYLE_NAMES.index(style) for _, style in shown])
        self._target = np.asarray(target, bool)
        self._frozen = self._judged(laboratory.frozen)

    def _judged(self, pipeline: TextToImagePipeline) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        images = pipeline(
            self._prompts,
            steps=self._laboratory.budget.sampler_steps,
            guidance=3.0,
            sampler="dpmsolver++",
            seed=0,
        )
        found = self._laboratory.judge(images)
        rows = np.arange(len(images))
        right = found.items[rows, self._items] * found.styles[rows, self._styles]
        return right, found.embeddings, np.asarray(images, np.float64) / 255

    def __len__(self) -> int:
        return len(self._prompts)

    @property
    def frozen(self) -> Seen:
        """The frozen model beside itself."""
        return self._compare(self._frozen)

    def see(self, learned: np.ndarray) -> Seen:
        """The images of the model that has learned this."""
        prepared = self._laboratory.prepared(Trial("kl"))
        start = prepared.plan.trainable.initial(prepared.frozen, jax.random.key(0))
        trained = ravel_pytree(start)[1](jnp.asarray(learned))
        return self.of(prepared.plan.trainable.pipeline(self._laboratory.frozen, trained, prepared.frozen))

    def of(self, pipeline: TextToImagePipeline) -> Seen:
        """The images of a model."""
        return self._compare(self._judged(pipeline))

    def _compare(self, found: tuple[np.ndarray, np.ndarray, np.ndarray]) -> Seen:
        kept, (right, embeddings, images) = ~self._target, found
        _, reference, pictures = self._frozen
        return Seen(
            float(right[self._target].mean()) if self._target.any() else 0.0,
            float(right[kept].mean()),
            float(((embeddings - reference)[kept] ** 2).sum(-1).mean()),
            float(((images - pictures)[kept] ** 2).mean()),
            kid(embeddings[kept], reference[kept], paired=True, scale=1.0),
        )
