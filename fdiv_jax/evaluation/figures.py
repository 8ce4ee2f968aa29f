"""From what was seen in the images to figures: each with its interval, and its difference from the base."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fdiv_jax.evaluation.accuracy import harmonic, harmonic_mean
from fdiv_jax.evaluation.change import cosine_distance
from fdiv_jax.evaluation.clip_score import clip_scores
from fdiv_jax.evaluation.distance_intervals import distance_interval
from fdiv_jax.evaluation.distances import cmmd, fid, kid
from fdiv_jax.evaluation.intervals import (
    Interval,
    bootstrap_difference,
    bootstrap_mean,
    simultaneous_level,
)
from fdiv_jax.evaluation.protocol import METRICS, Protocol
from fdiv_jax.evaluation.views import SetView
from fdiv_jax.files import JsonMapping, JsonObject

__all__ = ["LEVEL", "Figure", "figures_of"]

LEVEL = 0.95
"""Confidence of every interval."""

Views = Sequence[SetView]
Texts = Mapping[str, np.ndarray]
"""Unit embeddings of captions."""
_OVER_ROLES = ("ua", "ira", "cra", "harmonic")
"""Metrics that are one figure, whichever roles they are of."""
_FROM_BASE = ("kid", "fid", "cmmd", "pixel_change", "feature_change")
"""Metrics that are measured from the base's images, and 0 for the base itself."""
_DISTANCES: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "kid": lambda x, y: kid(x, y, paired=True),
    "fid": fid,
    "cmmd": cmmd,
}


@dataclass(frozen=True)
class Figure:
    """One metric of one model.

    Attributes:
        metric: a name of `METRICS`.
        role: whose images it is of; empty: of several roles.
        concept: of one concept; empty: of all of the role.
        value: with its interval, at the confidence `LEVEL`.
        prompts: it is of so many.
        images: it is of so many of the model's.
        base: the base's own value; None for what is measured from the base's images.
        difference: the model's value minus the base's, over the same prompts and noise.
        clear: whether 0 is outside the difference's interval (for distances: the value's) when all of the
            model's figures over whole roles are to hold together; None where that is not asked.
    """

    metric: str
    role: str
    concept: str
    value: Interval
    prompts: int
    images: int
    base: float | None = None
    difference: Interval | None = None
    clear: bool | None = None

    @property
    def name(self) -> str:
        """The metric, with role and concept where there can be several: "kid, retained"."""
        role = "" if self.metric in _OVER_ROLES else self.role
        return ", ".join(part for part in (self.metric, role, self.concept) if part)

    def to_dict(self) -> JsonObject:
        """The figure as JSON holds it."""
        plain = {"value": self.value._asdict(), "difference": self.difference and self.difference._asdict()}
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)} | plain

    @classmethod
    def from_dict(cls, mapping: JsonMapping) -> Figure:
        """Read what `to_dict` gave.

        Raises:
            KeyError, TypeError: another object.
        """
        values = dict(mapping)
        for key in ("value", "difference"):
            if values[key] is not None:
                values[key] = Interval(**{name: float(x) for name, x in values[key].items()})
        return cls(**values)


class _Scope(NamedTuple):
    """What a figure is of: the sets of prompts, by their places in the protocol."""

    metric: str
    role: str
    concept: str
    sets: tuple[int, ...]


def figures_of(
    protocol: Protocol, views: Views, base: Views | None, texts: Texts | None = None
) -> tuple[Figure, ...]:
    """The figures of a model: those over whole roles first, then those of single concepts.

    Args:
        protocol: says which.
        views: of the model's images.
        base: of the base's; None for the base's own figures, which have no differences.
        texts: the captions' embeddings, where there are CLIP metrics.
    """
    texts = texts or {}
    scopes = [scope for scope in _scopes(protocol) if base is not None or scope.metric not in _FROM_BASE]
    found = [_measure(scope, views, base, texts, LEVEL) for scope in scopes]
    asked = [i for i, figure in enumerate(found) if not figure.concept and _compared(figure)]
    for i in asked if base is not None else ():
        strict = _measure(scopes[i], views, base, texts, simultaneous_level(LEVEL, len(asked)))
        interval = strict.value if strict.difference is None else strict.difference
        found[i] = dataclasses.replace(found[i], clear=not interval.holds(0.0))
    return tuple(found)


def _scopes(protocol: Protocol) -> Iterator[_Scope]:
    single: list[_Scope] = []
    for metric in protocol.metrics:
        roles = METRICS[metric].roles
        fit = [i for i, each in enumerate(protocol.sets) if metric != "clip_accuracy" or each.against]
        places = {role: tuple(i for i in fit if protocol.sets[i].role == role) for role in roles}
        if metric in _OVER_ROLES:
            yield _Scope(
                metric,
                roles[0] if len(roles) == 1 else "",
                "",
                tuple(i for sets in places.values() for i in sets),
            )
        else:
            yield from (_Scope(metric, role, "", sets) for role, sets in places.items() if sets)
        if metric in ("cra", "harmonic"):
            continue
        for role, sets in places.items():
            if len(sets) > 1:
                single += [_Scope(metric, role, protocol.sets[i].concept, (i,)) for i in sets]
    yield from single


def _compared(figure: Figure) -> bool:
    return figure.difference is not None or figure.metric in _DISTANCES


