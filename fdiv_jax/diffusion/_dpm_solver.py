"""DPM-Solver++(2M)."""

import numpy as np

from fdiv_jax.diffusion._timesteps import (
    check_no_eta,
    check_steps,
    check_timesteps,
    final_level,
    noise_levels,
    signal_and_noise,
    spread_levels,
    trailing,
)
from fdiv_jax.diffusion.sampling_plan import SamplingPlan, predictions
from fdiv_jax.diffusion.schedule import NoiseSchedule, SolverOptions


def dpm_solver_pp(schedule: NoiseSchedule, steps: int, eta: float | None = None) -> SamplingPlan:
    """DPM-Solver++(2M): a second-order multistep solver of the reverse ODE.

    With lambda = log(alpha / sigma), h its increase over the step and r the last increase over h,

        x <- (sigma_s / sigma_t) x + alpha_s (1 - e^{-h}) ((1 + 1 / 2r) x_0 - (1 / 2r) x_0')

    with x_0' that of the step before.

    The first step is of first order, and so is the last where the configuration (or a final sigma of zero)
    asks for it. Timesteps and options are those of diffusers' DPMSolverMultistepScheduler with this algorithm
    and an order of at most 2, whichever the configuration was written for; solver types midpoint and heun;
    the noise levels of Karras and others where the configuration asks for them.

    Raises:
        ValueError: a number of steps out of range or eta != 0 (the sampler solves the ODE and draws no
            noise).

    Source: Lu, Zhou, Bao, Chen, Li, Zhu, DPM-Solver++, 2022, algorithm 2.
    """
    check_no_eta(eta, "dpmsolver++")
    options = schedule.solver
    check_steps(steps, schedule.num_train_timesteps)
    levels = noise_levels(schedule)
    if options.levels != "schedule":
        ratio, timesteps = spread_levels(levels[-1], levels[0], steps, levels, options)
        timesteps = (timesteps.round() if _rounds(options) else timesteps).astype(np.int64)
    else:
        timesteps = _timesteps(schedule, steps, levels)
        ratio = levels[timesteps]

    ratio = np.append(ratio, final_level(options, levels))
    alpha, sigma = signal_and_noise(ratio)
    decay = ratio[1:] / ratio[:-1]  # e^{-h}, zero where it ends at sigma = 0
    data = alpha[1:] * (1 - decay)
    slope = np.zeros(steps)  # the weight of the finite difference (x_0 - x_0 of the step before) / r
    i = np.flatnonzero(_second_order_steps(options, steps))
    if i.size:
        h, h_before = -np.log(decay[i]), -np.log(decay[i - 1])
        if options.kind == "midpoint":
            weight = 0.5 * data[i]
        else:
            weight = alpha[i + 1] * ((decay[i] - 1) / h + 1)
        slope[i] = weight * h / h_before
    zero = np.zeros(steps)
    return SamplingPlan(
        timesteps=timesteps,
        **predictions(schedule, alpha[:-1], sigma[:-1]),
        clip=np.full(steps, np.inf),
        keep=sigma[1:] / sigma[:-1],
        data=data + slope,
        previous_data=-slope,
        direction=zero,
        noise=zero,
    )


def _rounds(options: SolverOptions) -> bool:
    return options.round_timesteps and options.levels in ("karras", "lu")


def _timesteps(schedule: NoiseSchedule, steps: int, levels: np.ndarray) -> np.ndarray:
    total = schedule.num_train_timesteps
    last = total - int(np.searchsorted(-np.log(levels[::-1]), schedule.solver.lambda_min_clipped))
    spacing = schedule.timestep_spacing or "linspace"
    if spacing == "linspace":
        timesteps = np.linspace(0, last - 1, steps + 1).round()[::-1][:-1]
    elif spacing == "leading":
        timesteps = np.arange(steps + 1)[::-1][:-1] * (last // (steps + 1)) + schedule.steps_offset
    else:
        timesteps = trailing(last, schedule, steps)
    return check_timesteps(timesteps, schedule)


def _second_order_steps(options: SolverOptions, steps: int) -> np.ndarray:
    second = np.full(steps, options.order == 2)
    second[0] = False
    if options.euler_at_final or (options.lower_order_final and steps < 15) or options.final_sigma == "zero":
        second[-1] = False
    return second
