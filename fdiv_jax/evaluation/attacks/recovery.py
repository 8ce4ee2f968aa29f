"""How far benign fine-tuning brings a concept back: the path to first order, before any step of it.

Let the unlearned model's weights be theta_u = theta_0 + Delta, and J, J_o the Jacobians of its predictions at
the concept's prompts and at the other prompts. Fine-tuning on the others' images descends

    g + K delta,  g the gradient of their denoising loss at theta_u,  K = (2 / C) E[J_o^T J_o]

and what is left of the erasure after n steps is m(n) = E |e_u - e_0 + J delta_n|^2, with the predictions e_u
and e_0 of the unlearned and of the frozen model. Where the frozen model is at a minimum of that loss, g is
K Delta, and delta tends to -P Delta under descent, P being the projection on the range of J_o^T: fine-tuning
takes back what the other prompts see of the change. Here J_o is taken on images that the frozen model draws;
Adam's second moment is that of the gradient of a batch, which the noise's error fills and no step empties.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from fdiv_jax.arrays import Parameters, RandomKey
from fdiv_jax.compiling import jit
from fdiv_jax.evaluation.attacks.case import Case, looks, search_key
from fdiv_jax.evaluation.attacks.denoising import Denoising, Shown, draw_batch, loss_and_gradient
from fdiv_jax.evaluation.attacks.weights import Benign, Tuning
from fdiv_jax.pipeline import TextToImagePipeline
from fdiv_jax.unlearning import AnchorImagesConfig, Frozen, LinearisedRun, OptimiserConfig, UnlearningConfig
from fdiv_jax.unlearning.prepare import Cache, prepare

__all__ = ["Recovery", "measure_recovery", "predict_recovery"]

_ADAM = OptimiserConfig(b1=0.9, b2=0.999)
"""As `Benign` trains."""
_STREAM = 0x5EC0
"""Sets the random numbers of the gradients that a prediction looks at apart from those of the training."""


@dataclass(frozen=True)
class Recovery:
    """The distance to the frozen model at the concept's prompts, as fine-tuning goes on.

    Attributes:
        steps: numbers of steps, from 0.
        m: the squared distance of the predictions, summed over channels, averaged over pixels and samples.
    """

    steps: tuple[int, ...]
    m: tuple[float, ...]

    @property
    def left(self) -> tuple[float, ...]:
        """The shares of the first distance.

        Raises:
            ValueError: there was none.
        """
        if not self.m[0] > 0:
            raise ValueError(f"m is {self.m[0]} before the first step: nothing was erased")
        return tuple(value / self.m[0] for value in self.m)

    def steps_to(self, share: float) -> float | None:
        """After how many steps that share is left, between two looks by interpolation; None: after more."""
        looked = list(zip(self.steps, self.left, strict=True))
        for (n, before), (k, after) in itertools.pairwise(looked):
            if before > share >= after:
                return n + (k - n) * (before - share) / (before - after)
        return None


def predict_recovery(
    base: TextToImagePipeline,
    case: Case,
    attack: Benign | None = None,
    at: tuple[int, ...] = (),
    *,
    budget: int = 100,
    batches: int = 300,
    depth: int = 12,
    images: AnchorImagesConfig | None = None,
    cache: Cache = None,
) -> Recovery:
    """What benign fine-tuning of an unlearned model would do, from products at that model alone.

    Args:
        base: the frozen model.
        case: the unlearned model, the concept's prompts, and the images to fine-tune on (`retained`).
        attack: the fine-tuning; None: `Benign` as it is.
        at: after which numbers of steps; empty: a quarter, a half and all of the budget.
        budget: steps, where `at` is empty.
        batches: of which the gradient is averaged, each of the size of a step's. Its noise drifts without
            end, so that these are more than the steps predicted.
        depth: products with the kernel.
        images: at which the predictions are compared, that the frozen model draws: so many at the concept's
            prompts, and twice as many at the others'. None: 48.
        cache: where they are kept, see `unlearn`.

    Raises:
        ValueError: no images to fine-tune on, or numbers of steps below 1.
    """
    attack, steps = attack or Benign(), _steps(at, budget)
    concept, others = _seen(base, case, attack, images, cache)
    tuning = Tuning.of(case, case.others, attack.trainable)
    loss, mean, squares = 0.0, np.zeros(len(concept.start)), np.zeros(len(concept.start))
    for key in jax.random.split(jax.random.fold_in(search_key(case.seed), _STREAM), batches):
        one, gradient = _gradient(tuning.plan, tuning.initial, tuning.frozen, tuning.shown, key)
        loss += float(one) / batches
        mean += np.asarray(gradient) / batches
        squares += np.asarray(gradient) ** 2 / batches
    root = np.sqrt(squares) + _ADAM.eps
    # m / 2, of which the kernel is the Hessian, is C / 2 times the loss
    half = tuning.shown.latents.shape[-1] / 2
    descent = others.descent(depth, scale=root, gradient=half * mean)
    changes = [
        descent.adam_change(attack.learning_rate / half, number, _ADAM, 2 * half * loss, 1.0)
        for number in steps
    ]
    seen, moved = concept.outputs(), concept.push(np.stack(changes))
    m = np.sum((seen.residual[:, :, None] + moved) ** 2, axis=1).mean(0)
    return Recovery((0, *steps), (float(seen.m.mean()), *m.tolist()))


def measure_recovery(
    base: TextToImagePipeline,
    case: Case,
    attack: Benign | None = None,
    at: tuple[int, ...] = (),
    *,
    budget: int = 100,
    images: AnchorImagesConfig | None = None,
    cache: Cache = None,
) -> Recovery:
    """What benign fine-tuning does, step by step as `Benign` does it; see `predict_recovery`."""
    attack, steps = attack or Benign(), _steps(at, budget)
    concept = next(_seen(base, case, attack, images, cache))
    tuning = Tuning.of(case, case.others, attack.trainable)
    m = [float(concept.outputs().m.mean())]
    for _, learned, _ in tuning.after(steps, attack.learning_rate, lambda step, text: None):
        m.append(float(concept.outputs(learned).m.mean()))
    return Recovery((0, *steps), tuple(m))


def _steps(at: tuple[int, ...], budget: int) -> tuple[int, ...]:
    steps = tuple(sorted(set(at))) or tuple(looks(budget))
    if not steps or min(steps) < 1:
        raise ValueError(f"at {at} with a budget of {budget}; expected numbers of steps, 1 or more")
    return steps


def _seen(
    base: TextToImagePipeline, case: Case, attack: Benign, images: AnchorImagesConfig | None, cache: Cache
) -> Iterator[LinearisedRun]:
    """The unlearned model beside the frozen one, at the concept's prompts and at those of the images."""
    captions = tuple(dict.fromkeys(case.others.captions))
    drawn = AnchorImagesConfig(number=48, seed=1) if images is None else images
    config = UnlearningConfig(
        target=case.word, anchor="empty", prompts=case.prompts, retained=(), trainable=attack.trainable,
        batch_size=case.batch, accumulation=case.accumulation, images=drawn,
    )  # fmt: skip
    prepared = prepare(base, config)
    for prompts, number in ((case.prompts, drawn.number), (captions, 2 * drawn.number)):  # one at a time
        looked = dataclasses.replace(prepared.config.images, number=number)
        run, _ = LinearisedRun.elsewhere(prepared, prompts, looked, cache)
        yield run.of_model(case.pipe)


@functools.partial(jit, static_argnums=0)
def _gradient(plan: Denoising, trained: Parameters, frozen: Frozen, shown: Shown, key: RandomKey):
    """The loss of a batch and its gradient, flat."""
    loss, gradient = loss_and_gradient(
        plan, trained, frozen, shown, draw_batch(plan.schedule, shown, key, plan.batch)
    )
    return loss, ravel_pytree(gradient)[0]
