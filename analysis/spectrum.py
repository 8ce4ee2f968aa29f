"""The spectrum of the training game on a real network, by Jacobian-vector products of the step itself.

    pipe, group, critic -> StepGame; batch, key, window of timesteps -> Point    the self-anchored equilibrium
    StepGame, Point, Speeds -> `displacement` -> JVPs -> Arnoldi (matfree) -> measured eigenvalues
    StepGame, Point -> `blocks`: Gram and K K^T, from VJPs of the critic's and the network's own outputs
    (Gram, K K^T), f -> `blocks.predicted_eigenvalues`

The point: target prompt = anchor prompt, trained weights = frozen weights, and the critic's last layer is
zero but for its bias, so that T = f'(1) everywhere. There P = Q, and the game is at an exact equilibrium
whatever the network, the prompts and the data are. All parameters of the trainable group and of the critic
take part. The critic is the training critic with its nonlinearities, without spectral normalisation, under
which no layer can be zero; any weights of its hidden layers give an equilibrium, and here they keep the size
of signals.

One training step moves the critic, as often as it is asked to, then the model against the new critic.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from matfree import decomp
from numpy.typing import NDArray

from fdiv_jax.arrays import Parameters, PyTree
from fdiv_jax.divergences import Divergence, SwitchedDivergence
from fdiv_jax.nn import UNet2DConditionModel, abstract_module
from fdiv_jax.pipeline import TextToImagePipeline
from fdiv_jax.unlearning import (
    Batch,
    Comparison,
    ConvolutionalCritic,
    CriticConfig,
    CriticState,
    Frozen,
    Network,
    OptimiserConfig,
    Plan,
    SquaredDistance,
    TrainState,
    VariationalLoss,
    make_optimiser,
    make_reference,
    make_step,
    trainable_of,
)
from fdiv_jax.unlearning.step import predict
from fdiv_jax.unlearning.timesteps import TimestepRange

from .blocks import Blocks

__all__ = [
    "DirectOutput",
    "Point",
    "Ritz",
    "Speeds",
    "StepGame",
]

TreeT = TypeVar("TreeT")
_DESCENT = OptimiserConfig("sgd")
_GAIN = math.sqrt(6 / (1 + 0.2**2))
"""From the critic's first kernels, of variance 1/(3 inputs), to those that keep the size of signals through
leaky ReLUs of slope 0.2 (He et al. 2015)."""


@dataclass(frozen=True)
class DirectOutput:
    """A divergence whose critic gives T itself, T = v, in place of T = g(v)."""

    divergence: Divergence

    def activation(self, v: ArrayLike) -> jax.Array:
        """T = v."""
        return jnp.asarray(v)

    def conjugate_of_activation(self, v: ArrayLike) -> jax.Array:
        """f*(v)."""
        return self.divergence.conjugate(v)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.divergence, name)


@dataclass(frozen=True)
class Window(TimestepRange):
    """Timesteps from `first` to `last`, all equally likely; the ends may be traced, and are not checked."""

    first: int | jax.Array
    last: int | jax.Array

    def __post_init__(self) -> None:
        """Leaves the ends as they are."""


@dataclass(frozen=True)
class GradientCritic(ConvolutionalCritic):
    """The training critic, ascending by plain gradient steps; their size is part of the optimiser's state."""

    @cached_property
    def optimiser(self) -> optax.GradientTransformation:
        """Gradient descent."""
        return make_optimiser(_DESCENT, 0.0)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Point:
    """The arrays of a game at its self-anchored point.

    Attributes:
        frozen: the model.
        batch: the samples, whose anchor prompts are their target prompts.
        key: of their noise and timesteps.
        window: (2,), the first and the last timestep.
        trained: the parameters of the group, as the step learns them.
        critic: the weights of the critic, its last layer zero.
    """

    frozen: Frozen
    batch: Batch
    key: jax.Array
    window: jax.Array
    trained: Parameters
    critic: PyTree


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Speeds:
    """What tells one game at a point from another.

    Attributes:
        player: index into `StepGame.players`.
        level: v at the equilibrium.
        model_step, critic_step: learning rates a and b.
    """

    player: jax.Array
    level: jax.Array
    model_step: jax.Array
    critic_step: jax.Array


