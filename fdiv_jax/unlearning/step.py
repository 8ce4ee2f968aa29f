"""The training step: pure functions, for every loss, everything that can learn and any number of devices.

    batch, key -> noised -> x_t, t
    x_t, t -> attack -> offset of the target prompts' features, where there is an adversary
    x_t, t -> predict -> the trained model's output at the target prompts
    x_t, t -> look -> the frozen model's output at the anchor prompts          (`make_reference`)
    both -> compare -> Comparison -> the critic's ascent, where there is a critic
    Comparison, critic -> descend -> loss, gradient of the trained parameters  (`accumulate` over parts)
    gradient -> apply_update -> the next state

Runs that differ in their loss alone share the frozen model's outputs: `make_reference` computes them once for
a batch, `make_step` does the rest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float

from fdiv_jax.arrays import (
    Distances,
    Figures,
    Latents,
    Parameters,
    Predictions,
    PyTree,
    RandomKey,
    Scalar,
    Timesteps,
)
from fdiv_jax.distributed import Axis
from fdiv_jax.nn.convolution import in_loop
from fdiv_jax.unlearning.adversary import attack, moved
from fdiv_jax.unlearning.batch import Batch, Prior
from fdiv_jax.unlearning.comparison import Comparison
from fdiv_jax.unlearning.critic import CriticState, ascend
from fdiv_jax.unlearning.losses import Loss
from fdiv_jax.unlearning.optimiser import make_optimiser
from fdiv_jax.unlearning.preservation import add_gradients, masked_squared_error, random_prior
from fdiv_jax.unlearning.state import Plan, TrainState
from fdiv_jax.unlearning.timesteps import draw_noise
from fdiv_jax.unlearning.trainable import Frozen

__all__ = [
    "Descent",
    "ReferenceFunction",
    "StepFunction",
    "accumulate",
    "apply_update",
    "compare",
    "descend",
    "look",
    "make_reference",
    "make_step",
    "noised",
    "predict",
    "prior_loss",
]

Metrics = Mapping[str, jax.Array]
References = Predictions | Float[jax.Array, "parts batch height width outputs"] | tuple[()]
"""The frozen model's outputs, cut into parts where the step accumulates; none where it needs none."""
ReferenceFunction = Callable[[Frozen, Batch, RandomKey], References]
StepFunction = Callable[[TrainState, Frozen, Batch, References, RandomKey], tuple[TrainState, Metrics]]


def noised(plan: Plan, batch: Batch, key: RandomKey) -> tuple[Timesteps, Latents]:
    """Timesteps, (n,), and x_t, n h w c, of the batch's images.

    Everything that looks at a batch calls this with the step's key and so sees the same x_t; in one compiled
    step the calls are merged.
    """
    t, noise = draw_noise(key, batch.position, batch.latents.shape[1:], plan.timesteps)
    return t, plan.schedule.add_noise(batch.latents, noise, t)


def look(plan: Plan, frozen: Frozen, batch: Batch, key: RandomKey) -> Predictions:
    """What the trained model is compared with, n h w c.

    The frozen model's output at (x_t, anchor prompt), e_a; with negative guidance e_a - eta (e_c - e_a), e_c
    being that at the target prompt.

    Source of the negative guidance: Gandikota et al., Erasing concepts from diffusion models, 2023.
    """
    t, x_t = noised(plan, batch, key)
    anchor = plan.network(frozen.unet, x_t, t, batch.anchor_text)
    if batch.negative is None:
        return anchor
    away = plan.network(frozen.unet, x_t, t, batch.target_text)
    eta = batch.negative[:, None, None, None].astype(anchor.dtype)
    return anchor - eta * (away - anchor)


def make_reference(plan: Plan) -> ReferenceFunction:
    """`look` as a function of (frozen, batch, the step's key), pure, in the plan's parts; an empty tuple
    where the step compares with the current model."""

    def reference(frozen: Frozen, batch: Batch, key: RandomKey) -> References:
        if plan.reference == "current":
            return ()
        if plan.accumulation == 1:
            return look(plan, frozen, batch, key)
        parts = _cut(batch, plan.accumulation)
        return _joined(jax.lax.map(lambda part: look(plan, frozen, part, key), parts))

    return reference


