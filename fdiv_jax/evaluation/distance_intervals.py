"""Distances of a model's images from the base's with intervals for new prompts, by leaving prompts out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fdiv_jax.evaluation.intervals import Interval, jackknife_variance, student_interval

__all__ = ["distance_interval"]

Distance = Callable[[np.ndarray, np.ndarray], float]
Pair = tuple[np.ndarray, np.ndarray]
"""Features of the model's and of the base's images, prompts seeds d."""

_GROUPS = 20
"""Prompts that are left out one at a time; more are left out in so many groups."""


def distance_interval(distance: Distance, concepts: Sequence[Pair], level: float = 0.95) -> Interval:
    """The mean over concepts of a distance, with the jackknife's interval over the prompts of each.

        Var = 1 / C^2 sum_c Var_c   (`jackknife_variance` of each concept's distance),

    with Student's t of sum_c (G_c - 1) degrees of freedom. Leaving out repeats no image. Drawing with
    replacement does, and an estimate that leaves the pairs i = j out would take that for a distance. With
    one prompt the seeds are left out.

    Args:
        distance: of two sets of features, (n, d) each; row i of both is of the same prompt and noise.
        concepts: for each concept the features of both models.
        level: of confidence.

    Raises:
        ValueError: a concept of one image, from which nothing can be left out.
    """
    if all(np.array_equal(model, base) for model, base in concepts):
        return Interval(0.0, 0.0, 0.0)  # without the rounding of a sum that cancels
    values, variance, freedom = [], 0.0, 0
    for model, base in concepts:
        axis = 0 if len(model) > 1 else 1
        groups = np.array_split(np.arange(model.shape[axis]), min(_GROUPS, model.shape[axis]))
        if len(groups) < 2:
            raise ValueError("one image has no interval; expected at least two prompts or two seeds")
        values.append(distance(_flat(model), _flat(base)))
        own = jackknife_variance(
            distance(*(_flat(np.delete(each, group, axis)) for each in (model, base))) for group in groups
        )
        variance, freedom = variance + own[0], freedom + own[1]
    return student_interval(float(np.mean(values)), variance / len(values) ** 2, freedom, level)


def _flat(features: np.ndarray) -> np.ndarray:
    return features.reshape(-1, features.shape[-1])
