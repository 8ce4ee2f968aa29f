"""Small min-max games with a known equilibrium, played with the library's own variational objective.

P is a Gaussian, Q the same Gaussian moved by the model's parameters theta. The critic is v(x) = omega .
phi(x). Both expectations are quadratures on the same nodes, reparametrised as in training: a sample of Q is a
function of theta.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np

from fdiv_jax.divergences import Divergence, catalogue, divergence, variational_value

__all__ = [
    "Game",
    "catalogue_entries",
    "hermite",
    "line_game",
    "smooth_divergences",
    "wave_blocks",
    "wave_game",
]

Array = jax.Array
Number = float | Array
"""A number, which may be traced."""


@dataclass(frozen=True)
class Game:
    """Q moves by `place(theta, z)`, the critic answers with the features `features(x)` (n, n_omega).

    `nodes` (n, dim) and `weights` (n,) are the quadrature; `constant` is the index of the feature that is
    constant. Speeds: theta descends with `model_step`, omega ascends with `critic_step`.
    """

    divergence: Divergence
    activation: bool
    place: Callable[[Array, Array], Array]
    features: Callable[[Array], Array]
    nodes: Array
    weights: Array
    theta: Array
    constant: int
    critic_size: int
    model_step: Number = 1.0
    critic_step: Number = 1.0

    @property
    def equilibrium(self) -> Array:
        """(theta, omega) at Q = P: the critic is the constant v0, or s0 without an activation."""
        s0, v0 = self.divergence.equilibrium
        omega = jnp.zeros(self.critic_size).at[self.constant].set(v0 if self.activation else s0)
        return jnp.concatenate([self.theta, omega])

    def value(self, theta: Array, omega: Array) -> Array:
        """E_P[T] - E_Q[f*(T)], by the objective that training uses."""
        of_p = self.features(self.place(self.theta, self.nodes)) @ omega
        of_q = self.features(self.place(theta, self.nodes)) @ omega
        return variational_value(
            self.divergence, of_p, of_q, activation=self.activation, weights=self.weights
        )

    def field(self, z: Array) -> Array:
        """d/dt (theta, omega): descent in theta, ascent in omega."""
        size = self.theta.shape[0]
        by_theta, by_omega = jax.grad(self.value, argnums=(0, 1))(z[:size], z[size:])
        return jnp.concatenate([-self.model_step * by_theta, self.critic_step * by_omega])

    def jacobian(self) -> np.ndarray:
        """Jacobian of the field at the equilibrium, by automatic differentiation (two derivatives of f*)."""
        return np.asarray(jax.jit(jax.jacfwd(self.field))(self.equilibrium))


def hermite(count: int, dim: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Hermite nodes (count^dim, dim) and weights for the standard normal in `dim` dimensions."""
    x, w = np.polynomial.hermite_e.hermegauss(count)
    w = w / w.sum()
    nodes = np.array(list(product(x, repeat=dim)))
    weights = np.array([np.prod(c) for c in product(w, repeat=dim)])
    return nodes, weights


def line_game(
    d: Divergence,
    s: Number,
    *,
    activation: bool,
    model_step: Number = 1.0,
    critic_step: Number = 1.0,
    count: int = 80,
) -> Game:
    """P = N(0, s^2), Q = N(theta, s^2), v = w x + b0: one mode, q = s^2 and k = 1, and a gauge mode (b0)."""
    nodes, weights = hermite(count)
    return Game(
        divergence=d,
        activation=activation,
        place=lambda theta, z: theta + s * z,
        features=lambda x: jnp.concatenate([x, jnp.ones_like(x)], axis=1),
        nodes=jnp.asarray(nodes),
        weights=jnp.asarray(weights),
        theta=jnp.zeros(1),
        constant=1,
        critic_size=2,
        model_step=model_step,
        critic_step=critic_step,
    )


_WAVES = np.array([[1.0, 0.3], [-0.4, 0.9], [0.7, -1.1], [1.3, 0.8]])
_PHASES = np.array([0.2, 1.1, -0.7, 0.5])
_SPREAD = np.array([1.0, 0.5])


def wave_game(
    d: Divergence,
    s: Number,
    *,
    activation: bool,
    model_step: Number = 1.0,
    critic_step: Number = 1.0,
    count: int = 28,
) -> Game:
    """Two dimensions, theta = (mean, log scale), four waves and a constant as features: eight by eight.

    P = N(0, s^2 diag(1, 1/4)), Q = N(theta[:2], e^{2 theta[2]} s^2 diag(1, 1/4)), v(x) = sum_j omega_j
    sin(u_j . x + p_j) + omega_4. Gram and K K^T (`wave_blocks`) do not commute, so that no pairing of modes
    exists.
    """
    nodes, weights = hermite(count, 2)
    waves, phases = jnp.asarray(_WAVES), jnp.asarray(_PHASES)
    spread = s * jnp.asarray(_SPREAD)
    return Game(
        divergence=d,
        activation=activation,
        place=lambda theta, z: theta[:2] + jnp.exp(theta[2]) * spread * z,
        features=lambda x: jnp.concatenate(
            [jnp.sin(x @ waves.T + phases), jnp.ones((x.shape[0], 1))], axis=1
        ),
        nodes=jnp.asarray(nodes),
        weights=jnp.asarray(weights),
        theta=jnp.zeros(3),
        constant=4,
        critic_size=5,
        model_step=model_step,
        critic_step=critic_step,
    )


def wave_blocks(s: float) -> tuple[np.ndarray, np.ndarray]:
    """Gram (5, 5) and K (5, 3) of `wave_game` from Gaussian moments in closed form, without any quadrature.

    E sin(u.x + p) = exp(-|scale u|^2 / 2) sin(u.mean + p), likewise for cos, and sin A sin B = (cos(A - B) -
    cos(A + B)) / 2.
    """
    scale = s * _SPREAD

    def shrink(u: np.ndarray) -> np.ndarray:
        return np.exp(-0.5 * ((u * scale) ** 2).sum(-1))

    def mean_cosine(u: np.ndarray, p: np.ndarray) -> np.ndarray:
        return shrink(u) * np.cos(p)

    minus = mean_cosine(_WAVES[:, None] - _WAVES[None], _PHASES[:, None] - _PHASES[None])
    plus = mean_cosine(_WAVES[:, None] + _WAVES[None], _PHASES[:, None] + _PHASES[None])
    means = shrink(_WAVES) * np.sin(_PHASES)
    gram = np.block([[(minus - plus) / 2, means[:, None]], [means[None], np.ones((1, 1))]])
    by_mean = mean_cosine(_WAVES, _PHASES)[:, None] * _WAVES
    by_log_scale = -((_WAVES * scale) ** 2).sum(1) * means
    k = np.concatenate([by_mean, by_log_scale[:, None]], axis=1)
    return gram, np.concatenate([k, np.zeros((1, 3))])


_QUICK = ("kl", "squared_hellinger", "pearson_chi2", "jensen_shannon", "le_cam")


def smooth_divergences(quick: bool, alphas: tuple[float, ...] = ()) -> list[Divergence]:
    """The catalogue's entries with a finite curvature, and members of the alpha family.

    In a quick run five of them: every curvature, an activation with another slope, a conjugate in pieces.
    """
    if quick:
        return [divergence(name) for name in _QUICK]
    named = [d for d in catalogue_entries() if d.is_smooth]
    return named + [divergence(f"alpha({a:g})") for a in alphas]


def catalogue_entries() -> list[Divergence]:
    """Every named divergence."""
    return list(catalogue().values())
