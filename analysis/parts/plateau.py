"""Where minibatch noise lets m rest on the real model, predicted from its Jacobian and measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from fdiv_jax import theory
from fdiv_jax.arrays import PyTree
from fdiv_jax.divergences import divergence
from fdiv_jax.files import JsonObject
from fdiv_jax.unlearning import Frozen, LinearisedRun, Prepared, UnlearningConfig
from fdiv_jax.unlearning.batch import Batch
from fdiv_jax.unlearning.data import AnchorData
from fdiv_jax.unlearning.step import compare, look, predict

from ..files import Row
from ..style import legend_below, line_style, panel_letters, panels
from ..trials import TARGET, Laboratory
from ..verdicts import interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..runner import Context

__all__ = ["run"]


class Work(NamedTuple):
    """How much is done.

    Attributes:
        trainable: the few parameters that learn, all of which the prediction follows.
        divergences: compared at equal curvature.
        sigma: of all of them; with it most samples have m / sigma^2 below 1.
        gains: step x f''(1) x largest eigenvalue of the kernel.
        batches: sizes.
        steps, burn_in: of every run, which begins at the predicted minimum; those that do not count.
        every: steps between two looks at the whole pool.
        blocks: of time, for the intervals.
        images: drawn for the pool.
        pool: noised images from which batches are drawn, with replacement, and on which m is measured.
        part: samples looked at in one go.
        rounds: of linearising the outputs on the way to the minimum of kl; then one less for the others.
    """

    trainable: str = r"up_blocks\.\d+\.attentions\.1\..*attn2\.to_out\.0\.bias"
    divergences: tuple[str, ...] = ("squared_hellinger", "kl", "pearson_chi2")
    sigma: float = 5.0
    gains: tuple[float, ...] = (0.2, 0.4, 0.8)
    batches: tuple[int, ...] = (2, 4)
    steps: int = 500
    burn_in: int = 80
    every: int = 10
    blocks: int = 7
    images: int = 50
    pool: int = 256
    part: int = 32
    rounds: int = 2


FULL = Work()
QUICK = Work(gains=(0.4, 0.8), batches=(4,), steps=30, burn_in=10, every=5, blocks=4, images=10, pool=32)
_SEED = 1000
"""Of the pool's images, noise and timesteps."""
_INTERVAL = 0.95
_LOOKS = 6
"""Looks whose m is computed at once."""


class _Predicted(NamedTuple):
    """The minimum of every divergence, flat, (P,) each; the largest eigenvalue of the kernel at that of kl;
    floor of m, (divergences,), its excess, (divergences, gains, batches), and the part of it that a run of
    this length shows above m at its own average."""

    minima: np.ndarray
    largest: float
    floors: np.ndarray
    excess: np.ndarray
    shown: np.ndarray


def _configuration(laboratory: Laboratory, work: Work) -> UnlearningConfig:
    more: JsonObject = {"scale": "sum", "trainable": work.trainable}
    return laboratory.plain(TARGET, batch=work.part, images=work.images, **more)


class _Pool(NamedTuple):
    """The training set, noise and timesteps included, whole and in parts, and the key of the noise."""

    whole: Batch
    parts: list[Batch]
    key: jax.Array


def _pool(data: AnchorData, work: Work) -> _Pool:
    # Noise and timestep of a sample follow from its position and the key, in whatever batch it is.
    whole = data.batch(_SEED, 0, work.pool)
    places = range(0, work.pool, work.part)
    parts = [jax.tree.map(lambda rows, at=at: rows[at : at + work.part], whole) for at in places]
    return _Pool(whole, parts, jax.random.key(_SEED))


def _predict(prepared: Prepared, pool: _Pool, work: Work) -> JsonObject:
    """Minimum and plateau of every divergence, from the Jacobian at the minimum: no step is made."""
    run = LinearisedRun(prepared, pool.parts, key=pool.key)
    ends: dict[str, tuple[np.ndarray, theory.QuadraticDistances]] = {}
    place = np.asarray(run.start)
    directions = np.eye(place.size, dtype=np.float32)
    for name in sorted(work.divergences, key=lambda name: name != "kl"):  # the others begin where kl ends
        theta = ends["kl"][0] if "kl" in ends else place
        for _ in range(work.rounds if name == "kl" else work.rounds - 1):
            here = run.at(theta)
            model = theory.QuadraticDistances.of(here.outputs().residual, here.push(directions))
            moved = theory.quadratic_minimum(name, model, sigma=work.sigma)
            theta = theta + moved.astype(np.float32)
        ends[name] = theta, theory.QuadraticDistances(*_shifted(model, moved))
    largest = float(ends["kl"][1].spectrum[0][0])
    floors, excess, shown = [], [], []
    for name in work.divergences:
        model = ends[name][1]
        found = [
            [
                theory.quadratic_plateau(
                    name, model, rate, size, sigma=work.sigma, minimum=np.zeros(place.size)
                )
                for size in work.batches
            ]
            for rate in _rates(work, name, largest)
        ]
        floors.append(found[0][0].floor)
        excess.append([[each.excess for each in row] for row in found])
        mean = model.gram.mean(0)
        rates = _rates(work, name, largest)
        shown.append(
            [[_shown(work, each, rate, mean) for each in row] for row, rate in zip(found, rates, strict=True)]
        )
    return _Predicted(
        np.stack([ends[name][0] for name in work.divergences]),
        largest,
        np.array(floors),
        np.array(excess),
        np.array(shown),
    )._asdict()


