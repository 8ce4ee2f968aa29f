"""What each divergence leaves of one erased item and of the nine others, in pictures and numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fdiv_jax.divergences import divergence
from fdiv_jax.evaluation import kid
from fdiv_jax.files import JsonObject
from fdiv_jax.worlds import STYLE_NAMES

from ..image_grid import draw_image_grid
from ..style import label
from ..trials import RETAINED, TARGET, Laboratory, Scores, Trial, TrialResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..runner import Context

__all__ = ["run"]

GAME = "squared_hellinger"
"""The divergence whose variational run is set beside its closed form."""


def _trials(laboratory: Laboratory) -> list[Trial]:
    """One trial per divergence by its formula, and the variational one of `GAME`."""
    trials = [
        Trial(name, "exact" if divergence(name).closed_form is None else "closed")
        for name in laboratory.budget.formulas
    ]
    return [*trials, Trial(GAME, "variational")]


def _name(trial: Trial) -> str:
    """The name of a trial in the figure."""
    text = "MSE (KL)" if trial.divergence == "kl" else label(trial.divergence)
    return f"{text}, {trial.family}"


def _key(trial: Trial) -> str:
    """The name of a trial in the summary."""
    return trial.divergence if trial.family != "variational" else f"{trial.divergence}_variational"


def _strip(scores: Scores, shown: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Images of the target, `shown` per style, and one of every retained item, the styles in turn."""
    target = [scores.target.images[0, s, k] for s in range(len(STYLE_NAMES)) for k in range(shown)]
    retained = [scores.retained.images[i, i % len(STYLE_NAMES), 0] for i in range(len(RETAINED))]
    return target, retained


def _picture(laboratory: Laboratory, rows: list[tuple[str, Scores]]) -> Figure:
    """The grid: one row per model, target left, retained right, the judge's numbers at the end."""
    shown = min(2, laboratory.budget.target_images)
    columns = [style for style in STYLE_NAMES for _ in range(shown)]
    heads = ["" if i % shown else style for i, style in enumerate(columns)]
    blocks = [
        (f'"a {TARGET}, ... style"', heads),
        ("retained: each other item, styles in turn", list(RETAINED)),
    ]
    ends = [(f"{s.target_accuracy:.2f}", f"{s.retained_accuracy:.2f}") for _, s in rows]
    return draw_image_grid(
        [(name, _strip(scores, shown), end) for (name, scores), end in zip(rows, ends, strict=True)],
        blocks,
        end="judged right",
        ends=(TARGET, "retained"),
    )


def _error(rate: float, count: int) -> float:
    """Standard error of a share of `count` images."""
    return float(np.sqrt(max(rate * (1 - rate), 0.0) / count))


def _evidence(
    context: Context, laboratory: Laboratory, results: dict[str, TrialResult], scores: dict[str, Scores]
) -> JsonObject:
    """C2, C4, C5: hellinger and chi2 against the mean squared error, after the same steps."""
    mse, hellinger, chi2 = (results[name] for name in ("kl", "squared_hellinger", "pearson_chi2"))
    s_mse, s_hellinger, s_chi2 = (scores[name] for name in ("kl", "squared_hellinger", "pearson_chi2"))
    formulas = [name for name, result in results.items() if result.trial.family != "variational"]
    start = float(mse.held_out[0])
    ends = {name: float(results[name].held_out[-1]) for name in formulas}
    spread = (max(ends.values()) - min(ends.values())) / start
    apart = {
        name: float(np.linalg.norm(results[name].update - mse.update) / np.linalg.norm(mse.update))
        for name in formulas
        if name != "kl"
    }
    context.evidence(
        "C2",
        f"From m = {start:.3g} on held-out images all end at {min(ends.values()):.3g} to "
        f"{max(ends.values()):.3g}, a spread of {spread:.1%} of the start, while what they changed in the "
        f"weights differs from the mse run by {min(apart.values()):.1%} to {max(apart.values()):.1%}.",
    )
    count = len(RETAINED) * len(STYLE_NAMES) * laboratory.budget.retained_images
    noise = np.hypot(_error(s_mse.retained_accuracy, count), _error(s_hellinger.retained_accuracy, count))
    margin = s_hellinger.retained_accuracy - s_mse.retained_accuracy
    context.evidence(
        "C4",
        f"After the same steps squared_hellinger keeps {s_hellinger.retained_accuracy:.3f} and mse "
        f"{s_mse.retained_accuracy:.3f} of the retained items (difference {margin:+.3f}, standard error "
        f"{noise:.3f}, frozen model {scores['frozen'].retained_accuracy:.3f}), with "
        f"{s_hellinger.target_accuracy:.3f} and {s_mse.target_accuracy:.3f} of the target left.",
    )
    speed = float(np.mean(chi2.held_out[1:]) / np.mean(mse.held_out[1:]))
    context.evidence(
        "C5",
        f"The held-out m of chi2, averaged over the run, is {speed:.3f} of that of mse (squared_hellinger: "
        f"{np.mean(hellinger.held_out[1:]) / np.mean(mse.held_out[1:]):.3f}); target left "
        f"{s_chi2.target_accuracy:.3f} against {s_mse.target_accuracy:.3f}, retained "
        f"{s_chi2.retained_accuracy:.3f} against {s_mse.retained_accuracy:.3f} (standard error {noise:.3f}). "
        "AdamW takes the factor f''(1) = 2 of chi2 out; plain gradient descent would double its step.",
    )
    return {"final_held_out_m": ends, "update_difference_from_mse": apart}