@dataclass(frozen=True)
class Ritz:
    """What Arnoldi finds of one game's Jacobian.

    Attributes:
        values: nu = mu - 1, complex, largest modulus first.
        residuals: |J x - nu x| / |nu| for the unit vectors x of each.
        basis: (n, size), orthonormal.
        vectors: (size, size), x in the basis, one column for each value.
    """

    values: np.ndarray
    residuals: np.ndarray
    basis: np.ndarray
    vectors: np.ndarray

    def plane(self, place: int, leading: int) -> np.ndarray:
        """Real and imaginary part of x, (n, 2): they span a plane that a step maps onto itself.

        x is turned so that its real part is longest in the first `leading` coordinates.
        """
        x: NDArray[np.complex128] = self.basis @ self.vectors[:, place]
        x = x * np.exp(-0.5j * np.angle(np.sum(x[:leading] ** 2)))
        return np.stack([x.real, x.imag], axis=1)


class StepGame:
    """The training step as a game of one network, one trainable group and one critic; of many divergences.

    All that differs between its games, batches and windows of timesteps is an argument of compiled code.
    """

    def __init__(
        self,
        plan: Plan,
        critic: ConvolutionalCritic,
        divergences: Sequence[Divergence],
        critic_steps: int = 1,
    ):
        """`plan` says network, trainable and schedule; each divergence is played with T = v and T = g(v)."""
        self.members = tuple(divergences)
        self.players: tuple[Any, ...] = (*map(DirectOutput, self.members), *self.members)
        plain = dataclasses.replace(critic.config, spectral_norm=False, warmup=0, steps=critic_steps)
        self._critic = GradientCritic(critic.latent_shape, plain, critic.schedule)
        self._distance = SquaredDistance(plan.schedule, "mean", 1.0)
        self._base = dataclasses.replace(plan, optimiser=_DESCENT)

    @classmethod
    def of(
        cls,
        pipe: TextToImagePipeline,
        group: str,
        divergences: Sequence[Divergence],
        *,
        rank: int | None = None,
        critic: CriticConfig | None = None,
        critic_steps: int = 1,
    ) -> tuple[StepGame, Frozen]:
        """The game of a pipeline and its frozen parameters in float64, within `jax.enable_x64(True)`.

        Args:
            pipe: the model.
            group: what learns, see `fdiv_jax.unlearning.select`.
            divergences: those to play with.
            rank: of a LoRA; None: the weights themselves.
            critic: sizes of the critic.
            critic_steps: of the critic for each of the model.

        Raises:
            RuntimeError: float64 is not enabled.
        """
        if jnp.result_type(float) != jnp.float64:
            raise RuntimeError("the spectrum is measured in float64; call this inside jax.enable_x64(True)")
        trainable, frozen, _ = trainable_of(pipe, group, rank=rank)
        double = {name: jnp.asarray(value, jnp.float64) for name, value in frozen.unet.items()}
        abstract = abstract_module(
            lambda rngs: UNet2DConditionModel(
                pipe.unet.config, rngs=rngs, dtype=jnp.float64, param_dtype=jnp.float64
            )
        )
        player: Any = ConvolutionalCritic(pipe.latent_shape, critic or CriticConfig(), pipe.schedule)
        loss = VariationalLoss(divergences[0], SquaredDistance(pipe.schedule), critic=player)
        window = Window(0, pipe.schedule.num_train_timesteps - 1)
        plan = Plan(Network(abstract), trainable, loss, pipe.schedule, window)
        return cls(plan, player, divergences, critic_steps), dataclasses.replace(frozen, unet=double)

    def point(
        self, frozen: Frozen, batch: Batch, key: jax.Array, window: tuple[int, int], critic_key: jax.Array
    ) -> Point:
        """The self-anchored point on a batch, whose anchor prompts are replaced by its target prompts."""
        batch = jax.tree.map(
            lambda leaf: jnp.asarray(leaf, float) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf,
            dataclasses.replace(batch, anchor_text=batch.target_text),
        )
        critic = self._critic.initial(critic_key).weights
        critic = jax.tree.map(lambda leaf: _GAIN * leaf, critic)  # biases begin at zero
        critic["out"]["kernel"][...] = jnp.zeros_like(critic["out"]["kernel"][...])
        trained = self._base.trainable.initial(frozen, jax.random.key(0))
        trained = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), trained)
        return Point(frozen, batch, key, jnp.asarray(window, jnp.int32), trained, critic)

    def speeds(self, d: Divergence, activation: bool, model_step: float, critic_step: float) -> Speeds:
        """The game with one divergence, T = g(v) or T = v, and the learning rates a and b."""
        place = self.members.index(d) + (len(self.members) if activation else 0)
        level = d.equilibrium[1 if activation else 0]
        numbers = (jnp.asarray(number, float) for number in (level, model_step, critic_step))
        return Speeds(jnp.asarray(place, jnp.int32), *numbers)

    # --- the step ----------------------------------------

    def _plan(self, point: Point, speeds: Speeds) -> Plan:
        functions: Any = SwitchedDivergence(self.players, speeds.player)
        loss = VariationalLoss(functions, self._distance, critic=cast(Any, self._critic))
        window = Window(*point.window)
        return dataclasses.replace(self._base, loss=loss, timesteps=window)

    def displacement(self, point: Point, speeds: Speeds) -> tuple[Callable[[jax.Array], jax.Array], int]:
        """One step of training, minus where it began, in balanced coordinates; the equilibrium is z = 0.

            z = ((theta - theta*) / sqrt(a), (omega - omega*) / sqrt(b))

        Returns:
            The function, and how many numbers z has.
        """
        plan, critic = self._plan(point, speeds), self._critic
        step, spectral = make_step(plan), critic.initial(jax.random.key(0)).spectral
        weights = jax.tree.map(lambda leaf: leaf, point.critic)
        weights["out"]["bias"][...] = jnp.full_like(weights["out"]["bias"][...], speeds.level)
        start, unravel = ravel_pytree((point.trained, weights))
        model_size = sum(leaf.size for leaf in jax.tree.leaves(point.trained))
        is_model = jnp.arange(start.size) < model_size
        scale = jnp.sqrt(jnp.where(is_model, speeds.model_step, speeds.critic_step))
        # In the program of the step, so that P = Q to the last bit.
        reference = make_reference(plan)(point.frozen, point.batch, point.key)

        def move(z: jax.Array) -> jax.Array:
            trained, weights = unravel(start + scale * z)
            moments = make_optimiser(_DESCENT, cast(float, speeds.model_step)).init(trained)
            ascent = make_optimiser(_DESCENT, cast(float, speeds.critic_step)).init(weights)
            state = TrainState(
                jnp.zeros((), jnp.int32), trained, moments, CriticState(weights, spectral, ascent)
            )
            after, _ = step(state, point.frozen, point.batch, reference, point.key)
            assert after.critic is not None
            return (ravel_pytree((after.trained, after.critic.weights))[0] - start) / scale - z

        return move, start.size

    @cached_property
    def _krylov(self) -> Callable[..., tuple[jax.Array, ...]]:
        @partial(jax.jit, static_argnames="size")
        def run(point: Point, speeds: Speeds, key: jax.Array, size: int) -> tuple[jax.Array, ...]:
            move, count = self.displacement(point, speeds)
            at_rest, push = jax.linearize(move, jnp.zeros(count))
            first = jax.random.normal(key, (count,))
            found: Any = decomp.hessenberg(size, reortho="full", custom_vjp=False)(push, first)
            return found.J_small, found.Q_tall.T, jnp.linalg.norm(found.residual), jnp.abs(at_rest).max()

        return run

    def eigenvalues(self, point: Point, speeds: Speeds, *, size: int, key: jax.Array) -> Ritz:
        """Ritz values of the step's Jacobian from a Krylov space of `size` dimensions.

        Raises:
            RuntimeError: the point is no equilibrium.

        Source: Arnoldi 1951; the factorisation is `matfree.decomp.hessenberg`, orthogonalised in full.
        """
        matrix, basis, left, at_rest = map(np.asarray, self._krylov(point, speeds, key, size))
        if not at_rest < 1e-9:
            raise RuntimeError(f"expected an equilibrium, got a step of {at_rest:.3g} from it")
        values, vectors = np.linalg.eig(matrix)
        residuals = float(left) * np.abs(vectors[-1]) / np.maximum(np.abs(values), 1e-300)
        order = np.argsort(-np.abs(values))
        return Ritz(values[order], residuals[order], basis, vectors[:, order])

    @cached_property
    def _play(self) -> Callable[..., jax.Array]:
        @partial(jax.jit, static_argnames="steps")
        def run(point: Point, speeds: Speeds, plane: jax.Array, push: jax.Array, steps: int) -> jax.Array:
            move, _ = self.displacement(point, speeds)
            read = jnp.linalg.solve(plane.T @ plane, plane.T)

            def advance(z: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
                z = z + move(z)
                return z, read @ z

            start = push * plane[:, 0]
            path = jax.lax.scan(advance, start, None, length=steps)[1]
            return jnp.concatenate([(read @ start)[None], path])

        return run

    def orbit(
        self, point: Point, speeds: Speeds, plane: np.ndarray, push: float, *, steps: int
    ) -> np.ndarray:
        """Training steps from a push out of the equilibrium within a plane.

        Args:
            point: the equilibrium.
            speeds: of the game.
            plane: see `Ritz.plane`.
            push: the length of the start along the plane's first vector.
            steps: how many.

        Returns:
            (steps + 1, 2), the coordinates in the plane.
        """
        return np.asarray(self._play(point, speeds, jnp.asarray(plane), jnp.asarray(push, float), steps))

    @cached_property
    def _dense(self) -> Callable[..., jax.Array]:
        @jax.jit
        def run(point: Point, speeds: Speeds) -> jax.Array:
            move, count = self.displacement(point, speeds)
            _, push = jax.linearize(move, jnp.zeros(count))
            return _mapped(push, jnp.eye(count)).T

        return run

    def jacobian(self, point: Point, speeds: Speeds) -> np.ndarray:
        """The whole Jacobian of `displacement` at the equilibrium, one column for every parameter."""
        return np.asarray(self._dense(point, speeds))

    # --- the blocks ----------------------------------------

    def _read_out(self, point: Point, out: jax.Array, trained: Parameters) -> jax.Array:
        """v with the numbers `out` in the last layer, one number a patch."""
        weights = jax.tree.map(lambda leaf: leaf, point.critic)
        weights["out"] = ravel_pytree(point.critic["out"])[1](out)
        window = Window(*point.window)
        plan = dataclasses.replace(self._base, timesteps=window)
        prediction = predict(plan, trained, point.frozen, point.batch, point.key)
        batch = point.batch
        both = Comparison(prediction, prediction, batch.mask, batch.position)
        spectral = self._critic.initial(jax.random.key(0)).spectral
        return self._critic.scores(weights, spectral, both)[1].ravel()

    @cached_property
    def _gradients(self) -> Callable[[Point], jax.Array]:
        @jax.jit
        def run(point: Point) -> jax.Array:
            zero = jnp.zeros_like(ravel_pytree(point.critic["out"])[0])
            return jax.jacrev(lambda out: self._read_out(point, out, point.trained))(zero)

        return run

    @cached_property
    def _coupling(self) -> Callable[[Point, jax.Array], jax.Array]:
        @jax.jit
        def run(point: Point, rows: jax.Array) -> jax.Array:
            zero = jnp.zeros_like(ravel_pytree(point.critic["out"])[0])

            def mean_gradient(trained: Parameters) -> jax.Array:
                return jax.grad(lambda out: jnp.mean(self._read_out(point, out, trained)))(zero)

            _, pull = jax.vjp(mean_gradient, point.trained)
            k = _mapped(lambda row: pull(row)[0], rows)
            return sum((leaf := each.reshape(len(rows), -1)) @ leaf.T for each in jax.tree.leaves(k))  # pyright: ignore[reportReturnType]

        return run

    def blocks(self, point: Point) -> Blocks:
        """Gram and K K^T at the point: one vector-Jacobian product for each direction of the critic.

        With a last layer of zeros the gradient of v with respect to every other layer is zero, and stays so
        along theta: those directions of the critic neither move nor are seen. The same holds for taps of the
        last layer's kernel that fall on padding alone.
        """
        of_v = np.asarray(self._gradients(point))
        moving = np.flatnonzero(np.abs(of_v).max(0) > 0)
        gram = of_v[:, moving].T @ of_v[:, moving] / len(of_v)
        square = np.asarray(self._coupling(point, jnp.eye(of_v.shape[1])[moving]))
        return Blocks(gram, (square + square.T) / 2)


def _mapped(function: Callable[[jax.Array], TreeT], rows: jax.Array, together: int = 13) -> TreeT:
    """`function` of every row, some at a time; zeros fill the last lot, so that one program serves all."""
    full = jnp.pad(rows, ((0, -len(rows) % together), (0, 0)))
    return jax.tree.map(lambda leaf: leaf[: len(rows)], jax.lax.map(function, full, batch_size=together))
