"""The two matrices of a real game, and the spectrum of a training step that they predict.

With Gram, A = K K^T, d = g'^2 / f''(1) and c = g'^2, an eigenvalue nu = mu - 1 of a step that
is not zero solves

    det( nu^2 + nu (b d Gram + a b c A) + a b c A ) = 0

whatever the number of parameters; the proof is in section 10. f enters by d and c alone. With n critic steps
nu + 1 is an eigenvalue of `fdiv_jax.theory.update_matrix`, in which A^(1/2) stands for K.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fdiv_jax.divergences import Divergence
from fdiv_jax.theory import game_jacobian, update_matrix

__all__ = ["Blocks", "predicted_eigenvalues", "relative_errors"]

ROUNDING = 1e-12
"""An eigenvalue of a Gram matrix that is this much smaller than the largest is zero."""


@dataclass(frozen=True)
class Blocks:
    """Gram and K of a game, on the critic's directions that move at all.

    Attributes:
        gram: (r, r), the mean over patches of grad_omega v grad_omega v^T.
        coupling_square: (r, r), K K^T with K = d/dtheta of the mean of grad_omega v.
    """

    gram: np.ndarray
    coupling_square: np.ndarray

    @property
    def coupling(self) -> np.ndarray:
        """(r, r), (K K^T)^(1/2): K in coordinates of theta in which all but r directions are at rest."""
        squares, directions = np.linalg.eigh(self.coupling_square)
        return directions * np.sqrt(np.maximum(squares, 0.0)) @ directions.T

    @property
    def damped(self) -> Blocks:
        """The game of a critic that moves only in the directions that Gram damps, rounding aside."""
        levels, directions = np.linalg.eigh(self.gram)
        seen = directions[:, levels > ROUNDING * levels[-1]]
        return Blocks(*(seen.T @ matrix @ seen for matrix in (self.gram, self.coupling_square)))

    @property
    def ranks(self) -> tuple[int, int]:
        """Of Gram and of K K^T, rounding aside."""
        levels = [np.linalg.eigvalsh(matrix) for matrix in (self.gram, self.coupling_square)]
        gram, coupling = (int(np.sum(level > ROUNDING * level[-1])) for level in levels)
        return gram, coupling


def predicted_eigenvalues(
    blocks: Blocks,
    d: Divergence,
    *,
    activation: bool,
    model_step: float,
    critic_step: float,
    critic_steps: int = 1,
) -> np.ndarray:
    """Eigenvalues nu of the alternating step that are not zero, largest modulus first, from the theory."""
    n = len(blocks.gram)
    if critic_steps == 1:
        one = game_jacobian(d, 1.0, 1.0, activation=activation)
        slope, damping = -one[1, 0], -one[1, 1]
        stiff = model_step * critic_step * slope**2 * blocks.coupling_square
        damped = critic_step * damping * blocks.gram
        # nu^2 y + nu (damped + stiff) y + stiff y = 0, as the first-order problem of (nu y, y).
        matrix = np.block([[-(damped + stiff), -stiff], [np.eye(n), np.zeros((n, n))]])
    else:
        jacobian = game_jacobian(d, blocks.gram, blocks.coupling, model_step, critic_step, activation)
        step = update_matrix(jacobian, 1.0, "alternating", model_size=n, critic_steps=critic_steps)
        matrix = step - np.eye(2 * n)
    values = np.linalg.eigvals(matrix)
    return values[np.argsort(-np.abs(values))]


def relative_errors(measured: np.ndarray, predicted: np.ndarray, count: int) -> np.ndarray:
    """Relative distance of each of the `count` largest predicted values to a measured one of its own."""
    rest = list(measured)
    errors = []
    for value in predicted[:count]:
        nearest = int(np.argmin(np.abs(np.asarray(rest) - value)))
        errors.append(abs(rest.pop(nearest) - value) / abs(value))
    return np.array(errors)
