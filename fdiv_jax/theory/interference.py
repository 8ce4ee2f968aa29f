"""Who else is moved: what erasing one concept does to the others, from Jacobians at the frozen model.

To first order the outputs at the samples of a concept a move by J_a dtheta, in units in which m_a = ||e_a||^2
(for a mean over N samples of a, both e_a and J_a carry 1/sqrt(N)). Descent on m_i / 2 from the frozen model
reaches after n steps of size h

    dtheta = -phi_n(J_i^T J_i) J_i^T e_i,    phi_n(k) = (1 - (1 - h k)^n) / k,

and concept j, which had m_j = 0, is then at m_j = ||J_j dtheta||^2 = ||Theta_ji phi_n(Theta_ii) e_i||^2 with
the kernels Theta_ab = J_a J_b^T. `predicted_damage` is this formula for kernels as matrices. Where the
parameters are many, `krylov_basis` finds the few directions in which descent moves, by products alone; in
their coordinates every m is a quadratic function (`QuadraticDistances`), on which `quadratic_descent` runs
the steps of any divergence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from fdiv_jax.theory._inputs import (
    Floats,
    as_divergence,
    finite_curvature_of,
    non_negative,
    positive,
    positive_integer,
    real_array,
)
from fdiv_jax.theory._weights import weight_table

if TYPE_CHECKING:
    from fdiv_jax.divergences import Divergence

__all__ = [
    "QuadraticDistances",
    "descent_filter",
    "krylov_basis",
    "predicted_damage",
    "quadratic_descent",
]

_DIVERGED = 100.0
"""Growth of the mean m at which a run counts as diverged."""


def descent_filter(eigenvalues: ArrayLike, step: float, steps: int | None) -> Floats:
    """phi_n(k) = (1 - (1 - h k)^n) / k: how far n steps of descent have come along an eigenvector.

    phi_n(0) = n h. Without end it is 1/k, and 0 for k = 0: the least-squares solution of smallest norm.

    Args:
      eigenvalues: k >= 0, any shape.
      step: h > 0.
      steps: n >= 1; None: without end.

    Raises:
      ValueError: negative eigenvalues, step not > 0, steps < 1; without end, a step that is not stable.
      TypeError: not numbers.

    >>> descent_filter([0.0, 1.0], 0.5, 2), descent_filter([0.0, 4.0], 0.1, None)
    (array([1.  , 0.75]), array([0.  , 0.25]))
    """
    k, h = non_negative("eigenvalues", eigenvalues), positive("step", step)
    safe = np.where(k > 0, k, 1.0)
    if steps is None:
        if (h * k >= 2).any():
            raise ValueError(f"expected step < 2/k = {2 / k.max()} for a descent without end, got {h}")
        return np.where(k > 0, 1.0 / safe, 0.0)
    n = positive_integer("steps", steps)
    with np.errstate(divide="ignore", over="ignore"):
        near = -np.expm1(n * np.log1p(-np.minimum(h * k, 0.5)))
        left = np.where(h * k < 0.5, near, 1.0 - (1.0 - h * k) ** n)
    return np.where(k > 0, left / safe, n * h)


def predicted_damage(
    own: ArrayLike, cross: ArrayLike, error: ArrayLike, step: float, steps: int | None = None
) -> float:
    """m_j after erasing i, to first order: ||Theta_ji phi_n(Theta_ii) e_i||^2.

    Without end this is ||Theta_ji Theta_ii^+ e_i||^2, for one step h^2 ||J_j g||^2 with g = J_i^T e_i.

    Args:
      own: Theta_ii, (p, p), symmetric and positive semi-definite.
      cross: Theta_ji, (q, p).
      error: e_i, (p,), m_i = ||e_i||^2.
      step: h > 0 of gradient descent on m_i / 2.
      steps: n >= 1; None: without end.

    Returns:
      A float >= 0, in the unit of ||e_i||^2.

    Raises:
      ValueError: wrong shapes, an own kernel that is not symmetric; see `descent_filter`.
      TypeError: not numbers.

    >>> predicted_damage([[1.0]], [[0.5]], [2.0], 0.1)      # moved all the way: (0.5 x 2)^2
    1.0
    >>> round(predicted_damage([[1.0]], [[0.5]], [2.0], 0.1, 1), 6)
    0.01
    """
    theta, across = real_array("own", own), real_array("cross", cross)
    e = real_array("error", error)
    if e.ndim != 1 or theta.shape != (e.size, e.size) or across.ndim != 2 or across.shape[1] != e.size:
        raise ValueError(
            f"expected own (p, p), cross (q, p) and error (p,), got {theta.shape}, {across.shape} and "
            f"{e.shape}"
        )
    scale = float(np.abs(theta).max())
    if np.abs(theta - theta.T).max() > 1e-6 * scale:
        raise ValueError("expected a symmetric own kernel")
    k, u = np.linalg.eigh((theta + theta.T) / 2)
    if k[0] < -1e-6 * max(scale, 1e-300):
        raise ValueError(f"expected a positive semi-definite own kernel, got the eigenvalue {k[0]:.6g}")
    k = np.where(k > 1e-12 * k[-1], k, 0.0)  # rounding of a null direction is no direction
    change = across @ (u @ (descent_filter(k, step, steps) * (u.T @ e)))
    return float(change @ change)


def krylov_basis(
    apply: Callable[[Floats], ArrayLike], starts: ArrayLike, depth: int
) -> tuple[Floats, Floats]:
    """Orthonormal directions that span b, H b, ..., H^(depth-1) b for every row b of `starts`.

    Gradient descent on a quadratic function with Hessian H that starts with the gradient b moves in this
    space; n <= depth steps lie in it exactly. Block Lanczos with full reorthogonalisation.

    Args:
      apply: H times each row of an array, (n_rows, size) -> (n_rows, size); H symmetric.
      starts: the first directions, (n_rows, size).
      depth: blocks, >= 1; H is applied as many times.

    Returns:
      V (r, size) with orthonormal rows, r <= n_rows * depth, and V H V^T (r, r).

    Raises:
      ValueError: starts that are zero or not a matrix, depth < 1.
      TypeError: not numbers.

    Source: Golub and Underwood, The block Lanczos method for computing eigenvalues, 1977.

    >>> v, t = krylov_basis(lambda rows: rows * [1.0, 2.0, 5.0], [[1.0, 1.0, 0.0]], depth=3)
    >>> v.shape, np.linalg.eigvalsh(t).round(9)     # the third direction never moves
    ((2, 3), array([1., 2.]))
    """
    block = np.asarray(starts)
    checked = real_array("starts", block)
    block = block if block.dtype.kind == "f" else checked
    count = positive_integer("depth", depth)
    if block.ndim != 2:
        raise ValueError(f"expected starts of shape (n_rows, size), got {block.shape}")
    directions, moved = np.zeros((0, block.shape[1]), block.dtype), np.zeros_like(block[:0])
    for _ in range(count):
        block = _new_directions(block, directions)
        if not len(block):
            break
        directions = np.concatenate([directions, block])
        block = np.asarray(apply(block), block.dtype)
        moved = np.concatenate([moved, block])
    if not len(directions):
        raise ValueError("expected a direction to start with, got zeros")
    t = (directions @ moved.T).astype(np.float64)
    return directions, (t + t.T) / 2


def _new_directions(block: Floats, known: Floats) -> Floats:
    """Orthonormal rows for what `block` adds to the span of `known`."""
    found = known
    rounding = 100 * np.finfo(block.dtype).eps
    for row in block:
        size = np.linalg.norm(row)
        if size == 0:
            continue
        row = row / size
        for _ in range(2):  # once more takes out what rounding left
            row = row - (found @ row) @ found
        left = np.linalg.norm(row)
        if left > rounding:
            row = row / left
            row = row - (found @ row) @ found
            found = np.concatenate([found, (row / np.linalg.norm(row))[None].astype(block.dtype)])
    return found[len(known) :]


@dataclass(frozen=True)
class QuadraticDistances:
    """m of n samples as functions of r coordinates: m_s(z) = m_s(0) + 2 b_s z + z G_s z.

    Attributes:
      start: m_s(0) = ||e_s||^2, (n,).
      slope: b_s = A_s^T e_s, (n, r), A_s the Jacobian of the error.
      gram: G_s = A_s^T A_s, (n, r, r).
    """

    start: Floats
    slope: Floats
    gram: Floats

    @classmethod
    def of(cls, error: ArrayLike, jacobian: ArrayLike) -> QuadraticDistances:
        """From e_s, (n, p), and A_s, (n, p, r).

        Raises:
          ValueError: shapes that do not fit.
          TypeError: not numbers.
        """
        e, a = real_array("error", error), real_array("jacobian", jacobian)
        if e.ndim != 2 or a.ndim != 3 or a.shape[:2] != e.shape:
            raise ValueError(f"expected error (n, p) and jacobian (n, p, r), got {e.shape} and {a.shape}")
        return cls(
            np.sum(e**2, axis=1),
            np.einsum("np,npr->nr", e, a),
            np.einsum("npr,nps->nrs", a, a, optimize=True),
        )

    def __call__(self, z: ArrayLike) -> Floats:
        """m at z (..., r): (..., n)."""
        z = np.asarray(z, np.float64)
        bent = np.einsum("...r,nrs->...ns", z, self.gram, optimize=True)
        m = self.start + 2 * z @ self.slope.T + np.einsum("...ns,...s->...n", bent, z)
        return np.maximum(m, 0.0)  # below 0 by rounding only

    @property
    def spectrum(self) -> tuple[Floats, Floats]:
        """Eigenvalues k of the mean kernel, from the largest down, and the m that each accounts for.

        The mean m under gradient descent on m / 2 is its rest plus sum of (1 - h k)^(2 n) times these; what
        they leave of the start no step in these coordinates removes.
        """
        k, u = np.linalg.eigh(self.gram.mean(0))
        k, u = k[::-1], u[:, ::-1]
        pull = u.T @ self.slope.mean(0)
        kept = k > 1e-7 * k[0]
        return k[kept], pull[kept] ** 2 / k[kept]


def quadratic_descent(
    d: Divergence | str,
    distances: QuadraticDistances,
    step: ArrayLike,
    steps: int,
    *,
    sigma: ArrayLike = 1.0,
    normalise_curvature: bool = False,
    batches: ArrayLike | None = None,
) -> Floats:
    """The path of gradient descent on the mean of F_f(m_s / sigma^2) in the coordinates of `distances`.

        z' = z - h/(B sigma^2) sum over the batch of w_f(m_s / sigma^2) (b_s + G_s z)

    Args:
      d: the divergence, or its name or expression.
      distances: m of every sample.
      step: h > 0, a number or an array, for many runs at once.
      steps: how many steps, >= 1.
      sigma: > 0, a number or an array that broadcasts with `step`.
      normalise_curvature: divide the loss by f''(1).
      batches: (steps, B) integers, the samples of every step; None: all of them in every step.

    Returns:
      z, (steps + 1, *shape of step and sigma, r); nan from the step at which the mean m has grown a
      hundredfold: the run diverges.

    Raises:
      ValueError: step, sigma or steps out of range, batches of another shape.
      TypeError: not numbers.

    >>> one = QuadraticDistances.of([[2.0]], [[[1.0]]])          # m = (2 + z)^2
    >>> one(quadratic_descent("kl", one, 0.5, 2)).ravel()        # the error halves with every step
    array([4.  , 1.  , 0.25])
    """
    d, count = as_divergence(d), positive_integer("steps", steps)
    h, s2 = np.broadcast_arrays(real_array("step", step), real_array("sigma", sigma) ** 2)
    if (h <= 0).any() or (s2 <= 0).any():
        raise ValueError(f"expected step > 0 and sigma > 0, got {h.min()} and {np.sqrt(s2.min())}")
    if batches is not None and (np.ndim(batches) != 2 or len(np.asarray(batches)) < count):
        raise ValueError(f"expected batches of shape ({count}, B), got {np.shape(batches)}")
    shape, (n, r) = h.shape, distances.slope.shape
    h, s2 = h.reshape(-1), s2.reshape(-1)
    factor = h / s2 / (finite_curvature_of(d) if normalise_curvature else 1.0)
    limit = _DIVERGED * float(distances.start.mean())
    table = weight_table(d, max(1.0, limit * n / float(s2.min())))
    z = np.zeros((h.size, r))
    path = [z]
    for number in range(count):
        rows = slice(None) if batches is None else np.asarray(batches)[number]
        part = QuadraticDistances(distances.start[rows], distances.slope[rows], distances.gram[rows])
        bent = np.einsum("cr,nrs->cns", z, part.gram, optimize=True)
        m = np.maximum(part.start + 2 * z @ part.slope.T + np.einsum("cns,cs->cn", bent, z), 0.0)
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            weight = np.exp(table.log_weight(np.log(m / s2[:, None])))
            weight = np.where(m > 0, weight, 0.0)  # nothing pulls on a sample that has arrived
            pull = np.einsum("cn,cnr->cr", weight, part.slope + bent) / len(part.start)
            z = z - factor[:, None] * pull
            lost = ~(distances(z).mean(-1) <= limit)
        z = np.where(lost[:, None], np.nan, z)
        path.append(z)
    return np.array(path).reshape(count + 1, *shape, r)
