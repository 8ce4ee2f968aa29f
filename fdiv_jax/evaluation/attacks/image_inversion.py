"""Probes that begin at an image of the concept instead of at noise.

Images come back from a model that never knew them too, where little noise is added: such a probe says
something only where the floor is low.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from fdiv_jax.arrays import Latents, StoredImages
from fdiv_jax.diffusion import NoiseSchedule
from fdiv_jax.diffusion.sampling_plan import Sampler, SamplingPlan, predictions
from fdiv_jax.evaluation.attacks.case import Case, Drawing, Probe, Tell
from fdiv_jax.pipeline import to_uint8

__all__ = ["DdimInversion", "ImageInversion", "between"]


def between(first: int, last: int) -> Sampler:
    """DDIM without noise from timestep `first` to `last`, either way, in equal strides.

    x_s = sqrt(abar_s) x_0 + sqrt(1 - abar_s) eps with the x_0 and eps predicted at t; down to timestep 0 the
    last step ends at x_0, and up from it begins at x_0.

    Source: Song, Meng, Ermon, Denoising diffusion implicit models, 2021, eq. 12 and section 4.3.
    """

    def plan(schedule: NoiseSchedule, steps: int, eta: float | None = None) -> SamplingPlan:
        times = np.linspace(first, last, steps + 1).round().astype(np.int64)
        abar = schedule.alphas_bar[times]
        if last == 0:
            abar[-1] = 1.0
        now, then = abar[:-1], abar[1:]
        if first == 0:  # x is x_0 there: the network reads it as the least noisy that it knows
            now = np.concatenate([[schedule.alphas_bar[0]], now[1:]])
        zero = np.zeros(steps)
        return SamplingPlan(
            timesteps=times[:-1],
            **predictions(schedule, np.sqrt(now), np.sqrt(1 - now)),
            clip=np.full(steps, np.inf),
            keep=zero,
            data=np.sqrt(then),
            previous_data=zero,
            direction=np.sqrt(1 - then),
            noise=zero,
        )

    return plan


def _timestep(schedule: NoiseSchedule, strength: float) -> int:
    return round(strength * (schedule.num_train_timesteps - 1))


@dataclass(frozen=True)
class ImageInversion:
    """Real images of the concept, noised to some strength, and drawn to the end at the concept's prompts.

    Source: Meng et al., SDEdit, 2022; as a probe: Lu et al., When are concepts erased from diffusion models?,
    2025.
    """

    axis: ClassVar[str] = "1 - strength of the noise"
    searches: ClassVar[bool] = False
    assumes: ClassVar[str] = "an image of the concept, and a program that begins at images"

    strengths: tuple[float, ...] = (0.95, 0.9, 0.8, 0.7, 0.6)
    """Shares of the noise schedule that the images are noised to: 1 leaves nothing of them."""

    def probes(self, case: Case, budget: int, tell: Tell) -> Iterator[Probe]:
        """The images at less and less noise."""
        clean = _latents(case)
        for strength in sorted(self.strengths, reverse=True):
            tell(round(100 * strength), f"strength {strength:g}")
            t = _timestep(case.pipe.schedule, strength)

            def draw(drawing: Drawing, t: int = t) -> StoredImages:
                places = np.arange(len(drawing.seeds)) % len(clean)
                shape = clean.shape[1:]
                noise = jnp.stack([jax.random.normal(jax.random.key(seed), shape) for seed in drawing.seeds])
                x_t = case.pipe.schedule.add_noise(clean[places], noise, jnp.full(len(places), t))
                return _drawn(case, x_t, _captions(case, places), between(t, 0), drawing)

            yield Probe(round(1 - strength, 6), draw, f"strength {strength:g}")


@dataclass(frozen=True)
class DdimInversion:
    """Real images of the concept followed backwards to noise without a prompt, and drawn again at the
    concept's prompts.

    The way back is nearly exact without guidance, whatever the model knows: it is the guidance towards the
    prompt that shows whether the model takes the concept away.

    Source: Song, Meng, Ermon, Denoising diffusion implicit models, 2021, section 4.3.
    """

    axis: ClassVar[str] = "1 - strength of the noise"
    searches: ClassVar[bool] = False
    assumes: ClassVar[str] = "an image of the concept, and the model's weights"

    strengths: tuple[float, ...] = (1.0, 0.8, 0.6)
    """Shares of the noise schedule that the images are followed to."""

    def probes(self, case: Case, budget: int, tell: Tell) -> Iterator[Probe]:
        """The images from less and less far back."""
        clean = _latents(case)
        for strength in sorted(self.strengths, reverse=True):
            tell(round(100 * strength), f"strength {strength:g}")
            t = _timestep(case.pipe.schedule, strength)

            def draw(drawing: Drawing, t: int = t) -> StoredImages:
                places = np.arange(len(drawing.seeds)) % len(clean)
                back = case.pipe.generate(
                    [""] * len(places),
                    initial=clean[places],
                    steps=drawing.steps,
                    guidance=1.0,
                    sampler=between(0, t),
                )
                return _drawn(case, back, _captions(case, places), between(t, 0), drawing)

            yield Probe(round(1 - strength, 6), draw, f"strength {strength:g}")


def _latents(case: Case) -> Latents:
    return case.pipe.encode_images(jnp.asarray(case.images.pixels))


def _captions(case: Case, places: np.ndarray) -> list[str]:
    return [case.images.captions[place] for place in places]


def _drawn(
    case: Case, start: Latents, prompts: Sequence[str], sampler: Sampler, drawing: Drawing
) -> StoredImages:
    latents = case.pipe.generate(
        prompts, initial=start, steps=drawing.steps, guidance=drawing.guidance, sampler=sampler
    )
    return to_uint8(case.pipe.decode(latents))
