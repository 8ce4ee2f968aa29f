"""The optimiser of what learns, and the schedule of its learning rate."""

from __future__ import annotations

import optax

from fdiv_jax.unlearning.config_parts import OptimiserConfig

__all__ = ["make_optimiser"]


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
