"""The runs that the claims of the paper are judged by: the same for every seed, divergences on one batch.

All are the paper's plain method: one target, no retained prompts, AdamW. The two settings are the authors' m
(their code: summed over channels, averaged over pixels), where every divergence is nearly the mean squared
error, and the same m summed over the pixels, where they differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from fdiv_jax.divergences import divergence
from fdiv_jax.unlearning import (
    AnchorImagesConfig,
    CriticConfig,
    UnlearningConfig,
    prepare,
    share_program,
    train,
)
from fdiv_jax.worlds import ITEM_NAMES, STYLE_NAMES

from .equal_erasure import Gallery, HeldOut, Path, follow, gradients_at
from .trials import RETAINED, TARGET, Laboratory

__all__ = ["FULL", "QUICK", "SETTINGS", "Bench", "Work"]

SETTINGS = {"sum": "m from 6", "mean": "authors' scale"}
"""Scale of m -> what the setting is called; at the start m is 5.9 and 0.093."""
FORMULAS = ("kl", "squared_hellinger", "pearson_chi2")
GAMES = ("kl", "squared_hellinger", "pearson_chi2", "jensen_shannon")
ANCHORS = ("superclass", "empty")
"""Beside `near`, which is the anchor of all other runs."""
SEQUENCE = ("sketch", "neon", "cyanotype", "poster")
LEFT = next(style for style in STYLE_NAMES if style not in SEQUENCE)
HALF, TENTH = 0.5, 0.1


class Work(NamedTuple):
    """How much is done.

    Attributes:
        seeds: how many; each has batches, noise and anchor images of its own.
        steps, game_steps, stage_steps: of a run by formula, of a game, and of each erasure in a sequence.
        warmup: steps of the critic alone.
        batch: samples per step.
        every: steps between two looks at the model.
        images: for training.
        held_out: images on which m is measured.
        target_images: per style, for the judge; of every other item there is one in each style.
        looks: at which gradients are compared.
    """

    seeds: int = 5
    steps: int = 60
    game_steps: int = 60
    stage_steps: int = 20
    warmup: int = 40
    batch: int = 8
    every: int = 3
    images: int = 40
    held_out: int = 25
    target_images: int = 3
    looks: int = 5


FULL = Work()
QUICK = Work(2, 6, 4, 2, 2, 4, 3, 5, 5, 1, 2)


class Bench:
    """Runs of one world and budget."""

    def __init__(self, laboratory: Laboratory, work: Work):
        """Draws the frozen model's images and measures nothing yet."""
        self.laboratory, self.work = laboratory, work
        others = [(item, style) for item in RETAINED for style in STYLE_NAMES]
        own = [(TARGET, style) for style in STYLE_NAMES for _ in range(work.target_images)]
        self.gallery = Gallery(laboratory, [*others, *own], [False] * len(others) + [True] * len(own))
        self._held_out: dict[str, HeldOut] = {}

    def configuration(
        self, name: str, setting: str, seed: int, anchor: str = "near", **more: Any
    ) -> UnlearningConfig:
        """A run of `TARGET`."""
        work = self.work
        values: dict[str, Any] = {
            "target": TARGET,
            "anchor": anchor,
            "divergence": name,
            "scale": setting,
            "retained": (),
            "steps": work.steps,
            "batch_size": work.batch,
            "learning_rate": self.laboratory.budget.learning_rate,
            "seed": seed,
            "images": AnchorImagesConfig(
                number=work.images, seed=seed, steps=self.laboratory.budget.sampler_steps
            ),
            "devices": "all" if work.batch % jax.local_device_count() == 0 else "single",
        }
        return UnlearningConfig(**(values | more))

    def held_out(self, anchor: str = "near") -> HeldOut:
        """m from the target to that anchor on images that no run sees."""
        if anchor not in self._held_out:
            config = self.configuration("kl", "mean", 0, anchor)
            self._held_out[anchor] = HeldOut(self.laboratory, config, self.work.held_out)
        return self._held_out[anchor]

    def _seen(self, path: Path, level: float, anchor: str = "near") -> dict[str, float] | None:
        """What the run has done to images where m is that share of what it was; None: never."""
        learned = path.at(level, self.held_out(anchor))
        return None if learned is None else self.gallery.see(learned)._asdict()

    def formulas(self, setting: str, seed: int) -> dict[str, Any]:
        """The divergences by their formulas, on the same batches: paths, what they did at equal erasure, and
        their gradients along the path of kl."""
        configs = [self.configuration(name, setting, seed) for name in FORMULAS]
        paths = follow(self.laboratory, configs, self.work.every, self.held_out())
        chosen = np.unique(np.linspace(0, len(paths[0].steps) - 1, self.work.looks).astype(int))
        norms, apart = _gradients(gradients_at(self.laboratory, configs, paths[0].learned[chosen]))
        return {
            "steps": paths[0].steps,
            "m": {name: path.m for name, path in zip(FORMULAS, paths, strict=True)},
            "arrival": {name: path.arrival(HALF) for name, path in zip(FORMULAS, paths, strict=True)},
            "half": {name: self._seen(path, HALF) for name, path in zip(FORMULAS, paths, strict=True)},
            "tenth": {name: self._seen(path, TENTH) for name, path in zip(FORMULAS[:2], paths, strict=False)},
            "norms": norms,
            "apart": apart,
        }

    def anchors(self, setting: str, seed: int) -> dict[str, Any]:
        """squared_hellinger towards the anchors other than `near`, where m is a tenth of what it was."""
        found = {}
        for anchor in ANCHORS:
            config = self.configuration("squared_hellinger", setting, seed, anchor)
            (path,) = follow(self.laboratory, [config], self.work.every, self.held_out(anchor))
            found[anchor] = {"m": path.m, "tenth": self._seen(path, TENTH, anchor)}
        return found

    def games(self, seed: int) -> dict[str, Any]:
        """The divergences against a critic, on the same batches."""
        allowed, work = self.laboratory.budget, self.work
        critic = CriticConfig(
            learning_rate=allowed.critic_rate, warmup=work.warmup, steps=allowed.critic_steps
        )
        configs = [
            self.configuration(name, "mean", seed, loss="variational", steps=work.game_steps, critic=critic)
            for name in GAMES
        ]
        paths = follow(self.laboratory, configs, work.every, self.held_out())
        found = dict(zip(GAMES, paths, strict=True))
        return {
            "steps": paths[0].steps,
            "m": {name: path.m for name, path in found.items()},
            "arrival": {name: path.arrival(HALF) for name, path in found.items()},
            "half": self._seen(found["squared_hellinger"], HALF),
        }

    def sequence(self, setting: str, seed: int, gallery: Gallery) -> dict[str, dict[str, float]]:
        """All styles but one erased one after the other, each from the last result, by kl and by hellinger:
        what is left of the images in `gallery`."""
        work, names = self.work, FORMULAS[:2]
        found = {}
        for place, name in enumerate(names):
            pipeline = self.laboratory.frozen
            for stage, style in enumerate(SEQUENCE):
                images = AnchorImagesConfig(
                    number=work.images // 2, seed=seed, steps=self.laboratory.budget.sampler_steps
                )
                configs = [
                    self.configuration(
                        each,
                        setting,
                        len(SEQUENCE) * seed + stage,
                        "superclass",
                        target=style,
                        steps=work.stage_steps,
                        images=images,
                    )
                    for each in names
                ]
                cell = share_program([prepare(pipeline, config) for config in configs])[place]
                cache = self.laboratory.shelf / "anchors"
                pipeline = train([cell], [None], [[]], progress=False, cache=cache)[0].pipeline
            found[name] = gallery.of(pipeline)._asdict()
        return found

    def last_style(self) -> Gallery:
        """Images of every item in the style that a sequence leaves."""
        count = len(self.gallery)  # as many as in the other gallery, which has compiled that size
        return Gallery(
            self.laboratory, [(ITEM_NAMES[i % len(ITEM_NAMES)], LEFT) for i in range(count)], [False] * count
        )


def _gradients(found: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Norms of the gradients (looks, divergences, P) by divergence; and how far each is from that of kl at
    equal curvature, over the norm of kl's at the first look."""
    norms = np.linalg.norm(found, axis=-1)
    curvature = np.array([float(cast(Any, divergence(name).curvature)) for name in FORMULAS])
    equal = found / curvature[:, None]
    apart = np.linalg.norm(equal - equal[:, :1], axis=-1) / norms[0, 0]
    return (
        {name: norms[:, i] for i, name in enumerate(FORMULAS)},
        {name: apart[:, i] for i, name in enumerate(FORMULAS)},
    )


def seeds_and_settings(work: Work) -> Sequence[tuple[str, int]]:
    """Every setting with every seed."""
    return [(setting, seed) for seed in range(work.seeds) for setting in SETTINGS]