def _shown(work: Work, plateau: theory.Plateau, rate: float, metric: np.ndarray) -> float:
    """What the looks of a run that begins at the minimum see of the excess, above m at their own average.

    Along an eigenvector of the Hessian the run forgets by a = 1 - h k a step: after t steps it has 1 - a^2t
    of its variance, and two looks have the smaller of their variances times a^|t - s| in common.
    """
    k, u = np.linalg.eigh(plateau.hessian)
    t = np.arange(work.burn_in, work.steps, work.every) + work.every
    kept = []
    for a in 1 - rate * np.maximum(k, 0.0):
        variance = 1 - np.abs(a) ** (2 * t)
        common = np.sign(a) ** np.abs(t[:, None] - t) * np.abs(a) ** np.abs(t[:, None] - t)
        kept.append(variance.mean() - (common * np.minimum(variance[:, None], variance)).mean())
    return float(np.sum((u.T @ metric @ u).T * (u.T @ plateau.covariance @ u) * np.array(kept)))


def _shifted(model: theory.QuadraticDistances, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same functions, in coordinates whose origin is z."""
    return model(z), model.slope + model.gram @ z, model.gram


def _rates(work: Work, name: str, largest: float) -> np.ndarray:
    """Learning rates at which step x f''(1) x eigenvalue is that of `gains`, whatever f."""
    return np.array(work.gains) * work.sigma**2 / (float(divergence(name).curvature) * largest)


class _Chains:
    """Runs of plain descent, (divergences, gains) at once on the same batches, and their m on the pool."""

    def __init__(self, work: Work, prepared: Prepared, pool: _Pool):
        self._work, self._pool, self._frozen = work, pool, prepared.frozen
        plan, frozen = prepared.plan, prepared.frozen
        trained = plan.trainable.initial(frozen, jax.random.key(0))
        unravel = ravel_pytree(trained)[1]

        def distances(chains: jax.Array, batch: Batch, key: jax.Array, frozen: Frozen) -> jax.Array:
            """m of every sample, (..., n), of chains (..., P)."""
            reference = look(plan, frozen, batch, key)

            def one(theta: jax.Array) -> jax.Array:
                prediction = predict(plan, unravel(theta), frozen, batch, key)
                compared = compare(plan, unravel(theta), frozen, batch, reference, prediction, key)
                return plan.loss.distance(compared)

            flat = jax.vmap(one)(chains.reshape(-1, chains.shape[-1]))
            return flat.reshape(*chains.shape[:-1], -1)

        def step(chains: jax.Array, rates: jax.Array, *sample: PyTree) -> jax.Array:
            def loss(chains: jax.Array) -> jax.Array:
                m = distances(chains, *sample) / work.sigma**2
                pairs = zip(work.divergences, m, strict=True)
                means = [divergence(name).gaussian_divergence(rows).mean(-1) for name, rows in pairs]
                return jnp.stack(means).sum()  # so that every chain has the gradient of its own loss

            return chains - rates[..., None] * jax.grad(loss)(chains)

        self._step, self._distances = jax.jit(step), jax.jit(distances)

    def run(self, start: np.ndarray, rates: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """The mean m after every few steps, (looks, divergences, gains), and at the average."""
        work, chains, seen = self._work, jnp.asarray(start), []
        for number in range(work.steps):
            drawn = np.random.default_rng((number, size)).integers(work.pool, size=size)
            batch = jax.tree.map(lambda rows, drawn=drawn: rows[drawn], self._pool.whole)
            chains = self._step(chains, jnp.asarray(rates), batch, self._pool.key, self._frozen)
            if number + 1 > work.burn_in and (number + 1 - work.burn_in) % work.every == 0:
                seen.append(np.asarray(chains))
        curve = [self._watch(np.stack(seen[i : i + _LOOKS])) for i in range(0, len(seen), _LOOKS)]
        average = np.repeat(np.mean(seen, axis=0)[None], _LOOKS, axis=0)  # the shape that is compiled
        return np.concatenate(curve), self._watch(average)[0]

    def _watch(self, chains: np.ndarray) -> np.ndarray:
        seen = [
            self._distances(chains, part, self._pool.key, self._frozen).mean(-1) for part in self._pool.parts
        ]
        return np.mean(seen, axis=0)


def _over_blocks(values: np.ndarray, blocks: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean over time, the first axis, and the half width of its interval from means over blocks of time."""
    rows = np.stack([part.mean(0) for part in np.array_split(values, blocks)])
    width = np.apply_along_axis(lambda some: np.ptp(interval(some.tolist(), _INTERVAL)) / 2, 0, rows)
    return values.mean(0), width


def _rows(work: Work, found: _Predicted, curves: list[tuple[np.ndarray, np.ndarray]]) -> list[Row]:
    """Every case: what was predicted, and what was measured."""
    rows = []
    for k, (size, (curve, average)) in enumerate(zip(work.batches, curves, strict=True)):
        mean, width = _over_blocks(np.asarray(curve) - average, work.blocks)
        for i, name in enumerate(work.divergences):
            for j, gain in enumerate(work.gains):
                predicted, measured = float(found.shown[i, j, k]), float(mean[i, j])
                rows.append(
                    {
                        "divergence": name,
                        "batch": size,
                        "gain": gain,
                        "learning_rate": float(_rates(work, name, found.largest)[j]),
                        "floor_predicted": float(found.floors[i]),
                        "m_at_average": float(average[i, j]),
                        "excess_without_end": float(found.excess[i, j, k]),
                        "excess_predicted": predicted,
                        "excess_measured": measured,
                        "interval": float(width[i, j]),
                        "relative_error": abs(measured / predicted - 1),
                    }
                )
    return rows


def _figure(work: Work, rows: list[Row]) -> Figure:
    """Excess of m against the step, a panel for each batch size: lines predicted, marks measured."""
    figure, axes = panels(1, len(work.batches), sharey=True, squeeze=False)
    for axis, size in zip(axes[0], work.batches, strict=True):
        for place, name in enumerate(work.divergences):
            look = line_style(name)
            some = [row for row in rows if row["divergence"] == name and row["batch"] == size]
            gains = np.array([row["gain"] for row in some])
            axis.plot(
                gains, [row["excess_predicted"] for row in some], color=look["color"], ls=look["linestyle"]
            )
            axis.errorbar(
                gains * 1.04 ** (place - (len(work.divergences) - 1) / 2),
                [row["excess_measured"] for row in some],
                [row["interval"] for row in some],
                fmt=look["marker"],
                color=look["color"],
                markersize=4,
                markerfacecolor="white",
                elinewidth=0.9,
                capsize=2,
                label=look["label"],
            )
        axis.set(xscale="log", yscale="log", title=f"batches of {size}", xlabel="step × f″(1) × largest k")
        axis.set_xticks(work.gains, [f"{gain:g}" for gain in work.gains])
        axis.minorticks_off()
    axes[0][0].set_ylabel("m above that at the average")
    panel_letters(axes)
    legend_below(figure, axes)
    return figure


def run(context: Context) -> JsonObject:
    """Predict the plateaus of a few divergences, steps and batch sizes, then run descent at all of them."""
    laboratory, work = Laboratory.open(context), QUICK if context.quick else FULL
    prepared = laboratory.prepare(_configuration(laboratory, work))
    pool = _pool(prepared.data(laboratory.shelf / "anchors"), work)
    found = _Predicted(
        **context.cells(["all"], "plateaus predicted", lambda _: _predict(prepared, pool, work))[0]
    )
    chains = _Chains(work, prepared, pool)
    start = np.repeat(found.minima[:, None], len(work.gains), axis=1)
    rates = np.stack([_rates(work, name, found.largest) for name in work.divergences]).astype(np.float32)
    curves = context.cells(work.batches, "batch sizes descended", lambda size: chains.run(start, rates, size))
    rows = _rows(work, found, curves)
    worst = max(row["relative_error"] for row in rows)
    context.figure(
        "plateau",
        _figure(work, rows),
        shows="Where minibatch noise lets the model rest: the mean m of a run above m at the average of "
        f"its parameters, on the {work.pool} noised images that batches are drawn from, at equal curvature "
        f"(sigma {work.sigma:g}, scale sum; {start.shape[-1]} parameters learn, so that the minimum leaves "
        "m > 0 and no gradient of a sample vanishes). Lines: predicted from the Jacobian at the minimum by "
        f"the discrete Lyapunov equation, for runs of this length. Marks: {work.steps - work.burn_in} steps "
        f"of plain descent, with {_INTERVAL:.0%} intervals from {work.blocks} blocks of time; those of one "
        f"step are drawn beside one another. The largest relative error is {worst:.0%}.",
        rows=rows,
    )
    inside = [abs(row["excess_measured"] - row["excess_predicted"]) <= row["interval"] for row in rows]
    return {
        "noise_plateau_max_relative_error": worst,
        "noise_plateau_median_relative_error": float(np.median([row["relative_error"] for row in rows])),
        "noise_plateau_share_within_interval": float(np.mean(inside)),
        "noise_plateau_cases": rows,
    }
