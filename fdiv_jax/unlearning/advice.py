"""Which divergence, sigma and step: predicted from the frozen model, then tried on the run's first steps.

    LinearisedRun -> the m of every sample along the directions in which descent moves
    every divergence x sigma x step descends there, on batches of the run's size  ->  predicted steps
    of each divergence x sigma, the fastest that a step a little larger or smaller does not make slower
    a race between those, from the frozen model, at this step and at others       ->  the advice

Without the race the advice is what is predicted to be the fastest. Descent is the plain one
(`--optimiser.name sgd`): its path is what the kernel predicts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from fdiv_jax.arrays import Parameters
from fdiv_jax.divergences import divergence
from fdiv_jax.files import JsonObject
from fdiv_jax.theory import QuadraticDistances, quadratic_descent
from fdiv_jax.unlearning import _validate as check
from fdiv_jax.unlearning._phrases import first_shown
from fdiv_jax.unlearning.concepts import target_words
from fdiv_jax.unlearning.config_parts import PreservationConfig
from fdiv_jax.unlearning.data import AnchorData
from fdiv_jax.unlearning.first_steps import RATE_FACTOR, Course, FirstSteps, race, steps_to
from fdiv_jax.unlearning.library import known_concepts
from fdiv_jax.unlearning.linearised import LinearisedRun, part_size
from fdiv_jax.unlearning.prepare import Cache, Prepared, prepare

__all__ = ["DIVERGENCES", "Advice", "advise", "check_goal", "damage_to"]

DIVERGENCES = ("kl", "squared_hellinger", "jensen_shannon", "le_cam", "jeffreys", "pearson_chi2")
"""The divergences that are compared by default."""
_SIGMAS = (0.5, 1.0, 2.0, 4.0)
"""Multiples of the sigma at which the mean m over sigma^2 is 1."""
_RATIO = 1.1
"""Between two steps that are compared."""
_GRID = _RATIO ** np.arange(-28.0, 15.0)
"""Steps, in units of sigma^2 / (k_max w_f): 2 is the limit of stability where the weight is w_f."""
_OTHER = 1000
"""What the seeds of the images that tell m in the race, and of their noise, differ by from the run's."""
_ALIKE = float(np.log(RATE_FACTOR))
"""Two weightings of the samples are one where no weight differs by more than two learning rates do."""
_WINDOWS = 4
"""Groups of timesteps whose gradients start the Krylov space, so that it holds what weights by m prefer."""
_PLAIN: JsonObject = {
    "divergence": "kl",
    "loss": "closed",
    "sigma": 1.0,
    "normalise_curvature": False,
}
"""The settings in whose unit everything is predicted."""


@dataclass(frozen=True)
class Advice:
    """What is known of a run before its first step.

    Attributes:
        prompts: the target prompts.
        windows: first and last timestep of each group of timesteps.
        m: (prompts, windows), mean m at sigma 1; nan where no sample fell.
        start, goal: mean m of the target's samples before the first step, and the m that is asked for.
        eigenvalues: of the mean kernel, from the largest down.
        shares: the share of the start that each accounts for.
        predicted: what each divergence is predicted to do at its best sigma and step, the fastest first.
        tried: what the runs of the race did, the fastest first; none where there was no race.
        change: of what learns, flat, when the recommended one is at the goal, or at its last step: after
            the race as it was, else as predicted; see `LinearisedRun`.
    """

    prompts: tuple[str, ...]
    windows: tuple[tuple[int, int], ...]
    m: np.ndarray
    start: float
    goal: float
    eigenvalues: np.ndarray
    shares: np.ndarray
    predicted: tuple[Course, ...]
    tried: tuple[Course, ...]
    change: np.ndarray

    @property
    def best(self) -> Course:
        """The recommended one."""
        return (*self.tried, *self.predicted)[0]


