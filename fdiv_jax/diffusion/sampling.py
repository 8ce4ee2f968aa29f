"""Runs a sampler as one compiled scan over the steps of its plan."""

import dataclasses
import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from fdiv_jax.arrays import RandomKey, RandomKeys, RealTimesteps, Samples, Trajectory
from fdiv_jax.compiling import jit
from fdiv_jax.diffusion._ddim import ddim
from fdiv_jax.diffusion._dpm_solver import dpm_solver_pp
from fdiv_jax.diffusion._euler import euler, euler_ancestral
from fdiv_jax.diffusion._lcm import lcm
from fdiv_jax.diffusion.sampling_plan import Sampler, SamplingPlan
from fdiv_jax.diffusion.schedule import NoiseSchedule

__all__ = ["SAMPLERS", "sample", "sampling_plan", "with_karras"]

Denoise = Callable[[Samples, RealTimesteps], Samples]
Progress = Callable[[int], None]


def with_karras(sampler: Sampler) -> Sampler:
    """The sampler with Karras' noise levels, in place of those of the schedule's configuration."""

    def plan(schedule: NoiseSchedule, steps: int, eta: float | None = None) -> SamplingPlan:
        solver = dataclasses.replace(schedule.solver, levels="karras")
        return sampler(dataclasses.replace(schedule, solver=solver), steps, eta)

    return plan


SAMPLERS: dict[str, Sampler] = {
    "ddim": ddim,
    "dpmsolver++": dpm_solver_pp,
    "dpm++": dpm_solver_pp,
    "dpmsolver++karras": with_karras(dpm_solver_pp),
    "euler": euler,
    "euler_karras": with_karras(euler),
    "euler_a": euler_ancestral,
    "lcm": lcm,
}
"""The samplers by name; a new one is a function of the `Sampler` signature."""


