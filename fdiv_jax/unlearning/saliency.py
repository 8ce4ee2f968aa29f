"""The mask of what learns, by how much it matters for what is to be forgotten.

    G = sum over the images of the target prompts of  grad |noise - ((1 + g) e(x_t, c) - g e(x_t, ""))|^2
    mask = 1 where |G| is among the largest, for a share of all the parameters that learn

Source: Fan et al., SalUn: empowering machine unlearning via gradient-based weight saliency, 2024.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fdiv_jax.arrays import Parameters, RandomKey, Scalar
from fdiv_jax.compiling import jit
from fdiv_jax.nn import Text
from fdiv_jax.unlearning.batch import Batch
from fdiv_jax.unlearning.data import AnchorData
from fdiv_jax.unlearning.prepare import Prepared
from fdiv_jax.unlearning.preservation import masked_squared_error
from fdiv_jax.unlearning.state import Plan
from fdiv_jax.unlearning.timesteps import draw_noise
from fdiv_jax.unlearning.trainable import Frozen

__all__ = ["forgetting_loss", "largest", "saliency_mask"]

_STREAM = 4
"""Tells the mask's random numbers from those of the steps."""


def saliency_mask(prepared: Prepared, data: AnchorData, trained: Parameters) -> Parameters:
    """The mask of a run, True where a parameter learns, by name; computed on one device.

    Args:
        prepared: the run, with a `saliency.share`.
        data: its images and prompts.
        trained: what learns, before the first step.
    """
    plan, config = prepared.plan, prepared.config
    # Two predictions are differentiated at once, so that half of a step's samples take its memory.
    batches, shown = data.everything(max(1, config.batch_size // config.accumulation // 2))
    size = len(batches[0].position)
    latents = (size, *prepared.pipe.latent_shape)
    guidance = config.images.drawing(prepared.pipe).guidance
    empty = prepared.pipe.sized(prepared.pipe.encode_prompts([""] * size), latents, guidance)
    root = jax.random.fold_in(jax.random.key(config.seed), _STREAM)
    gradient = _gradient(plan)
    total: Parameters | None = None
    for number, batch in enumerate(batches):
        pairs = shown[number * size : (number + 1) * size]
        counted = (pairs >= 0) & (pairs < len(data.pairs) - data.retained)
        if not counted.any():
            continue
        only = dataclasses.replace(batch, mask=batch.mask * jnp.asarray(counted)[:, None, None])
        part = gradient(trained, prepared.frozen, only, empty, jax.random.fold_in(root, number))
        total = part if total is None else jax.tree.map(jnp.add, total, part)
    share = config.saliency.share
    assert total is not None  # every run has target pairs
    assert share is not None  # asked for
    return largest({name: np.abs(np.asarray(value)) for name, value in total.items()}, share)


def forgetting_loss(
    plan: Plan, trained: Parameters, frozen: Frozen, batch: Batch, empty: Text, key: RandomKey
) -> Scalar:
    """The squared error of the guided prediction of the noise at the target prompts, a scalar.

    Args:
        plan: with the guidance g of its `saliency`.
        trained, frozen, batch, key: as for a step.
        empty: features of the empty prompt, as many rows as the batch.
    """
    t, noise = draw_noise(key, batch.position, batch.latents.shape[1:], plan.timesteps)
    x_t = plan.schedule.add_noise(batch.latents, noise, t)
    parameters = plan.trainable.parameters(trained, frozen)
    text = plan.trainable.text(trained, frozen, batch.target_text, batch.tokens)
    with_prompt, without = (plan.network(parameters, x_t, t, each) for each in (text, empty))
    guided = with_prompt + plan.saliency.guidance * (with_prompt - without)
    return masked_squared_error(guided, plan.schedule.target(batch.latents, noise, t), batch.mask)


@functools.lru_cache(maxsize=8)
def _gradient(plan: Plan) -> Callable[..., Parameters]:
    def gradient(trained: Parameters, *rest: Any) -> Parameters:
        return jax.grad(lambda own: forgetting_loss(plan, own, *rest))(trained)

    return jit(gradient)


def largest(values: Mapping[str, np.ndarray], share: float) -> Parameters:
    """True where a value is among the largest, `share` of all of them together (rounded up), by name.

    Of equal values at the edge the first ones are taken, so that the number is exact.
    """
    flat = np.concatenate([np.ravel(value) for value in values.values()])
    count = min(len(flat), max(1, int(np.ceil(share * len(flat)))))
    edge = np.partition(flat, len(flat) - count)[len(flat) - count]
    chosen = flat > edge
    chosen[np.flatnonzero(flat == edge)[: count - int(chosen.sum())]] = True
    ends = np.cumsum([value.size for value in values.values()])[:-1]
    parts = np.split(chosen, ends)
    return {
        name: jnp.asarray(part.reshape(value.shape))
        for (name, value), part in zip(values.items(), parts, strict=True)
    }
