"""Who gets hurt: the damage to every concept of erasing each other one, predicted and measured."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from fdiv_jax.files import JsonObject
from fdiv_jax.pipeline import TextToImagePipeline
from fdiv_jax.unlearning import LinearisedRun, OptimiserConfig, UnlearningConfig
from fdiv_jax.worlds import ITEM_NAMES, STYLE_NAMES, SamplingSettings, caption

from ..damage import LOST, NAMES, Damage, draw_damage
from ..image_damage import Drawn, accuracy_table, draw, image_table
from ..rank_correlations import overall, pair_means, pair_table
from ..trials import Laboratory

if TYPE_CHECKING:
    from ..runner import Context

__all__ = ["run"]

CONCEPTS = (*ITEM_NAMES, *STYLE_NAMES)
SHOWN = tuple((item, style) for item in ITEM_NAMES for style in STYLE_NAMES)
"""What each prompt shows, in the order of the held-out prompts."""
RATES = {"sgd": 1.0, "adamw": 1e-3}
"""Learning rates of the two optimisers."""
_LOOKS = 8
"""Noised images at which the frozen model's predictions are compared, for the naive distance."""


class Work(NamedTuple):
    """How much is done.

    Attributes:
        concepts: that are erased, and watched.
        steps, batch: of every erasure.
        images: drawn for each of them.
        batches: at which a run is linearised.
        depth: of the Krylov space.
        held_out: images at each prompt, on which damage is measured as m.
        drawn: images at each prompt, on which it is measured as the change of what is drawn.
    """

    concepts: tuple[str, ...] = CONCEPTS
    steps: int = 30
    batch: int = 16
    images: int = 20
    batches: int = 2
    depth: int = 8
    held_out: int = 2
    drawn: int = 4


FULL = Work()
QUICK = Work(("sneaker", "sandal", "shirt", "sketch"), 4, 8, 5, 1, 3, 1, 1)


def _configuration(laboratory: Laboratory, work: Work, target: str, optimiser: str) -> UnlearningConfig:
    """Plain erasure towards the neighbour: the squared error, no retained prompts."""
    return laboratory.plain(
        target,
        batch=work.batch,
        images=work.images,
        steps=work.steps,
        learning_rate=RATES[optimiser],
        optimiser=OptimiserConfig(name=cast(Any, optimiser)),
    )


def _second_moment(run: LinearisedRun, batch: int) -> np.ndarray:
    """E[g^2] of the gradient on a batch, from groups of four samples: what Adam divides by the root of."""
    groups = run.samples // 4
    found = run.gradients(np.kron(np.eye(groups), np.full(4, float(groups))))
    return found.mean(0) ** 2 + found.var(0, ddof=1) * 4 / batch


def _predicted_changes(laboratory: Laboratory, work: Work, target: str) -> dict[str, np.ndarray]:
    """What erasing the target changes, to first order, under either optimiser: nothing is trained."""
    prepared = laboratory.prepare(_configuration(laboratory, work, target, "sgd"))
    run = LinearisedRun.of(prepared, prepared.data(laboratory.shelf / "anchors"), work.batches)
    optimiser = prepared.config.optimiser
    root = np.sqrt(_second_moment(run, work.batch)) + optimiser.eps
    plain, adam = run.descent(work.depth), run.descent(work.depth, scale=root)
    noise = max(0.0, 1 - float(adam.pull @ adam.pull) / float(root.sum()))
    start = float(run.outputs().m.mean())
    return {
        "sgd": plain.change(RATES["sgd"], work.steps),
        "adamw": adam.adam_change(RATES["adamw"], work.steps, optimiser, start, noise),
    }


class _HeldOut:
    """Images at every prompt of the world, and what a change of the model does there."""

    def __init__(self, laboratory: Laboratory, work: Work):
        config = _configuration(laboratory, work, work.concepts[0], "sgd")
        images = replace(config.images, number=work.held_out * len(SHOWN), seed=config.images.seed + 1)
        self._prepared = laboratory.prepare(replace(config, batch_size=25, devices="single"))
        self._prompts = [caption(item, style) for item, style in SHOWN]
        self.run, self._shown = LinearisedRun.elsewhere(
            self._prepared, self._prompts, images, laboratory.shelf / "anchors"
        )

    def by_prompt(self, values: np.ndarray) -> np.ndarray:
        """Means over the samples of each prompt, (prompts, ...)."""
        return np.stack([values[self._shown == place].mean(0) for place in range(len(SHOWN))])

    def naive_distances(self) -> dict[str, np.ndarray]:
        """Squared distances between the prompts without any Jacobian: (prompts, prompts)."""
        pipe, plan = self._prepared.pipe, self._prepared.plan
        text = np.asarray(pipe.encode_prompts(self._prompts))
        t = ((np.arange(_LOOKS) + 0.5) * pipe.schedule.num_train_timesteps / _LOOKS).astype(np.int32)
        latents = self.run.latents[:_LOOKS]
        noise = jax.random.normal(jax.random.key(0), latents.shape)
        x_t = pipe.schedule.add_noise(latents, noise, jnp.asarray(t))
        predict = jax.jit(plan.network)
        frozen = self._prepared.frozen.unet
        predictions = [
            np.asarray(predict(frozen, x_t, jnp.asarray(t), jnp.repeat(row[None], _LOOKS, 0))) for row in text
        ]
        return {"text features": _squared(text), "frozen predictions": _squared(np.stack(predictions))}


