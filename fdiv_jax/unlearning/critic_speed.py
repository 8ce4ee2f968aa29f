"""The leading mode of the game between a model and its critic, at its equilibrium.

At the self-anchored point (frozen model, target prompt on both sides) P = Q. There the model moves the
critic's features by K = d E_Q[grad_omega v] / d theta, and the critic damps itself by the covariance of its
features. Both are found by products alone, for any critic and any group of parameters.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from fdiv_jax.compiling import jit
from fdiv_jax.nn.convolution import in_loop
from fdiv_jax.unlearning.batch import Batch
from fdiv_jax.unlearning.comparison import Comparison
from fdiv_jax.unlearning.critic import ConvolutionalCritic
from fdiv_jax.unlearning.prepare import Prepared
from fdiv_jax.unlearning.step import noised, predict
from fdiv_jax.unlearning.trainable import Frozen

__all__ = ["LeadingMode", "leading_mode"]

_PRODUCTS = 12
"""Products with K K^T that find its largest eigenvalue."""


class LeadingMode(NamedTuple):
    """What `fdiv_jax.theory` asks of a mode.

    Attributes:
        damping: q, the variance of the critic's feature along the mode.
        coupling: k, the largest singular value of K.
    """

    damping: float
    coupling: float


def leading_mode(prepared: Prepared, batch: Batch, seed: int = 0) -> LeadingMode:
    """The mode along which the model moves the critic most, for the critic as it starts.

    A constant added to v moves nothing and is left out: q is a variance.

    Raises:
        ValueError: latents that are too small for the critic of the configuration; a mode that is not finite.
    """
    plan, frozen = prepared.plan, prepared.frozen
    critic = ConvolutionalCritic(prepared.pipe.latent_shape, prepared.config.critic, plan.schedule)
    critic_key, model_key, key = jax.random.split(jax.random.key(seed), 3)
    state = critic.initial(critic_key)
    theta, unravel = ravel_pytree(plan.trainable.initial(frozen, model_key))
    omega, unravel_critic = ravel_pytree(state.weights)

    @jit
    @in_loop()
    def measure(
        theta: jax.Array, omega: jax.Array, frozen: Frozen, batch: Batch
    ) -> tuple[jax.Array, jax.Array]:
        t, x_t = noised(plan, batch, key)

        def scores(omega: jax.Array, theta: jax.Array) -> jax.Array:
            output = predict(plan, unravel(theta), frozen, batch, key)
            same = Comparison(jax.lax.stop_gradient(output), output, batch.mask, t, x_t)
            return critic.scores(unravel_critic(omega), state.spectral, same)[1]

        def along(u: jax.Array, theta: jax.Array) -> jax.Array:
            return jax.jvp(lambda omega: scores(omega, theta), (omega,), (u,))[1]

        def pulled(u: jax.Array) -> jax.Array:  # K^T u
            return jax.grad(lambda theta: along(u, theta).mean())(theta)

        def pushed(w: jax.Array) -> jax.Array:  # K w
            moved = lambda omega: jax.jvp(lambda a: scores(omega, a).mean(), (theta,), (w,))[1]  # noqa: E731
            return jax.grad(moved)(omega)

        def once(_: int, u: jax.Array) -> jax.Array:
            u = pushed(pulled(u / jnp.linalg.norm(u)))
            return u / jnp.linalg.norm(u)

        u = jax.lax.fori_loop(0, _PRODUCTS, once, pushed(jnp.ones_like(theta)))
        return jnp.var(along(u, theta)), jnp.linalg.norm(pulled(u))

    found = LeadingMode(*map(float, measure(theta, omega, frozen, batch)))
    if not all(map(math.isfinite, found)):
        raise ValueError(f"the leading mode of the game is not finite: {found}")
    return found