def _measure(scope: _Scope, views: Views, base: Views | None, texts: Texts, level: float) -> Figure:
    own = [views[i] for i in scope.sets]
    other = None if base is None else [base[i] for i in scope.sets]
    count: dict[str, Any] = {
        "prompts": sum(len(view.of.prompts) for view in own),
        "images": sum(map(_images, own)),
    }
    about = (scope.metric, scope.role, scope.concept)
    if scope.metric in _DISTANCES:
        assert other is not None
        return Figure(*about, _distance(scope.metric, own, other, level), **count)
    if scope.metric == "harmonic":
        return _harmonic_figure(about, count, own, other, level)
    table = _table(scope.metric, own, other, texts)
    unchanged = scope.metric in _FROM_BASE and not np.any(table)
    value = Interval(0.0, 0.0, 0.0) if unchanged else bootstrap_mean(table, level=level)
    if other is None or scope.metric in _FROM_BASE:
        return Figure(*about, value, **count)
    reference = _table(scope.metric, other, None, texts)
    difference = bootstrap_difference(table, reference, level=level)
    return Figure(*about, value, **count, base=float(np.nanmean(reference)), difference=difference)


def _harmonic_figure(
    about: tuple[str, str, str], count: Mapping[str, Any], own: Views, other: Views | None, level: float
) -> Figure:
    """The harmonic mean of UA, IRA and CRA, and its difference from the base's.

    The difference's interval adds in squares how far the mean moves when one accuracy moves to an end of the
    interval of its paired difference, as `harmonic_mean` does for one model.
    """
    names = ("ua", "ira", "cra")
    tables = [_table(name, own, None, {}) for name in names]
    parts = [bootstrap_mean(table, level=level) for table in tables]
    value = harmonic_mean(parts)
    if other is None:
        return Figure(*about, value, **count)
    references = [_table(name, other, None, {}) for name in names]
    base = harmonic([float(np.nanmean(table)) for table in references])
    differences = [bootstrap_difference(a, b, level=level) for a, b in zip(tables, references, strict=True)]

    def reach(end: str) -> float:
        moved = []
        for i, (part, difference) in enumerate(zip(parts, differences, strict=True)):
            rate = part.value + getattr(difference, end) - difference.value
            rates = [each.value for each in parts]
            moved.append(harmonic([*rates[:i], min(max(rate, 0.0), 1.0), *rates[i + 1 :]]))
        return math.sqrt(sum((each - value.value) ** 2 for each in moved))

    d = value.value - base
    return Figure(
        *about, value, **count, base=base, difference=Interval(d, d - reach("low"), d + reach("high"))
    )


def _distance(metric: str, own: Views, other: Views, level: float) -> Interval:
    """KID is the mean over concepts; FID and CMMD, which few images bias, are of all concepts' images."""
    pairs = [(_vectors(metric, a), _vectors(metric, b)) for a, b in zip(own, other, strict=True)]
    if metric != "kid":
        models, bases = zip(*pairs, strict=True)
        pairs = [(np.concatenate(models), np.concatenate(bases))]
    return distance_interval(_DISTANCES[metric], pairs, level)


def _vectors(metric: str, view: SetView) -> np.ndarray:
    found = view.clip if metric == "cmmd" else view.features
    assert found is not None
    return found


def _images(view: SetView) -> int:
    table = view.change
    return 0 if table is None else table.size


def _table(metric: str, own: Views, other: Views | None, texts: Texts) -> np.ndarray:
    """The score of every image, one row per prompt and one column per seed."""
    if metric in ("ua", "ira", "cra"):
        return _accuracies(metric, own)
    rows = []
    for i, view in enumerate(own):
        if metric == "pixel_change":
            rows.append(view.change)
        elif metric == "feature_change":
            assert other is not None
            rows.append(cosine_distance(_vectors(metric, view), _vectors(metric, other[i])))
        else:
            cosines = _vectors("cmmd", view) @ texts[view.of.caption]
            if metric == "clip_score":
                rows.append(clip_scores(cosines))
            else:
                rows.append((cosines > _vectors("cmmd", view) @ texts[view.of.against]).astype(np.float64))
    return np.concatenate(rows)


def _accuracies(metric: str, views: Views) -> np.ndarray:
    """UA of the targets, IRA of the retained, and CRA of all in the kinds that no target is of."""
    targets = [view for view in views if view.of.role == "target"]
    if metric == "ua":
        return _aligned([(view, 1.0 - view.right[view.of.kind]) for view in targets])
    if metric == "ira":
        kept = [view for view in views if view.of.role == "retained"]
        return _aligned([(view, view.right[view.of.kind]) for view in kept])
    own = {view.of.kind for view in targets}
    kinds = [kind for kind in views[0].right if kind not in own]
    return _aligned([(view, view.right[kind]) for kind in kinds for view in views])


def _aligned(tables: Sequence[tuple[SetView, np.ndarray]]) -> np.ndarray:
    """Tables one below the other, a column for each seed; nan where a set lacks a seed."""
    seeds = sorted({seed for view, _ in tables for seed in view.seeds})
    rows = []
    for view, table in tables:
        whole = np.full((len(table), len(seeds)), np.nan)
        whole[:, [seeds.index(seed) for seed in view.seeds]] = table
        rows.append(whole)
    return np.concatenate(rows)