def predict(plan: Plan, trained: Parameters, frozen: Frozen, batch: Batch, key: RandomKey) -> Predictions:
    """The trained model's output at (x_t, target prompt), n h w c. There is no classifier-free guidance."""
    t, x_t = noised(plan, batch, key)
    text = moved(plan.trainable.text(trained, frozen, batch.target_text, batch.tokens), batch.offset)
    return plan.network(plan.trainable.parameters(trained, frozen), x_t, t, text)


def compare(
    plan: Plan,
    trained: Parameters,
    frozen: Frozen,
    batch: Batch,
    reference: References,
    prediction: Predictions,
    key: RandomKey,
) -> Comparison:
    """The prediction beside the reference, under stop_gradient: the model moves, its goal does not."""
    t, x_t = noised(plan, batch, key)
    if plan.reference == "current":
        parameters = plan.trainable.parameters(trained, frozen)
        reference = plan.network(parameters, x_t, t, batch.anchor_text)
    return Comparison(jax.lax.stop_gradient(cast(Predictions, reference)), prediction, batch.mask, t, x_t)


def prior_loss(plan: Plan, trained: Parameters, frozen: Frozen, batch: Batch, key: RandomKey) -> Scalar:
    """The mean squared error of the trained model at the prior's images and prompts, a scalar.

    Its goal is the frozen model's output, or the noise itself. It has timesteps and noise of its own, so that
    it is independent of the loss.
    """
    prior = random_prior(batch, key) if plan.preservation.at == "random" else cast(Prior, batch.prior)
    schedule = plan.schedule
    key = jax.random.fold_in(key, 1)
    t, noise = draw_noise(key, batch.position, prior.latents.shape[1:], plan.timesteps)
    x_t = schedule.add_noise(prior.latents, noise, t)
    text = plan.trainable.text(trained, frozen, prior.text, prior.tokens)
    output = plan.network(plan.trainable.parameters(trained, frozen), x_t, t, text)
    if plan.preservation.against == "noise":
        goal = schedule.target(prior.latents, noise, t)
    else:
        goal = jax.lax.stop_gradient(plan.network(frozen.unet, x_t, t, prior.text))
    return masked_squared_error(output, goal, prior.mask)


class Descent(NamedTuple):
    """What the model learns from a batch, or from a part of one.

    All but `m` and `timesteps` are means over the samples, so that those of equal parts average to those of
    the whole.

    Attributes:
        loss: ().
        gradient: of the loss, by parameter.
        prior: the loss and the gradient of prior preservation, or None.
        m: (n,), of every sample.
        timesteps: (n,).
    """

    loss: Scalar
    gradient: Parameters
    prior: tuple[Scalar, Parameters] | None
    m: Distances
    timesteps: Timesteps


Means = tuple[Scalar, Parameters, tuple[Scalar, Parameters] | None]
"""The fields of a `Descent` that are means over the samples."""
Respond = Callable[[Comparison], tuple[CriticState | None, Mapping[str, jax.Array]]]


def descend(
    plan: Plan,
    loss: Loss,
    state: TrainState,
    frozen: Frozen,
    batch: Batch,
    reference: References,
    key: RandomKey,
    respond: Respond,
) -> tuple[Descent, CriticState | None, Mapping[str, jax.Array]]:
    """The gradient of the model's loss against a critic that has seen the model's prediction.

    The prediction is made once: `respond` gives the critic after it has learned from the comparison, and
    figures to record; the gradient then goes back through the same forward pass.
    """
    prediction, pull_back = jax.vjp(lambda trained: predict(plan, trained, frozen, batch, key), state.trained)
    comparison = compare(plan, state.trained, frozen, batch, reference, prediction, key)
    critic, figures = respond(comparison)
    # The gradient for the output first, n h w c, then back through the network: the critic and the divergence
    # are differentiated at the output alone.
    value, cotangent = jax.value_and_grad(
        lambda output: loss.value(comparison._replace(prediction=output), critic)
    )(prediction)

    def gradients() -> tuple[Parameters, tuple[Scalar, Parameters] | None]:
        prior = None
        if plan.preservation.weight and (plan.preservation.at == "random" or batch.prior is not None):
            prior = jax.value_and_grad(lambda trained: prior_loss(plan, trained, frozen, batch, key))(
                state.trained
            )
        return pull_back(cotangent)[0], prior

    if plan.warmup:  # there the model stands still: its backward pass, most of the work, is left out
        none = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(gradients))
        gradient, prior = jax.lax.cond(state.step >= plan.warmup, gradients, lambda: none)
    else:
        gradient, prior = gradients()
    descent = Descent(value, gradient, prior, loss.distance(comparison), comparison.timesteps)
    return descent, critic, figures


