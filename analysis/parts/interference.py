"""Who gets hurt: the damage to every concept of erasing each other one, predicted and measured."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from fdiv_jax.unlearning import LinearisedRun, OptimiserConfig, UnlearningConfig
from fdiv_jax.worlds import ITEM_NAMES, STYLE_NAMES, caption

from ..rank_correlations import Interval, bootstrap, overall, pair_means, pair_table, within_targets
from ..style import INK, panel_letters, panels
from ..trials import Laboratory

if TYPE_CHECKING:
    from ..runner import Context

__all__ = ["run"]

CONCEPTS = (*ITEM_NAMES, *STYLE_NAMES)
SHOWN = tuple((item, style) for item in ITEM_NAMES for style in STYLE_NAMES)
"""What each prompt shows, in the order of the held-out prompts."""
RATES = {"sgd": 1.0, "adamw": 1e-3}
"""Learning rates of the two optimisers."""
NAMES = {"sgd": "gradient descent", "adamw": "AdamW"}
_LOOKS = 8
"""Noised images at which the frozen model's predictions are compared, for the naive distance."""
_LOOKS_OF = {
    ("item", "item"): ("o", "#0072B2"),
    ("item", "style"): ("^", "#56B4E9"),
    ("style", "item"): ("s", "#D55E00"),
    ("style", "style"): ("x", "#882255"),
}
"""Marks of the pairs, by the kinds of what is erased and what is hurt."""


class Work(NamedTuple):
    """How much is done.

    Attributes:
        concepts: that are erased, and watched.
        steps, batch: of every erasure.
        images: drawn for each of them.
        batches: at which a run is linearised.
        depth: of the Krylov space.
        held_out: images at each prompt, on which damage is measured.
    """

    concepts: tuple[str, ...] = CONCEPTS
    steps: int = 30
    batch: int = 16
    images: int = 20
    batches: int = 2
    depth: int = 8
    held_out: int = 2


FULL = Work()
QUICK = Work(("sneaker", "sandal", "shirt", "sketch"), 4, 8, 5, 1, 3, 1)


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


def _figure(
    predicted: dict[str, np.ndarray],
    measured: dict[str, np.ndarray],
    correlations: dict[str, Interval],
    naive: dict[str, dict[str, float]],
    concepts: tuple[str, ...],
) -> Any:
    """Predicted against measured damage, one panel for each optimiser, and the rank correlations."""
    figure, axes = panels(1, 3, width=6.75, height=2.75, width_ratios=(1, 1, 0.8))
    low = min(np.nanmin(table) for table in (*predicted.values(), *measured.values()))
    high = max(np.nanmax(table) for table in (*predicted.values(), *measured.values()))
    for axis, name in zip(axes[:2], NAMES, strict=True):
        for (erased, hurt), (marker, colour) in _LOOKS_OF.items():
            chosen = _of_kind(concepts, erased, hurt) & np.isfinite(measured[name])
            axis.plot(
                predicted[name][chosen],
                measured[name][chosen],
                marker,
                color=colour,
                markersize=3.2,
                markeredgewidth=0.7,
                fillstyle="none",
                label=f"{erased} hurts {hurt}",
            )
        ends = (low / 1.4, 1.4 * high)
        axis.plot(ends, ends, color=INK, linewidth=0.7, zorder=1)
        axis.set(xscale="log", yscale="log", xlim=ends, ylim=ends, xlabel="predicted m", ylabel="measured m")
        axis.set(title=NAMES[name], box_aspect=1)
        found = correlations[name]
        axis.text(
            0.04,
            0.96,
            f"Spearman {found.value:.2f}\n[{found.low:.2f}, {found.high:.2f}]",
            transform=axis.transAxes,
            va="top",
            fontsize=7.5,
        )
    _bars(axes[2], correlations, naive)
    panel_letters(axes)
    handles, texts = axes[0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=4, handletextpad=0.2, columnspacing=1.2)
    return figure


def _of_kind(concepts: tuple[str, ...], erased: str, hurt: str) -> np.ndarray:
    """Which pairs are of these kinds, (concepts, concepts)."""
    kinds = ["item" if name in ITEM_NAMES else "style" for name in concepts]
    return np.array([[a == erased and b == hurt for b in kinds] for a in kinds])