def _squared(points: np.ndarray) -> np.ndarray:
    flat = points.reshape(len(points), -1).astype(np.float64)
    return ((flat[:, None] - flat[None]) ** 2).sum(-1)


def run(context: Context) -> JsonObject:
    """Predict what each erasure does to every concept, then make them, and compare."""
    laboratory, work = Laboratory.open(context), QUICK if context.quick else FULL
    concepts = work.concepts
    changes = context.cells(
        concepts, "targets linearised", lambda target: _predicted_changes(laboratory, work, target)
    )
    held_out = _HeldOut(laboratory, work)
    settings = SamplingSettings(steps=laboratory.budget.sampler_steps)

    def drawn(pipe: TextToImagePipeline) -> Drawn:
        return draw(pipe, laboratory.judge, SHOWN, work.drawn, settings)

    def measure(pair: tuple[str, str]) -> JsonObject:
        config = _configuration(laboratory, work, pair[1], pair[0])
        learned = laboratory.erased(config)
        after = drawn(laboratory.tuned(config, learned))
        return {"m": held_out.by_prompt(held_out.run.outputs(learned).m), **after}

    (before,) = context.cells([None], "frozen", lambda _: drawn(laboratory.frozen))
    found = {}
    for name in NAMES:
        stack = np.stack([change[name] for change in changes])
        rows = context.cells([(name, target) for target in concepts], f"erased by {NAMES[name]}", measure)
        found[name] = Damage(
            predicted=pair_table(held_out.by_prompt(held_out.run.damage(stack)).T, concepts, SHOWN),
            measured=pair_table(np.stack([row["m"] for row in rows]), concepts, SHOWN),
            images=image_table(before, rows, concepts, SHOWN),
            lost=accuracy_table(before, rows, concepts, SHOWN),
        )
    distances = {
        name: -pair_means(table, concepts, SHOWN) for name, table in held_out.naive_distances().items()
    }
    ranks = {name: each.ranks() for name, each in found.items()}
    naive = {
        name: {key: overall(table, each.measured) for key, table in distances.items()}
        for name, each in found.items()
    }
    best_naive = max(max(each.values()) for each in naive.values())
    context.figure(
        "interference",
        draw_damage(found, ranks, naive, concepts),
        shows=f"Who gets hurt: damage at every other concept after {work.steps} steps that erase one, plain "
        f"erasure towards its neighbour, over all {int(np.isfinite(found['sgd'].measured).sum())} ordered "
        "pairs. Predicted by linearised descent from Jacobians of the frozen model, before any training. "
        "(a, b) Against m on held-out images; the line is equality. (c) Rank correlation with that m of the "
        "prediction, and of the closeness of the concepts' text features and of the frozen model's "
        f"predictions, which reach {best_naive:.2f} at the most. (d, e) Against the mean squared change of "
        f"{work.drawn} images at each prompt, drawn from the same noise before and after; filled: the judge "
        f"loses more than {LOST:g} of the concept. (f) How well these pairs are told from the others. "
        "Intervals: 95 %, by drawing the erased concepts again (pairs that share a run are not independent).",
        rows=[
            {"erased": erased, "hurt": hurt}
            | {
                f"{key}_{name}": table[i, j]
                for name, each in found.items()
                for key, table in each._asdict().items()
            }
            | {f"closeness_{key.replace(' ', '_')}": table[i, j] for key, table in distances.items()}
            for i, erased in enumerate(concepts)
            for j, hurt in enumerate(concepts)
            if np.isfinite(found["sgd"].measured[i, j])
        ],
    )
    return {
        "interference_spearman": {name: each["m"].value for name, each in ranks.items()},
        "interference_spearman_interval": {name: each["m"][1:] for name, each in ranks.items()},
        "interference_spearman_within_target": {
            name: each["m, within"].value for name, each in ranks.items()
        },
        "interference_spearman_by_kind": {
            name: each.by_kind(concepts, each.measured) for name, each in found.items()
        },
        "interference_spearman_naive": naive,
        "interference_spearman_images": {
            name: {"predicted": each["images"], "measured": each["images by measured"]}
            for name, each in ranks.items()
        },
        "interference_spearman_images_by_kind": {
            name: each.by_kind(concepts, each.images) for name, each in found.items()
        },
        "interference_lost_accuracy_auc": {
            name: {key: each[f"lost by {key}"] for key in ("predicted", "measured")}
            for name, each in ranks.items()
        },
        "interference_pairs_that_lose_accuracy": {
            name: int(np.nansum(each.lost > LOST)) for name, each in found.items()
        },
        "interference_log_ratio": {
            name: {
                "median": float(np.nanmedian(each.log_ratio)),
                "deviation": float(np.nanstd(each.log_ratio, ddof=1)),
            }
            for name, each in found.items()
        },
    }
