"""What the erased item is drawn to: its super-class, its neighbour, or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fdiv_jax.files import JsonObject
from fdiv_jax.worlds import ITEM_NAMES, STYLE_NAMES, WorldScores

from ..style import INK, legend_below, panel_letters, panels, series_style
from ..trials import RETAINED, TARGET, Laboratory, Scores, Trial, TrialResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..runner import Context

__all__ = ["run"]

ANCHORS = ("superclass", "near", "empty")
DIVERGENCE = "squared_hellinger"
_LOOKS = {anchor: series_style(place) for place, anchor in enumerate(ANCHORS, start=1)}
_OTHERS = "#d0d0d0"


def _spread(values: list[float]) -> JsonObject:
    """Mean and, over several seeds, the standard deviation."""
    return {
        "mean": float(np.mean(values)),
        "spread": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
        "seeds": len(values),
    }


def _frozen(laboratory: Laboratory) -> JsonObject:
    """The frozen model: its scores, the floor of the super-class, accuracy by item and by style."""
    allowed = laboratory.budget
    paired = laboratory.scores()
    rounds = max(1, round(allowed.target_images / allowed.retained_images))
    retained: list[WorldScores] = [paired.retained]
    retained += [
        laboratory.judged(None, RETAINED, allowed.retained_images, seed) for seed in range(1, rounds)
    ]
    noun = laboratory.frozen.concepts[TARGET].superclass.removeprefix("an ").removeprefix("a ")
    above = laboratory.judged(None, (noun,), allowed.target_images)
    by_item = {item: float(np.mean([found.rate(item, item) for found in retained])) for item in RETAINED} | {
        TARGET: paired.target_accuracy
    }
    by_style = [
        np.mean([found.styles[s, s] for found in retained]) * len(RETAINED) + paired.target.styles[s, s]
        for s in range(len(STYLE_NAMES))
    ]
    return {
        "scores": paired,
        "superclass": noun,
        "floor": above.rate(noun, TARGET),
        "items": {item: by_item[item] for item in ITEM_NAMES},
        "styles": {
            name: float(total / (len(RETAINED) + 1))
            for name, total in zip(STYLE_NAMES, by_style, strict=True)
        },
    }


def _draw_points(axis: Axes, values: dict[str, list[float]], before: float) -> None:
    """One dot per seed, a bar for the mean, the frozen model as a line."""
    for place, (anchor, found) in enumerate(values.items()):
        look = dict(_LOOKS[anchor], linestyle="none")
        axis.bar(place, np.mean(found), width=0.56, color=look["color"], alpha=0.35)
        shift = np.linspace(-0.12, 0.12, len(found)) if len(found) > 1 else [0.0]
        axis.plot(place + np.asarray(shift), found, **look, markersize=4)
        axis.text(place, 0.035, f"{np.mean(found):.2f}", ha="center", fontsize=7)
    axis.axhline(before, color=INK, linewidth=0.9)
    axis.text(len(values) - 0.45, before + 0.012, "frozen model", ha="right", fontsize=7, color=INK)
    axis.set_xticks(range(len(values)), list(values))
    axis.set(ylim=(0, 1.08), xlim=(-0.55, len(values) - 0.45))
    axis.grid(axis="x", visible=False)


def _draw_kinds(axis: Axes, kinds: dict[str, np.ndarray]) -> None:
    """What the judge sees at the target's prompts, as stacked bars; rare answers together in grey."""
    mean = np.mean(list(kinds.values()), axis=0)
    largest = np.max(list(kinds.values()), axis=0)
    named = [i for i in np.argsort(-mean) if largest[i] >= 0.08][:6]
    palette = [series_style(place)["color"] for place in (1, 2, 3, 4, 5, 6)]
    for place, share in enumerate(kinds.values()):
        bottom = 0.0
        for colour, i in zip(palette, named, strict=False):
            axis.bar(place, share[i], bottom=bottom, width=0.6, color=colour)
            bottom += share[i]
        axis.bar(place, max(0.0, 1 - bottom), bottom=bottom, width=0.6, color=_OTHERS)
    for colour, i in zip(palette, named, strict=False):
        axis.bar(0, 0, color=colour, label=ITEM_NAMES[i])
    axis.bar(0, 0, color=_OTHERS, label="others")
    axis.set_xticks(range(len(kinds)), list(kinds))
    axis.set(ylim=(0, 1), ylabel="share of images")
    axis.grid(visible=False)


