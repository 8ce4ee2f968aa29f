"""Prior preservation: the term that keeps the model where it is, and how its gradient joins the loss's."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from fdiv_jax.arrays import Figures, Masks, Parameters, Predictions, RandomKey, Scalar
from fdiv_jax.nn import Text, TextConditioning
from fdiv_jax.unlearning.batch import Batch, Prior
from fdiv_jax.unlearning.config_parts import PreservationConfig

__all__ = ["add_gradients", "balance_factor", "masked_squared_error", "random_prior", "without_conflict"]

_STREAM = 2**32 - 2
"""Tells the random prompts' numbers from the others of a step: those of a sample are told by its place, which
is less."""


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
    """gradient + weight prior, after the surgery or the balance where one is asked for; and figures to
    record."""
    figures = {}
    if config.balance is not None:
        figures["balance"] = balance_factor(config.balance, gradient, prior)
        gradient = jax.tree.map(lambda g: figures["balance"].astype(g.dtype) * g, gradient)
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


def balance_factor(balance: float, gradient: Parameters, prior: Parameters) -> Scalar:
    """max(balance - c, 0), c the cosine between the two gradients over all tensors.

    The sum prior + factor gradient falls along the loss wherever the factor is positive and c <= 0. As in
    `without_conflict`, a prior of less than 1e-5 of the gradient's norm has no direction: c = 0.

    Source: Wu et al., Erasing undesirable influence in diffusion models, 2024; Liu et al., BOME! Bilevel
    optimization made easy: a simple first-order approach, 2022 (there the inner product is not divided by the
    prior's norm).
    """
    inner = _inner(gradient, prior)
    squares = _inner(gradient, gradient), _inner(prior, prior)
    norm = jnp.maximum(jnp.sqrt(squares[0]) * jnp.sqrt(squares[1]), jnp.finfo(inner.dtype).tiny)
    cosine = jnp.where(squares[1] > 1e-10 * squares[0], inner / norm, 0.0)
    return jnp.maximum(balance - cosine, 0.0)


def _inner(one: Parameters, other: Parameters) -> Scalar:
    """The inner product over all tensors."""
    return jnp.sum(jnp.stack([jnp.vdot(value, other[name]) for name, value in one.items()]))


def random_prior(batch: Batch, key: RandomKey) -> Prior:
    """The batch's images at random text features: a prior that keeps the model where prompts seldom are.

    A direction u has the density (1 - cos(u, c)) of that of all directions, c being the target prompt's
    features, and a length of 0.8 to 1.2 of theirs: a uniform direction is turned round with the probability
    (1 + cos(u, c)) / 2. A sample's draw depends on its place in the global batch.

    Source: Lyu et al., One-dimensional adapter to rule them all: concepts, diffusion models and erasing
    applications, 2024 (where directions are drawn until one is taken, with the probability 1 - cos(u, c)).
    """

    def one(place: jax.Array, features: jax.Array, number: int) -> jax.Array:
        own = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, _STREAM), place), number)
        direction, side, length = jax.random.split(own, 3)
        wide = features.astype(jnp.float32)
        u = jax.random.normal(direction, features.shape)
        size, norm = jnp.linalg.norm(wide.ravel()), jnp.linalg.norm(u.ravel())
        cosine = jnp.vdot(u, wide) / jnp.maximum(size * norm, jnp.finfo(u.dtype).tiny)
        sign = jnp.where(jax.random.uniform(side) < (1.0 + cosine) / 2.0, -1.0, 1.0)
        factor = jax.random.uniform(length, minval=0.8, maxval=1.2)
        return (factor * sign * size / norm * u).astype(features.dtype)

    def drawn(features: jax.Array, number: int) -> jax.Array:
        return jax.vmap(lambda place, own: one(place, own, number))(batch.position, features)

    text: Text = batch.target_text
    if isinstance(text, TextConditioning):
        pooled = None if text.pooled is None else drawn(text.pooled, 1)
        text = dataclasses.replace(text, hidden=drawn(text.hidden, 0), pooled=pooled)
    else:
        text = drawn(text, 0)
    return Prior(batch.latents, text, (), batch.mask)
