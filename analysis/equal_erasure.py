"""Runs of unlearning compared where they have erased equally much: paths, and the model on one at a given m.

A path is the model every few steps of a run. Where the held-out m at the target first falls to a level, the
parameters between the two looks around it are mixed so that m is that level; what the run did to everything
else is then measured there, on images that every model draws from the same noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.optimize import brentq

from fdiv_jax.divergences import divergence
from fdiv_jax.pipeline import TextToImagePipeline
from fdiv_jax.unlearning import (
    Batch,
    Frozen,
    GaussianLoss,
    Network,
    Plan,
    Prepared,
    UnlearningConfig,
    UnlearningResult,
    share_program,
    train,
)
from fdiv_jax.unlearning.step import compare, look, predict
from fdiv_jax.worlds import ITEM_NAMES, STYLE_NAMES, caption

from .kernel_distance import kernel_distance
from .trials import Laboratory

__all__ = ["Gallery", "HeldOut", "Path", "Seen", "common_level", "follow", "gradients_at"]

_TOLERANCE = 1e-2  # of the way from one look to the next


class _Looks:
    """An observer that keeps what the model has learned, every few steps."""

    def __init__(self, prepared: Prepared, every: int):
        self.steps: list[int] = []
        self.learned: list[np.ndarray] = []
        self._names, self._every, self._last = prepared.selection.names, every, prepared.config.steps

    def row(self, row: Mapping[str, Any]) -> None:
        """Ignore the step's figures."""

    def due(self, done: int) -> bool:
        """Every few steps, the first look before any, and after the last."""
        return done % self._every == 0 or done == self._last

    def model(self, done: int, pipeline: Callable[[], TextToImagePipeline]) -> None:
        """Keep the parameters that learn."""
        parameters = Network.parameters(pipeline().unet)
        self.steps.append(done)
        self.learned.append(np.asarray(ravel_pytree({name: parameters[name] for name in self._names})[0]))

    def end(self, result: UnlearningResult) -> None:
        """Ignore the result: the model was seen after the last step."""


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
        below = np.flatnonzero(self.m <= level * self.m[0])
        if not below.size:
            return np.inf
        after, goal = int(below[0]), np.log(level * self.m[0])
        if after == 0:
            return 0.0
        high, low = np.log(self.m[after - 1]), np.log(self.m[after])
        share = (high - goal) / (high - low)
        return float(self.steps[after - 1] + share * (self.steps[after] - self.steps[after - 1]))

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
        key, self._frozen = jax.random.key(1), prepared.frozen
        batch = prepared.data(laboratory.shelf / "anchors").batch(0, 0, number)
        reference, self._distances, _ = _at_parameters(prepared.plan)
        self._seen = batch, reference(self._frozen, batch, key), key

    def __call__(self, learned: np.ndarray) -> float:
        """The mean m of what was learned, flat."""
        return float(self._distances(jnp.asarray(learned), self._frozen, *self._seen).mean())


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
    reference, distances, gradients = _at_parameters(prepared.plan)
    members = [divergence(name) for name in names]
    found = []
    for number, vector in enumerate(learned):
        batch = data.batch(config.seed, number, config.batch_size)
        key = jax.random.fold_in(jax.random.key(config.seed), number)
        at = jnp.asarray(vector), prepared.frozen, batch, reference(prepared.frozen, batch, key), key
        m = unit * distances(*at)
        weights = unit * jnp.stack([d.gaussian_weight(m) for d in members])
        found.append(np.asarray(gradients(*at, weights)))
    return np.array(found)


@lru_cache(maxsize=4)
def _at_parameters(plan: Plan) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """Three functions, compiled once for all runs of a plan; what learns is flat.

    (frozen, batch, key) -> the reference;
    (learned, frozen, batch, reference, key) -> m of every sample, (n,);
    (learned, frozen, batch, reference, key, weights (k, n)) -> for each row of weights the mean over the
    samples of (1/2) weight grad m, (k, P).
    """

    def residual(learned: jax.Array, frozen: Frozen, batch: Batch, reference: Any, key: jax.Array) -> Any:
        trained = ravel_pytree(plan.trainable.initial(frozen, key))[1](learned)
        prediction = predict(plan, trained, frozen, batch, key)
        compared = compare(plan, trained, frozen, batch, reference, prediction, key)
        return cast(GaussianLoss, plan.loss).distance.residual(compared)

    def distances(*arguments: Any) -> jax.Array:
        return jnp.sum(residual(*arguments) ** 2, axis=(1, 2, 3))

    def gradients(learned: jax.Array, *arguments: Any) -> jax.Array:
        *seen, weights = arguments
        error, back = jax.vjp(lambda vector: residual(vector, *seen), learned)
        weighted = weights[:, :, None, None, None] * error / len(error)
        return jax.lax.map(lambda cotangent: back(cotangent)[0], weighted)

    return jax.jit(partial(look, plan)), jax.jit(distances), jax.jit(gradients)


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
        laboratory = self._laboratory
        before = Network.parameters(laboratory.frozen.unet)
        names = laboratory.selection.names
        trained = ravel_pytree({name: before[name] for name in names})[1](jnp.asarray(learned))
        unet = Network(laboratory.frozen.unet).module({**before, **cast(dict[str, Any], trained)})
        return self.of(laboratory.frozen.replace(unet=unet))

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
            kernel_distance(embeddings[kept], reference[kept]),
        )
