"""Trials of unlearning in the world `fashion`, and what the judge says of them, each computed once.

The parts on the real model share trials and scores through `Laboratory`: what one part has run, the next
reads. A trial is a run of `fdiv_jax.unlearn`, by the same engine; one compiled step serves every divergence
and every anchor, and an observer records the distance on held-out images on the way.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from fdiv_jax.checkpoints import model_digest
from fdiv_jax.files import JsonObject
from fdiv_jax.pipeline import TextToImagePipeline, load_pipeline
from fdiv_jax.unlearning import (
    AnchorData,
    AnchorImagesConfig,
    CriticConfig,
    HeldOutDistance,
    Network,
    Prepared,
    PreservationConfig,
    UnlearningConfig,
    prepare,
    share_program,
    train,
)
from fdiv_jax.unlearning.losses import LossFamily
from fdiv_jax.worlds import ITEM_NAMES, Judge, SamplingSettings, WorldScores, load_judge, score_world

from . import files
from .sources import source_digest

if TYPE_CHECKING:
    from pathlib import Path

    from .runner import Context

__all__ = [
    "RETAINED",
    "TARGET",
    "Budget",
    "Laboratory",
    "Scores",
    "Trial",
    "TrialResult",
    "budget",
    "load_world",
]

TARGET = "sneaker"
ANCHOR = "near"
"""The anchor of every trial but those that compare anchors: what is left of the target shows as that."""
RETAINED = tuple(name for name in ITEM_NAMES if name != TARGET)
FORMULAS = ("kl", "squared_hellinger", "pearson_chi2", "jensen_shannon", "le_cam")
GAMES = (
    "kl",
    "reverse_kl",
    "jeffreys",
    "squared_hellinger",
    "pearson_chi2",
    "neyman_chi2",
    "jensen_shannon",
    "gan",
    "le_cam",
)


@dataclass(frozen=True)
class Budget:
    """How much work the parts on the real model may do.

    Attributes:
        steps, game_steps: of the model, by formula and against a critic.
        warmup: steps of the critic alone before them.
        batch: samples per step.
        learning_rate: of the model's AdamW by formula.
        game_rate, critic_rate: of the two AdamWs against a critic. A critic that lags behind drives the model
            away from the anchor, so it takes `critic_steps` steps for each of the model.
        game_preservation: weight of the squared error at the retained prompts beside the game. There the two
            sets of predictions look the same to a critic however far the model has moved.
        anchor_images: drawn by the frozen model for training.
        held_out, every: images for the recorded distance, and every how many steps it is recorded.
        target_images, retained_images: per prompt, for scores.
        sampler_steps: of the images that are judged.
        formulas, games: divergences compared.
        seeds: of the anchors that are compared by mean and spread.
        orbit_samples, orbit_steps, orbits: of the game near its equilibrium.
    """

    steps: int = 300
    game_steps: int = 80
    warmup: int = 40
    batch: int = 16
    learning_rate: float = 1e-3
    game_rate: float = 1e-3
    critic_rate: float = 1e-3
    critic_steps: int = 3
    game_preservation: float = 10.0
    anchor_images: int = 153
    held_out: int = 40
    every: int = 10
    target_images: int = 8
    retained_images: int = 4
    sampler_steps: int = 12
    formulas: tuple[str, ...] = FORMULAS
    games: tuple[str, ...] = GAMES
    seeds: tuple[int, ...] = (0, 1, 2)
    orbit_samples: int = 12
    orbit_steps: int = 60
    orbits: tuple[str, ...] = FORMULAS


_QUICK = Budget(
    steps=30,
    game_steps=10,
    warmup=5,
    batch=8,
    anchor_images=24,
    held_out=12,
    target_images=2,
    retained_images=1,
    formulas=("kl", "squared_hellinger", "pearson_chi2"),
    games=("kl", "squared_hellinger", "jensen_shannon"),
    seeds=(0,),
    orbit_samples=6,
    orbit_steps=30,
    orbits=("kl", "squared_hellinger", "pearson_chi2"),
)


def budget(quick: bool) -> Budget:
    """The work of a full run, or of a quick one."""
    return _QUICK if quick else Budget()


@functools.lru_cache(maxsize=1)
def load_world() -> tuple[TextToImagePipeline, Judge]:
    """The frozen model and its judge."""
    return load_pipeline("fashion"), load_judge()


@dataclass(frozen=True)
class Trial:
    """What to unlearn and how; everything else is the budget's."""

    divergence: str
    family: LossFamily = "closed"
    anchor: str = ANCHOR
    seed: int = 0


@dataclass(frozen=True)
class TrialResult:
    """What a trial gave.

    Attributes:
        trial: what was asked for.
        pipeline: the unlearned model.
        loss, m, gradient_norm: one entry per step of the model, on its batch.
        held_out_steps, held_out: the mean m on the held-out images after that many steps of the model.
        update: all that was learned as one vector: trained minus original parameters.
    """

    trial: Trial
    pipeline: TextToImagePipeline
    loss: np.ndarray
    m: np.ndarray
    gradient_norm: np.ndarray
    held_out_steps: np.ndarray
    held_out: np.ndarray
    update: np.ndarray


