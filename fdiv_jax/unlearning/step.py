"""The training step: pure functions, for every loss, everything that can learn and any number of devices.

A step has two parts, so that runs that differ in their loss alone can share the first: `make_reference` looks
at a batch with the frozen model, `make_step` compares, and moves what learns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax

from fdiv_jax.nn import Text
from fdiv_jax.unlearning.config import Reference
from fdiv_jax.unlearning.config_parts import OptimiserConfig, PreservationConfig
from fdiv_jax.unlearning.objectives import Comparison, Objective
from fdiv_jax.unlearning.parameters import Network, Parameters
from fdiv_jax.unlearning.timesteps import Timesteps, draw_noise
from fdiv_jax.unlearning.trainable import Frozen, Trainable

__all__ = [
    "Batch",
    "Plan",
    "Prior",
    "ReferenceFunction",
    "StepFunction",
    "TrainState",
    "initial_state",
    "make_optimiser",
    "make_reference",
    "make_step",
    "with_rate_of",
]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Prior:
    """Images and prompts at which the model is to stay as it is, see `PreservationConfig`.

    Attributes:
        latents: n h w c, x_0.
        text: what the UNet is told of the prompts, by the frozen text encoders.
        tokens: the prompts' token ids, where token embeddings learn.
        mask: n h w, where the term counts.
    """

    latents: jax.Array
    text: Text
    tokens: tuple[jax.Array, ...]
    mask: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """What a step is given.

    Attributes:
        latents: n h w c, x_0: images of the anchor prompts.
        target_text: what the UNet is told of the target prompts: n l d, or a `TextConditioning` of n.
        anchor_text: the same of the anchor prompts.
        mask: n h w, where the loss counts.
        position: (n,), int32, the place of each sample in the global batch: its random draws hang on it, and
            so do not depend on how the batch is shared out over devices, or worked through in parts.
        negative: (n,), eta of the negative guidance of each sample's reference; nothing where none has any.
        tokens: the target prompts' token ids, one array an encoder, where token embeddings learn.
        prior: for prior preservation, or nothing.
    """

    latents: jax.Array
    target_text: Text
    anchor_text: Text
    mask: jax.Array
    position: jax.Array
    negative: jax.Array | None = None
    tokens: tuple[jax.Array, ...] = ()
    prior: Prior | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """All that one step hands to the next.

    Attributes:
        step: (), int32, steps done.
        trained: what learns.
        optimiser: the optimiser's moments.
        opponent: the critic, or nothing.
        average: the moving average of what learns, or nothing.
    """

    step: jax.Array
    trained: Parameters
    optimiser: Any
    opponent: Any
    average: Any = ()

    @property
    def learned(self) -> Parameters:
        """The result so far: the moving average where there is one."""
        return self.average or self.trained


Metrics = Mapping[str, jax.Array]
ReferenceFunction = Callable[[Frozen, Batch, jax.Array], Any]
StepFunction = Callable[[TrainState, Frozen, Batch, Any, jax.Array], tuple[TrainState, Metrics]]


@dataclass(frozen=True)
class Plan:
    """What a step is made of; equal plans compile to the same step.

    Attributes:
        network: the UNet as a function of its parameters.
        trainable: what learns.
        objective: what to minimise.
        timesteps: their law.
        optimiser: of what learns; its learning rate comes with the state.
        steps: of the model, for the learning rate's schedule; 0 where it is constant.
        reference: the model that is compared with.
        accumulation: parts that a batch is worked through in.
        preservation: the term beside the objective.
    """

    network: Network
    trainable: Trainable
    objective: Objective
    timesteps: Timesteps
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    steps: int = 0
    reference: Reference = "frozen"
    accumulation: int = 1
    preservation: PreservationConfig = field(default_factory=PreservationConfig)


def make_optimiser(
    config: OptimiserConfig, learning_rate: float, steps: int = 0
) -> optax.GradientTransformation:
    """The optimiser of what learns; `steps` are those of a learning rate's schedule.

    The learning rate is part of its state, so that a compiled step serves every one.
    """

    def build(learning_rate: float) -> optax.GradientTransformation:
        if config.name == "sgd":
            update = optax.sgd(learning_rate)
        else:
            decay = config.weight_decay
            update = optax.adamw(
                learning_rate, b1=config.b1, b2=config.b2, eps=config.eps, weight_decay=decay
            )
        if config.clip_norm is None:
            return update
        return optax.chain(optax.clip_by_global_norm(config.clip_norm), update)

    update = optax.inject_hyperparams(build)(learning_rate=learning_rate)
    if config.schedule == "constant" and not config.warmup_steps:
        return update
    return optax.chain(update, optax.scale_by_schedule(_rate_factor(config, steps)))


def _rate_factor(config: OptimiserConfig, steps: int) -> optax.Schedule:
    """What the learning rate is multiplied by: up from zero in the warm-up, then down to zero or level."""
    rest = max(1, steps - config.warmup_steps)
    after = {
        "constant": optax.constant_schedule(1.0),
        "linear": optax.linear_schedule(1.0, 0.0, rest),
        "cosine": optax.cosine_decay_schedule(1.0, rest),
    }[config.schedule]
    if not config.warmup_steps:
        return after
    rise = optax.linear_schedule(1.0 / config.warmup_steps, 1.0, max(1, config.warmup_steps - 1))
    return optax.join_schedules([rise, after], [config.warmup_steps])


def initial_state(plan: Plan, frozen: Frozen, learning_rate: float, key: jax.Array) -> TrainState:
    """The state before the first step; `key` is for the opponent and for what learns."""
    trained = plan.trainable.initial(frozen, jax.random.fold_in(key, 1))
    moments = make_optimiser(plan.optimiser, learning_rate, plan.steps).init(trained)
    average = () if plan.optimiser.ema is None else jax.tree.map(jnp.copy, trained)
    return TrainState(jnp.zeros((), jnp.int32), trained, moments, plan.objective.initial(key), average)


def with_rate_of(state: TrainState, fresh: TrainState) -> TrainState:
    """A restored state with the learning rate of a fresh one: a run may go on at another than it began at."""
    rate = optax.tree.get(fresh.optimiser, "learning_rate")
    return dataclasses.replace(state, optimiser=optax.tree.set(state.optimiser, learning_rate=rate))


def make_reference(plan: Plan) -> ReferenceFunction:
    """What the comparison is with: (frozen, batch, the step's key) -> n h w c, pure.

    The frozen model's output at (x_t, anchor prompt), e_a; with negative guidance e_a - eta (e_c - e_a), e_c
    being that at the target prompt. Nothing where the step compares with the current model.

    Source of the negative guidance: Gandikota et al., Erasing concepts from diffusion models, 2023.
    """

    def look(frozen: Frozen, part: Batch, key: jax.Array) -> jax.Array:
        t, x_t = _noised(plan, part.latents, part.position, key)
        anchor = plan.network(frozen.unet, x_t, t, part.anchor_text)
        if part.negative is None:
            return anchor
        away = plan.network(frozen.unet, x_t, t, part.target_text)
        eta = part.negative[:, None, None, None].astype(anchor.dtype)
        return anchor - eta * (away - anchor)

    def reference(frozen: Frozen, batch: Batch, key: jax.Array) -> Any:
        if plan.reference == "current":
            return ()
        if plan.accumulation == 1:
            return look(frozen, batch, key)
        parts = _cut(batch, plan.accumulation)
        return _joined(jax.lax.map(lambda part: look(frozen, part, key), parts))

    return reference


def make_step(plan: Plan, *, axis: str | None = None) -> StepFunction:
    """The step: (state, frozen, batch, reference, the step's key) -> (state, metrics), pure, to be jitted or
    pmapped.

    The trained model's output at (x_t, target prompt) is the prediction, the reference is under
    stop_gradient. The opponent learns from both, then the model descends. A batch in parts gives the gradient
    of the whole batch; the opponent sees all of it at once. There is no classifier-free guidance.
    A step whose loss, gradient or result is not finite changes nothing but the number of steps.
    In the opponent's warm-up the model's gradient and the prior's term are not computed.

    Metrics: `loss`, `gradient_norm` (global, of the whole loss, before any clipping), `skipped`, `prior_loss`
    and `conflicts` (the share of tensors whose gradients conflict) with prior preservation, and what the
    opponent records, all over the whole batch; `m`, `weight` (see `Objective.weight`) and `timesteps` of
    every sample, (n,). What is not computed in the warm-up is 0.

    Args:
        plan: what the step is made of.
        axis: name of the pmapped axis over which the batch is shared out; None on one device.
    """
    objective, trainable, preservation = plan.objective, plan.trainable, plan.preservation
    optimiser = make_optimiser(plan.optimiser, 0.0, plan.steps)

    def mean(tree: Any) -> Any:
        return tree if axis is None else jax.lax.pmean(tree, axis)

    def step(
        state: TrainState, frozen: Frozen, batch: Batch, reference: Any, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        def predict(trained: Parameters, part: Batch) -> jax.Array:
            t, x_t = _noised(plan, part.latents, part.position, key)
            text = trainable.text(trained, frozen, part.target_text, part.tokens)
            return plan.network(trainable.parameters(trained, frozen), x_t, t, text)

        def compare(part: Batch, given: Any, prediction: jax.Array) -> Comparison:
            t, x_t = _noised(plan, part.latents, part.position, key)
            if plan.reference == "current":
                given = plan.network(trainable.parameters(state.trained, frozen), x_t, t, part.anchor_text)
            return Comparison(jax.lax.stop_gradient(given), prediction, part.mask, t, x_t)

        def descend(part: Batch, given: Any, respond: Callable[[Comparison], Any]) -> Any:
            prediction, pull_back = jax.vjp(lambda trained: predict(trained, part), state.trained)
            comparison = compare(part, given, prediction)
            opponent, figures = respond(comparison)
            loss, cotangent = jax.value_and_grad(
                lambda output: objective.loss(opponent, comparison._replace(prediction=output))
            )(prediction)

            def gradients() -> Any:
                prior = None
                if part.prior is not None and preservation.weight:
                    prior = jax.value_and_grad(lambda trained: _prior_loss(plan, trained, frozen, part, key))(
                        state.trained
                    )
                return pull_back(cotangent)[0], prior

            if objective.warmup:
                none = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(gradients))
                gradient, prior = jax.lax.cond(state.step >= objective.warmup, gradients, lambda: none)
            else:
                gradient, prior = gradients()
            m = objective.distance(comparison)
            return (loss, gradient, prior), (opponent, figures), (m, comparison.timesteps)

        if plan.accumulation == 1:
            sums, (opponent, figures), samples = descend(
                batch, reference, lambda comparison: objective.respond(state.opponent, comparison, mean)
            )
        else:
            parts = _cut((batch, reference), plan.accumulation)
            opponent, figures = state.opponent, {}
            if objective.opponent.learns:
                seen = jax.lax.map(lambda p: compare(p[0], p[1], predict(state.trained, p[0])), parts)
                opponent, figures = objective.respond(opponent, _joined(seen), mean)

            def add(total: Any, part: Any) -> Any:
                one, _, of_samples = descend(part[0], part[1], lambda _: (opponent, {}))
                return jax.tree.map(lambda a, b: a + b / plan.accumulation, total, one), of_samples

            first = jax.eval_shape(lambda p: descend(p[0], p[1], lambda _: (opponent, {}))[0], _first(parts))
            zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), first)
            sums, samples = jax.lax.scan(add, zero, parts)
            samples = _joined(samples)

        loss, gradient, prior = mean(sums)
        if prior is not None:
            prior_loss, toward = prior
            figures = {**figures, "prior_loss": prior_loss}
            if preservation.surgery:
                gradient, conflicts = without_conflict(gradient, toward)
                figures["conflicts"] = conflicts
            gradient = jax.tree.map(lambda g, p: g + preservation.weight * p, gradient, toward)
        changes, moments = optimiser.update(gradient, state.optimiser, state.trained)
        trained = cast(Parameters, optax.apply_updates(state.trained, changes))
        average = state.average
        if plan.optimiser.ema is not None:
            average = optax.incremental_update(trained, average, 1.0 - plan.optimiser.ema)
        norm = optax.tree.norm(gradient)
        new = (trained, moments, average)
        old = (state.trained, state.optimiser, state.average)
        if objective.warmup:
            new = _where(state.step >= objective.warmup, new, old)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm) & _finite((new, opponent))
        kept = _where(finite, (new, opponent), (old, state.opponent))
        (trained, moments, average), opponent = kept
        m, t = samples
        metrics = {
            "loss": loss,
            "gradient_norm": norm,
            "skipped": ~finite,
            **figures,
            "m": m,
            "weight": objective.weight(m),
            "timesteps": t,
        }
        return TrainState(state.step + 1, trained, moments, opponent, average), metrics

    return step


def without_conflict(gradient: Parameters, other: Parameters) -> tuple[Parameters, jax.Array]:
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


def _noised(
    plan: Plan, latents: jax.Array, position: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """t and x_t."""
    t, noise = draw_noise(key, position, latents.shape[1:], plan.timesteps)
    return t, plan.objective.schedule.add_noise(latents, noise, t)


def _prior_loss(plan: Plan, trained: Parameters, frozen: Frozen, batch: Batch, key: jax.Array) -> jax.Array:
    """The mean squared error of the trained model at the prior's images and prompts, noise of its own."""
    prior, schedule = cast(Prior, batch.prior), plan.objective.schedule
    key = jax.random.fold_in(key, 1)
    t, noise = draw_noise(key, batch.position, prior.latents.shape[1:], plan.timesteps)
    x_t = schedule.add_noise(prior.latents, noise, t)
    text = plan.trainable.text(trained, frozen, prior.text, prior.tokens)
    output = plan.network(plan.trainable.parameters(trained, frozen), x_t, t, text)
    if plan.preservation.against == "noise":
        goal = schedule.target(prior.latents, noise, t)
    else:
        goal = jax.lax.stop_gradient(plan.network(frozen.unet, x_t, t, prior.text))
    error = jnp.mean((output - goal).astype(jnp.float32) ** 2, axis=-1)
    weight = prior.mask.astype(error.dtype)
    return jnp.mean(jnp.sum(weight * error, (1, 2)) / jnp.maximum(jnp.sum(weight, (1, 2)), 1.0))


def _cut(tree: Any, parts: int) -> Any:
    """n ... -> parts n/parts ..., in order."""

    def cut(leaf: jax.Array) -> jax.Array:
        if leaf.shape[0] % parts:
            raise ValueError(
                f"a device's share of {leaf.shape[0]} samples for an accumulation of {parts}; expected a "
                "multiple"
            )
        return leaf.reshape(parts, leaf.shape[0] // parts, *leaf.shape[1:])

    return jax.tree.map(cut, tree)


def _joined(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), tree)


def _first(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[0], tree)


def _where(condition: jax.Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def _finite(tree: Any) -> jax.Array:
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))