def _bars(axis: Any, correlations: dict[str, Interval], naive: dict[str, dict[str, float]]) -> None:
    """The rank correlations of the prediction and of the naive distances."""
    rows = ["Jacobian", *next(iter(naive.values()))]
    for number, (name, colour, marker) in enumerate((("sgd", "#0072B2", "o"), ("adamw", "#D55E00", "s"))):
        found = correlations[name]
        values = [found.value, *naive[name].values()]
        places = np.arange(len(rows)) + 0.18 * (2 * number - 1)
        axis.plot(values, places, marker, color=colour, markersize=5, label=NAMES[name])
        axis.plot([found.low, found.high], [places[0]] * 2, color=colour)
    axis.set(
        yticks=range(len(rows)), ylim=(len(rows) - 0.5, -0.9), xlim=(min(-0.1, axis.get_xlim()[0]), 1.08)
    )
    axis.set_yticklabels([text.replace(" ", "\n") for text in rows])
    axis.set(xlabel="Spearman", title="rank of damage")
    axis.axvline(0, color=INK, linewidth=0.7)
    axis.legend(
        loc="upper left", bbox_to_anchor=(-0.02, 1.02), handletextpad=0.1, borderpad=0.0, labelspacing=0.2
    ).set(frame_on=True, zorder=5)
    axis.get_legend().get_frame().set(facecolor="white", edgecolor="none", alpha=1)


def run(context: Context) -> dict[str, Any]:
    """Predict what each erasure does to every concept, then make them, and compare."""
    laboratory, work = Laboratory.open(context), QUICK if context.quick else FULL
    concepts = work.concepts
    changes = context.cells(
        concepts, "targets linearised", lambda target: _predicted_changes(laboratory, work, target)
    )
    held_out = _HeldOut(laboratory, work)

    def measure(pair: tuple[str, str]) -> np.ndarray:
        learned = laboratory.erased(_configuration(laboratory, work, pair[1], pair[0]))
        return held_out.by_prompt(held_out.run.outputs(learned).m)

    predicted, measured = {}, {}
    for name in NAMES:
        stack = np.stack([change[name] for change in changes])
        predicted[name] = pair_table(held_out.by_prompt(held_out.run.damage(stack)).T, concepts, SHOWN)
        rows = context.cells([(name, target) for target in concepts], f"erased by {NAMES[name]}", measure)
        measured[name] = pair_table(np.stack(rows), concepts, SHOWN)
    distances = {
        name: -pair_means(found, concepts, SHOWN) for name, found in held_out.naive_distances().items()
    }
    correlations = {name: bootstrap(overall, predicted[name], measured[name]) for name in NAMES}
    within = {name: bootstrap(within_targets, predicted[name], measured[name]) for name in NAMES}
    by_kind = {
        name: {
            f"{erased} hurts {hurt}": overall(
                np.where(_of_kind(concepts, erased, hurt), predicted[name], np.nan), measured[name]
            )
            for erased, hurt in _LOOKS_OF
        }
        for name in NAMES
    }
    naive = {
        name: {key: overall(found, measured[name]) for key, found in distances.items()} for name in NAMES
    }
    ratios = {name: np.log(measured[name] / predicted[name]) for name in NAMES}
    best_naive = max(max(found.values()) for found in naive.values())
    context.figure(
        "interference",
        _figure(predicted, measured, correlations, naive, concepts),
        shows=f"Who gets hurt: m on held-out images at every other concept after {work.steps} steps that "
        "erase one, plain erasure towards its neighbour. Predicted by linearised descent from Jacobians of "
        "the frozen model, before any training, against measured, over all "
        f"{int(np.isfinite(measured['sgd']).sum())} ordered pairs; the line is equality. (c) Rank "
        "correlation of the prediction, and of the closeness of the concepts' text features and of the "
        f"frozen model's predictions, which reach {best_naive:.2f} at the most. Intervals: 95 %, by drawing "
        "the erased concepts again (pairs that share a run are not independent).",
        rows=[
            {"erased": erased, "hurt": hurt}
            | {f"predicted_{name}": predicted[name][i, j] for name in NAMES}
            | {f"measured_{name}": measured[name][i, j] for name in NAMES}
            | {f"closeness_{key.replace(' ', '_')}": found[i, j] for key, found in distances.items()}
            for i, erased in enumerate(concepts)
            for j, hurt in enumerate(concepts)
            if np.isfinite(measured["sgd"][i, j])
        ],
    )
    return {
        "interference_spearman": {name: found.value for name, found in correlations.items()},
        "interference_spearman_interval": {name: found[1:] for name, found in correlations.items()},
        "interference_spearman_within_target": {name: found.value for name, found in within.items()},
        "interference_spearman_by_kind": by_kind,
        "interference_spearman_naive": naive,
        "interference_log_ratio": {
            name: {"median": float(np.nanmedian(found)), "deviation": float(np.nanstd(found, ddof=1))}
            for name, found in ratios.items()
        },
    }
