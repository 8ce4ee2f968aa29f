"""The timesteps and the noise levels sigma = sqrt(1 - abar) / sqrt(abar) that a sampler visits."""

import numpy as np

from fdiv_jax.diffusion.schedule import NoiseSchedule, SolverOptions


def check_steps(steps: int, total: int) -> None:
    """Check a number of steps.

    Raises:
        TypeError: not an integer.
        ValueError: not from 1 to `total`.
    """
    if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)):
        raise TypeError(f"steps must be an integer, got {type(steps).__name__}")
    if not 1 <= steps <= total:
        raise ValueError(f"steps must lie between 1 and the schedule's {total} timesteps, got {steps}")


def check_timesteps(timesteps: np.ndarray, schedule: NoiseSchedule) -> np.ndarray:
    """The timesteps, int64 where all are whole numbers.

    Raises:
        ValueError: timesteps that leave the schedule or that do not decrease.
    """
    steps, total = len(timesteps), schedule.num_train_timesteps
    if timesteps.max() > total - 1 or timesteps.min() < 0:
        raise ValueError(
            f"{steps} steps with steps_offset {schedule.steps_offset} reach timestep {timesteps.max():g}, "
            f"but the schedule ends at {total - 1}; use fewer steps"
        )
    if steps > 1 and np.diff(timesteps).max() >= 0:
        raise ValueError(f"{steps} steps visit a timestep twice in a schedule of {total}; use fewer steps")
    return whole(timesteps)


def trailing(last: int, schedule: NoiseSchedule, steps: int) -> np.ndarray:
    """Timesteps evenly spaced down from last - 1; T / steps apart, rounded as diffusers rounds them.

    Raises:
        ValueError: a `last` below T (of a clipped schedule) from which there are fewer than `steps`.
    """
    total = schedule.num_train_timesteps
    timesteps = np.arange(last, 0, -total / steps).round()[:steps] - 1  # halves fall where its sums put them
    if len(timesteps) < steps:
        raise ValueError(
            f"lambda_min_clipped leaves {len(timesteps)} of {steps} trailing timesteps; use another spacing"
        )
    return timesteps


def whole(timesteps: np.ndarray) -> np.ndarray:
    """The timesteps as int64 if all are whole numbers, else unchanged."""
    return timesteps.astype(np.int64) if np.all(timesteps == np.round(timesteps)) else timesteps


def check_eta(eta: float) -> float:
    """Check a share of noise.

    Raises:
        ValueError: outside [0, 1].
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1], got {eta}")
    return eta


def check_no_eta(eta: float | None, sampler: str) -> None:
    """Check that a sampler of the ODE is given no share of noise.

    Raises:
        ValueError: `eta` is neither None nor 0.
    """
    if eta:
        raise ValueError(f"{sampler} solves the ODE and draws no noise: eta must be 0, got {eta}")


def final_level(options: SolverOptions, levels: np.ndarray) -> float:
    """The noise level after the last step.

    Raises:
        ValueError: an unknown `final_sigmas_type`.
    """
    if options.final_sigma not in ("zero", "sigma_min"):
        raise ValueError(f"final_sigmas_type must be zero or sigma_min, got {options.final_sigma!r}")
    return 0.0 if options.final_sigma == "zero" else levels[0]


def noise_levels(schedule: NoiseSchedule) -> np.ndarray:
    """sigma_t of every timestep, increasing, shape (T,); diffusers' stand-in where it would be infinite."""
    abar = schedule.alphas_bar.copy()
    if abar[-1] == 0:
        abar[-1] = 2.0**-24
    return np.sqrt((1 - abar) / abar)


def signal_and_noise(sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(alpha_t, sqrt(1 - alpha_t^2)) of noise levels."""
    alpha = 1 / np.sqrt(1 + sigma**2)
    return alpha, sigma * alpha


def spread_levels(
    first: float, last: float, steps: int, levels: np.ndarray, options: SolverOptions
) -> tuple[np.ndarray, np.ndarray]:
    """Noise levels spread anew from `first` down to `last`, and their (real) timesteps.

    karras: evenly in sigma^(1/7). exponential, lu: evenly in log sigma. beta: at the quantiles of the beta
    distribution B(0.6, 0.6), in sigma. The configuration's own sigma_max and sigma_min come before `first`
    and `last`, except for lu. A level's timestep is interpolated in log sigma.

    Source: Karras, Aittala, Aila, Laine, Elucidating the design space of diffusion-based generative models,
    2022, eq. 5; Lu et al., DPM-Solver, 2022, section 3.3; Lee et al., Beta sampling is all you need, 2024.
    """
    if options.levels != "lu":
        first = first if options.sigma_max is None else options.sigma_max
        last = last if options.sigma_min is None else options.sigma_min
    if options.levels == "karras":
        sigma = np.linspace(first ** (1 / 7), last ** (1 / 7), steps) ** 7
    elif options.levels == "beta":
        sigma = last + (first - last) * _beta_quantiles(1 - np.linspace(0, 1, steps))
    else:
        sigma = np.exp(np.linspace(np.log(first), np.log(last), steps))
    return sigma, np.interp(np.log(sigma), np.log(levels), np.arange(len(levels)))


def _beta_quantiles(shares: np.ndarray, shape: float = 0.6) -> np.ndarray:
    """Quantiles of the beta distribution B(shape, shape)."""
    from scipy.special import betaincinv

    return betaincinv(shape, shape, shares)