def advise(
    prepared: Prepared,
    data: AnchorData,
    *,
    goal: float = 0.5,
    divergences: Sequence[str] = DIVERGENCES,
    limit: int = 60,
    samples: int = 48,
    depth: int = 6,
    runs: int = 28,
    cache: Cache = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Advice:
    """Predict the course of a run with every divergence, try the likeliest, and choose.

    Args:
        prepared: the run; its divergence, sigma and optimiser play no part.
        data: its images and prompts.
        goal: the share of the first m that is to be left.
        divergences: to choose from.
        limit: the most steps of a run, predicted or tried.
        samples: at which the model is looked at, rounded up to whole batches; as many of other images tell
            what m is in the race.
        depth: products with the kernel for each group of timesteps; see `LinearisedRun.descent`.
        runs: of the race, at most; 0: the advice is what is predicted.
        cache: where images are kept, see `unlearn`.
        tell: is told in a few words what is done next.

    Raises:
        ValueError: a goal that is not between 0 and 1, no divergences; a run whose m is 0 at every sample.
        NotImplementedError: see `LinearisedRun`.
    """
    share = check_goal(goal, limit, samples)
    check.whole("runs", runs, least=0)
    divergences = tuple(dict.fromkeys(divergences))
    if not divergences:
        raise ValueError("no divergences to choose from; expected at least one")
    config = replace(prepared.config, **_PLAIN)
    prepared = prepare(prepared.pipe, config, model=prepared.model)
    size = part_size(prepared)
    count = -(-samples // size)
    run = LinearisedRun.of(prepared, data, count)
    outputs = run.outputs()
    pairs = np.concatenate([data.choose(config.seed, number, size)[0] for number in range(count)])
    ours = pairs < len(data.pairs) - data.retained
    start = float(outputs.m[ours].mean())
    if not start > 0:
        raise ValueError("m is 0 at every sample: the model does the same at the target as at the anchor")
    groups = _groups(outputs.timesteps)
    weights = np.stack([(groups == g).astype(float) for g in np.unique(groups)])
    descent = run.descent(depth, weights)
    distances = run.distances(descent)
    eigenvalues, removed = distances.spectrum
    batches = _batches(limit, config.batch_size, run.samples, config.seed)
    found = [
        _predicted(name, sigma, distances, ours, share * start, float(eigenvalues[0]), batches)
        for name in divergences
        for sigma in np.sqrt(start) * np.array(_SIGMAS)
    ]
    found.sort(key=lambda each: each.rank)
    fastest = [next(each for each in found if each.course.divergence == name) for name in divergences]
    fastest.sort(key=lambda each: each.rank)
    tried, change = (), (fastest[0].end @ descent.directions).astype(np.float32)
    if runs:
        tell("trying the first steps")
        first_steps = FirstSteps(prepared, data, divergences, _held_out(prepared, data, samples, cache))
        lines = _distinct([each.course for each in found], outputs.m[ours], share * start)
        tried, change = race(first_steps, lines, share * first_steps.start, limit, runs)
    windows = tuple(
        (int(outputs.timesteps[groups == g].min()), int(outputs.timesteps[groups == g].max()))
        for g in np.unique(groups)
    )
    table = np.full((len(data.pairs) - data.retained, len(windows)), np.nan)
    for row in range(len(table)):
        for column, group in enumerate(np.unique(groups)):
            chosen = (pairs == row) & (groups == group)
            if chosen.any():
                table[row, column] = outputs.m[chosen].mean()
    return Advice(
        tuple(pair.target for pair in data.pairs[: len(table)]),
        windows,
        table,
        start,
        share * start,
        eigenvalues,
        removed / outputs.m.mean(),
        tuple(each.course for each in fastest),
        tuple(tried),
        change,
    )


def damage_to(prepared: Prepared, advice: Advice, images: int = 1, cache: Cache = None) -> dict[str, float]:
    """Predicted m, at the end of the advised run, at each other concept of the model: to first order, before
    any training.

    The mean over the concept's prompts that show no target; of a model without concepts, over the retained
    prompts, each by itself.

    Args:
        prepared: the run.
        advice: for it.
        images: that the frozen model draws at each prompt, at least 1.
        cache: where they are kept, see `unlearn`.
    """
    words = target_words(
        known_concepts(prepared.pipe.concepts, prepared.config.defined), prepared.config.erasures
    )
    named = {concept.name: concept.prompts for concept in prepared.pipe.concepts.values()}
    named = named or {prompt: (prompt,) for prompt in prepared.retained}
    free = {
        name: [prompt for prompt in prompts if not first_shown(prompt, words)]
        for name, prompts in named.items()
    }
    free = {name: prompts for name, prompts in free.items() if prompts and name not in words}
    every = list(dict.fromkeys(prompt for prompts in free.values() for prompt in prompts))
    if not every:
        return {}
    settings = replace(prepared.config.images, number=images * len(every), folder=None)
    unit = prepare(prepared.pipe, replace(prepared.config, **_PLAIN), model=prepared.model)
    run, shown = LinearisedRun.elsewhere(unit, every, settings, cache)
    damage = run.damage(advice.change[None])[:, 0]
    at = {prompt: float(damage[shown == place].mean()) for place, prompt in enumerate(every)}
    means = {name: float(np.mean([at[prompt] for prompt in prompts])) for name, prompts in free.items()}
    return dict(sorted(means.items(), key=lambda each: -each[1]))


def check_goal(goal: float, limit: int, samples: int) -> float:
    """The goal, with the other numbers that `advise` asks for checked."""
    check.whole("limit", limit, least=1)
    check.whole("samples", samples, least=1)
    return check.real("goal", goal, above=0, below=1)


class _Predicted(NamedTuple):
    """What a divergence at one sigma is predicted to do at its best step.

    Attributes:
        course: at that step.
        rank: the order of what is recommended: steps to the goal, then m at the end, each at the worst of
            three neighbouring steps.
        end: its place in the coordinates of the descent at the goal, or at the last step.
    """

    course: Course
    rank: tuple[float, float]
    end: np.ndarray


def _predicted(
    name: str,
    sigma: float,
    distances: QuadraticDistances,
    ours: np.ndarray,
    goal: float,
    largest: float,
    batches: np.ndarray,
) -> _Predicted:
    d = divergence(name)
    weight = float(d.gaussian_weight(np.float32(distances.start[ours].mean() / sigma**2)))
    rates = sigma**2 / (largest * weight) * _GRID
    z = quadratic_descent(d, distances, rates, len(batches), sigma=sigma, batches=batches)
    m = distances(z)[..., ours].mean(-1)
    steps = np.array([steps_to(m[:, k], goal) for k in range(_GRID.size)])
    # A network is not linear: a step that is a little larger or smaller must do as well.
    late = _worst_of_three(steps)
    left = _worst_of_three(np.nan_to_num(m[-1], nan=np.inf))
    k = int(np.argmin(late if np.isfinite(late).any() else left))
    rank = (float(late[k]), float(left[k]))
    k = k + 1
    end = int(min(np.ceil(steps[k]), len(batches)))
    course = Course(name, float(sigma), float(rates[k]), float(steps[k]), m[:, k], m[:, k])
    return _Predicted(course, rank, np.nan_to_num(z[end, k]))


def _distinct(courses: Sequence[Course], m: np.ndarray, goal: float) -> list[Course]:
    """The courses without those at which f weighs the samples as at one before them: such runs are the same
    at some other learning rate.

    Args:
        courses: of which the first of each kind stays.
        m: of the samples, at sigma 1.
        goal: the smallest m that matters.
    """
    at = np.geomspace(min(goal, m.min()), m.max(), 32)
    at = at[at > 1e-3 * goal]
    kinds: list[np.ndarray] = []
    kept = []
    for course in courses:
        log_weight = np.asarray(
            divergence(course.divergence).gaussian_log_weight(np.float32(at / course.sigma**2)), np.float64
        )
        kind = log_weight - log_weight.mean()
        if not any(np.abs(kind - other).max() < _ALIKE for other in kinds):
            kinds.append(kind)
            kept.append(course)
    return kept


def _held_out(
    prepared: Prepared, data: AnchorData, count: int, cache: Cache
) -> Callable[[Parameters | None], np.ndarray]:
    """m of the target at each of at least `count` images that no step sees, (n,), each with noise of its own;
    of a user's images, which are all that there are, at each with each prompt, the mean over several
    noises."""
    config = prepared.config
    if prepared.own is None:
        images = replace(config.images, number=count, seed=config.images.seed + _OTHER)
        plain = replace(config, images=images, retained=(), preservation=PreservationConfig())
        data = prepare(prepared.pipe, plain, model=prepared.model).data(cache)
    batches, pairs = data.everything(part_size(prepared))
    ours = (pairs >= 0) & (pairs < len(data.pairs) - data.retained)
    times = -(-count // int(ours.sum()))
    run = LinearisedRun(prepared, batches * times, config.seed + _OTHER)
    return lambda trained: run.outputs(trained).m.reshape(times, -1)[:, ours].mean(0)


def _worst_of_three(values: np.ndarray) -> np.ndarray:
    """The largest of each value and its two neighbours; two fewer."""
    return np.max([values[:-2], values[1:-1], values[2:]], axis=0)


def _groups(timesteps: np.ndarray) -> np.ndarray:
    """The group of each sample: equally many samples in each, by timestep."""
    rank = np.argsort(np.argsort(timesteps, kind="stable"), kind="stable")
    return rank * min(_WINDOWS, len(rank)) // len(rank)


def _batches(steps: int, size: int, samples: int, seed: int) -> np.ndarray:
    """The samples of every step: the pool in an order of its own each time it is used up."""
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(samples) for _ in range(-(-steps * size // samples))])
    return order[: steps * size].reshape(steps, size)
