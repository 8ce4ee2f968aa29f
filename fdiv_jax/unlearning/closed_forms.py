"""Closed-form edits of matrices W (in, out) that see rows of tokens: W' = (I + X) W, X (in, in).

With target rows T that are to be seen as the anchor's rows A, and retained rows R,

    uce      X = argmin e |T (I + X) - A|^2 + p n / k |R X|^2 + r |X|^2               (n rows of T, k of R)
    rece     X of uce; then, as often as asked, the rows by which the edited matrices W' still make of all W
             what W made of T,  T' = argmin sum_W |T' W' - T W|^2 + g |T'|^2,  are edited away in their turn
    speed    X = argmin e / n |T (I + X) - A|^2 + r |X|^2  over the X with  R X = 0 and F X = 0: no direction
             of R of a mean square of the threshold or more is changed, nor the fixed rows F of every prompt

where |T (I + X) W - A W|^2 is least for every W where |T (I + X) - A|^2 is. Everything is float64.

Source: Gandikota et al., Unified concept editing in diffusion models, 2024; Gong et al., Reliable and
efficient concept erasure of text-to-image diffusion models, 2024; Li et al., SPEED: scalable, precise, and
efficient concept erasure for diffusion models, 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from fdiv_jax.unlearning.config_parts import EditConfig

__all__ = ["TokenRows", "adversarial_rows", "invariant_rows", "solve_edit"]

Rows = Float[np.ndarray, "rows features"]
Square = Float[np.ndarray, "features features"]
Matrix = Float[np.ndarray, "features outputs"]
Columns = Float[np.ndarray, "features columns"]
Vector = Float[np.ndarray, " entries"]


class TokenRows(NamedTuple):
    """The rows of tokens that an edit is about.

    Attributes:
        target: n d, of the target.
        anchor: n d, what they are to be seen as.
        stay: k d, of the retained prompts; may be empty.
        fixed: f d, that no edit of the form `speed` changes; may be empty.
    """

    target: Rows
    anchor: Rows
    stay: Rows
    fixed: Rows

    @classmethod
    def of(cls, target: Any, anchor: Any, stay: Any, fixed: Any = None) -> TokenRows:
        """The rows in float64."""
        none = np.zeros((0, np.shape(target)[1]))
        return cls(*(np.asarray(none if x is None else x, np.float64) for x in (target, anchor, stay, fixed)))


def solve_edit(
    matrices: Mapping[str, Any],
    target: Any,
    anchor: Any,
    stay: Any,
    config: EditConfig,
    *,
    fixed: Any = None,
    seed: int = 0,
) -> dict[str, Matrix]:
    """W' of every matrix (in, out), float64, for rows of tokens; see `TokenRows`.

    The weights are of means over rows (of sums, times the number of target rows, in uce and rece), so that
    long prompts count no more.

    Args:
        matrices: W by name.
        target, anchor, stay, fixed: see `TokenRows`.
        config: the form, and the weights of its terms.
        seed: of the augmentation of `speed`.

    Raises:
        ValueError: retained rows that leave `speed` no direction in which the target's rows lie.
    """
    rows = TokenRows.of(target, anchor, stay, fixed)
    if config.form == "speed":
        return _constrained(rows, matrices, config, seed)
    change = _least_squares(rows, config)
    if config.form == "rece":
        change = _again(rows, change, matrices, config)
    return {
        name: np.asarray(w, np.float64) + change @ np.asarray(w, np.float64) for name, w in matrices.items()
    }


def _least_squares(rows: TokenRows, config: EditConfig) -> Square:
    """X of uce: (e T^T T + p n/k R^T R + r I)^-1 e T^T (A - T)."""
    target, anchor, stay, _ = rows
    gram = config.erase * target.T @ target + config.ridge * np.eye(target.shape[1])
    if len(stay):
        gram = gram + config.preserve * (len(target) / len(stay)) * stay.T @ stay
    return np.linalg.solve(gram, config.erase * target.T @ (anchor - target))


def _again(rows: TokenRows, change: Square, matrices: Mapping[str, Any], config: EditConfig) -> Square:
    """X of rece from that of uce. All matrices have the same I + X, so that sum W W^T is all it needs."""
    given = (np.asarray(w, np.float64) for w in matrices.values())
    gram = sum((w @ w.T for w in given), np.zeros_like(change))
    total = np.eye(len(change)) + change
    for _ in range(config.rounds):
        derived = adversarial_rows(rows.target, gram, total, config.regularisation)
        total = total + _least_squares(rows._replace(target=derived), config) @ total
    return total - np.eye(len(change))


def adversarial_rows(target: Rows, gram: Square, total: Square, regularisation: float) -> Rows:
    """T' = argmin sum_W |T' L W - T W|^2 + g |T'|^2 for the edited matrices L W, as many rows as T.

    Args:
        target: T, n d.
        gram: sum W W^T over the original matrices.
        total: L = I + X.
        regularisation: g.

    Source: Gong et al. 2024 (the regularisation is towards zero, as in their experiments).
    """
    seen = total @ gram
    return np.linalg.solve(seen @ total.T + regularisation * np.eye(len(gram)), seen @ target.T).T


def _constrained(
    rows: TokenRows, matrices: Mapping[str, Any], config: EditConfig, seed: int
) -> dict[str, Matrix]:
    """W' of speed. With Q the projection on what is free, X = (e/n Q T^T T Q + r I)^-1 e/n Q T^T (A - T)."""
    plain = EditConfig(erase=1.0 / len(rows.target), preserve=0.0, ridge=1.0)
    moved = _least_squares(rows, plain)  # what the filter takes for the edit without constraints
    weight = config.erase / len(rows.target)
    alike = not len(rows.stay) or not (config.filtered or config.augment)  # every matrix holds the same rows
    free = _free(rows, _square(rows.stay), config) if alike else rows.target
    edited = {}
    for number, (name, given) in enumerate(matrices.items()):
        w = np.asarray(given, np.float64)
        if not alike:
            rng = np.random.default_rng((seed, number))
            free = _free(rows, _influential(rows.stay, moved @ w, w, config, rng), config)
        gram = weight * free.T @ free + config.ridge * np.eye(len(w))
        change = np.linalg.solve(gram, weight * free.T @ ((rows.anchor - rows.target) @ w))
        edited[name] = w + change
    return edited


