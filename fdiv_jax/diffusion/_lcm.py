"""Multistep sampling of a latent consistency model."""

import numpy as np

from fdiv_jax.diffusion._timesteps import check_steps
from fdiv_jax.diffusion.sampling_plan import SamplingPlan, predictions
from fdiv_jax.diffusion.schedule import NoiseSchedule


def lcm(schedule: NoiseSchedule, steps: int, eta: float | None = None) -> SamplingPlan:
    """Multistep consistency sampling: x_s = sqrt(abar_s) (c_skip x_t + c_out x_0) + sqrt(1 - abar_s) z.

    c_skip = 1 / (4 (r t)^2 + 1) and c_out = r t / sqrt((r t)^2 + 1/4), r being `timestep_scaling` of the
    scheduler's file (10). The timesteps are `steps` of the `original_inference_steps` (50) at which the model
    was distilled, as in diffusers' LCMScheduler; the last step draws no noise.

    Raises:
        ValueError: more steps than the model was distilled at, or an eta other than 1, the share of fresh
            noise that the method has.

    Source: Luo et al., Latent consistency models: synthesizing high-resolution images with few-step
    inference, 2023, algorithm 3 and section 4.3.
    """
    if eta not in (None, 1):
        raise ValueError(f"lcm draws all of its noise anew: eta must be 1, got {eta}")
    total, original = schedule.num_train_timesteps, schedule.solver.original_steps
    check_steps(steps, total)
    if not steps <= original <= total:
        raise ValueError(
            f"lcm goes over {original} steps at which the model was distilled (original_inference_steps), "
            f"got {steps} steps in a schedule of {total}"
        )
    distilled = np.arange(original, 0, -1) * (total // original) - 1
    timesteps = distilled[np.floor(np.linspace(0, original, steps, endpoint=False)).astype(np.int64)]
    abar = schedule.alphas_bar[timesteps]
    scaled = timesteps * schedule.solver.timestep_scaling
    skip, out = 1 / (4 * scaled**2 + 1), scaled / np.sqrt(scaled**2 + 0.25)
    then = np.append(abar[1:], 1.0)
    zero = np.zeros(steps)
    return SamplingPlan(
        timesteps=timesteps,
        **predictions(schedule, np.sqrt(abar), np.sqrt(1 - abar)),
        clip=np.full(steps, np.inf if schedule.clip_sample_range is None else schedule.clip_sample_range),
        keep=np.sqrt(then) * skip,
        data=np.sqrt(then) * out,
        previous_data=zero,
        direction=zero,
        noise=np.sqrt(1 - then),
    )
