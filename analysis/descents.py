"""Plain erasure with several divergences side by side, and m of every held-out sample on the way."""

from __future__ import annotations

import functools
import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from fdiv_jax.pipeline import TextToImagePipeline
from fdiv_jax.unlearning import (
    AnchorImagesConfig,
    Batch,
    DivergedError,
    Network,
    OptimiserConfig,
    Prepared,
    UnlearningConfig,
    UnlearningResult,
    share_program,
    timesteps_of,
    train,
)
from fdiv_jax.unlearning.comparison import Comparison
from fdiv_jax.unlearning.timesteps import draw_noise

from . import files
from .sources import source_digest
from .trials import Laboratory

__all__ = ["Curves", "Descents", "HeldOut"]


class HeldOut:
    """Images that no step sees, noised once: timesteps are spread evenly over the schedule.

    Attributes:
        timesteps: (n,), of the samples.
    """

    def __init__(self, prepared: Prepared, batch: Batch):
        """`prepared` is any run on the pairs of prompts that the batch has."""
        plan = prepared.plan
        count, end = len(batch.position), plan.schedule.num_train_timesteps
        t = ((batch.position + 0.5) * end / count).astype(jnp.int32)
        shape = batch.latents.shape[1:]
        _, noise = draw_noise(jax.random.key(1), batch.position, shape, timesteps_of(plan.schedule))
        self.timesteps = np.asarray(t)
        self._seen = plan.schedule.add_noise(batch.latents, noise, t), t
        self._network = _compiled(plan.network)
        self._text = batch.target_text
        self._goal = self._network(prepared.frozen.unet, *self._seen, batch.anchor_text)

    def squared_distances(self, parameters: Any) -> np.ndarray:
        """(n,): the squared distance of every sample's predictions, summed over pixels and channels."""
        moved = self._network(parameters, *self._seen, self._text) - self._goal
        return np.sum(np.square(np.asarray(moved, np.float64)), axis=(1, 2, 3))


@functools.lru_cache(maxsize=4)
def _compiled(network: Network) -> Callable[..., Any]:
    return jax.jit(network)


class _Watch:
    """An observer that records the distances of the held-out samples."""

    def __init__(self, held_out: HeldOut, looks: Sequence[int]):
        self.rows: list[np.ndarray] = []
        self._held_out, self._looks = held_out, frozenset(looks)

    def row(self, row: Mapping[str, Any]) -> None:
        """Ignore the step's figures."""

    def due(self, done: int) -> bool:
        """At the steps asked for."""
        return done in self._looks

    def model(self, done: int, pipeline: Callable[[], TextToImagePipeline]) -> None:
        """Record the model's distances."""
        self.rows.append(self._held_out.squared_distances(Network.parameters(pipeline().unet)))

    def end(self, result: UnlearningResult) -> None:
        """Ignore the result: the last look is at the last step."""


@dataclass(frozen=True)
class _AtVariance:
    """A loss by formula at a sigma^2 that is known when the step runs."""

    loss: Any
    variance: Any
    game: None = None

    def at(self, choice: Any) -> _AtVariance:
        """Itself."""
        return self

    def value(self, comparison: Comparison, critic: Any = None) -> Any:
        """The mean of F_f(m), a scalar."""
        return self.loss.factor * self.loss.divergence.gaussian_divergence(self.distance(comparison)).mean()

    def distance(self, comparison: Comparison) -> Any:
        """m of every sample, (n,)."""
        return self.loss.distance(comparison) / self.variance

    def weight(self, m: Any) -> Any:
        """As `Loss.weight`."""
        return self.loss.weight(m)


@dataclass(frozen=True)
class _AnyVariance:
    """Losses at sigma = 1 with sigma^2 as data, so that one compiled step serves every sigma.

    A choice is the place of sigma^2 in `variances`, plus their number times the choice of `loss`.
    """

    loss: Any
    variances: tuple[float, ...]
    game: None = None

    def at(self, choice: Any) -> _AtVariance:
        """The loss of one divergence at one sigma^2."""
        count = len(self.variances)
        return _AtVariance(self.loss.at(choice // count), jnp.asarray(self.variances)[choice % count])

    def value(self, comparison: Comparison, critic: Any = None) -> Any:
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
        self._held_out: dict[str, HeldOut] = {}

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
        return UnlearningConfig(
            target=target,
            anchor="near",
            divergence=divergence,
            loss="exact",
            scale="sum",
            sigma=float(np.sqrt(sigma2)),
            normalise_curvature=divergence != "total_variation",
            retained=(),
            steps=steps,
            batch_size=self._batch,
            learning_rate=rate * sigma2 if optimiser.name == "sgd" else rate,
            seed=seed,
            optimiser=optimiser,
            images=AnchorImagesConfig(number=self._images, steps=self._laboratory.budget.sampler_steps),
            devices="all" if self._batch % jax.local_device_count() == 0 else "single",
        )

    def together(self, configs: Sequence[UnlearningConfig], looks: Sequence[int]) -> list[Curves]:
        """Make runs that see the same batches, by one compiled step for all divergences and sigmas.

        Args:
            configs: of the runs, which differ in divergence, sigma, learning rate and number of steps alone.
            looks: the steps after which m is measured on the held-out samples.
        """
        key = [self._stamp, [config.to_dict() for config in configs], list(looks), self._samples]
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
        path = self._laboratory.shelf / f"descents-{name}.npz"
        if path.is_file():
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
                arrays = dict(stored)
        else:
            arrays = self._train(configs, looks)
            buffer = io.BytesIO()
            np.savez(buffer, **cast(Any, arrays))
            files.write_whole(path, buffer.getvalue())
        found = []
        for number, config in enumerate(configs):
            m = arrays[f"m{number}"] / config.sigma**2
            steps = np.array(looks[: len(m)])
            found.append(Curves(steps, m, arrays["timesteps"], bool(arrays["diverged"][number])))
        return found

    def start(self, config: UnlearningConfig) -> np.ndarray:
        """m of the held-out samples before any step, (samples,)."""
        frozen = Network.parameters(self._laboratory.frozen.unet)
        return self._at(config).squared_distances(frozen) / config.sigma**2

    def _train(self, configs: Sequence[UnlearningConfig], looks: Sequence[int]) -> dict[str, np.ndarray]:
        held_out = self._at(configs[0])
        runs = _share_step(
            [self._laboratory.prepare(replace(config, sigma=1.0)) for config in configs],
            [config.sigma**2 for config in configs],
        )
        watches = [_Watch(held_out, looks) for _ in runs]
        lost: dict[int, DivergedError] = {}
        train(
            runs,
            [None] * len(runs),
            [[watch] for watch in watches],
            progress=False,
            cache=self._laboratory.shelf / "anchors",
            diverged=lost,
        )
        arrays = {f"m{number}": np.array(watch.rows) for number, watch in enumerate(watches)}
        diverged = np.array([number in lost for number in range(len(runs))])
        return arrays | {"timesteps": held_out.timesteps, "diverged": diverged}

    def _at(self, config: UnlearningConfig) -> HeldOut:
        if config.target not in self._held_out:
            images = replace(config.images, number=self._samples, seed=config.images.seed + 1)
            prepared = self._laboratory.prepare(replace(config, images=images))
            data = prepared.data(self._laboratory.shelf / "anchors")
            self._held_out[config.target] = HeldOut(prepared, data.batch(0, 0, self._samples))
        return self._held_out[config.target]
