"""An attack within a training step: text features near the target prompts' at which the concept comes back.

    d_0 uniform in the ball,  d <- clip(d - stride sign(grad_d m(e(x_t, c + d), e_0(x_t, c))))

with the trained model's output e, the frozen model's e_0 and the features c of the target prompt. A sample's
attack depends on the sample, its place in the global batch and the step's key alone, and so not on how the
batch is divided over devices or into parts.

Source: Zhang et al., Defensive unlearning with adversarial training for robust concept erasure in diffusion
models, 2024; Madry et al., Towards deep learning models resistant to adversarial attacks, 2018.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from fdiv_jax.arrays import Distances, Parameters, Predictions, RandomKey, TextFeatures
from fdiv_jax.nn import Text, TextConditioning
from fdiv_jax.unlearning.batch import Batch
from fdiv_jax.unlearning.comparison import Comparison
from fdiv_jax.unlearning.state import Plan
from fdiv_jax.unlearning.timesteps import draw_noise
from fdiv_jax.unlearning.trainable import Frozen

__all__ = ["attack", "moved"]

_STREAM = 2**32 - 3
"""Tells the attack's random numbers from the others of a step: those of a sample are told by its place, which
is less."""


def moved(text: Text, offset: TextFeatures | None) -> Text:
    """The features with an offset added to those that the UNet attends to; None: as they are."""
    if offset is None:
        return text
    if isinstance(text, TextConditioning):
        return dataclasses.replace(text, hidden=text.hidden + offset.astype(text.hidden.dtype))
    return text + offset.astype(text.dtype)


def attack(
    plan: Plan, trained: Parameters, frozen: Frozen, batch: Batch, key: RandomKey
) -> tuple[TextFeatures, Distances]:
    """The offsets that the attack finds, n l d, and the distance m to the concept before its last step, (n,).

    Both are 0 for retained samples, whose target prompt is their anchor prompt.
    """
    settings = plan.adversary
    t, noise = draw_noise(key, batch.position, batch.latents.shape[1:], plan.timesteps)
    x_t = plan.schedule.add_noise(batch.latents, noise, t)
    concept = plan.network(frozen.unet, x_t, t, batch.target_text)
    text = plan.trainable.text(trained, frozen, batch.target_text, batch.tokens)
    parameters = plan.trainable.parameters(trained, frozen)
    allowed = _allowed(batch, settings.at == "token")

    def distance(offset: TextFeatures) -> tuple[jax.Array, Distances]:
        output: Predictions = plan.network(parameters, x_t, t, moved(text, offset))
        m = plan.loss.distance(Comparison(concept, output, batch.mask, t, x_t))
        return jnp.sum(m), m  # a sample's m depends on its own offset alone

    def step(offset: TextFeatures, _: None) -> tuple[TextFeatures, Distances]:
        gradient, m = jax.grad(distance, has_aux=True)(offset)
        near = offset - settings.stride * jnp.sign(gradient)
        return allowed * jnp.clip(near, -settings.radius, settings.radius), m

    start = allowed * settings.radius * _uniform(key, batch, allowed.shape[1:])
    offset, m = jax.lax.scan(step, start, length=settings.steps)
    return offset, jnp.where(jnp.any(allowed > 0, axis=(1, 2)), m[-1], 0.0)


def _hidden(text: Text) -> TextFeatures:
    return text.hidden if isinstance(text, TextConditioning) else text


def _allowed(batch: Batch, last: bool) -> TextFeatures:
    """1 where features may be moved and 0 elsewhere, n l d."""
    target, anchor = _hidden(batch.target_text), _hidden(batch.anchor_text)
    unlearned = jnp.any(target != anchor, axis=(1, 2), keepdims=True)
    rows = jnp.arange(target.shape[1]) == target.shape[1] - 1 if last else jnp.ones(target.shape[1], bool)
    return jnp.broadcast_to(unlearned & rows[:, None], target.shape).astype(jnp.float32)


def _uniform(key: RandomKey, batch: Batch, shape: tuple[int, ...]) -> TextFeatures:
    """Numbers in (-1, 1), each sample's by its place in the global batch."""
    root = jax.random.fold_in(key, _STREAM)
    draw = jax.vmap(
        lambda place: jax.random.uniform(jax.random.fold_in(root, place), shape, minval=-1.0, maxval=1.0)
    )
    return draw(batch.position)
