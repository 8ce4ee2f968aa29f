"""Prior preservation: the term that keeps the model where it is, and how its gradient joins the loss's."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fdiv_jax.arrays import Figures, Masks, Parameters, Predictions, Scalar
from fdiv_jax.unlearning.config_parts import PreservationConfig

__all__ = ["add_gradients", "masked_squared_error", "without_conflict"]


def masked_squared_error(output: Predictions, goal: Predictions, mask: Masks) -> Scalar:
    """(output - goal)^2, averaged over channels, then over the mask's pixels, then over samples.

    Args:
        output, goal: n h w c.
        mask: n h w; an empty one counts nothing.

    Returns:
        A scalar, float32.
    """
    error = jnp.mean((output - goal).astype(jnp.float32) ** 2, axis=-1)
    weight = mask.astype(error.dtype)
    return jnp.mean(jnp.sum(weight * error, (1, 2)) / jnp.maximum(jnp.sum(weight, (1, 2)), 1.0))


def add_gradients(
    config: PreservationConfig, gradient: Parameters, prior: Parameters
) -> tuple[Parameters, Figures]:
    """gradient + weight prior, after the surgery where it is asked for; and figures to record."""
    figures = {}
    if config.surgery:
        gradient, figures["conflicts"] = without_conflict(gradient, prior)
    return jax.tree.map(lambda g, p: g + config.weight * p, gradient, prior), figures


def without_conflict(gradient: Parameters, other: Parameters) -> tuple[Parameters, Scalar]:
    """The gradient without its component along `other` in every tensor where <gradient, other> < 0, and the
    share of such tensors.

    An `other` of less than 1e-5 of the gradient's norm is rounding (the prior's at the first step, where both
    models are one) and has no direction to heed.

    Source: Yu et al., Gradient surgery for multi-task learning, 2020; Novello et al., 2025.
    """
    clean, conflicts = {}, []
    for name, g in gradient.items():
        p = other[name]
        inner = jnp.vdot(g, p)
        square = jnp.vdot(p, p)
        conflict = (inner < 0) & (square > 1e-10 * jnp.vdot(g, g))
        along = inner / jnp.maximum(square, jnp.finfo(g.dtype).tiny)
        clean[name] = g - jnp.where(conflict, along, 0.0) * p
        conflicts.append(conflict)
    return clean, jnp.mean(jnp.stack(conflicts).astype(jnp.float32))