def accumulate(part_of: Callable[[PyTree], Descent], parts: PyTree, count: int) -> Descent:
    """The descent of a whole batch from those of its parts, one after the other: the memory is one part's.

    Args:
        part_of: the descent of one part.
        parts: a tree of arrays whose first axis counts the parts.
        count: how many there are.
    """

    def add(total: Means, part: PyTree) -> tuple[Means, tuple[Distances, Timesteps]]:
        one = part_of(part)
        means = jax.tree.map(lambda a, b: a + b / count, total[:3], one[:3])
        return means, (one.m, one.timesteps)

    first = jax.eval_shape(part_of, jax.tree.map(lambda leaf: leaf[0], parts))
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), first[:3])
    means, samples = jax.lax.scan(add, zero, parts)
    return Descent(*means, *_joined(samples))


def apply_update(
    plan: Plan,
    state: TrainState,
    loss: Scalar,
    gradient: Parameters,
    critic: CriticState | None,
) -> tuple[TrainState, Figures]:
    """The next state, and the figures `gradient_norm` (before any clipping) and `skipped`.

    A step whose loss, gradient or result is not finite changes nothing but the number of steps: one bad batch
    must not spoil the moments of an optimiser for good. In the critic's warm-up the critic alone changes.
    Nothing outside the state's mask changes, and the gradient's norm is that within it.
    """
    gradient = _within(state.mask, gradient)
    optimiser = make_optimiser(plan.optimiser, 0.0, plan.steps)  # the learning rate is in its state
    changes, moments = optimiser.update(gradient, state.optimiser, state.trained)
    changes = _within(state.mask, cast(Parameters, changes))  # weight decay comes without a gradient
    trained = cast(Parameters, optax.apply_updates(state.trained, changes))
    average = state.average
    if plan.optimiser.ema is not None:
        average = optax.incremental_update(trained, average, 1.0 - plan.optimiser.ema)
    norm = optax.tree.norm(gradient)
    new = (trained, moments, average)
    old = (state.trained, state.optimiser, state.average)
    if plan.warmup:
        new = _where(state.step >= plan.warmup, new, old)
    finite = _finite((loss, norm, new, critic))
    (trained, moments, average), critic = _where(finite, (new, critic), (old, state.critic))
    after = TrainState(state.step + 1, trained, moments, critic, average, state.mask)
    return after, {"gradient_norm": norm, "skipped": ~finite}