def sampling_plan(
    schedule: NoiseSchedule, steps: int, *, sampler: str | Sampler = "ddim", eta: float | None = None
) -> SamplingPlan:
    """The plan of a sampler given by its name in `SAMPLERS` or as a function.

    `eta` in [0, 1] is the share of fresh noise, for samplers that take it; None: the sampler's default.

    Raises:
        ValueError: an unknown name, or an argument that the sampler refuses.
        TypeError: neither a name nor a function, or an argument of a wrong type.
    """
    if isinstance(sampler, str):
        if sampler not in SAMPLERS:
            near = difflib.get_close_matches(sampler, SAMPLERS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {sampler!r}{hint}")
        sampler = SAMPLERS[sampler]
    elif not callable(sampler):
        raise TypeError(f"sampler {sampler!r}, expected a name or a function")
    return sampler(schedule, steps, eta)


def sample(
    denoise: Denoise,
    schedule: NoiseSchedule,
    latents: Samples,
    *,
    sampler: str | Sampler = "ddim",
    steps: int = 25,
    eta: float | None = None,
    key: RandomKey | RandomKeys | None = None,
    trajectory: bool = False,
    progress: Progress | None = None,
) -> Samples | Trajectory:
    """Follow the reverse process from noise to a sample.

    `latents` (n, ...) is the initial noise, N(0, I), for every sampler. `denoise(x, timesteps)` gives the
    network's raw output, of x's shape, for timesteps of shape (n,): int32, or of x's dtype for a plan that
    goes between two timesteps (Euler's and Karras' may). Pass `jax.tree_util.Partial(function, parameters,
    ...)` with a module-level function to compile once for all parameters; any other callable is compiled for
    itself, its arrays as constants.

    `key` is for samplers that draw noise (ddim with eta > 0, euler_a, lcm): one key, or n of them. Step i
    draws normal(fold_in(k_j, i)) for image j, with k_j = key[j], or fold_in(key, j) of one key, so that no
    image depends on the others. `progress(done)` is called after each step with the number of steps done.

    Computes in float32 or better. Returns the sample, of the shape of `latents`; with `trajectory`, every x
    from the first to the last, (steps + 1, n, ...), all of them in the scale that the network reads.

    Raises:
        ValueError: an unknown sampler, steps or eta out of range, noise without a key, a number of
            keys other than one or n, or an output of another shape than x.
        TypeError: latents that are not floating-point.
    """
    plan = sampling_plan(schedule, steps, sampler=sampler, eta=eta)
    latents = jnp.asarray(latents)
    if not jnp.issubdtype(latents.dtype, jnp.floating):
        raise TypeError(f"latents must be floating-point, got {latents.dtype}")
    if latents.ndim < 1:
        raise ValueError(f"latents must have a batch axis, got shape {latents.shape}")
    keys = _keys(key, len(latents)) if plan.stochastic else None
    bound = denoise if isinstance(denoise, Partial) else Partial(denoise)
    start = latents.astype(jnp.promote_types(latents.dtype, jnp.float32)) * plan.initial
    rows = dataclasses.replace(plan, initial=1.0)
    with _listening(progress):
        found = _run(bound, rows, start, keys, trajectory, progress is not None)
    return found.astype(latents.dtype)


def _keys(key: RandomKey | RandomKeys | None, number: int) -> RandomKeys:
    if key is None:
        raise ValueError("the sampler draws noise: expected a key, got None")
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    keys: jax.Array = key if typed else jax.random.wrap_key_data(key)
    if keys.shape == ():
        return jax.vmap(partial(jax.random.fold_in, keys))(jnp.arange(number))
    if keys.shape != (number,):
        raise ValueError(f"keys of shape {keys.shape}, expected one key or ({number},)")
    return keys


@partial(jit, static_argnames=("trajectory", "report"))
def _run(
    denoise: Partial,
    plan: SamplingPlan,
    start: Samples,
    keys: RandomKeys | None,
    trajectory: bool,
    report: bool,
) -> Samples | Trajectory:
    dtype = start.dtype
    integer = lambda a: jnp.issubdtype(a.dtype, jnp.integer)  # noqa: E731
    rows = jax.tree.map(lambda a: a.astype(jnp.int32 if integer(a) else dtype), plan)

    def step(carry: tuple[jax.Array, jax.Array], row: tuple[SamplingPlan, jax.Array]):
        x, before = carry
        c, index = row
        output = denoise(x, jnp.broadcast_to(c.timesteps, x.shape[:1]))
        if output.shape != x.shape:
            raise ValueError(f"denoise must give an output of shape {x.shape}, got {output.shape}")
        output = output.astype(dtype)
        x0 = jnp.clip(c.x0_of_x * x + c.x0_of_output * output, -c.clip, c.clip)
        epsilon = c.eps_of_x * x + c.eps_of_output * output
        new = c.keep * x + c.data * x0 + c.previous_data * before + c.direction * epsilon
        if keys is not None:
            new = new + c.noise * _fresh_noise(keys, index, x)
        if report:
            jax.debug.callback(_tell, index + 1)
        return (new, x0), new if trajectory else None

    indices = jnp.arange(plan.timesteps.shape[0])
    (end, _), visited = jax.lax.scan(step, (start, jnp.zeros_like(start)), (rows, indices))
    return end if visited is None else jnp.concatenate([start[None], visited])


def _fresh_noise(keys: RandomKeys, index: jax.Array, like: Samples) -> Samples:
    def draw(key: jax.Array) -> jax.Array:
        return jax.random.normal(jax.random.fold_in(key, index), like.shape[1:], like.dtype)

    return jax.vmap(draw)(keys)


_listeners: list[Progress] = []
"""The functions to call after each step; the compiled sampler calls the innermost, so it serves all."""


def _tell(done: jax.Array) -> None:
    if _listeners:
        _listeners[-1](int(done))


@contextmanager
def _listening(progress: Progress | None) -> Iterator[None]:
    if progress is None:
        yield
        return
    _listeners.append(progress)
    try:
        yield
        jax.effects_barrier()
    finally:
        _listeners.remove(progress)
