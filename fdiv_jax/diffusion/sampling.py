"""Running a sampler: one compiled scan over the steps of its plan."""

import difflib
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from fdiv_jax.diffusion.plans import SAMPLERS, Sampler, SamplingPlan
from fdiv_jax.diffusion.schedule import NoiseSchedule

__all__ = ["sample", "sampling_plan"]

Denoise = Callable[[jax.Array, jax.Array], jax.Array]


def sampling_plan(
    schedule: NoiseSchedule, steps: int, *, sampler: str | Sampler = "ddim", eta: float = 0.0
) -> SamplingPlan:
    """The plan of a sampler given by its name in `SAMPLERS` or as a function.

    Raises ValueError for an unknown name, and what the sampler raises.
    """
    if isinstance(sampler, str):
        if sampler not in SAMPLERS:
            near = difflib.get_close_matches(sampler, SAMPLERS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {sampler!r}{hint}")
        sampler = SAMPLERS[sampler]
    return sampler(schedule, steps, eta)


def sample(
    denoise: Denoise,
    schedule: NoiseSchedule,
    latents: jax.Array,
    *,
    sampler: str | Sampler = "ddim",
    steps: int = 25,
    eta: float = 0.0,
    key: jax.Array | None = None,
    trajectory: bool = False,
) -> jax.Array:
    """Follow the reverse process from noise to a sample.

    `latents` (n, ...) is the initial noise, N(0, I). `denoise(x, timesteps)` gives the network's raw output,
    of x's shape, for timesteps int32 of shape (n,). Pass `jax.tree_util.Partial(function, parameters, ...)`
    with a module-level function to compile once for all parameters; any other callable is compiled for
    itself, its arrays as constants.

    `key` is for samplers that draw noise (ddim with eta > 0): step i uses normal(fold_in(key, i), shape).
    Computes in float32 or better. Returns the sample, of the shape of `latents`; with `trajectory`, every x
    from the first to the last, (steps + 1, n, ...).

    Raises ValueError for an unknown sampler, steps or eta out of range, noise without a key, or an output of
    another shape than x; TypeError for latents that are not floating-point.
    """
    plan = sampling_plan(schedule, steps, sampler=sampler, eta=eta)
    latents = jnp.asarray(latents)
    if not jnp.issubdtype(latents.dtype, jnp.floating):
        raise TypeError(f"latents must be floating-point, got {latents.dtype}")
    if latents.ndim < 1:
        raise ValueError(f"latents must have a batch axis, got shape {latents.shape}")
    if plan.stochastic and key is None:
        raise ValueError(f"eta = {eta} draws noise: expected a key, got None")
    bound = denoise if isinstance(denoise, Partial) else Partial(denoise)
    return _run(bound, plan, latents, key if plan.stochastic else None, trajectory)


@partial(jax.jit, static_argnames="trajectory")
def _run(
    denoise: Any, plan: SamplingPlan, latents: jax.Array, key: jax.Array | None, trajectory: bool
) -> jax.Array:
    dtype = jnp.promote_types(latents.dtype, jnp.float32)
    start = latents.astype(dtype)

    def step(carry: tuple[jax.Array, jax.Array], row: tuple[SamplingPlan, jax.Array]):
        x, before = carry
        c, index = row
        timesteps = jnp.full(x.shape[:1], c.timesteps, jnp.int32)
        output = denoise(x, timesteps)
        if output.shape != x.shape:
            raise ValueError(f"denoise must give an output of shape {x.shape}, got {output.shape}")
        output = output.astype(dtype)
        x0 = jnp.clip(c.x0_of_x * x + c.x0_of_output * output, -c.clip, c.clip)
        epsilon = c.eps_of_x * x + c.eps_of_output * output
        new = c.keep * x + c.data * x0 + c.previous_data * before + c.direction * epsilon
        if key is not None:
            new = new + c.noise * jax.random.normal(jax.random.fold_in(key, index), x.shape, dtype)
        return (new, x0), new if trajectory else None

    rows = jax.tree.map(lambda a: a if jnp.issubdtype(a.dtype, jnp.integer) else a.astype(dtype), plan)
    indices = jnp.arange(plan.timesteps.shape[0])
    (end, _), visited = jax.lax.scan(step, (start, jnp.zeros_like(start)), (rows, indices))
    if visited is None:
        return end.astype(latents.dtype)
    return jnp.concatenate([start[None], visited]).astype(latents.dtype)
