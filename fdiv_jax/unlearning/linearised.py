"""A run to first order, before its first step: how its outputs move with what learns, by products alone.

The outputs are those of the training step itself (`predict` beside `look`, in the unit of the loss's m), at
the batches that the run will see. Each product goes through the batches one after the other, so that it takes
the memory of one step, whatever the number of batches and of parameters.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.flatten_util import ravel_pytree

from fdiv_jax.arrays import PyTree
from fdiv_jax.checkpoints import model_digest
from fdiv_jax.compiling import jit
from fdiv_jax.nn.attention import forward_mode
from fdiv_jax.nn.convolution import in_loop
from fdiv_jax.pipeline import TextToImagePipeline
from fdiv_jax.theory import QuadraticDistances, descent_filter, krylov_basis
from fdiv_jax.unlearning.batch import Batch
from fdiv_jax.unlearning.concepts import PromptPair
from fdiv_jax.unlearning.config_parts import AnchorImagesConfig, OptimiserConfig
from fdiv_jax.unlearning.data import AnchorData, prepare_data
from fdiv_jax.unlearning.parameters import Network
from fdiv_jax.unlearning.prepare import Cache, Prepared, array_cache
from fdiv_jax.unlearning.state import Plan
from fdiv_jax.unlearning.step import compare, look, noised, predict
from fdiv_jax.unlearning.trainable import Frozen, trainable_of

__all__ = ["Descent", "LinearisedRun", "Outputs", "check_first_order", "part_size"]

Trained = Mapping[str, jax.Array | np.ndarray] | jax.Array | np.ndarray
"""What learns: by names, or flat, (P,)."""
Shapes = tuple[tuple[tuple[int, ...], np.dtype], ...]
"""Shape and kind of number of each array of a tree."""


class Outputs(NamedTuple):
    """The outputs at every sample.

    Attributes:
        residual: (n, p), what is left of the way to the reference: m is the sum of its squares.
        m: (n,).
        timesteps: (n,).
    """

    residual: np.ndarray
    m: np.ndarray
    timesteps: np.ndarray


@dataclass(frozen=True)
class Descent:
    """The directions in which descent moves, and the m of every sample along them.

    Attributes:
        directions: (r, P), of changes of what learns.
        kernel: (r, r), the mean of J^T J between them.
        pull: (r,), along them, of the mean of J^T e.
    """

    directions: np.ndarray
    kernel: np.ndarray
    pull: np.ndarray

    def change(self, step: float, steps: int) -> np.ndarray:
        """What n steps of gradient descent on the mean of m / 2 change, (P,)."""
        k, u = np.linalg.eigh(self.kernel)
        z = -u @ (descent_filter(np.maximum(k, 0.0), step, steps) * (u.T @ self.pull))
        return (z @ self.directions).astype(np.float32)

    def adam_change(
        self, step: float, steps: int, optimiser: OptimiserConfig, start: float, noise: float
    ) -> np.ndarray:
        """What n steps of Adam change, (P,); the descent has Adam's scale where its J is.

        Momentum is as it is. The second moment keeps its shape, and falls as a whole with what the gradient
        is made of: its mean, and its noise, which is as large as the errors that it comes from.

        Args:
            step, steps: learning rate, and number.
            optimiser: b1 and b2.
            start: the mean m before the first step.
            noise: the share of the second moment that is noise.
        """
        z, mean, second = np.zeros(len(self.pull)), np.zeros(len(self.pull)), 0.0
        for number in range(1, steps + 1):
            gradient = self.pull + self.kernel @ z
            left = max(start + z @ (self.pull + gradient), 0.0) / start
            size = noise * left
            if noise < 1:
                size += (1 - noise) * (gradient @ gradient) / (self.pull @ self.pull)
            mean = optimiser.b1 * mean + (1 - optimiser.b1) * gradient
            second = optimiser.b2 * second + (1 - optimiser.b2) * size
            corrected = second / (1 - optimiser.b2**number)
            z = z - step * mean / (1 - optimiser.b1**number) / np.sqrt(corrected)
        return (z @ self.directions).astype(np.float32)


class LinearisedRun:
    """The outputs of a run and their Jacobian J at `start`, with respect to all that learns.

    Vectors of changes are flat, (P,), in the order of `ravel_pytree`.

    Attributes:
        start: what learns, where J is, (P,): as it is before the first step, but after `at` and `of_model`.
        samples: how many there are.
    """

    def __init__(
        self, prepared: Prepared, batches: Sequence[Batch], seed: int = 0, key: jax.Array | None = None
    ):
        """Look at a run at these batches, with the noise of the first steps of a run with this seed; or, with
        a key, with the noise of that one key for all of them, whose samples then have positions of their own.

        Raises:
            NotImplementedError: the reference is the current model, which moves too.
            ValueError: no batches, the method is the closed-form edit, or samples at one position of one key.
        """
        check_first_order(prepared)
        if not batches:
            raise ValueError("no batches to look at; expected at least one")
        places = np.concatenate([np.asarray(batch.position) for batch in batches])
        if key is not None and len(np.unique(places)) < len(places):
            raise ValueError(
                f"{len(places)} samples at {len(np.unique(places))} positions would share their noise; "
                "expected positions of their own, or no key"
            )
        self.prepared = prepared
        trained = prepared.plan.trainable.initial(prepared.frozen, jax.random.key(seed))
        self.start, self._unravel = ravel_pytree(trained)
        self._products = _products(prepared.plan, jax.tree.structure(trained), _shapes(trained))
        self._batches = jax.tree.map(lambda *parts: jnp.stack(parts), *batches)
        root = jax.random.split(jax.random.key(seed))[1]  # as `Run` has it
        own = [jax.random.fold_in(root, s) if key is None else key for s in range(len(batches))]
        self._keys = jnp.stack(own)
        self.samples = len(places)

    @classmethod
    def of(cls, prepared: Prepared, data: AnchorData, batches: int = 3) -> LinearisedRun:
        """At the first batches of the run; of the size of its parts, where a step has several."""
        config, size = prepared.config, part_size(prepared)
        chosen = [data.batch(config.seed, number, size) for number in range(batches)]
        return cls(prepared, chosen, config.seed)

    @classmethod
    def elsewhere(
        cls, prepared: Prepared, prompts: Sequence[str], images: AnchorImagesConfig, cache: Cache = None
    ) -> tuple[LinearisedRun, np.ndarray]:
        """The model beside itself at other prompts, where m is 0; and the prompt of each sample, -1 for none.

        Args:
            prepared: the run.
            prompts: where to look at what it does.
            images: how many, and how they are drawn.
            cache: where they are kept, see `unlearn`.
        """
        same = [PromptPair(prompt, prompt) for prompt in prompts]
        kept, tokens = array_cache(cache), bool(prepared.frozen.encoders)
        data = prepare_data(prepared.pipe, same, images, kept, tokens=tokens, model=prepared.model)
        batches, shown = data.everything(part_size(prepared))
        return cls(prepared, batches, images.seed), shown

    def at(self, trained: Trained) -> LinearisedRun:
        """The same samples, with J where what learns is `trained`, flat or as a mapping."""
        other = copy.copy(self)
        other.start = _flat(trained)
        return other

    def of_model(self, pipe: TextToImagePipeline) -> LinearisedRun:
        """The same samples and references, with J at another model that differs in weights of its UNet.

        Raises:
            ValueError: its text encoders differ, by which the prompts were encoded, or a network's structure.
        """
        own = self.prepared.pipe
        if Network(pipe.unet) != Network(own.unet):
            raise ValueError("a UNet of another structure than the frozen model's; expected the same")
        if model_digest(_encoders(pipe)) != model_digest(_encoders(own)):
            raise ValueError("other text encoders than the frozen model's; expected the same")
        other = copy.copy(self)
        other.__dict__["_references"] = self._references  # the frozen model's, whatever is looked at
        frozen = trainable_of(pipe, self.prepared.config.trainable)[1]
        other.prepared = dataclasses.replace(self.prepared, frozen=frozen)
        return other.at(self.prepared.plan.trainable.initial(frozen, jax.random.key(0)))

    @property
    def latents(self) -> jax.Array:
        """The images, n h w c."""
        return self._batches.latents.reshape(-1, *self._batches.latents.shape[2:])

    def outputs(self, trained: Trained | None = None) -> Outputs:
        """The outputs where what learns is `trained`, flat or as a mapping; by default before any step."""
        vector = self.start if trained is None else trained
        residual, timesteps = self._call("outputs", _flat(vector))
        residual = np.asarray(residual, np.float64).reshape(self.samples, -1)
        return Outputs(residual, np.sum(residual**2, axis=1), np.asarray(timesteps).reshape(-1))

    def push(self, changes: np.ndarray) -> np.ndarray:
        """J times each change: (k, P) -> (n, p, k)."""
        moved = np.asarray(self._call("push", self.start, jnp.asarray(changes)), np.float32)
        return np.moveaxis(moved, 1, -1).reshape(self.samples, -1, len(changes))

    def damage(self, changes: np.ndarray) -> np.ndarray:
        """The m that each change adds where it was 0, to first order: (k, P) -> (n, k)."""
        moved = np.asarray(self._call("damage", self.start, jnp.asarray(changes)), np.float64)
        return np.moveaxis(moved, 1, -1).reshape(self.samples, len(changes))

    def gradients(self, weights: np.ndarray | None = None) -> np.ndarray:
        """The mean over the samples of weight J^T e: (k, n) -> (k, P); by default of every batch alone."""
        count, size = self._keys.shape[0], self.samples // self._keys.shape[0]
        if weights is None:
            weights = np.kron(np.eye(count), np.full(size, float(count)))
        shaped = np.moveaxis(np.reshape(weights, (len(weights), count, size)), 0, 1)
        return np.asarray(self._call("gradients", self.start, jnp.asarray(shaped, jnp.float32)))

    def kernel(self, changes: np.ndarray) -> np.ndarray:
        """The mean of J^T J times each change: (k, P) -> (k, P)."""
        return np.asarray(self._call("kernel", self.start, jnp.asarray(changes)))

    def descent(
        self,
        depth: int,
        weights: np.ndarray | None = None,
        scale: np.ndarray | None = None,
        gradient: np.ndarray | None = None,
    ) -> Descent:
        """The Krylov space of descent from where J is.

        Args:
            depth: products with the kernel; as many steps are exact, and more are nearly so.
            weights: (k, n), starts with the gradient of each weighted mean; None: of the plain mean.
            scale: (P,), what the optimiser divides the gradient by (Adam's root of the second moment);
                None: nothing.
            gradient: (P,), of what descends, in the place of the mean of J^T e and of `weights`.
        """
        root = np.ones(1, np.float32) if scale is None else (1 / np.sqrt(scale)).astype(np.float32)
        if gradient is None:
            every = np.ones((1, self.samples))
            gradients = self.gradients(every if weights is None else np.concatenate([every, weights]))
        else:
            gradients = np.asarray(gradient, np.float32)[None]
        gradients = root * gradients
        starts = gradients[1:] if len(gradients) > 1 else gradients
        basis, kernel = krylov_basis(lambda rows: root * self.kernel(root * rows), starts, depth)
        return Descent(root * basis, kernel, basis.astype(np.float64) @ gradients[0])

    def distances(self, descent: Descent) -> QuadraticDistances:
        """The m of every sample in the coordinates of a descent."""
        return QuadraticDistances.of(self.outputs().residual, self.push(descent.directions))

    @functools.cached_property
    def _references(self) -> PyTree:
        """The frozen model's outputs at the anchor prompts, for each batch."""
        return self._products["references"](self.prepared.frozen, (self._batches, self._keys))

    def _call(self, name: str, *vectors: jax.Array) -> PyTree:
        parts = self._batches, self._keys, self._references
        return self._products[name](*vectors, self.prepared.frozen, parts)


def _encoders(pipe: TextToImagePipeline) -> dict[str, nnx.Module]:
    return {name: network for name, network in pipe.components.items() if name.startswith("text_encoder")}


def _flat(trained: Trained) -> jax.Array:
    return jnp.asarray(trained) if isinstance(trained, (jax.Array, np.ndarray)) else ravel_pytree(trained)[0]


def part_size(prepared: Prepared) -> int:
    """The samples that a step holds in memory at once."""
    return prepared.config.batch_size // prepared.config.accumulation


def check_first_order(prepared: Prepared) -> None:
    """Refuse what is no descent towards a frozen reference; see `LinearisedRun`."""
    if prepared.config.method == "edit":
        raise ValueError("method 'edit' is solved in closed form; expected method 'descent'")
    if prepared.plan.reference == "current":
        raise NotImplementedError("the reference 'current' to first order; supported: 'frozen'")
    if prepared.plan.saliency.share is not None or prepared.plan.adversary.steps:
        raise NotImplementedError(
            "saliency.share or adversary.steps to first order; supported: a descent of all that learns, "
            "without an adversary"
        )


def _shapes(tree: PyTree) -> Shapes:
    return tuple((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree))


@functools.lru_cache(maxsize=8)
def _products(plan: Plan, structure: Any, shapes: Shapes) -> dict[str, Callable[..., PyTree]]:
    """The products, compiled once for all runs of one plan."""
    leaves = [jnp.zeros(shape, dtype) for shape, dtype in shapes]
    unravel = ravel_pytree(jax.tree.unflatten(structure, leaves))[1]

    def at(
        frozen: Frozen, batch: Batch, key: jax.Array, reference: jax.Array
    ) -> Callable[[jax.Array], jax.Array]:
        def residual(vector: jax.Array) -> jax.Array:
            trained = unravel(vector)
            prediction = predict(plan, trained, frozen, batch, key)
            compared = compare(plan, trained, frozen, batch, reference, prediction, key)
            return plan.loss.at(frozen.choice).distance.residual(compared)  # pyright: ignore

        return residual

    def each(one: Callable[..., PyTree], average: bool = False) -> Callable[..., PyTree]:
        """`one` at every batch in turn; the mean over the batches, or all of them."""

        @jit
        @in_loop()
        def run(*arguments: PyTree) -> PyTree:
            *vectors, frozen, parts = arguments
            if not average:
                return jax.lax.map(lambda part: one(*vectors, frozen, *part), parts)
            shape = jax.eval_shape(lambda part: one(*vectors, frozen, *part), _first(parts))

            def add(total: jax.Array, part: PyTree) -> tuple[jax.Array, None]:
                return total + one(*vectors, frozen, *part), None

            count = jax.tree.leaves(parts)[0].shape[0]
            return jax.lax.scan(add, jnp.zeros(shape.shape, shape.dtype), parts)[0] / count

        return run

    def references(frozen, batch, key):
        return look(plan, frozen, batch, key)

    def outputs(vector, frozen, batch, key, reference):
        return at(frozen, batch, key, reference)(vector), noised(plan, batch, key)[0]

    def linear(vector, *constants):
        with forward_mode():
            return jax.linearize(at(*constants), vector)[1]

    def push(vector, changes, frozen, batch, key, reference):
        moved = linear(vector, frozen, batch, key, reference)
        return jax.lax.map(moved, changes)

    def damage(vector, changes, frozen, batch, key, reference):
        return jnp.sum(push(vector, changes, frozen, batch, key, reference) ** 2, axis=(-3, -2, -1))

    def kernel(vector, changes, frozen, batch, key, reference):
        moved = linear(vector, frozen, batch, key, reference)
        back = jax.linear_transpose(moved, vector)
        return jax.lax.map(lambda change: back(moved(change))[0], changes) / len(batch.position)

    @in_loop()
    def gradients(vector, weights, frozen, parts):
        def one(part):
            weight, (batch, key, reference) = part
            error, back = jax.vjp(at(frozen, batch, key, reference), vector)
            weighted = weight[:, :, None, None, None] * error / len(batch.position)
            return jax.lax.map(lambda cotangent: back(cotangent)[0], weighted)

        def add(total, part):
            return total + one(part) / len(weights), None

        start = jnp.zeros((weights.shape[1], vector.size), vector.dtype)
        return jax.lax.scan(add, start, (weights, parts))[0]

    return {
        "references": each(references),
        "outputs": each(outputs),
        "push": each(push),
        "damage": each(damage),
        "kernel": each(kernel, average=True),
        "gradients": jit(gradients),
    }


def _first(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[0], tree)
