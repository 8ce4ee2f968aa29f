"""The first steps of a run, tried at several settings, and a race between the settings.

    FirstSteps -> the mean m of held-out samples after 0, 1, 2, ... steps of plain descent, at any setting
    race       -> lines (a divergence at a sigma) at learning rates that are raised or lowered while that
                  helps; a run ends once it is slower than the fastest before it

What a kernel at the frozen model predicts is the course along the tangent, and the outputs lead farther than
it: a step that takes half of m is beyond any tangent. So the prediction says where to begin and in which
order, and the race decides.

The fastest of many runs is one that its samples favour. A run is at the goal when the upper end of an
interval of its m is: that of a step at the edge of stability, which suits some samples and harms others, is
wide.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from fdiv_jax.arrays import Parameters
from fdiv_jax.compiling import jit
from fdiv_jax.divergences import divergence
from fdiv_jax.unlearning.batch import Batch
from fdiv_jax.unlearning.config_parts import OptimiserConfig
from fdiv_jax.unlearning.losses import AtVariance
from fdiv_jax.unlearning.prepare import prepare, share_program
from fdiv_jax.unlearning.state import Plan, TrainState, initial_state
from fdiv_jax.unlearning.step import ReferenceFunction, References, make_reference, make_step
from fdiv_jax.unlearning.trainable import Frozen

if TYPE_CHECKING:
    from fdiv_jax.unlearning.data import AnchorData
    from fdiv_jax.unlearning.prepare import Prepared

__all__ = ["RATE_FACTOR", "Course", "FirstSteps", "race", "steps_to"]

RATE_FACTOR = 1.5
"""Between two learning rates of a line."""
_DIVERGED = 4.0
"""Times the first m at which a run is given up."""


@dataclass(frozen=True)
class Course:
    """A setting of plain gradient descent, and what m does at it.

    Attributes:
        divergence: its name.
        sigma: of the configuration.
        learning_rate: of plain gradient descent.
        steps: until `high` is at the goal, between whole steps by interpolation; infinite where it is not
            reached.
        m: the mean m of the target's samples after 0, 1, 2, ... steps, at sigma 1.
        high: two standard errors above it, those of what is left of the same samples' m at the start; where
            m is predicted, m itself.
    """

    divergence: str
    sigma: float
    learning_rate: float
    steps: float
    m: np.ndarray
    high: np.ndarray

    def at(self, learning_rate: float) -> Course:
        """The setting at another learning rate, where nothing is known of m."""
        return replace(self, learning_rate=learning_rate, steps=np.inf, m=self.m[:1], high=self.high[:1])

    def faster_than(self, other: Course) -> bool:
        """Whether it is at the goal first; where neither arrives, whether it is lower after as many steps."""
        if self.steps != other.steps:
            return self.steps < other.steps
        last = min(len(self.high), len(other.high)) - 1
        mine, theirs = np.nan_to_num([self.high[last], other.high[last]], nan=np.inf, posinf=np.inf)
        return bool(mine < theirs)


def steps_to(m: np.ndarray, goal: float) -> float:
    """When a curve of m, one value per step, is first at the goal, by geometric interpolation; infinite where
    it never is."""
    below = np.flatnonzero(np.nan_to_num(m, nan=np.inf) <= goal)
    if not below.size:
        return np.inf
    at = int(below[0])
    if at == 0:
        return 0.0
    return at - 1 + float(np.log(m[at - 1] / goal) / np.log(m[at - 1] / max(m[at], 1e-300)))


class FirstSteps:
    """Runs of plain gradient descent from the frozen model, on the run's own batches and with its noise.

    One compiled step serves every divergence, sigma and learning rate.

    Attributes:
        start: the mean m before the first step.
    """

    def __init__(
        self,
        prepared: Prepared,
        data: AnchorData,
        divergences: Sequence[str],
        measure: Callable[[Parameters | None], np.ndarray],
    ) -> None:
        """Make ready.

        Args:
            prepared: the run; its loss, divergence, sigma and optimiser play no part.
            data: its images and prompts.
            divergences: that are tried.
            measure: m of the held-out samples, (n,), where what learns is given; None: before the first step.
                Of one sample there is no standard error.
        """
        plain = replace(
            prepared.config,
            loss="exact",
            sigma=1.0,
            normalise_curvature=False,
            optimiser=OptimiserConfig(name="sgd"),
        )
        runs = [
            prepare(prepared.pipe, replace(plain, divergence=name), model=prepared.model)
            for name in divergences
        ]
        runs = share_program(runs)
        self._frozen = dict(zip(divergences, (run.frozen for run in runs), strict=True))
        self._plan, self._data, self._config, self._measure = runs[0].plan, data, plain, measure
        self._look, self._step = _programs(self._plan)
        self._key, self._root = jax.random.split(jax.random.key(plain.seed))  # as `Run` has it
        self._seen: dict[int, tuple[Batch, jax.Array, References]] = {}
        self._before = measure(None)
        self.start = float(self._before.mean())

    def run(self, setting: Course, goal: float, most: float) -> tuple[Course, np.ndarray]:
        """The course at a setting until m is at the goal, it diverges, or more than `most` steps are needed;
        and what has been changed by then, flat, (P,)."""
        frozen, m, high = self._frozen[setting.divergence], [self.start], [self.start]
        state = initial_state(self._plan, frozen, setting.learning_rate, self._key)
        first = state.trained
        for number in range(int(np.ceil(most))):
            state = self._step(state, frozen, *self._batch(number), setting.sigma**2)
            now = self._measure(state.trained)
            m.append(float(now.mean()))
            high.append(m[-1] + 2 * self._standard_error(now))
            if not m[-1] < _DIVERGED * self.start or high[-1] <= goal:
                break
        steps = steps_to(np.array(high), goal)
        change = np.asarray(ravel_pytree(state.trained)[0] - ravel_pytree(first)[0], np.float32)
        steps = steps if steps <= most else np.inf
        return replace(setting, steps=steps, m=np.array(m), high=np.array(high)), change

    def _standard_error(self, now: np.ndarray) -> float:
        """Of the share of the start that is left, times the start: a ratio of two means over the same
        samples."""
        if now.size < 2:
            return 0.0
        apart = now - self._before * (now.mean() / self.start)
        return float(apart.std(ddof=1) / np.sqrt(now.size))

    def _batch(self, number: int) -> tuple[Batch, jax.Array, References]:
        """The batch of a step, its key, and the frozen model's outputs, which all runs share."""
        if number not in self._seen:
            batch = self._data.batch(self._config.seed, number, self._config.batch_size)
            key = jax.random.fold_in(self._root, number)
            frozen = next(iter(self._frozen.values()))
            self._seen[number] = batch, key, self._look(frozen, batch, key)
        return self._seen[number]


