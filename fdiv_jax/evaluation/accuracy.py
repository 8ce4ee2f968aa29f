"""UnlearnCanvas' accuracies of an unlearned model, from the labels that a classifier gives its images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from fdiv_jax.arrays import StoredImages
from fdiv_jax.evaluation.features import check_images
from fdiv_jax.evaluation.intervals import Interval, bootstrap_mean

__all__ = ["Classifier", "ErasureAccuracy", "classify", "erasure_accuracy", "harmonic", "harmonic_mean"]

Labels = Mapping[str, Sequence[str]]
"""By kind of concept, such as "item" and "style", names."""


class Classifier(Protocol):
    """Says what images show. The worlds' judges are such, and a user's own classifier may be."""

    name: str
    """Goes into results."""
    kinds: Labels
    """The labels it knows of each kind of concept: {"item": ("sneaker", ...), "style": ("sketch", ...)}."""

    def __call__(self, images: StoredImages) -> Mapping[str, np.ndarray]:
        """For each kind n names of labels, or n x k probabilities in the order of its labels."""
        ...


def classify(classifier: Classifier, images: StoredImages) -> dict[str, np.ndarray]:
    """What the images show: for each kind n names of labels.

    Raises:
        ValueError: a classifier that leaves a kind out, or gives other labels or shapes than it says.
    """
    images = check_images(images)
    given = classifier(images)
    found = {}
    for kind, labels in classifier.kinds.items():
        if kind not in given:
            raise ValueError(f"classifier {classifier.name!r} says nothing of {kind!r}, which it lists")
        values = np.asarray(given[kind])
        if values.shape == (len(images), len(labels)) and values.dtype.kind == "f":
            values = np.asarray(labels)[values.argmax(-1)]
        if values.shape != (len(images),) or not set(values.tolist()) <= set(labels):
            raise ValueError(
                f"classifier {classifier.name!r} gave {kind!r} as {values.dtype} of shape {values.shape}, "
                f"expected {len(images)} of its labels, or {len(images)} x {len(labels)} probabilities"
            )
        found[kind] = values
    return found


class ErasureAccuracy(NamedTuple):
    """What is gone and what is left. All four are better when greater, and lie between 0 and 1."""

    unlearning: Interval
    """UA: images at the target's prompts that are not classified as the target."""
    in_domain: Interval
    """IRA: images at prompts of the other concepts of the target's kind that are classified as named."""
    cross_domain: Interval
    """CRA: images classified as named in the other kinds, those at the target's prompts among them."""
    harmonic_mean: Interval
    """3 / (1 / UA + 1 / IRA + 1 / CRA); see `harmonic_mean` for its interval."""


def erasure_accuracy(
    predicted: Mapping[str, np.ndarray],
    prompted: Mapping[str, Sequence[str | None]],
    target: str,
    kind: str,
    *,
    level: float = 0.95,
) -> ErasureAccuracy:
    """UA, IRA, CRA and their harmonic mean, with intervals for new prompts and seeds.

    Args:
        predicted: by kind, (prompts, seeds) names of labels, from `classify`.
        prompted: by kind, the name in each prompt; None where a prompt names none of that kind.
        target: the concept that was to be unlearned.
        kind: the target's kind.
        level: of confidence.

    Raises:
        ValueError: an unknown kind, other shapes, or no prompts for one of the three.

    Source: Zhang et al., UnlearnCanvas: stylized image dataset for enhanced machine unlearning evaluation in
    diffusion models, 2024; CRA counts the images that the published code counts.
    """
    if kind not in prompted or kind not in predicted:
        known = sorted(set(prompted) & set(predicted))
        raise ValueError(f"kind {kind!r} of the target, expected one of {', '.join(known)}")
    tables = {}
    for each in prompted:
        if each not in predicted:
            raise ValueError(f"prompts name {each!r}, of which nothing was predicted")
        names, seen = np.asarray(prompted[each], object), np.asarray(predicted[each], object)
        if seen.ndim != 2 or len(seen) != len(names):
            raise ValueError(
                f"{each!r}: predictions of shape {seen.shape} for {len(names)} prompts, "
                "expected (prompts, seeds)"
            )
        right = (seen == names[:, None]).astype(np.float64)
        right[[name is None for name in names]] = np.nan
        tables[each] = right
    own = np.array([name == target for name in prompted[kind]])
    if not own.any():
        raise ValueError(f"no prompt names the target {target!r}")
    others = [table for each, table in tables.items() if each != kind]
    unlearning = bootstrap_mean(1.0 - tables[kind][own], level=level)
    in_domain = _mean(tables[kind][~own], level, f"concepts of kind {kind!r} other than the target")
    joined = np.concatenate(others, axis=1) if others else np.full((1, 1), np.nan)
    cross_domain = _mean(joined, level, "another kind")
    parts = (unlearning, in_domain, cross_domain)
    return ErasureAccuracy(*parts, harmonic_mean(parts))


def harmonic_mean(rates: Sequence[Interval]) -> Interval:
    """The harmonic mean of rates, with an interval from theirs.

    How far the mean moves when one rate moves to an end of its interval, added in squares over the rates: the
    square-and-add method, for independent rates. It never shrinks to a point where all rates are 1, as
    resampling would.

    Raises:
        ValueError: no rates.

    Source: Zou and Donner 2008, Construction of confidence limits about effect measures.
    """
    if not rates:
        raise ValueError("no rates, expected at least one")
    values = [rate.value for rate in rates]
    middle = harmonic(values)
    if middle == 0.0:  # a rate of 0 hides how the mean depends on the others
        return Interval(0.0, 0.0, harmonic([rate.high for rate in rates]))

    def reach(end: str) -> float:
        moved = ([*values[:i], getattr(rate, end), *values[i + 1 :]] for i, rate in enumerate(rates))
        return math.sqrt(sum((harmonic(each) - middle) ** 2 for each in moved))

    return Interval(middle, max(middle - reach("low"), 0.0), min(middle + reach("high"), 1.0))


def harmonic(values: Sequence[float]) -> float:
    """The harmonic mean of numbers; 0 where one of them is not above 0."""
    return 0.0 if min(values) <= 0 else len(values) / sum(1.0 / value for value in values)


def _mean(table: np.ndarray, level: float, what: str) -> Interval:
    if not np.isfinite(table).any():
        raise ValueError(f"no prompt names {what}")
    return bootstrap_mean(table, level=level)