def run(context: Context) -> JsonObject:
    """Erase towards each anchor with the closed form of `DIVERGENCE`, over the seeds of the budget."""
    laboratory = Laboratory.open(context)
    allowed = laboratory.budget
    frozen = _frozen(laboratory)
    before: Scores = frozen["scores"]
    jobs = [
        Trial(DIVERGENCE, anchor=anchor, seed=seed)
        for anchor in ANCHORS
        for seed in (allowed.seeds if anchor != "empty" else allowed.seeds[:1])
    ]
    found: dict[str, list[tuple[TrialResult, Scores]]] = {anchor: [] for anchor in ANCHORS}
    for job in context.progress(jobs, "models unlearned and judged"):
        result = laboratory.run(job)
        found[job.anchor].append((result, laboratory.scores(result)))
    target = {anchor: [s.target_accuracy for _, s in some] for anchor, some in found.items()}
    retained = {anchor: [s.retained_accuracy for _, s in some] for anchor, some in found.items()}
    kinds = {"frozen": before.target.items[0]} | {
        anchor: np.mean([s.target.items[0] for _, s in some], axis=0) for anchor, some in found.items()
    }

    figure, axes = panels(1, 3, height=2.7, width_ratios=(1, 1, 1.25))
    _draw_points(axes[0], target, before.target_accuracy)
    floor = frozen["floor"]
    axes[0].plot([-0.4, 0.4], [floor, floor], color=INK, linewidth=1.6, linestyle=(0, (2, 1)))
    axes[0].text(0.0, floor + 0.02, f'frozen at\n"a {frozen["superclass"]}"', fontsize=7, ha="center")
    axes[0].set_title(f"{TARGET} prompts, {TARGET} seen")
    _draw_points(axes[1], retained, before.retained_accuracy)
    axes[1].set_title("the other items, as prompted")
    _draw_kinds(axes[2], kinds)
    axes[2].set_title(f"what is seen at {TARGET} prompts")
    panel_letters(axes)
    legend_below(figure, axes[2:], 7)

    means = {anchor: float(np.mean(values)) for anchor, values in retained.items()}
    drop = {anchor: before.retained_accuracy - mean for anchor, mean in means.items()}
    excess = float(np.mean(target["superclass"])) - floor
    seeds = len(allowed.seeds)
    context.figure(
        "anchors",
        figure,
        shows=f"The anchor decides what is left: towards the neighbour {np.mean(target['near']):.2f} of the "
        f"images at {TARGET} prompts are still judged {TARGET}, towards the super-class "
        f'{np.mean(target["superclass"]):.2f} (the frozen model\'s own "a {frozen["superclass"]}" images: '
        f"{floor:.2f}), towards the empty prompt {np.mean(target['empty']):.2f}. Closed {DIVERGENCE}, "
        f"{allowed.steps} steps, {seeds} seed{'s' if seeds > 1 else ''} (the empty anchor: one).",
        rows=[
            {
                "anchor": anchor,
                "seed": result.trial.seed,
                "target_accuracy": s.target_accuracy,
                "retained_accuracy": s.retained_accuracy,
                "style_accuracy": s.retained.style_accuracy(),
                "final_held_out_m": float(result.held_out[-1]),
            }
            | {f"at_target_{n.replace(' ', '_')}": s.target.rate(TARGET, n) for n in ITEM_NAMES}
            | {f"accuracy_{n.replace(' ', '_')}": s.retained.rate(n, n) for n in RETAINED}
            for anchor, some in found.items()
            for result, s in some
        ],
        numbers={
            "frozen_item_accuracy": frozen["items"],
            "frozen_style_accuracy": frozen["styles"],
            "frozen_retained_accuracy": before.retained_accuracy,
            "frozen_superclass_rate": floor,
            "judge": laboratory.judge.report,
        },
    )
    context.evidence(
        "C8",
        f"Retained accuracy falls by {drop['superclass']:+.3f} (superclass), {drop['near']:+.3f} (near) and "
        f"{drop['empty']:+.3f} (empty) from {before.retained_accuracy:.3f}; target left "
        f"{np.mean(target['superclass']):.3f}, {np.mean(target['near']):.3f} and "
        f"{np.mean(target['empty']):.3f}.",
    )
    report = {
        f"judge_{kind}_accuracy": laboratory.judge.report[kind]
        for kind in ("item", "style")
        if kind in laboratory.judge.report
    }
    return {
        "anchor_target_accuracy": {anchor: _spread(values) for anchor, values in target.items()},
        "anchor_retained_accuracy": {anchor: _spread(values) for anchor, values in retained.items()},
        "anchor_retained_drop": drop,
        "frozen_superclass_rate": floor,
        "superclass_excess_over_frozen": excess,
        "frozen_retained_accuracy": before.retained_accuracy,
        "item_accuracy_frozen": frozen["items"],
        "item_accuracy_frozen_mean": float(np.mean(list(frozen["items"].values()))),
        "style_accuracy_frozen": frozen["styles"],
        "style_accuracy_frozen_mean": float(np.mean(list(frozen["styles"].values()))),
        **report,
    }
