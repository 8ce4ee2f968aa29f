"""Denoising diffusion implicit models."""

import numpy as np

from fdiv_jax.diffusion._timesteps import check_eta, check_steps, check_timesteps, trailing
from fdiv_jax.diffusion.sampling_plan import SamplingPlan, predictions
from fdiv_jax.diffusion.schedule import NoiseSchedule


def ddim(schedule: NoiseSchedule, steps: int, eta: float | None = None) -> SamplingPlan:
    """Denoising diffusion implicit models: x_s = sqrt(abar_s) x_0 + sqrt(1 - abar_s - std^2) eps + std z.

    std = eta sqrt((1 - abar_s) / (1 - abar_t) (1 - abar_t / abar_s)); eta = 0 (the default) is deterministic,
    eta = 1 is DDPM's ancestral sampling. s = t - T // steps, and the timesteps are those of diffusers'
    DDIMScheduler.

    Raises:
        ValueError: a number of steps or an eta out of range.

    Source: Song, Meng, Ermon, Denoising diffusion implicit models, 2021, eq. 12 and 16.
    """
    eta = check_eta(eta or 0.0)
    total = schedule.num_train_timesteps
    check_steps(steps, total)
    spacing = schedule.timestep_spacing or "leading"
    if spacing == "linspace":
        timesteps = np.linspace(0, total - 1, steps).round()[::-1]
    elif spacing == "leading":
        timesteps = np.arange(steps)[::-1] * (total // steps) + schedule.steps_offset
    else:
        timesteps = trailing(total, schedule, steps)
    timesteps = check_timesteps(timesteps, schedule)

    abar = schedule.alphas_bar
    before = timesteps - total // steps
    end = 1.0 if schedule.set_alpha_to_one else abar[0]
    now, then = abar[timesteps], np.where(before >= 0, abar[np.maximum(before, 0)], end)
    std = eta * np.sqrt(np.maximum((1 - then) / (1 - now) * (1 - now / then), 0.0))
    zero = np.zeros(steps)
    return SamplingPlan(
        timesteps=timesteps,
        **predictions(schedule, np.sqrt(now), np.sqrt(1 - now)),
        clip=np.full(steps, np.inf if schedule.clip_sample_range is None else schedule.clip_sample_range),
        keep=zero,
        data=np.sqrt(then),
        previous_data=zero,
        direction=np.sqrt(np.maximum(1 - then - std**2, 0.0)),
        noise=std,
    )
