"""Where minibatch descent on any divergence comes to rest, the m of every sample being a quadratic function.

The gradient of one sample's F_f(m_s / sigma^2) is a_s = (w_f / sigma^2) c_s with c_s = b_s + G_s z, and its
Hessian k_s = (w_f / sigma^2) G_s + (2 w_f' / sigma^4) c_s c_s^T, both exact. At the minimum z* the a_s of the
samples cancel, but none of them vanishes unless the model can fit every sample: their covariance S drives the
noise. The stationary Sigma of z - z* then solves `descent_noise`'s equation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fdiv_jax.theory._inputs import Floats, as_divergence, positive, positive_integer
from fdiv_jax.theory._weights import WeightTable, weight_table
from fdiv_jax.theory.interference import QuadraticDistances
from fdiv_jax.theory.noise import resting_covariance

if TYPE_CHECKING:
    from fdiv_jax.divergences import Divergence

__all__ = ["Plateau", "quadratic_minimum", "quadratic_plateau"]


class Plateau(NamedTuple):
    """Where minibatch descent rests.

    Attributes:
      floor: the mean m at the minimum.
      excess: what the noise of the batches adds to it; the plateau is their sum.
      covariance: (r, r), of the coordinates.
      hessian: (r, r), of the mean of F_f: the mean path moves by -h hessian times what is left, each step.
    """

    floor: float
    excess: float
    covariance: Floats
    hessian: Floats


class _Slopes(NamedTuple):
    """w_f / sigma^2 and 2 w_f' / sigma^4 of every sample, (n,), and c_s, (n, r)."""

    weight: Floats
    bend: Floats
    pull: Floats

    @property
    def gradient(self) -> Floats:
        """Of the mean of F_f(m / sigma^2), (r,)."""
        return self.weight @ self.pull / len(self.weight)


def _slopes(table: WeightTable, distances: QuadraticDistances, z: Floats, variance: float) -> _Slopes:
    pull = distances.slope + distances.gram @ z
    m = np.maximum(distances(z), 1e-300)
    x = np.log(m / variance)
    weight = np.exp(table.log_weight(x)) / variance
    return _Slopes(weight, 2 * weight * table.slope(x) / m, pull)


def _table(d: Divergence, distances: QuadraticDistances, variance: float) -> WeightTable:
    return weight_table(d, 100 * max(1.0, float(distances.start.max()) / variance))


def quadratic_minimum(
    d: Divergence | str, distances: QuadraticDistances, *, sigma: float = 1.0, start: Floats | None = None
) -> Floats:
    """The coordinates z at which the mean of F_f(m_s(z) / sigma^2) is smallest, (r,).

    Newton's method; where w_f falls with m its curvature is left out, so that every step goes down, and the
    result is the minimum that lies nearest downhill of `start`. Coordinates that move nothing stay.

    Args:
      d: the divergence, or its name or expression.
      distances: m of every sample.
      sigma: > 0.
      start: (r,); by default 0.

    Raises:
      ValueError: sigma out of range, or no convergence in 200 steps.
      TypeError: not numbers.

    >>> two = QuadraticDistances.of([[1.0], [-3.0]], [[[1.0]], [[1.0]]])     # (z + 1)^2 and (z - 3)^2
    >>> quadratic_minimum("kl", two).round(9)
    array([1.])
    """
    d, variance = as_divergence(d), positive("sigma", sigma) ** 2
    table = _table(d, distances, variance)
    z = np.zeros(distances.slope.shape[1]) if start is None else np.asarray(start, np.float64)
    found = _slopes(table, distances, z, variance)
    first = float(np.abs(found.weight) @ np.linalg.norm(found.pull, axis=1)) / len(found.weight)
    for _ in range(200):
        size = float(np.linalg.norm(found.gradient))
        if size <= 1e-12 * first:
            return z
        hessian = _hessian(found._replace(bend=np.maximum(found.bend, 0.0)), distances)
        move = -np.linalg.lstsq(hessian, found.gradient, rcond=1e-12)[0]
        for _ in range(40):
            after = _slopes(table, distances, z + move, variance)
            if (found.bend <= 0).all() or np.linalg.norm(after.gradient) < size:
                break
            move = move / 2
        if float(np.linalg.norm(move)) <= 1e-13 * float(np.linalg.norm(z)):
            return z
        z, found = z + move, after
    raise ValueError(f"expected a minimum of {d.name} within 200 steps; the slope is still {size:.3g}")