def _free(rows: TokenRows, held: Square, config: EditConfig) -> Rows:
    """The target's rows without their components along what is held: the directions of the mean square `held`
    beyond the threshold, and the fixed rows."""
    squares, directions = np.linalg.eigh(held)
    directions = directions[:, squares >= config.threshold]
    free, fixed = _without(rows.target, directions), _without(rows.fixed, directions)
    if len(fixed):
        _, sizes, directions = np.linalg.svd(fixed, full_matrices=False)
        free = _without(free, directions[sizes > 1e-9 * np.linalg.norm(rows.fixed)].T)
    if np.linalg.norm(free) <= 1e-6 * np.linalg.norm(rows.target):
        raise ValueError(
            f"edit.form 'speed': the target's tokens lie among the retained ones at edit.threshold "
            f"{config.threshold:g}, so that no edit is left; expected fewer retained prompts or a larger "
            "threshold"
        )
    return free


def _influential(
    stay: Rows, moved: Matrix, w: Matrix, config: EditConfig, rng: np.random.Generator
) -> Square:
    """The mean square of the rows that speed holds for a matrix: the filtered ones, and their copies
    c + z v that are taken, v being the direction that the matrix sees least."""
    seen = stay @ moved
    if config.filtered:
        chosen = _above_average(np.linalg.norm(seen, axis=1))
        stay, seen = stay[chosen], seen[chosen]
    if not config.augment:
        return _square(stay)
    v = _least_direction(w)
    z = rng.standard_normal((config.augment, len(stay)))
    along = v @ moved  # |(c + z v) M|^2 from |c M|^2, c M . v M and |v M|^2, without the copies themselves
    squares = np.sum(seen**2, axis=1) + 2 * z * (seen @ along) + z**2 * (along @ along)
    taken = _above_average(np.sqrt(np.maximum(squares, 0.0)).ravel()).reshape(z.shape)
    times, sums, square = 1 + taken.sum(0), (taken * z).sum(0), float(np.sum(taken * z**2))
    mixed = np.outer(stay.T @ sums, v)
    total = (stay * times[:, None]).T @ stay + mixed + mixed.T + square * np.outer(v, v)
    return total / times.sum()


def _above_average(influence: Vector) -> np.ndarray:
    """Which influences are no less than the mean: equal ones differ from it by rounding alone, and count."""
    return influence >= influence.mean() * (1 - 1e-9)


def _least_direction(w: Matrix) -> Vector:
    """The left singular vector of the smallest of min(in, out) singular values, from the smaller Gram."""
    if w.shape[0] <= w.shape[1]:
        return np.linalg.eigh(w @ w.T)[1][:, 0]
    seen = w @ np.linalg.eigh(w.T @ w)[1][:, 0]
    return seen / np.linalg.norm(seen)


def _square(rows: Rows) -> Square:
    """The mean of c^T c over rows c; 0 for no row."""
    return rows.T @ rows / max(1, len(rows))


def _without(rows: Rows, directions: Columns) -> Rows:
    """The rows without their components in the span of orthonormal columns."""
    return rows - (rows @ directions) @ directions.T


def invariant_rows(empty: Rows, centres: int = 3) -> Rows:
    """What every prompt shares: the start token, and the centres of the other tokens of the empty prompt.

    The centres are those of k-means, from the tokens that lie farthest from those before them.

    Args:
        empty: l d, features of the empty prompt.
        centres: how many; fewer where it has fewer different tokens.
    """
    start, rest = (np.asarray(part, np.float64) for part in (empty[:1], empty[1:]))
    found = rest[:1]
    while len(found) < centres:
        apart = np.linalg.norm(rest[:, None] - found[None], axis=2).min(1)
        if not np.any(apart):
            break
        found = np.concatenate([found, rest[np.argmax(apart)][None]])
    for _ in range(100):
        nearest = np.linalg.norm(rest[:, None] - found[None], axis=2).argmin(1)
        moved = np.stack([rest[nearest == k].mean(0) for k in range(len(found))])
        if np.array_equal(moved, found):
            break
        found = moved
    return np.concatenate([start, found])