def make_step(plan: Plan, *, axis: Axis = None) -> StepFunction:
    """The step: (state, frozen, batch, reference, the step's key) -> (state, metrics), pure, to be jitted or
    pmapped.

    The critic, where there is one, learns from the whole batch first; then the model descends, on the batch
    or on its parts. See `predict`, `compare`, `descend`, `accumulate` and `apply_update`.

    Metrics: `loss`, `gradient_norm` (global, of the whole loss, before any clipping), `skipped`, `prior_loss`
    and `conflicts` (the share of tensors whose gradients conflict) or `balance` with prior preservation,
    `attacked` (the mean distance m to the concept after an attack) with an adversary, and what the critic
    records, all over the whole batch; `m`, `weight` (see `Loss.weight`) and `timesteps` of every
    sample, (n,). What is not computed in the warm-up is 0.

    Args:
        plan: what the step is made of.
        axis: name of the axis, or of the axes, over which the batch is divided by hand (`jax.pmap`,
            `jax.shard_map`); None where the function sees all of it.
    """

    def mean(tree: PyTree) -> PyTree:
        return tree if axis is None else jax.lax.pmean(tree, axis)

    def step(
        state: TrainState, frozen: Frozen, batch: Batch, reference: References, key: RandomKey
    ) -> tuple[TrainState, Metrics]:
        loss = plan.loss.at(frozen.choice)
        game = loss.game

        def learn(comparison: Comparison) -> tuple[CriticState | None, Mapping[str, jax.Array]]:
            if game is None or state.critic is None:
                return None, {}
            return ascend(game, state.critic, comparison, mean)

        attacked = {}
        if plan.adversary.steps:
            batch, m = _attacked(plan, state, frozen, batch, key)
            attacked["attacked"] = mean(jnp.mean(m))
        if plan.accumulation == 1:
            descent, critic, figures = descend(plan, loss, state, frozen, batch, reference, key, learn)
        else:
            parts = _cut((batch, reference), plan.accumulation)
            critic, figures = state.critic, {}
            if game is not None:
                # The critic sees the whole batch at once, so the predictions are made in an extra pass,
                # without the activations that a backward pass would keep.
                seen = jax.lax.map(lambda part: _seen(plan, state, frozen, part[0], part[1], key), parts)
                critic, figures = learn(_joined(seen))
            descent = accumulate(
                lambda part: descend(
                    plan, loss, state, frozen, part[0], part[1], key, lambda _: (critic, {})
                )[0],
                parts,
                plan.accumulation,
            )
        value, gradient, prior = mean(descent[:3])
        figures = {**figures, **attacked}
        if prior is not None:
            figures["prior_loss"], toward = prior
            gradient, more = add_gradients(plan.preservation, gradient, toward)
            figures.update(more)
        after, outcome = apply_update(plan, state, value, gradient, critic)
        weight = loss.weight(descent.m)
        samples = {"m": descent.m, "weight": weight, "timesteps": descent.timesteps}
        return after, {"loss": value, **outcome, **figures, **samples}

    inside = plan.warmup or plan.accumulation > 1 or plan.adversary.steps  # of loops and branches
    return in_loop()(step) if inside else step


def _attacked(
    plan: Plan, state: TrainState, frozen: Frozen, batch: Batch, key: RandomKey
) -> tuple[Batch, Distances]:
    """The batch with the offsets that the adversary finds, and the distances m that it reaches, (n,)."""

    def found() -> tuple[jax.Array, Distances]:
        if plan.accumulation == 1:
            return attack(plan, state.trained, frozen, batch, key)
        parts = _cut(batch, plan.accumulation)
        return _joined(jax.lax.map(lambda part: attack(plan, state.trained, frozen, part, key), parts))

    first = plan.warmup + plan.adversary.after
    if first:
        none = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(found))
        offset, m = jax.lax.cond(state.step >= first, found, lambda: none)
    else:
        offset, m = found()
    return dataclasses.replace(batch, offset=jax.lax.stop_gradient(offset)), m


def _within(mask: Parameters | tuple[()], tree: Parameters) -> Parameters:
    """The entries where the mask is True, 0 elsewhere; all of them where there is no mask."""
    if not mask:
        return tree
    return {name: jnp.where(mask[name], value, 0) for name, value in tree.items()}


def _seen(
    plan: Plan, state: TrainState, frozen: Frozen, batch: Batch, reference: References, key: RandomKey
) -> Comparison:
    prediction = predict(plan, state.trained, frozen, batch, key)
    return compare(plan, state.trained, frozen, batch, reference, prediction, key)


def _cut(tree: PyTree, parts: int) -> PyTree:
    """n ... -> parts n/parts ..., where part p has the samples p, p + parts, ...; `parts` divides n, see
    `prepare`.

    Devices that share a batch, each with a run of its samples, so have an equal share of every part.
    """

    def cut(leaf: jax.Array) -> jax.Array:
        return jnp.swapaxes(leaf.reshape(leaf.shape[0] // parts, parts, *leaf.shape[1:]), 0, 1)

    return jax.tree.map(cut, tree)


def _joined(tree: PyTree) -> PyTree:
    """parts n/parts ... -> n ..., as they were before `_cut`."""
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1).reshape(-1, *leaf.shape[2:]), tree)


def _where(condition: jax.Array, new: PyTree, old: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def _finite(tree: PyTree) -> jax.Array:
    """Whether all numbers are finite.

    The flags of the tensors are sorted because XLA does not fuse a sort. It fuses a reduction with whatever
    reads it: hundreds of flags would be looked at again in each of the hundreds of selections that follow,
    and the step that trains every weight would compile for minutes.
    """
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    flags = jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves])
    return jax.lax.sort(flags.astype(jnp.int32))[0] == 1