def _evidence_of_game(
    context: Context, results: dict[str, TrialResult], scores: dict[str, Scores], distances: dict[str, float]
) -> None:
    """C6, from the one variational run: how far m has come after its steps, and what that did to the rest."""
    closed, game = results[GAME], results[f"{GAME}_variational"]
    steps = int(game.held_out_steps[-1])
    ends = [float(np.interp(steps, run.held_out_steps, run.held_out)) for run in (game, closed)]
    context.evidence(
        "C6",
        f"After {steps} steps {GAME} against a critic has m = {ends[0]:.3g} on held-out images, its closed "
        f"form {ends[1]:.3g} (and {closed.held_out[-1]:.3g} at its end, step {closed.held_out_steps[-1]}); "
        f"of the target {scores[f'{GAME}_variational'].target_accuracy:.3f} and "
        f"{scores[GAME].target_accuracy:.3f} are left at the end of either run; KID of the retained items to "
        f"the frozen model's, on the judge's embeddings: {distances[f'{GAME}_variational']:.4f} and "
        f"{distances[GAME]:.4f}. One seed.",
    )


def run(context: Context) -> JsonObject:
    """Erase with every divergence, draw the same noise with every model, and let the judge count."""
    laboratory = Laboratory.open(context)
    allowed = laboratory.budget
    trials = _trials(laboratory)
    scores = {"frozen": laboratory.scores()}
    results: dict[str, TrialResult] = {}
    for one in context.progress(trials, "models unlearned and judged"):
        results[_key(one)] = laboratory.run(one)
        scores[_key(one)] = laboratory.scores(results[_key(one)])
    embeddings = {name: laboratory.embeddings(found.retained) for name, found in scores.items()}
    distances = {
        name: kid(found, embeddings["frozen"], paired=True, scale=1.0)
        for name, found in embeddings.items()
        if name != "frozen"
    }
    more = _evidence(context, laboratory, results, scores)
    _evidence_of_game(context, results, scores, distances)

    names = {_key(one): _name(one) for one in trials}
    figure = _picture(
        laboratory,
        [("frozen model", scores["frozen"]), *((names[key], scores[key]) for key in names)],
    )
    target = {name: found.target_accuracy for name, found in scores.items()}
    retained = {name: found.retained_accuracy for name, found in scores.items()}
    counts = (
        len(STYLE_NAMES) * allowed.target_images,
        len(RETAINED) * len(STYLE_NAMES) * allowed.retained_images,
    )
    context.figure(
        "erasure",
        figure,
        shows=f"{TARGET} unlearned towards {laboratory.frozen.concepts[TARGET].near}, every model drawing "
        "from the same noise; the numbers are the shares of images judged as prompted. Of the "
        f"{target['frozen']:.2f} of {counts[0]} images that showed one, {min(target.values()):.2f} to "
        f"{max(v for k, v in target.items() if k != 'frozen'):.2f} are left, while the nine other items go "
        f"from {retained['frozen']:.2f} to between {min(retained.values()):.2f} and "
        f"{max(v for k, v in retained.items() if k != 'frozen'):.2f} ({counts[1]} images).",
        rows=[
            {
                "model": name,
                "target_accuracy": target[name],
                "target_error": _error(target[name], counts[0]),
                "retained_accuracy": retained[name],
                "retained_error": _error(retained[name], counts[1]),
                "style_accuracy": found.retained.style_accuracy(),
                "kid_retained": distances.get(name, 0.0),
            }
            | {f"accuracy_{item.replace(' ', '_')}": found.retained.rate(item, item) for item in RETAINED}
            for name, found in scores.items()
        ],
    )
    return {
        "target_accuracy": target,
        "retained_accuracy": retained,
        "retained_kid": distances,
        **more,
    }
