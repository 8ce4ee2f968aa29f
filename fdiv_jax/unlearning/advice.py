"""Which divergence, sigma and step: predicted from the frozen model alone, before any training.

    LinearisedRun -> the m of every sample along the directions in which descent moves
    every divergence x sigma x step descends there, on batches of the run's size  ->  steps to the goal
    the fastest that a step a little larger or smaller does not make slower       ->  the advice

Descent is the plain one (`--optimiser.name sgd`): its path is what the kernel predicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fdiv_jax.divergences import divergence
from fdiv_jax.files import JsonObject
from fdiv_jax.theory import QuadraticDistances, quadratic_descent
from fdiv_jax.unlearning import _validate as check
from fdiv_jax.unlearning._phrases import first_shown
from fdiv_jax.unlearning.concepts import target_words
from fdiv_jax.unlearning.data import AnchorData
from fdiv_jax.unlearning.library import known_concepts
from fdiv_jax.unlearning.linearised import LinearisedRun, part_size
from fdiv_jax.unlearning.prepare import Cache, Prepared, prepare

__all__ = [
    "DIVERGENCES",
    "Advice",
    "Candidate",
    "advise",
    "check_goal",
    "damage_to",
    "steps_to",
]

DIVERGENCES = ("kl", "squared_hellinger", "jensen_shannon", "le_cam", "jeffreys", "pearson_chi2")
"""The divergences that are compared by default."""
_SIGMAS = (0.5, 1.0, 2.0, 4.0)
"""Multiples of the sigma at which the mean m over sigma^2 is 1."""
_RATIO = 1.1
"""Between two steps that are compared."""
_GRID = _RATIO ** np.arange(-28.0, 15.0)
"""Steps, in units of sigma^2 / (k_max w_f): 2 is the limit of stability where the weight is w_f."""
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
class Candidate:
    """What a divergence is predicted to do at its best sigma and step.

    Attributes:
        divergence: its name.
        sigma: of the configuration.
        learning_rate: of plain gradient descent.
        steps: until the mean m is at the goal, between whole steps by interpolation; infinite where it is not
            reached.
        m: the mean m of the target's samples after 0, 1, 2, ... steps, at sigma 1.
    """

    divergence: str
    sigma: float
    learning_rate: float
    steps: float
    m: np.ndarray


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
        candidates: one per divergence, the fastest first.
        change: of what learns, flat, when the fastest is at the goal, or at its last step; see
            `LinearisedRun`.
    """

    prompts: tuple[str, ...]
    windows: tuple[tuple[int, int], ...]
    m: np.ndarray
    start: float
    goal: float
    eigenvalues: np.ndarray
    shares: np.ndarray
    candidates: tuple[Candidate, ...]
    change: np.ndarray

    @property
    def best(self) -> Candidate:
        """The recommended one."""
        return self.candidates[0]


def advise(
    prepared: Prepared,
    data: AnchorData,
    *,
    goal: float = 0.5,
    divergences: Sequence[str] = DIVERGENCES,
    limit: int = 60,
    samples: int = 48,
    depth: int = 6,
) -> Advice:
    """Predict the course of a run with every divergence, and choose.

    Args:
        prepared: the run; its divergence, sigma and optimiser play no part.
        data: its images and prompts.
        goal: the share of the first m that is to be left.
        divergences: to choose from.
        limit: the most steps to think of.
        samples: at which the model is looked at, rounded up to whole batches.
        depth: products with the kernel for each group of timesteps; see `LinearisedRun.descent`.

    Raises:
        ValueError: a goal that is not between 0 and 1, no divergences; a run whose m is 0 at every sample.
        NotImplementedError: see `LinearisedRun`.
    """
    share = check_goal(goal, limit, samples)
    if not divergences:
        raise ValueError("no divergences to choose from; expected at least one")
    config = replace(prepared.config, **_PLAIN)
    prepared = prepare(prepared.pipe, config, model=prepared.model)
    size = part_size(prepared)
    count = -(-samples // size)
    run = LinearisedRun.of(prepared, data, count)
    outputs = run.outputs()
    pairs = np.concatenate([data.choose(config.seed, n, size)[0] for n in range(count)])
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
        _best(name, distances, ours, start, share * start, float(eigenvalues[0]), batches)
        for name in dict.fromkeys(divergences)
    ]
    windows = tuple(
        (int(outputs.timesteps[groups == g].min()), int(outputs.timesteps[groups == g].max()))
        for g in np.unique(groups)
    )
    found = sorted(found, key=lambda each: (each[0].steps, np.nan_to_num(each[0].m[-1], nan=np.inf)))
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
        tuple(candidate for candidate, _ in found),
        (found[0][1] @ descent.directions).astype(np.float32),
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


def _best(
    name: str,
    distances: QuadraticDistances,
    ours: np.ndarray,
    start: float,
    goal: float,
    largest: float,
    batches: np.ndarray,
) -> tuple[Candidate, np.ndarray]:
    """The candidate of one divergence, and its place in the coordinates at the end."""
    d = divergence(name)
    sigmas = np.sqrt(start) * np.array(_SIGMAS)
    weight = float(d.gaussian_weight(np.float32(1.0)))
    units = sigmas**2 / (largest * weight)
    rates = units[:, None] * _GRID
    z = quadratic_descent(d, distances, rates, len(batches), sigma=sigmas[:, None], batches=batches)
    m = distances(z)[..., ours].mean(-1)
    steps = np.array([[steps_to(m[:, i, k], goal) for k in range(_GRID.size)] for i in range(len(sigmas))])
    # A network is not linear: a step that is a little larger or smaller must do as well.
    around = _worst_of_three(steps)
    if not np.isfinite(around).any():  # out of reach: what comes closest
        around = _worst_of_three(np.nan_to_num(m[-1], nan=np.inf))
    i, k = np.unravel_index(int(np.argmin(around)), around.shape)
    k = k + 1
    end = int(min(np.ceil(steps[i, k]), len(batches)))
    candidate = Candidate(name, float(sigmas[i]), float(rates[i, k]), float(steps[i, k]), m[:, i, k])
    return candidate, np.nan_to_num(z[end, i, k])


def _worst_of_three(values: np.ndarray) -> np.ndarray:
    """The largest of each value and its two neighbours in a row; two columns fewer."""
    return np.max([values[:, :-2], values[:, 1:-1], values[:, 2:]], axis=0)


def _groups(timesteps: np.ndarray) -> np.ndarray:
    """The group of each sample: equally many samples in each, by timestep."""
    rank = np.argsort(np.argsort(timesteps, kind="stable"), kind="stable")
    return rank * min(_WINDOWS, len(rank)) // len(rank)


def _batches(steps: int, size: int, samples: int, seed: int) -> np.ndarray:
    """The samples of every step: the pool in an order of its own each time it is used up."""
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(samples) for _ in range(-(-steps * size // samples))])
    return order[: steps * size].reshape(steps, size)
