"""Plain erasure with several divergences side by side, and m of every held-out sample on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from fdiv_jax.arrays import Choice, Scalar
from fdiv_jax.unlearning import (
    CriticState,
    DivergedError,
    HeldOutDistance,
    Network,
    OptimiserConfig,
    Prepared,
    UnlearningConfig,
    share_program,
    train,
)
from fdiv_jax.unlearning.comparison import Comparison
from fdiv_jax.unlearning.losses import AtVariance

from .sources import source_digest
from .trials import Laboratory

__all__ = ["Curves", "Descents"]


@dataclass(frozen=True)
class _AnyVariance:
    """Losses at sigma = 1 with sigma^2 as data, so that one compiled step serves every sigma.

    A choice is the place of sigma^2 in `variances`, plus their number times the choice of `loss`.
    """

    loss: Any
    variances: tuple[float, ...]
    game: None = None

    def at(self, choice: Choice) -> AtVariance:
        """The loss of one divergence at one sigma^2."""
        count = len(self.variances)
        return AtVariance(self.loss.at(choice // count), jnp.asarray(self.variances)[choice % count])

    def value(self, comparison: Comparison, critic: CriticState | None = None) -> Scalar:
        """There is none before `at`."""
        raise NotImplementedError("a loss at several variances; expected `at` first")

    distance = weight = value


def _share_step(runs: Sequence[Prepared], variances: Sequence[float]) -> list[Prepared]:
    """Runs at sigma = 1 made runs at these sigma^2, by one compiled step for all."""
    shared = share_program(runs)
    distinct = tuple(sorted(set(variances)))
    found = []
    for run, variance in zip(shared, variances, strict=True):
        which = 0 if run.frozen.choice is None else int(run.frozen.choice)
        choice = jnp.asarray(which * len(distinct) + distinct.index(variance), jnp.int32)
        plan = replace(run.plan, loss=_AnyVariance(run.plan.loss, distinct))
        found.append(replace(run, plan=plan, frozen=replace(run.frozen, choice=choice)))
    return found


@dataclass(frozen=True)
class Curves:
    """What one run did on the held-out samples.

    Attributes:
        steps: (looks,), after which the model was looked at; none after the loss ceased to be finite.
        m: (looks, samples), summed over pixels and channels, in the run's unit sigma^2.
        timesteps: (samples,).
        diverged: whether the loss ceased to be finite.
    """

    steps: np.ndarray
    m: np.ndarray
    timesteps: np.ndarray
    diverged: bool


class Descents:
    """Runs of plain erasure towards the neighbour, with scale `sum`; each group made once, or read."""

    def __init__(self, laboratory: Laboratory, *, images: int, held_out: int, batch: int):
        """How many images are drawn for training, how many samples are held out, and those of a step."""
        self._laboratory, self._images, self._samples, self._batch = laboratory, images, held_out, batch
        self._stamp = source_digest("analysis.descents")

    def config(
        self,
        divergence: str,
        *,
        sigma2: float,
        rate: float,
        steps: int,
        seed: int,
        target: str,
        optimiser: OptimiserConfig,
    ) -> UnlearningConfig:
        """At equal curvature, where f''(1) is finite; `rate` is in units of sigma^2 for gradient descent."""
        return self._laboratory.plain(
            target,
            batch=self._batch,
            images=self._images,
            divergence=divergence,
            loss="exact",
            scale="sum",
            sigma=float(np.sqrt(sigma2)),
            normalise_curvature=divergence != "total_variation",
            steps=steps,
            learning_rate=rate * sigma2 if optimiser.name == "sgd" else rate,
            seed=seed,
            optimiser=optimiser,
        )

    def together(self, configs: Sequence[UnlearningConfig], looks: Sequence[int]) -> list[Curves]:
        """Make runs that see the same batches, by one compiled step for all divergences and sigmas.

        Args:
            configs: of the runs, which differ in divergence, sigma, learning rate and number of steps alone.
            looks: the steps after which m is measured on the held-out samples.
        """
        key = (self._stamp, [config.to_dict() for config in configs], list(looks), self._samples)
        arrays = self._laboratory.kept(lambda: self._train(configs, looks), "descents", *key)
        found = []
        for number, config in enumerate(configs):
            m = arrays[f"m{number}"] / config.sigma**2
            steps = np.array(looks[: len(m)])
            found.append(Curves(steps, m, arrays["timesteps"], bool(arrays["diverged"][number])))
        return found

    def start(self, config: UnlearningConfig) -> np.ndarray:
        """m of the held-out samples before any step, (samples,)."""
        frozen = Network.parameters(self._laboratory.frozen.unet)
        return self._watch(config, [0]).distances(frozen) / config.sigma**2

    def _train(self, configs: Sequence[UnlearningConfig], looks: Sequence[int]) -> dict[str, np.ndarray]:
        runs = _share_step(
            [self._laboratory.prepare(replace(config, sigma=1.0)) for config in configs],
            [config.sigma**2 for config in configs],
        )
        watches = [self._watch(config, looks) for config in configs]
        lost: dict[int, DivergedError] = {}
        train(
            runs,
            [None] * len(runs),
            [[watch] for watch in watches],
            progress=False,
            cache=self._laboratory.shelf / "anchors",
            diverged=lost,
        )
        arrays = {f"m{number}": np.array(watch.samples) for number, watch in enumerate(watches)}
        diverged = np.array([number in lost for number in range(len(runs))])
        return arrays | {"timesteps": watches[0].timesteps, "diverged": diverged}

    def _watch(self, config: UnlearningConfig, looks: Sequence[int]) -> HeldOutDistance:
        """m of images that no step sees at the target's prompts, summed over pixels and channels."""
        images = replace(config.images, number=self._samples, seed=config.images.seed + 1)
        prepared = self._laboratory.prepare(replace(config, sigma=1.0, images=images))
        data = prepared.data(self._laboratory.shelf / "anchors")
        return HeldOutDistance(prepared, data.batch(0, 0, self._samples), looks)