@functools.lru_cache(maxsize=2)
def _programs(plan: Plan) -> tuple[ReferenceFunction, Callable[..., TrainState]]:
    """The frozen model's outputs, and the training step at any sigma^2; compiled once for all runs of one
    plan."""

    def step(
        state: TrainState,
        frozen: Frozen,
        batch: Batch,
        key: jax.Array,
        reference: References,
        variance: jax.Array,
    ) -> TrainState:
        at = replace(plan, loss=AtVariance(plan.loss.at(frozen.choice), variance))
        return make_step(at)(state, frozen, batch, reference, key)[0]

    return jit(make_reference(plan)), jit(step)


def race(
    first_steps: FirstSteps, lines: Sequence[Course], goal: float, limit: int, runs: int
) -> tuple[list[Course], np.ndarray]:
    """The courses of at most `runs` runs, the fastest first, and what the fastest changed.

    The first line begins at its own learning rate, the others where m begins to fall as fast as in the
    fastest run so far; each goes on to higher rates, or to lower ones, while that helps. The last two runs
    are half as far from the fastest.

    Args:
        first_steps: to run.
        lines: settings to begin at, the most promising first; of all but the first the learning rate plays no
            part.
        goal: the mean m to reach.
        limit: the most steps of a run.
        runs: the most runs, at least 1.
    """
    made: list[Course] = []
    change = np.zeros(0, np.float32)

    def attempt(setting: Course, allowed: int) -> Course | None:
        nonlocal change
        if len(made) >= allowed:
            return None
        fastest = min((each.steps for each in made), default=np.inf)
        found, moved = first_steps.run(setting, goal, min(fastest, limit))
        if not made or found.faster_than(made[0]):
            made.insert(0, found)
            change = moved
        else:
            made.append(found)
        return found

    def better(course: Course, ratio: float, allowed: int) -> Course | None:
        found = attempt(course.at(course.learning_rate * ratio), allowed)
        return found if found is not None and found.faster_than(course) else None

    most = max(runs - 2, 1)
    for line in lines:
        if made:
            speed = made[0].learning_rate * _pull(made[0], first_steps.start)
            line = line.at(speed / _pull(line, first_steps.start))
        begun = best = attempt(line, most)
        for ratio in (RATE_FACTOR, 1 / RATE_FACTOR):
            while best is not None and (found := better(best, ratio, most)):
                best = found
            if best is not begun:
                break
    fastest = made[0]
    _ = better(fastest, RATE_FACTOR**0.5, runs) or better(fastest, RATE_FACTOR**-0.5, runs)
    return [made[0], *sorted(made[1:], key=lambda each: (each.steps, each.m[-1]))], change


def _pull(course: Course, m: float) -> float:
    """How fast m falls at first, over the learning rate, in units of the kernel."""
    weight = divergence(course.divergence).gaussian_weight(np.float32(m / course.sigma**2))
    return float(weight) / course.sigma**2
