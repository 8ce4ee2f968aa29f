"""How a model draws where nothing is said: sampler, steps and guidance, from its own files."""

from __future__ import annotations

from typing import NamedTuple

from fdiv_jax.files import JsonMapping
from fdiv_jax.nn import UNetConfig

__all__ = ["DrawingDefaults", "distilled_defaults"]

_STEPS = 4
"""Of models that draw in 1 to 4 steps (LCM also in up to 8)."""
_LCM_GUIDANCE = 8.5
"""That of diffusers' LatentConsistencyModelPipeline."""
_EULER = {"EulerDiscreteScheduler": "euler", "EulerAncestralDiscreteScheduler": "euler_a"}


class DrawingDefaults(NamedTuple):
    """Sampler, steps and guidance of a model, and why they are not those of ordinary models."""

    sampler: str = "ddim"
    steps: int = 25
    guidance: float = 6.0
    reason: str = ""

    @property
    def told(self) -> str:
        """The settings and the reason in words."""
        return f"{self.sampler}, {self.steps} steps, guidance {self.guidance:g} ({self.reason})"


def distilled_defaults(unet: UNetConfig, scheduler: JsonMapping) -> DrawingDefaults | None:
    """The settings of a model that was distilled to draw in a few steps; None for an ordinary one.

    No file says outright that a model is distilled. What is read:

        time_cond_proj_dim (UNet)   a latent consistency model, which takes the guidance as an input: lcm,
                                    4 steps, guidance 8.5
        LCMScheduler                a model with an LCM-LoRA merged: lcm, 4 steps, guidance 1 (none)
        Euler's scheduler from the last timestep on (timestep_spacing "trailing"), noise predicted, no zero
        terminal signal-to-noise ratio
                                    sd-turbo, sdxl-turbo and their kin (adversarial distillation): Euler's
                                    method, 4 steps, guidance 0 (none)

    Ordinary models that predict noise are published with other schedulers or spacings ("leading",
    "linspace"); those with "trailing" timesteps predict v at zero terminal signal-to-noise ratio.
    """
    if unet.time_cond_proj_dim is not None:
        reason = "a latent consistency model: its UNet takes the guidance as an input"
        return DrawingDefaults("lcm", _STEPS, _LCM_GUIDANCE, reason)
    name = str(scheduler.get("_class_name"))
    if name == "LCMScheduler":
        return DrawingDefaults("lcm", _STEPS, 1.0, "its scheduler is LCMScheduler")
    last = scheduler.get("timestep_spacing") == "trailing"
    noise = scheduler.get("prediction_type", "epsilon") == "epsilon"
    if name in _EULER and last and noise and not scheduler.get("rescale_betas_zero_snr"):
        reason = f"its scheduler, {name} with trailing timesteps, is that of turbo models"
        return DrawingDefaults(_EULER[name], _STEPS, 0.0, reason)
    return None
