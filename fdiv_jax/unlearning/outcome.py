"""What the record of a run says of its end: whether the model came closer to the anchor at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

__all__ = ["Outcome", "outcome_of"]

_HARDLY, _DAMAGED = 0.1, 2.0
"""The share of m by which it must fall, and the factor of a rise that is a sign of damage."""
_SHORT = 10
"""Steps that are averaged at either end of a short run, where single batches differ most."""


@dataclass(frozen=True)
class Outcome:
    """The squared distance m at both ends of a run.

    Attributes:
        first: mean m of the first tenth of the steps that learned.
        last: mean m of the last tenth of them.
        span: how many steps a tenth is, at least one.
        warning: what is wrong with it; empty where nothing is.
    """

    first: float
    last: float
    span: int
    warning: str = ""


def outcome_of(history: Mapping[str, np.ndarray], learning_rate: float) -> Outcome | None:
    """Compare the beginning of a run with its end; None for fewer than two steps that learned.

    m must have fallen by a tenth, and by more than two standard errors of the difference of the two means
    (over a tenth of the steps each, in short runs over up to ten or half of them). Otherwise there is a
    warning, which says whether m stayed, or rose; and where it is at the end far above the first steps, that
    the model is probably damaged.

    Args:
        history: `m`, `warmup` and `skipped`, an entry for each step.
        learning_rate: of the model, for the warning.
    """
    if "m" not in history:
        return None
    learned = ~np.asarray(history["warmup"], bool) & ~np.asarray(history["skipped"], bool)
    m = np.asarray(history["m"], np.float64)[learned]
    if len(m) < 2:
        return None
    span = max(1, len(m) // 10)
    first, last = float(np.mean(m[:span])), float(np.mean(m[-span:]))
    finite = bool(np.isfinite(m).all())
    return Outcome(first, last, span, _warning(m, span, learning_rate) if finite and first > 0 else "")


def _warning(m: np.ndarray, span: int, learning_rate: float) -> str:
    wide = max(span, min(_SHORT, len(m) // 2))
    start, before, after = (float(np.mean(part)) for part in (m[:span], m[:wide], m[-wide:]))
    noise = 2 * float(np.sqrt((np.var(m[:wide]) + np.var(m[-wide:])) / wide))
    # The first step comes before any damage, but a single batch may be off by a factor.
    if after > _DAMAGED * (1 + 1 / np.sqrt(span)) * start:
        return (
            f"m rose {after / start:.3g}-fold, from {start:.3g} in the first steps to {after:.3g} in the "
            "last: the model is further from the anchor than at the start and probably damaged; expected a "
            f"smaller learning rate than {learning_rate:g}"
        )
    path = f"from {before:.3g} in the first steps to {after:.3g} in the last"
    if after - before > max(_HARDLY * before, noise):
        rise = f"m rose by {100 * (after / before - 1):.0f} %, {path}"
        return f"{rise}: a smaller learning rate than {learning_rate:g} may help"
    if before - after < max(_HARDLY * before, noise):
        return (
            f"m hardly fell, {path}: little or nothing is unlearned; more steps, or a larger learning rate "
            f"than {learning_rate:g}, may help"
        )
    return ""
