"""Probes that begin at an image of the concept instead of at noise.

Images come back from a model that never knew them too, where little noise is added: such a probe says
something only where the floor is low.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
from fdiv_jax.pipeline.inputs import image_keys

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

        def noised(clean: Latents, t: int, drawing: Drawing) -> Latents:
            keys = image_keys(drawing.seeds, len(clean))
            noise = jax.vmap(lambda key: jax.random.normal(key, clean.shape[1:]))(keys)
            return case.pipe.schedule.add_noise(clean, noise, jnp.full(len(clean), t))

        return _probes(case, self.strengths, noised, tell, repeated=True)


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

        def followed(clean: Latents, t: int, drawing: Drawing) -> Latents:
            return case.pipe.generate(
                [""] * len(clean), initial=clean, steps=drawing.steps, guidance=1.0, sampler=between(0, t)
            )

        return _probes(case, self.strengths, followed, tell, repeated=False)


def _probes(
    case: Case,
    strengths: Sequence[float],
    start: Callable[[Latents, int, Drawing], Latents],
    tell: Tell,
    *,
    repeated: bool,
) -> Iterator[Probe]:
    """Images drawn from `start(x_0, t, drawing)`, at timestep t, to the end, for smaller and smaller t.

    With more seeds than images, the images begin again where they are `repeated`: each time at other noise.
    """
    clean = case.pipe.encode_images(jnp.asarray(case.images.pixels))
    for strength in sorted(strengths, reverse=True):
        tell(round(100 * strength), f"strength {strength:g}")
        t = round(strength * (case.pipe.schedule.num_train_timesteps - 1))

        def draw(drawing: Drawing, t: int = t) -> StoredImages:
            count = len(drawing.seeds)
            places = np.arange(count if repeated else min(count, len(clean))) % len(clean)
            latents = case.pipe.generate(
                [case.images.captions[place] for place in places],
                initial=start(clean[places], t, drawing),
                steps=drawing.steps,
                guidance=drawing.guidance,
                sampler=between(t, 0),
            )
            return to_uint8(case.pipe.decode(latents))

        yield Probe(round(1 - strength, 6), draw, f"strength {strength:g}")