def _hessian(at: _Slopes, distances: QuadraticDistances) -> Floats:
    """The mean of k_s, (r, r)."""
    n = len(at.weight)
    return (np.tensordot(at.weight, distances.gram, 1) + (at.pull.T * at.bend) @ at.pull) / n


def quadratic_plateau(
    d: Divergence | str,
    distances: QuadraticDistances,
    step: float,
    batch_size: int,
    *,
    sigma: float = 1.0,
    minimum: Floats | None = None,
) -> Plateau:
    """Where the mean m rests under descent on the mean of F_f(m_s / sigma^2), batches drawn with replacement.

    To first order in the step over the batch size. Where f weights samples unequally the mean m is not
    smallest at the minimum of F_f, so the shift of the mean of z that the third derivative of F_f causes,
    -H^-1 E[grad F_f] / 2 to second order in z - z*, counts as well as its spread.

    Args:
      d: the divergence, or its name or expression.
      distances: m of every sample.
      step: h > 0.
      batch_size: B >= 1.
      sigma: > 0.
      minimum: (r,), the minimum, where it is known; by default `quadratic_minimum`.

    Raises:
      ValueError: arguments out of range; a step at which noise grows; a minimum that is not one.
      TypeError: not numbers.

    >>> two = QuadraticDistances.of([[1.0], [-3.0]], [[[1.0]], [[1.0]]])     # gradients z + 1 and z - 3
    >>> found = quadratic_plateau("kl", two, 0.1, 16)                         # floor 4, S = 4
    >>> found.floor, round(found.excess, 6), round(0.1 * 4 / (16 * 1.9), 6)   # h S / (B (2 - h))
    (4.0, 0.013158, 0.013158)
    """
    d, variance = as_divergence(d), positive("sigma", sigma) ** 2
    h, count = positive("step", step), positive_integer("batch_size", batch_size)
    z = quadratic_minimum(d, distances, sigma=sigma) if minimum is None else np.asarray(minimum, np.float64)
    table = _table(d, distances, variance)
    at = _slopes(table, distances, z, variance)
    hessian = _hessian(at, distances)
    k, u = np.linalg.eigh(hessian)
    moved = u[:, k > 1e-9 * k[-1]]  # what moves no sample does not spread
    n, c = len(at.weight), at.pull @ moved
    gram = np.einsum("ra,nrs,sb->nab", moved, distances.gram, moved, optimize=True)
    kernels = at.weight[:, None, None] * gram + np.einsum("n,na,nb->nab", at.bend, c, c)
    gradients = at.weight[:, None] * c
    s = gradients.T @ gradients / n

    beside = kernels.transpose(1, 0, 2).reshape(c.shape[1], -1)  # (r, n r)

    def second(spread: Floats) -> Floats:
        return beside @ (spread @ kernels).reshape(-1, c.shape[1]) / n

    spread = resting_covariance(kernels.mean(0), s, h, count, second)
    covariance = moved @ spread @ moved.T
    size, axes = np.linalg.eigh(covariance)
    sides = np.sqrt(np.maximum(size, 0.0)) * axes
    slopes = [
        _slopes(table, distances, z + sign * side, variance).gradient for side in sides.T for sign in (1, -1)
    ]
    grown = (np.sum(slopes, axis=0) - len(slopes) * at.gradient) / 2
    drift = -moved @ ((moved.T @ grown) / k[k > 1e-9 * k[-1]])
    mean = distances.gram.mean(0)
    excess = float(np.sum(mean * covariance) + 2 * at.pull.mean(0) @ drift)
    return Plateau(float(distances(z).mean()), excess, covariance, hessian)
