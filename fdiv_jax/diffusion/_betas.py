"""Beta schedules, in float32 as the checkpoints that were trained with them."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")


def betas_from_config(config: Mapping[str, Any]) -> np.ndarray:
    """The betas a scheduler configuration describes: float32 of shape (num_train_timesteps,)."""
    trained = config.get("trained_betas")
    steps = config.get("num_train_timesteps", 1000 if trained is None else len(trained))
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 2:
        raise ValueError(f"num_train_timesteps must be an integer of at least 2, got {steps!r}")
    kind = config.get("beta_schedule", "linear")
    start, end = float(config.get("beta_start", 0.0001)), float(config.get("beta_end", 0.02))
    if not (start >= 0 and end >= 0):
        raise ValueError(f"beta_start {start} and beta_end {end}, expected no negative number")
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
    elif kind == "squaredcos_cap_v2":
        betas = _cosine(steps)
    else:
        raise NotImplementedError(
            f"beta_schedule {kind!r}; supported: {', '.join(BETA_SCHEDULES)}, trained_betas"
        )
    if config.get("rescale_betas_zero_snr"):
        betas = _zero_terminal_snr(betas)
    return betas


def _cosine(steps: int, longest: float = 0.999) -> np.ndarray:
    """Nichol and Dhariwal, Improved denoising diffusion probabilistic models, 2021, eq. 17."""

    def alpha_bar(u: float) -> float:
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

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
