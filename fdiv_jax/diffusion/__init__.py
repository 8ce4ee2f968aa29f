"""The forward noise process, its reverse kernels, and samplers.

Latents are channels-last (n h w c) or of any other shape with the batch first; timesteps are integers from 0
(nearly clean) to `schedule.num_train_timesteps - 1` (nearly noise), one per sample.
"""

from fdiv_jax.diffusion._ddim import ddim
from fdiv_jax.diffusion._dpm_solver import dpm_solver_pp
from fdiv_jax.diffusion._euler import euler, euler_ancestral
from fdiv_jax.diffusion._lcm import lcm
from fdiv_jax.diffusion.sampling import SAMPLERS, sample, sampling_plan, with_karras
from fdiv_jax.diffusion.sampling_plan import Sampler, SamplingPlan
from fdiv_jax.diffusion.schedule import NoiseSchedule, SolverOptions

__all__ = [
    "SAMPLERS",
    "NoiseSchedule",
    "Sampler",
    "SamplingPlan",
    "SolverOptions",
    "ddim",
    "dpm_solver_pp",
    "euler",
    "euler_ancestral",
    "lcm",
    "sample",
    "sampling_plan",
    "with_karras",
]
