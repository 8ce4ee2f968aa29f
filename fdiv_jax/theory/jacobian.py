"""The Jacobian of the min-max game at its equilibrium, and its eigenvalues mode by mode."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from fdiv_jax.theory._inputs import Floats, blocks, linearisation, non_negative, positive, precision

if TYPE_CHECKING:
    from fdiv_jax.divergences import Divergence

__all__ = ["GameSpectrum", "game_jacobian", "game_spectrum"]


def game_jacobian(
    d: Divergence | str,
    gram: ArrayLike,
    coupling: ArrayLike,
    model_step: float = 1.0,
    critic_step: float = 1.0,
    activation: bool = False,
    critic_penalty: ArrayLike | None = None,
) -> Floats:
    """Linear part of d/dt (theta, omega) at Q = P: theta descends and omega ascends E_P[T] - E_Q[f*(T)].

        J = [[ 0,          a g' K^T           ],
             [ -b g' K,   -b (d Gram + R)     ]]

    with Gram = E[grad_omega v grad_omega v^T] and K = d/dtheta E_Q[grad_omega v] at the equilibrium. T = v
    has g' = 1 and d = 1/f''(1); T = g(v) has g' = g'(v0) and d = g'(v0)^2/f''(1). Where f has a kink at 1,
    d = 0: the critic is not damped at all (inside its range f* is a straight line there).

    R is the Hessian of the penalty that is subtracted from the critic's objective: lambda I for weight
    decay (lambda/2) |omega|^2, gamma E[(d_x d_omega T)^T (d_x d_omega T)] for the gradient penalty
    (gamma/2) E|d_x T|^2. It damps the same for every f, so the larger R is beside d Gram, the less f matters.

    Args:
      d: the divergence, or its name or expression.
      gram: (n_omega, n_omega), symmetric positive semi-definite; a number stands for 1 x 1.
      coupling: K, (n_omega, n_theta); a number stands for 1 x 1.
      model_step: a > 0, speed of theta.
      critic_step: b > 0, speed of omega.
      activation: whether the critic's output v passes through the divergence's activation, T = g(v).
      critic_penalty: R, (n_omega, n_omega), symmetric positive semi-definite; a number stands for that number
        times the identity. The penalty has to be least at the equilibrium.

    Returns:
      float64 matrix (n_theta + n_omega, n_theta + n_omega), theta first, 1/time.

    Raises:
      ValueError: wrong shapes, gram not symmetric or not positive semi-definite, entries not finite, steps
        not > 0, f''(1) = 0.
      TypeError: not numbers.

    Source: Nagarajan and Kolter 2017, section 3; Mescheder, Nowozin and Geiger 2017, equation 6, for any f;
    Mescheder, Geiger and Nowozin 2018 (penalties).

    >>> game_jacobian("pearson_chi2", 4.0, 1.0)
    array([[ 0.,  1.],
           [-1., -2.]])
    """
    g, k = blocks(gram, coupling)
    lin = linearisation(d, activation)
    a, b = positive("model_step", model_step), positive("critic_step", critic_step)
    n_theta = k.shape[1]
    damping = lin.relaxation * g + _penalty(critic_penalty, g)
    return np.block([[np.zeros((n_theta, n_theta)), a * lin.slope * k.T], [-b * lin.slope * k, -b * damping]])


def _penalty(value: ArrayLike | None, gram: Floats) -> Floats:
    """R, the Hessian of the critic's penalty, as a matrix."""
    if value is None:
        return np.zeros_like(gram)
    if np.ndim(value) == 0:
        return float(non_negative("critic_penalty", value)) * np.eye(gram.shape[0])
    try:
        return blocks(value, np.zeros((gram.shape[0], 1)))[0]
    except ValueError as error:
        raise ValueError(
            f"critic_penalty, {gram.shape}: {str(error).replace('gram', 'critic_penalty')}"
        ) from None


@dataclass(frozen=True)
class GameSpectrum:
    """Eigenvalues of the game's Jacobian, sorted by what they mean.

    Attributes:
      eigenvalues: those of the modes in which model and critic move together, slowest first (complex,
        1/time).
      gauge: eigenvalues of the critic's directions that never reach the model, such as a constant added to T
        (real, < 0).
      neutral: how many directions do not move at all: model parameters the critic cannot see (K x = 0) and
        critic parameters without any effect.
      coupled: the Jacobian on the coupled modes only, in an orthonormal basis, model directions first.
      model_size: how many of the rows of `coupled` are the model's.
    """

    eigenvalues: np.ndarray
    gauge: np.ndarray
    neutral: int
    coupled: np.ndarray
    model_size: int

    @property
    def rate(self) -> float:
        """-max Re(lambda) over the coupled modes, 1/time; 0 where a mode only circles."""
        return max(0.0, -float(np.real(self.eigenvalues).max()))


def _range(matrix: Floats, least: float) -> Floats:
    """Orthonormal basis of the column space, directions with a singular value up to `least` left out."""
    left, values, _ = np.linalg.svd(matrix, full_matrices=False)
    return left[:, values > least]


def _clusters(values: Floats, gap: float) -> list[slice]:
    """Runs of numbers in a sorted array that lie no more than `gap` apart."""
    edges = [0, *(np.flatnonzero(np.diff(values) > gap) + 1).tolist(), len(values)]
    return [slice(i, j) for i, j in pairwise(edges)]


def game_spectrum(
    d: Divergence | str,
    gram: ArrayLike,
    coupling: ArrayLike,
    model_step: float = 1.0,
    critic_step: float = 1.0,
    activation: bool = False,
    critic_penalty: ArrayLike | None = None,
) -> GameSpectrum:
    """Eigenvalues of `game_jacobian`, the gauge modes and the idle directions set apart.

    The critic's directions that can ever act on the model span the smallest space invariant under the
    damping d Gram + R that holds the columns of K (their Krylov space). Both it and its orthogonal complement
    are invariant under J: the complement holds the gauge modes, with eigenvalues -b d mu (mu: of Gram), for
    R = 0. Where Gram and K K^T commute the rest are the roots of lambda^2 + b d q lambda + a b c k^2 = 0; in
    general they are the eigenvalues of the reduced block matrix.

    What lies below epsilon^(2/3) of the largest, 4e-11 for float64 matrices and 2e-5 for float32, counts as
    zero: couplings, eigenvalues of Gram and the gaps between them.

    Arguments and errors as for `game_jacobian`.

    Raises:
      ValueError: a coupling without a non-zero entry, too.
    """
    g, k = blocks(gram, coupling)
    lin = linearisation(d, activation)
    a, b = positive("model_step", model_step), positive("critic_step", critic_step)
    scale = float(np.linalg.norm(k, 2))
    if scale == 0:
        raise ValueError(
            "expected a coupling with a non-zero entry, got zero: the critic does not see the model"
        )
    rounding = max(precision(gram), precision(coupling)) ** (2 / 3)
    least = rounding * scale
    damping = lin.relaxation * g + _penalty(critic_penalty, g)
    mu, vectors = np.linalg.eigh(damping)
    flat = rounding * float(mu[-1])
    together, gauge, idle = [], [], 0
    for run in _clusters(mu, flat):
        space = vectors[:, run]
        inside = _range(space.T @ k, least)
        together.append(space @ inside)
        apart = space.shape[1] - inside.shape[1]
        level = float(mu[run].mean())
        if level > flat:
            gauge += [-b * level] * apart
        else:
            idle += apart
    critic = np.concatenate(together, axis=1)
    model = _range(k.T, least)
    k_reduced = critic.T @ k @ model
    coupled = np.block(
        [
            [np.zeros((model.shape[1], model.shape[1])), a * lin.slope * k_reduced.T],
            [-b * lin.slope * k_reduced, -b * (critic.T @ damping @ critic)],
        ]
    )
    eigenvalues = np.linalg.eigvals(coupled).astype(np.complex128)
    order = np.lexsort((-eigenvalues.imag, -eigenvalues.real))
    return GameSpectrum(
        eigenvalues=eigenvalues[order],
        gauge=np.sort(np.array(gauge, float))[::-1],
        neutral=idle + k.shape[1] - model.shape[1],
        coupled=coupled,
        model_size=model.shape[1],
    )
