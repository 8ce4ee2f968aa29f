"""Fits what learns to images and their captions by the loss that diffusion models are trained by.

    E_{i, t, eps} |goal(x_0, eps, t) - unet(x_t, t, caption_i)|^2, x_t = sqrt(abar_t) x_0 + sqrt(1-abar_t) eps

with the goal that the network predicts (eps, v or x_0), over the weights, the low-rank factors or the token
embeddings of a `Trainable`. All attacks that learn from images share this file and one compiled step.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Integer

from fdiv_jax.arrays import Latents, Parameters, PyTree, RandomKey, Samples, Scalar, Timesteps, TokenIds
from fdiv_jax.compiling import jit
from fdiv_jax.diffusion import NoiseSchedule
from fdiv_jax.evaluation.attacks.case import Case, ConceptImages, Tell
from fdiv_jax.nn import Text
from fdiv_jax.nn.convolution import in_loop
from fdiv_jax.pipeline import TextToImagePipeline
from fdiv_jax.unlearning import Frozen, Network, Trainable

__all__ = ["Denoising", "Noised", "Shown", "denoising_loss", "draw_batch", "fit", "show"]

Places = Integer[jax.Array, " images"]
"""Which of some texts belongs to each image."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Shown:
    """Images as the network sees them.

    Attributes:
        latents: n h w c, x_0.
        text: features of the distinct captions, by the encoders as they are.
        tokens: their token ids, one array for each encoder.
        caption: (n,), which caption belongs to each image.
    """

    latents: Latents
    text: Text
    tokens: tuple[TokenIds, ...]
    caption: Places


@dataclass(frozen=True)
class Denoising:
    """What a compiled step is made of; equal for models of one structure.

    Attributes:
        network: the UNet's structure.
        schedule: of the noise.
        trainable: what learns.
        batch: samples per step.
        accumulation: parts that a batch is computed in.
    """

    network: Network
    schedule: NoiseSchedule
    trainable: Trainable
    batch: int
    accumulation: int = 1

    @classmethod
    def of(cls, case: Case, trainable: Trainable) -> Denoising:
        """For a case."""
        return cls(Network(case.pipe.unet), case.pipe.schedule, trainable, case.batch, case.accumulation)


class Noised(NamedTuple):
    """A batch: images (n,), timesteps (n,), noise n h w c."""

    image: Places
    timesteps: Timesteps
    noise: Samples


Rates = Mapping[str, float | jax.Array]
"""The learning rate of each tensor."""


def show(pipe: TextToImagePipeline, images: ConceptImages) -> Shown:
    """The images and their captions, encoded.

    Raises:
        ValueError: images of a size that the autoencoder does not take.
    """
    latents = pipe.encode_images(jnp.asarray(images.pixels))
    captions = list(dict.fromkeys(images.captions))
    text = pipe.sized(pipe.encode_prompts(captions), latents.shape)
    places = [captions.index(caption) for caption in images.captions]
    return Shown(latents, text, pipe.tokenize(captions), jnp.asarray(places, jnp.int32))


def draw_batch(schedule: NoiseSchedule, shown: Shown, key: RandomKey, size: int) -> Noised:
    """Images with replacement, timesteps one from each of `size` equal parts of the schedule, noise."""
    image, time, noise = jax.random.split(key, 3)
    place = (jnp.arange(size) + jax.random.uniform(time, (size,))) / size
    return Noised(
        jax.random.randint(image, (size,), 0, len(shown.latents)),
        (place * schedule.num_train_timesteps).astype(jnp.int32),
        jax.random.normal(noise, (size, *shown.latents.shape[1:])),
    )


def denoising_loss(
    plan: Denoising, trained: Parameters, frozen: Frozen, shown: Shown, noised: Noised
) -> Scalar:
    """The mean squared error over the batch, the pixels and the channels."""
    x0, caption = shown.latents[noised.image], shown.caption[noised.image]
    x_t = plan.schedule.add_noise(x0, noised.noise, noised.timesteps)
    text = plan.trainable.text(
        trained,
        frozen,
        jax.tree.map(lambda rows: rows[caption], shown.text),
        tuple(ids[caption] for ids in shown.tokens),
    )
    output = plan.network(plan.trainable.parameters(trained, frozen), x_t, noised.timesteps, text)
    return jnp.mean((output - plan.schedule.target(x0, noised.noise, noised.timesteps)) ** 2)


def loss_and_gradient(
    plan: Denoising, trained: Parameters, frozen: Frozen, shown: Shown, noised: Noised
) -> tuple[Scalar, Parameters]:
    """The loss and its gradient for what learns, in the plan's parts: the memory is one part's."""
    value_and_gradient = jax.value_and_grad(
        lambda trained, part: denoising_loss(plan, trained, frozen, shown, part)
    )
    if plan.accumulation == 1:
        return value_and_gradient(trained, noised)
    parts = jax.tree.map(lambda leaf: leaf.reshape(plan.accumulation, -1, *leaf.shape[1:]), noised)

    def add(total: PyTree, part: Noised) -> tuple[PyTree, None]:
        one = value_and_gradient(trained, part)
        return jax.tree.map(lambda a, b: a + b / plan.accumulation, total, one), None

    zero = jax.tree.map(jnp.zeros_like, (jnp.zeros(()), trained))
    with in_loop():
        return jax.lax.scan(add, zero, parts)[0]


Moments = PyTree
Figure = Float[jax.Array, ""]


@functools.partial(jit, static_argnums=0, donate_argnums=(1, 2))
def _step(
    plan: Denoising,
    trained: Parameters,
    moments: Moments,
    frozen: Frozen,
    shown: Shown,
    rates: Rates,
    key: RandomKey,
) -> tuple[Parameters, Moments, Figure]:
    noised = draw_batch(plan.schedule, shown, key, plan.batch)
    loss, gradient = loss_and_gradient(plan, trained, frozen, shown, noised)
    changes, moments = optax.scale_by_adam().update(gradient, moments)
    trained = jax.tree.map(lambda value, change, rate: value - rate * change, trained, changes, dict(rates))
    return trained, moments, loss


def fit(
    plan: Denoising,
    trained: Parameters,
    frozen: Frozen,
    shown: Shown,
    key: RandomKey,
    rates: Rates,
    at: Collection[int],
    tell: Tell,
) -> Iterator[tuple[int, Parameters, float]]:
    """Adam's steps on the loss; gives (steps, what was learned, mean loss of the last ones) at each of `at`.

    Step k draws from fold_in(key, k), so that a shorter run is the beginning of a longer one.

    Raises:
        ValueError: a loss that is not finite; names the step.
    """
    trained = jax.tree.map(jnp.copy, trained)
    moments = optax.scale_by_adam().init(trained)
    rates = {name: jnp.asarray(rates[name], jnp.float32) for name in trained}
    recent: list[jax.Array] = []
    for step in range(1, max(at) + 1):
        trained, moments, loss = _step(
            plan, trained, moments, frozen, shown, rates, jax.random.fold_in(key, step)
        )
        recent = [*recent[-19:], loss]
        if step % 10 == 0 or step in at:
            mean = float(np.mean(jax.device_get(recent)))
            if not np.isfinite(mean):
                raise ValueError(f"the loss at step {step} is {mean}; expected a finite number")
            tell(step, f"loss {mean:.4f}")
            if step in at:
                yield step, jax.tree.map(jnp.copy, trained), mean