@dataclass(frozen=True)
class Scores:
    """What the judge says of one model's images.

    Attributes:
        target: at the target's prompts.
        retained: at the prompts of the nine other items.
    """

    target: WorldScores
    retained: WorldScores

    @property
    def target_accuracy(self) -> float:
        """The share of images at the target's prompts that are judged to show it."""
        return self.target.rate(TARGET, TARGET)

    @property
    def retained_accuracy(self) -> float:
        """The mean share, over the nine other items, of images judged as prompted."""
        return self.retained.item_accuracy()


class Laboratory:
    """Results of trials and their scores, kept on a shelf that the parts share."""

    def __init__(
        self, shelf: Path, allowed: Budget, pipeline: TextToImagePipeline, judge: Judge, stamp: str = ""
    ):
        """`stamp` is part of the key of everything kept."""
        self.shelf, self.budget, self.frozen, self.judge = shelf, allowed, pipeline, judge
        self._stamp = stamp
        self._model = model_digest(pipeline.components)
        self.selection = self.prepared(Trial("kl")).selection

    @classmethod
    def open(cls, context: Context) -> Laboratory:
        """The one that all parts of this run of the analysis share; the work of other code is cleared."""
        pipeline, judge = load_world()
        stamp = hashlib.sha256(
            json.dumps([source_digest("analysis.trials"), jax.__version__, _digest(judge)]).encode()
        ).hexdigest()[:16]
        shelf = context.shared / stamp
        for stale in context.shared.glob("*"):
            if stale != shelf:
                shutil.rmtree(stale)
        return cls(shelf, budget(context.quick), pipeline, judge, stamp)

    # --- trials ----------------------------------------

    def config(self, trial: Trial) -> UnlearningConfig:
        """The configuration with which `fdiv_jax.unlearn` repeats a trial."""
        allowed = self.budget
        game = trial.family == "variational"
        return UnlearningConfig(
            target=TARGET,
            anchor=trial.anchor,
            divergence=trial.divergence,
            loss=trial.family,
            steps=allowed.game_steps if game else allowed.steps,
            batch_size=allowed.batch,
            learning_rate=allowed.game_rate if game else allowed.learning_rate,
            seed=trial.seed,
            critic=CriticConfig(
                learning_rate=allowed.critic_rate, warmup=allowed.warmup, steps=allowed.critic_steps
            ),
            retained_share=0.0 if game else UnlearningConfig.retained_share,
            preservation=PreservationConfig(allowed.game_preservation if game else 0.0, at="retained"),
            images=AnchorImagesConfig(number=allowed.anchor_images, steps=allowed.sampler_steps),
            devices=_devices(allowed.batch),
        )

    def plain(
        self, target: str, *, batch: int, images: int, image_seed: int = 0, **more: Any
    ) -> UnlearningConfig:
        """Plain erasure of a concept towards its neighbour: the squared error, no retained prompts.

        Args:
            target: the concept.
            batch: samples per step.
            images: how many are drawn for training.
            image_seed: of the images.
            more: other settings.
        """
        values: JsonObject = {
            "target": target,
            "anchor": ANCHOR,
            "divergence": "kl",
            "retained": (),
            "batch_size": batch,
            "images": AnchorImagesConfig(number=images, seed=image_seed, steps=self.budget.sampler_steps),
            "devices": _devices(batch),
        }
        return UnlearningConfig(**(values | more))

    def prepared(self, trial: Trial) -> Prepared:
        """A trial before its first step."""
        return self.prepare(self.config(trial))

    def prepare(self, config: UnlearningConfig) -> Prepared:
        """Any configuration for the frozen model, before its first step."""
        return prepare(self.frozen, config, model=self._model)

    def data(self, trial: Trial, *, held_out: bool = False) -> AnchorData:
        """Anchor images and prompts; the held-out images are drawn from other noise, for the target alone."""
        config = self.config(trial)
        if held_out:
            images = replace(config.images, number=self.budget.held_out, seed=config.images.seed + 1)
            config = replace(config, images=images, retained_share=0.0, preservation=PreservationConfig())
        return self.prepare(config).data(self.shelf / "anchors")

    def run(self, trial: Trial) -> TrialResult:
        """Make a trial, or read its result from the shelf.

        Raises:
            ValueError: a loss that is not finite.
        """
        config = self.config(trial)
        key = ("run", config.to_dict(), self.budget.held_out, self.budget.every)
        stored = self.kept(lambda: self._train(trial), *key)
        trained = {name: jnp.asarray(stored.pop(name)) for name in self.selection.names}
        before = Network.parameters(self.frozen.unet)
        change = [np.ravel(trained[name] - before[name]) for name in self.selection.names]
        return TrialResult(trial, self.tuned(config, trained), **stored, update=np.concatenate(change))

    def _train(self, trial: Trial) -> dict[str, np.ndarray]:
        """The curves of a trial and what it learned, by one compiled step for all divergences of its kind."""
        config = self.config(trial)
        game = trial.family == "variational"
        names = tuple(
            dict.fromkeys((*(self.budget.games if game else self.budget.formulas), trial.divergence))
        )
        family: LossFamily = "variational" if game else "exact"  # closed and exact are one loss
        kind = [self.prepare(replace(config, divergence=name, loss=family)) for name in names]
        prepared = share_program(kind)[names.index(trial.divergence)]
        test = self.data(trial, held_out=True).batch(0, 0, self.budget.held_out)
        watch = HeldOutDistance(prepared, test, self.budget.every)
        result = train([prepared], [None], [[watch]], progress=False, cache=self.shelf / "anchors")[0]
        kept = ~result.history["warmup"]
        curves = {name: result.history[name][kept] for name in ("loss", "m", "gradient_norm")}
        curves |= {"held_out_steps": np.array(watch.steps), "held_out": np.array(watch.m)}
        for name, values in curves.items():
            if not np.isfinite(values).all():
                at = int(np.argmin(np.isfinite(values)))
                raise ValueError(f"{config.divergence}, {config.loss}: {name} is {values[at]} at entry {at}")
        return curves | {name: np.asarray(value) for name, value in result.learned.items()}

    def tuned(self, config: UnlearningConfig, learned: Mapping[str, ArrayLike]) -> TextToImagePipeline:
        """The frozen model with what a run of this configuration learned."""
        prepared = self.prepare(config)
        trained = {name: jnp.asarray(value) for name, value in learned.items()}
        return prepared.plan.trainable.pipeline(self.frozen, trained, prepared.frozen)

    def erased(self, config: UnlearningConfig) -> dict[str, np.ndarray]:
        """What a run of any configuration learns, by name; made once, or read from the shelf."""

        def learned() -> dict[str, np.ndarray]:
            cache = self.shelf / "anchors"
            result = train([self.prepare(config)], [None], [[]], progress=False, cache=cache)[0]
            return {name: np.asarray(value) for name, value in result.learned.items()}

        return self.kept(learned, "erased", config.to_dict())

    # --- scores ----------------------------------------

    def scores(self, result: TrialResult | None = None) -> Scores:
        """The judge on the images of an unlearned model, or of the frozen one: the same noise for all."""
        return Scores(
            self.judged(result, (TARGET,), self.budget.target_images),
            self.judged(result, RETAINED, self.budget.retained_images),
        )

    def judged(
        self, result: TrialResult | None, nouns: Sequence[str], images: int, seed: int = 0
    ) -> WorldScores:
        """`score_world` for an unlearned model, or for the frozen one."""
        settings = SamplingSettings(steps=self.budget.sampler_steps, seed=seed)
        who = "frozen" if result is None else self.config(result.trial).to_dict()

        def judged() -> dict[str, np.ndarray]:
            pipeline = self.frozen if result is None else result.pipeline
            found = score_world(
                pipeline, self.judge, nouns=nouns, images_per_prompt=images, settings=settings
            )
            return {"items": found.items, "styles": found.styles, "images": found.images}

        stored = self.kept(judged, "scores", who, list(nouns), images, asdict(settings))
        return WorldScores(tuple(nouns), stored["items"], stored["styles"], stored["images"])

    def embeddings(self, scores: WorldScores) -> np.ndarray:
        """The judge's unit embeddings of all images of some scores, (n, 64)."""
        return self.judge(scores.images.reshape(-1, *scores.images.shape[-3:])).embeddings

    # --- the shelf ----------------------------------------

    def kept(self, make: Callable[[], dict[str, np.ndarray]], *key: object) -> dict[str, np.ndarray]:
        """Arrays under a key of everything that they depend on: read, or made and written."""
        stored = self._read(*key)
        if stored is None:
            stored = make()
            self._write(stored, *key)
        return stored

    def _path(self, *key: object) -> Path:
        text = json.dumps([self._stamp, self._model, *key], sort_keys=True)
        return self.shelf / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npz"

    def _read(self, *key: object) -> dict[str, np.ndarray] | None:
        path = self._path(*key)
        if not path.is_file():
            return None
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
                return dict(stored)
        except Exception:  # damaged: compute it again
            return None

    def _write(self, arrays: dict[str, np.ndarray], *key: object) -> None:
        buffer = io.BytesIO()
        np.savez(buffer, **cast(Any, arrays))
        files.write_whole(self._path(*key), buffer.getvalue())


def _devices(batch: int) -> Literal["single", "all"]:
    """All local devices, where they divide a batch."""
    return "all" if batch % jax.local_device_count() == 0 else "single"


def _digest(judge: Judge) -> str:
    """A hash of what the judge answers to fixed noise."""
    noise = np.random.default_rng(0).integers(256, size=(2, 32, 32, 3)).astype(np.uint8)
    found = judge(noise)
    return hashlib.sha256(
        np.round(found.items, 4).tobytes() + np.round(found.styles, 4).tobytes()
    ).hexdigest()
