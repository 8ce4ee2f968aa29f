"""Euler's method in the noise level, and its ancestral form."""

import numpy as np

from fdiv_jax.diffusion._timesteps import (
    check_eta,
    check_no_eta,
    check_steps,
    check_timesteps,
    final_level,
    noise_levels,
    signal_and_noise,
    spread_levels,
    trailing,
    whole,
)
from fdiv_jax.diffusion.sampling_plan import SamplingPlan, predictions
from fdiv_jax.diffusion.schedule import NoiseSchedule


def euler(schedule: NoiseSchedule, steps: int, eta: float | None = None) -> SamplingPlan:
    """Euler's method for dy / dsigma = eps in y = x_0 + sigma eps, that is y <- x_0 + sigma_s eps.

    sigma = sqrt(1 - abar) / sqrt(abar), and x = y / sqrt(1 + sigma^2) is what a plan keeps. Timesteps and
    noise levels are those of diffusers' EulerDiscreteScheduler: real timesteps between two of the schedule's
    get their sigma by linear interpolation; the noise levels of Karras and others where the configuration
    asks for them.

    Raises:
        ValueError: a number of steps out of range or eta != 0 (the sampler solves the ODE and draws no
            noise).
        NotImplementedError: an option of the configuration that is not supported.

    Source: Karras, Aittala, Aila, Laine, Elucidating the design space of diffusion-based generative models,
    2022, algorithm 1 without its correction.
    """
    check_no_eta(eta, "euler")
    options = schedule.solver
    if options.log_linear:
        raise NotImplementedError("interpolation_type 'log_linear' with sampler euler; expected another one")
    timesteps, sigma = _noise_levels(schedule, steps)
    levels = noise_levels(schedule)
    if options.levels not in ("schedule", "lu"):  # Euler has no lambdas
        sigma, timesteps = spread_levels(sigma[0], sigma[-1], steps, levels, options)
    sigma = np.append(sigma, final_level(options, levels))
    return _plan(schedule, whole(timesteps), sigma, sigma[1:], np.zeros(steps))


def euler_ancestral(schedule: NoiseSchedule, steps: int, eta: float | None = None) -> SamplingPlan:
    """Euler's method down to below sigma_s, and fresh noise up to it: y <- x_0 + sigma_down eps + sigma_up z.

    sigma_up = eta sigma_s sqrt(1 - sigma_s^2 / sigma_t^2) and sigma_down^2 + sigma_up^2 = sigma_s^2. eta = 1,
    the default, is diffusers' EulerAncestralDiscreteScheduler, whose timesteps these are; eta = 0 is `euler`.

    Raises:
        ValueError: a number of steps or an eta out of range.
    """
    eta = check_eta(1.0 if eta is None else eta)
    timesteps, sigma = _noise_levels(schedule, steps)
    sigma = np.append(sigma, 0.0)
    up = eta * sigma[1:] * np.sqrt(1 - (sigma[1:] / sigma[:-1]) ** 2)
    return _plan(schedule, whole(timesteps), sigma, np.sqrt(sigma[1:] ** 2 - up**2), up)


def _noise_levels(schedule: NoiseSchedule, steps: int) -> tuple[np.ndarray, np.ndarray]:
    total = schedule.num_train_timesteps
    check_steps(steps, total)
    spacing = schedule.timestep_spacing or "linspace"
    if spacing == "linspace":
        timesteps = np.linspace(0, total - 1, steps, dtype=np.float32)[::-1].astype(np.float64)
    elif spacing == "leading":
        timesteps = np.arange(steps)[::-1] * (total // steps) + schedule.steps_offset
    else:
        timesteps = trailing(total, schedule, steps)
    timesteps = check_timesteps(timesteps, schedule)
    return timesteps, np.interp(timesteps, np.arange(total), noise_levels(schedule))


def _plan(
    schedule: NoiseSchedule, timesteps: np.ndarray, sigma: np.ndarray, down: np.ndarray, up: np.ndarray
) -> SamplingPlan:
    alpha, noise = signal_and_noise(sigma)
    after = np.append(alpha[1:-1], 1.0)  # the sample itself is y
    zero = np.zeros(len(timesteps))
    leading = schedule.timestep_spacing == "leading"
    return SamplingPlan(
        timesteps=timesteps,
        **predictions(schedule, alpha[:-1], noise[:-1]),
        clip=np.full(len(timesteps), np.inf),
        keep=zero,
        data=after,
        previous_data=zero,
        direction=after * down,
        noise=after * up,
        initial=1.0 if leading else float(noise[0]),
    )
