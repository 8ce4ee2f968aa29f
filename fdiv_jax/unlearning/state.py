"""What a training step is made of, and what one step hands to the next."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import optax

from fdiv_jax.arrays import Count, Parameters, RandomKey
from fdiv_jax.diffusion import NoiseSchedule
from fdiv_jax.unlearning.config_parts import (
    AdversaryConfig,
    OptimiserConfig,
    PreservationConfig,
    Reference,
    SaliencyConfig,
)
from fdiv_jax.unlearning.critic import CriticState
from fdiv_jax.unlearning.losses import Loss
from fdiv_jax.unlearning.optimiser import make_optimiser
from fdiv_jax.unlearning.parameters import Network
from fdiv_jax.unlearning.timesteps import TimestepRange
from fdiv_jax.unlearning.trainable import Frozen, Trainable

__all__ = ["FORMER_NAMES", "Plan", "TrainState", "initial_state", "with_rate_of"]

FORMER_NAMES = {".opponent": ".critic"}
"""How the parts of a `TrainState` were called in checkpoints of earlier versions, and how they are now."""


@dataclass(frozen=True)
class Plan:
    """What a step is made of; equal plans compile to the same step.

    Attributes:
        network: the UNet as a function of its parameters.
        trainable: what learns.
        loss: what to minimise.
        schedule: of the noise.
        timesteps: their law.
        optimiser: of what learns; its learning rate comes with the state.
        steps: of the model, for the learning rate's schedule; 0 where it is constant.
        reference: the model that is compared with.
        accumulation: parts that a batch is worked through in.
        preservation: the term beside the loss.
        saliency: the mask of what learns.
        adversary: the attack within the step.
    """

    network: Network
    trainable: Trainable
    loss: Loss
    schedule: NoiseSchedule
    timesteps: TimestepRange
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    steps: int = 0
    reference: Reference = "frozen"
    accumulation: int = 1
    preservation: PreservationConfig = field(default_factory=PreservationConfig)
    saliency: SaliencyConfig = field(default_factory=SaliencyConfig)
    adversary: AdversaryConfig = field(default_factory=AdversaryConfig)

    @property
    def warmup(self) -> int:
        """Steps in which the critic alone learns, before the first one of the model."""
        return 0 if self.loss.game is None else self.loss.game.critic.warmup


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """All that one step hands to the next.

    Attributes:
        step: (), int32, steps done.
        trained: what learns.
        optimiser: the optimiser's moments.
        critic: of the variational loss; None for the others.
        average: the moving average of what learns, or nothing.
        mask: True where what learns may change, or nothing: all of it may.
    """

    step: Count
    trained: Parameters
    optimiser: optax.OptState
    critic: CriticState | None = None
    average: Parameters | tuple[()] = ()
    mask: Parameters | tuple[()] = ()

    @property
    def learned(self) -> Parameters:
        """The result so far: the moving average where there is one."""
        return self.average or self.trained


def initial_state(plan: Plan, frozen: Frozen, learning_rate: float, key: RandomKey) -> TrainState:
    """The state before the first step; `key` is for the critic and for what learns.

    Where there is to be a mask, everything learns until it is made (`saliency_mask`).
    """
    trained = plan.trainable.initial(frozen, jax.random.fold_in(key, 1))
    moments = make_optimiser(plan.optimiser, learning_rate, plan.steps).init(trained)
    critic = None if plan.loss.game is None else plan.loss.game.critic.initial(key)
    average = () if plan.optimiser.ema is None else jax.tree.map(jnp.copy, trained)
    mask = () if plan.saliency.share is None else jax.tree.map(lambda a: jnp.ones(a.shape, bool), trained)
    return TrainState(jnp.zeros((), jnp.int32), trained, moments, critic, average, mask)


def with_rate_of(state: TrainState, fresh: TrainState) -> TrainState:
    """A restored state with the learning rate of a fresh one: a run may go on at another than it began at."""
    rate = optax.tree.get(fresh.optimiser, "learning_rate")
    return dataclasses.replace(state, optimiser=optax.tree.set(state.optimiser, learning_rate=rate))
