"""The training step: one pure function, for every loss, every group of parameters and any number of
devices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax

from fdiv_jax.diffusion import NoiseSchedule
from fdiv_jax.nn import Text
from fdiv_jax.unlearning.config import OptimiserConfig
from fdiv_jax.unlearning.objectives import Comparison, Objective
from fdiv_jax.unlearning.parameters import Network, Parameters

__all__ = [
    "Batch",
    "Frozen",
    "StepFunction",
    "TrainState",
    "draw_noise",
    "initial_state",
    "make_optimiser",
    "make_step",
]


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
            so do not depend on how the batch is shared out over devices.
    """

    latents: jax.Array
    target_text: Text
    anchor_text: Text
    mask: jax.Array
    position: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Frozen:
    """What no step changes.

    Attributes:
        original: the trained parameters as they were.
        rest: the other parameters, which both models share.
    """

    original: Parameters
    rest: Parameters


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """All that one step hands to the next.

    Attributes:
        step: (), int32, steps done.
        trained: the parameters that learn.
        optimiser: the optimiser's moments.
        opponent: the critic, or nothing.
    """

    step: jax.Array
    trained: Parameters
    optimiser: Any
    opponent: Any


Metrics = Mapping[str, jax.Array]
StepFunction = Callable[[TrainState, Frozen, Batch, jax.Array], tuple[TrainState, Metrics]]


def make_optimiser(config: OptimiserConfig, learning_rate: float) -> optax.GradientTransformation:
    """The optimiser of the trained parameters.

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

    return optax.inject_hyperparams(build)(learning_rate=learning_rate)


def initial_state(
    trained: Parameters, objective: Objective, optimiser: optax.GradientTransformation, key: jax.Array
) -> TrainState:
    """The state before the first step; `key` is for the opponent."""
    return TrainState(jnp.zeros((), jnp.int32), trained, optimiser.init(trained), objective.initial(key))


def draw_noise(
    key: jax.Array, position: jax.Array, shape: tuple[int, ...], first: int, last: int
) -> tuple[jax.Array, jax.Array]:
    """Timesteps, uniform from first to last (included), (n,), and noise N(0, I), (n, *shape).

    The draws of a sample depend on the key and on its position alone.
    """

    def one(place: jax.Array) -> tuple[jax.Array, jax.Array]:
        time_key, noise_key = jax.random.split(jax.random.fold_in(key, place))
        timestep = jax.random.randint(time_key, (), first, last + 1, jnp.int32)
        return timestep, jax.random.normal(noise_key, shape)

    return jax.vmap(one)(position)


def make_step(
    network: Network,
    objective: Objective,
    optimiser: optax.GradientTransformation,
    *,
    timesteps: tuple[int, int] | None = None,
    axis: str | None = None,
) -> StepFunction:
    """The step: (state, frozen, batch, key) -> (state, metrics), pure, to be jitted or pmapped.

    The frozen model's output at (x_t, anchor prompt) is the reference, under stop_gradient; the trained
    model's at (x_t, target prompt) is the prediction. The opponent learns from both, then the model
    descends, its gradient taken through the trained parameters alone. There is no classifier-free guidance.

    Metrics: `loss`, `gradient_norm` (global, before any clipping), and what the opponent records, all over
    the whole batch; `m`, `weight` (see `Objective.weight`) and `timesteps` of every sample, (n,).

    Args:
        network: the UNet as a function of its parameters.
        objective: what to minimise.
        optimiser: of the trained parameters.
        timesteps: the first and the last one to train on; by default all of the schedule's.
        axis: name of the pmapped axis over which the batch is shared out; None on one device.

    Raises:
        ValueError: timesteps outside the schedule.
    """
    schedule = objective.schedule
    first, last = check_timesteps(timesteps, schedule)

    def mean(tree: Any) -> Any:
        return tree if axis is None else jax.lax.pmean(tree, axis)

    def step(state: TrainState, frozen: Frozen, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(key, state.step)
        t, noise = draw_noise(key, batch.position, batch.latents.shape[1:], first, last)
        x_t = schedule.add_noise(batch.latents, noise, t)

        def predict(trained: Parameters, text: Text) -> jax.Array:
            return network({**frozen.rest, **trained}, x_t, t, text)

        reference = jax.lax.stop_gradient(predict(frozen.original, batch.anchor_text))
        prediction, pull_back = jax.vjp(lambda trained: predict(trained, batch.target_text), state.trained)
        comparison = Comparison(reference, prediction, batch.mask, t)

        opponent, figures = objective.respond(state.opponent, comparison, mean)
        loss, cotangent = jax.value_and_grad(
            lambda output: objective.loss(opponent, comparison._replace(prediction=output))
        )(prediction)
        loss, gradient = mean((loss, pull_back(cotangent)[0]))
        changes, moments = optimiser.update(gradient, state.optimiser, state.trained)
        trained = cast(Parameters, optax.apply_updates(state.trained, changes))
        if objective.warmup:
            learns = state.step >= objective.warmup
            trained, moments = jax.tree.map(
                lambda new, old: jnp.where(learns, new, old),
                (trained, moments),
                (state.trained, state.optimiser),
            )
        m = objective.distance(comparison)
        metrics = {
            "loss": loss,
            "gradient_norm": optax.tree.norm(gradient),
            **figures,
            "m": m,
            "weight": objective.weight(m),
            "timesteps": t,
        }
        return TrainState(state.step + 1, trained, moments, opponent), metrics

    return step


def check_timesteps(timesteps: tuple[int, int] | None, schedule: NoiseSchedule) -> tuple[int, int]:
    """The first and the last timestep to train on.

    Raises:
        ValueError: outside the schedule.
    """
    end = schedule.num_train_timesteps - 1
    first, last = (0, end) if timesteps is None else timesteps
    if not 0 <= first <= last <= end:
        raise ValueError(f"timestep_range {(first, last)} must lie within the schedule's (0, {end})")
    return first, last
