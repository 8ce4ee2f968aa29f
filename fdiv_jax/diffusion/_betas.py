"""Beta schedules, in float32 as in the training of the published checkpoints."""

import math
from collections.abc import Callable

import numpy as np

from fdiv_jax.files import JsonMapping, shown

MOST_STEPS = 100_000
"""Largest number of timesteps of a process; models have 1,000."""
_LARGEST = 1e300
BETA_SCHEDULES = ("linear", "scaled_linear", "sigmoid", "squaredcos_cap_v2", "laplace", "exp")


def betas_from_config(config: JsonMapping) -> np.ndarray:
    """The betas a scheduler configuration describes: float32 of shape (num_train_timesteps,)."""
    trained = config.get("trained_betas")
    if trained is not None and not isinstance(trained, list | tuple | np.ndarray):
        raise ValueError(f"trained_betas must be a list of numbers, got {shown(trained)}")
    steps = config.get("num_train_timesteps", 1000 if trained is None else len(trained))
    if isinstance(steps, bool) or not isinstance(steps, int) or not 2 <= steps <= MOST_STEPS:
        raise ValueError(f"num_train_timesteps must be an integer from 2 to {MOST_STEPS}, got {shown(steps)}")
    kind = config.get("beta_schedule", "linear")
    start, end = number_of(config, "beta_start", 0.0001), number_of(config, "beta_end", 0.02)
    if not (0 <= start <= 1 and 0 <= end <= 1):
        raise ValueError(f"beta_start {start} and beta_end {end}, expected numbers from 0 to 1")
    if trained is not None:
        betas = np.asarray(trained, np.float32)
        if betas.shape != (steps,):
            raise ValueError(
                f"trained_betas must have shape ({steps},), as num_train_timesteps says, got {betas.shape}"
            )
    elif kind == "linear":
        betas = np.linspace(start, end, steps).astype(np.float32)
    elif kind == "scaled_linear":  # linear in sqrt(beta): latent diffusion
        betas = np.linspace(start**0.5, end**0.5, steps).astype(np.float32) ** 2
    elif kind == "sigmoid":
        betas = (start + (end - start) / (1 + np.exp(-np.linspace(-6, 6, steps)))).astype(np.float32)
    elif kind in _ALPHA_BARS:
        betas = _betas_of(_ALPHA_BARS[kind], steps)
    else:
        raise NotImplementedError(
            f"beta_schedule {shown(kind)}; supported: {', '.join(BETA_SCHEDULES)}, trained_betas"
        )
    if config.get("rescale_betas_zero_snr"):
        betas = _zero_terminal_snr(betas)
    return betas


def number_of(config: JsonMapping, key: str, default: float) -> float:
    """A number of a configuration.

    Raises:
        ValueError: not a number; names the key.
    """
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST:
        raise ValueError(f"{key} must be a number, got {shown(value)}")
    return float(value)


def _cosine(u: float) -> float:
    """The cosine schedule.

    Source: Nichol and Dhariwal, Improved denoising diffusion probabilistic models, 2021, eq. 17.
    """
    return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2


def _laplace(u: float) -> float:
    """The Laplace schedule, as in diffusers.

    Source: Hang et al., Improved noise schedule for diffusion training, 2024.
    """
    snr = math.exp(-0.5 * math.copysign(1, 0.5 - u) * math.log(1 - 2 * abs(0.5 - u) + 1e-6))
    return math.sqrt(snr / (1 + snr))


_ALPHA_BARS: dict[str, Callable[[float], float]] = {
    "squaredcos_cap_v2": _cosine,
    "laplace": _laplace,
    "exp": lambda u: math.exp(-12.0 * u),
}


def _betas_of(alpha_bar: Callable[[float], float], steps: int, longest: float = 0.999) -> np.ndarray:
    """The betas whose running product is given as a function of t / T."""
    ratios = [alpha_bar((i + 1) / steps) / alpha_bar(i / steps) for i in range(steps)]
    return np.asarray([min(1 - ratio, longest) for ratio in ratios], np.float32)


def _zero_terminal_snr(betas: np.ndarray) -> np.ndarray:
    """Shift and scale sqrt(alpha_bar) so that it ends at zero and starts where it did.

    Lin, Liu, Li, Yang, Common diffusion noise schedules and sample steps are flawed, 2023, algorithm 1.
    """
    root = np.sqrt(np.cumprod(1.0 - betas.astype(np.float64)))
    root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
    alpha_bar = root**2
    return (1.0 - alpha_bar / np.concatenate([[1.0], alpha_bar[:-1]])).astype(np.float32)
