"""Samplers as plans: every coefficient of every step, in float64, before the first network call."""

from dataclasses import dataclass
from typing import Protocol

import jax
import numpy as np

from fdiv_jax.diffusion.schedule import NoiseSchedule

__all__ = ["SAMPLERS", "Sampler", "SamplingPlan", "ddim", "dpm_solver_pp"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SamplingPlan:
    """The coefficients of a linear (multistep) sampler; each field has shape (steps,).

    Step i reads the network's raw output o at (x, t_i) and goes on to

        x_0  = clip(x0_of_x x + x0_of_output o)
        eps  = eps_of_x x + eps_of_output o
        x   <- keep x + data x_0 + previous_data (x_0 of the step before) + direction eps + noise z,    z ~
        N(0, I).
    """

    timesteps: np.ndarray
    x0_of_x: np.ndarray
    x0_of_output: np.ndarray
    eps_of_x: np.ndarray
    eps_of_output: np.ndarray
    clip: np.ndarray
    """Half the width of the range x_0 is clipped to; infinite for no clipping."""
    keep: np.ndarray
    data: np.ndarray
    previous_data: np.ndarray
    direction: np.ndarray
    noise: np.ndarray

    @property
    def stochastic(self) -> bool:
        """Whether any step draws noise."""
        return bool(np.any(self.noise != 0))


class Sampler(Protocol):
    """A sampler: a function that plans a number of steps through a schedule."""

    def __call__(self, schedule: NoiseSchedule, steps: int, eta: float = 0.0) -> SamplingPlan:
        """The plan of `steps` steps; `eta` in [0, 1] is the share of fresh noise, if any."""
        ...


def ddim(schedule: NoiseSchedule, steps: int, eta: float = 0.0) -> SamplingPlan:
    """Denoising diffusion implicit models: x_s = sqrt(abar_s) x_0 + sqrt(1 - abar_s - std^2) eps + std z.

    std = eta sqrt((1 - abar_s) / (1 - abar_t) (1 - abar_t / abar_s)); eta = 0 is deterministic, eta = 1 is
    DDPM's ancestral sampling. s = t - T // steps, and the timesteps are those of diffusers' DDIMScheduler.

    Raises ValueError for a number of steps or an eta out of range.

    Source: Song, Meng, Ermon, Denoising diffusion implicit models, 2021, eq. 12 and 16.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1], got {eta}")
    total = schedule.num_train_timesteps
    _check_steps(steps, total)
    spacing = schedule.timestep_spacing or "leading"
    if spacing == "linspace":
        timesteps = np.linspace(0, total - 1, steps).round()[::-1]
    elif spacing == "leading":
        timesteps = np.arange(steps)[::-1] * (total // steps) + schedule.steps_offset
    else:
        timesteps = (total - np.arange(steps) * (total / steps)).round() - 1
    timesteps = timesteps.astype(np.int64)
    _check_timesteps(timesteps, schedule, steps)

    abar = schedule.alphas_bar
    before = timesteps - total // steps
    end = 1.0 if schedule.set_alpha_to_one else abar[0]
    now, then = abar[timesteps], np.where(before >= 0, abar[np.maximum(before, 0)], end)
    std = eta * np.sqrt(np.maximum((1 - then) / (1 - now) * (1 - now / then), 0.0))
    zero = np.zeros(steps)
    return SamplingPlan(
        timesteps=timesteps,
        **_predictions(schedule, np.sqrt(now), np.sqrt(1 - now)),
        clip=np.full(steps, np.inf if schedule.clip_sample_range is None else schedule.clip_sample_range),
        keep=zero,
        data=np.sqrt(then),
        previous_data=zero,
        direction=np.sqrt(np.maximum(1 - then - std**2, 0.0)),
        noise=std,
    )


def dpm_solver_pp(schedule: NoiseSchedule, steps: int, eta: float = 0.0) -> SamplingPlan:
    """DPM-Solver++(2M): a second-order multistep solver of the reverse ODE.

    With lambda = log(alpha / sigma), h its increase over the step and r the last increase over h,

        x <- (sigma_s / sigma_t) x + alpha_s (1 - e^{-h}) ((1 + 1 / 2r) x_0 - (1 / 2r) x_0 of the step
        before).

    The first step is of first order, and so is the last where the configuration (or a final sigma of zero)
    asks for it. Timesteps and options are those of diffusers' DPMSolverMultistepScheduler; solver types
    midpoint and heun.

    Raises ValueError for a number of steps out of range or eta != 0 (the solver is of the ODE),
    NotImplementedError for an option of the configuration that is not supported.

    Source: Lu, Zhou, Bao, Chen, Li, Zhu, DPM-Solver++, 2022, algorithm 2.
    """
    if eta != 0:
        raise ValueError(f"dpmsolver++ solves the ODE and draws no noise: eta must be 0, got {eta}")
    options = _checked_options(schedule)
    total = schedule.num_train_timesteps
    _check_steps(steps, total)
    table = schedule.alphas_bar.copy()
    if table[-1] == 0:
        table[-1] = 2.0**-24  # diffusers' stand-in for a zero signal-to-noise ratio, whose lambda is infinite
    log_snr = 0.5 * (np.log(table) - np.log1p(-table))
    last = total - int(np.searchsorted(log_snr[::-1], options.lambda_min_clipped))
    spacing = schedule.timestep_spacing or "linspace"
    if spacing == "linspace":
        timesteps = np.linspace(0, last - 1, steps + 1).round()[::-1][:-1]
    elif spacing == "leading":
        timesteps = np.arange(steps + 1)[::-1][:-1] * (last // (steps + 1)) + schedule.steps_offset
    else:
        timesteps = (last - np.arange(steps) * (total / steps)).round() - 1
    timesteps = timesteps.astype(np.int64)
    _check_timesteps(timesteps, schedule, steps)

    end = 1.0 if options.final_sigma == "zero" else table[0]
    abar = np.append(table[timesteps], end)
    alpha, sigma = np.sqrt(abar), np.sqrt(1 - abar)
    decay = (sigma[1:] * alpha[:-1]) / (alpha[1:] * sigma[:-1])  # e^{-h}, zero where it ends at sigma = 0
    data = alpha[1:] * (1 - decay)
    slope = np.zeros(steps)  # the weight of the finite difference (x_0 - x_0 of the step before) / r
    second = _second_order_steps(options, steps)
    if second.any():
        lam = np.append(log_snr[timesteps], np.inf if end == 1.0 else log_snr[0])
        i = np.flatnonzero(second)
        h, h_before = lam[i + 1] - lam[i], lam[i] - lam[i - 1]
        if options.kind == "midpoint":
            weight = 0.5 * data[i]
        else:
            weight = alpha[i + 1] * ((decay[i] - 1) / h + 1)
        slope[i] = weight * h / h_before
    zero = np.zeros(steps)
    return SamplingPlan(
        timesteps=timesteps,
        **_predictions(schedule, alpha[:-1], sigma[:-1]),
        clip=np.full(steps, np.inf),
        keep=sigma[1:] / sigma[:-1],
        data=data + slope,
        previous_data=-slope,
        direction=zero,
        noise=zero,
    )


SAMPLERS: dict[str, Sampler] = {"ddim": ddim, "dpmsolver++": dpm_solver_pp, "dpm++": dpm_solver_pp}
"""The samplers by name; a new one is a function of the `Sampler` signature."""


def _second_order_steps(options, steps: int) -> np.ndarray:
    second = np.full(steps, options.order == 2)
    second[0] = False
    if options.euler_at_final or (options.lower_order_final and steps < 15) or options.final_sigma == "zero":
        second[-1] = False
    return second


def _checked_options(schedule: NoiseSchedule):
    options = schedule.solver
    if options.unsupported:
        raise NotImplementedError(f"{', '.join(options.unsupported)} with sampler dpmsolver++")
    supported = {"order": (1, 2), "algorithm": ("dpmsolver++",), "kind": ("midpoint", "heun")}
    for name, allowed in supported.items():
        if (value := getattr(options, name)) not in allowed:
            raise NotImplementedError(f"solver {name} {value!r}; supported: {', '.join(map(str, allowed))}")
    if options.final_sigma not in ("zero", "sigma_min"):
        raise ValueError(f"final_sigmas_type must be zero or sigma_min, got {options.final_sigma!r}")
    return options


def _predictions(schedule: NoiseSchedule, alpha: np.ndarray, sigma: np.ndarray) -> dict[str, np.ndarray]:
    """How x_0 and eps follow from x and the output: `NoiseSchedule.predict_x0` and `predict_epsilon`."""
    zero, one = np.zeros_like(alpha), np.ones_like(alpha)
    kind = schedule.prediction_type
    if kind == "epsilon":
        rows = (1 / alpha, -sigma / alpha, zero, one)
    elif kind == "sample":
        rows = (zero, one, 1 / sigma, -alpha / sigma)
    else:
        rows = (alpha, -sigma, sigma, alpha)
    return dict(zip(("x0_of_x", "x0_of_output", "eps_of_x", "eps_of_output"), rows, strict=True))


def _check_steps(steps: int, total: int) -> None:
    if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)):
        raise TypeError(f"steps must be an integer, got {type(steps).__name__}")
    if not 1 <= steps <= total:
        raise ValueError(f"steps must lie between 1 and the schedule's {total} timesteps, got {steps}")


def _check_timesteps(timesteps: np.ndarray, schedule: NoiseSchedule, steps: int) -> None:
    total = schedule.num_train_timesteps
    if timesteps.max() >= total or timesteps.min() < 0:
        raise ValueError(
            f"{steps} steps with steps_offset {schedule.steps_offset} reach timestep {timesteps.max()}, "
            f"but the schedule ends at {total - 1}; use fewer steps"
        )
    if steps > 1 and np.diff(timesteps).max() >= 0:
        raise ValueError(f"{steps} steps visit a timestep twice in a schedule of {total}; use fewer steps")
