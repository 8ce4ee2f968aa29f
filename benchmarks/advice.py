"""`fdiv-jax advise` against an exhaustive sweep, by the steps to the stated m on held-out images.

    python -m benchmarks.advice                          # all ten items; goes on where it was
    python -m benchmarks.advice --targets sneaker bag

For every target the frozen model alone gives a divergence, a sigma and a step (`advise`). Then plain descent
is run with every divergence x sigma x step of a grid that does not depend on the advice, on the same batches,
until m on held-out images is at the goal or more steps were taken than the best run needed. The figure is the
ratio of the steps of the advised run to those of the best run of all. Writes benchmarks/results/advice.json
after every target.
"""

from __future__ import annotations

import dataclasses
import json
import time
from itertools import product
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.flatten_util import ravel_pytree

import fdiv_jax as fj
from fdiv_jax.divergences import DivergenceSwitch
from fdiv_jax.unlearning import AnchorImagesConfig, LinearisedRun, UnlearningConfig, prepare
from fdiv_jax.unlearning.advice import DIVERGENCES, Advice, advise, steps_to
from fdiv_jax.unlearning.step import compare, look, predict
from fdiv_jax.worlds import ITEM_NAMES

SIGMAS = (0.5, 1.0, 2.0)
"""In units of the root of the first m."""
STEPS = tuple(0.5 * 1.5**n for n in range(8))
"""Learning rate x w_f(m0/sigma^2) / sigma^2, at scale `mean`."""


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Settings of the benchmark."""

    targets: tuple[str, ...] = ITEM_NAMES
    """Concepts to erase."""
    goal: float = 0.5
    """The share of the first m that is to be left."""
    limit: int = 40
    """The most steps of any run."""
    held_out: int = 16
    """Held-out images."""
    seed: int = 0
    """Seed of the batches."""
    output: Path = Path(__file__).parent / "results" / "advice.json"
    """The results."""
    cache: Path | None = None
    """Directory where anchor images are kept."""


class Arena:
    """Runs of one target on the same batches, at any divergence, sigma and step, by one compiled step."""

    def __init__(self, pipe: Any, target: str, settings: BenchmarkConfig):
        config = UnlearningConfig(
            target=target,
            anchor="near",
            divergence="kl",
            retained=(),
            seed=settings.seed,
            images=AnchorImagesConfig(number=20, steps=12),
        )
        self.prepared, self._settings = prepare(pipe, config), settings
        self.data = self.prepared.data(settings.cache)
        images = dataclasses.replace(config.images, number=settings.held_out, seed=config.images.seed + 1)
        held = prepare(pipe, dataclasses.replace(config, images=images)).data(settings.cache)
        batch = held.batch(settings.seed + 1, 0, settings.held_out)
        self._held_out = LinearisedRun(self.prepared, [batch], settings.seed + 1)
        self._start, self._unravel = ravel_pytree(
            self.prepared.plan.trainable.initial(self.prepared.frozen, jax.random.key(0))
        )
        self._key = jax.random.split(jax.random.key(settings.seed))[1]
        self.m0 = float(self._held_out.outputs().m.mean())

    def advice(self) -> Advice:
        """What the frozen model says."""
        return advise(self.prepared, self.data, goal=self._settings.goal, limit=self._settings.limit)

    def run(self, divergence: str, sigma: float, rate: float, most: float) -> float:
        """Steps until the held-out m is at the goal; infinite where more than `most` are needed."""
        theta, curve, goal = self._start, [self.m0], self._settings.goal * self.m0
        choice = jnp.asarray(DIVERGENCES.index(divergence), jnp.int32)
        for number in range(int(min(np.ceil(most), self._settings.limit))):
            batch = self.data.batch(self._settings.seed, number, self.prepared.config.batch_size)
            key = jax.random.fold_in(self._key, number)
            theta = self._step(theta, self.prepared.frozen, batch, key, choice, sigma, rate)
            curve.append(float(self._held_out.outputs(theta).m.mean()))
            if not curve[-1] < 4 * self.m0 or curve[-1] <= goal:
                break
        steps = steps_to(np.array(curve), goal)
        return steps if steps <= most else np.inf

    def _step(self, *arguments: Any) -> jax.Array:
        return _step(self.prepared.plan, self._unravel)(*arguments)


_COMPILED: dict[Any, Any] = {}


def _step(plan: Any, unravel: Any) -> Any:
    """One step of plain descent on the mean of F_f(m / sigma^2), compiled once for all targets."""
    if plan in _COMPILED:
        return _COMPILED[plan]
    switch = DivergenceSwitch(tuple(fj.divergence(name) for name in DIVERGENCES))

    @jax.jit
    def step(theta, frozen, batch, key, choice, sigma, rate):
        reference = look(plan, frozen, batch, key)

        def loss(theta):
            trained = unravel(theta)
            prediction = predict(plan, trained, frozen, batch, key)
            compared = compare(plan, trained, frozen, batch, reference, prediction, key)
            m = plan.loss.distance(compared)
            return jnp.mean(switch.at(choice).gaussian_divergence(m / sigma**2))

        return theta - rate * jax.grad(loss)(theta)

    _COMPILED[plan] = step
    return step


def measure(arena: Arena) -> dict[str, Any]:
    """The advised run, and the best of the sweep."""
    started = time.process_time()
    best = arena.advice().best
    advised = arena.run(best.divergence, best.sigma, best.learning_rate, np.inf)
    spent = time.process_time() - started
    fastest: dict[str, Any] = {"steps": np.inf}
    order = sorted(product(DIVERGENCES, SIGMAS, STEPS), key=lambda cell: abs(np.log(cell[2] / 2)))
    for name, width, step in order:
        sigma = width * float(np.sqrt(arena.m0))
        weight = float(fj.divergence(name).gaussian_weight(jnp.float32(arena.m0 / sigma**2)))
        rate = step * sigma**2 / weight
        steps = arena.run(name, sigma, rate, fastest["steps"])
        if steps < fastest["steps"]:
            fastest = {"divergence": name, "sigma": sigma, "learning_rate": rate, "steps": steps}
    return {
        "m0": arena.m0,
        "advised": {
            "divergence": best.divergence,
            "sigma": best.sigma,
            "learning_rate": best.learning_rate,
            "predicted_steps": best.steps if np.isfinite(best.steps) else None,
            "steps": advised if np.isfinite(advised) else None,
        },
        "best": fastest if np.isfinite(fastest["steps"]) else None,
        "ratio": advised / min(advised, fastest["steps"]) if np.isfinite(advised) else None,
        "runs": len(order),
        "processor_seconds": {"advised": spent, "all": time.process_time() - started},
    }


def main(settings: BenchmarkConfig) -> None:
    """Measure the targets that are not there yet, and print the ratios."""
    from fdiv_jax.files import read_json

    asked = {
        "goal": settings.goal,
        "limit": settings.limit,
        "held_out": settings.held_out,
        "seed": settings.seed,
    }
    found = read_json(settings.output) if settings.output.is_file() else {}
    if found.get("settings") != asked:
        found = {"settings": asked, "targets": {}}
    pipe = fj.load_pipeline("fashion")
    for target in settings.targets:
        if target not in found["targets"]:
            found["targets"][target] = measure(Arena(pipe, target, settings))
            settings.output.parent.mkdir(parents=True, exist_ok=True)
            settings.output.write_text(json.dumps(found, indent=2) + "\n")
        one = found["targets"][target]
        ratio = "not reached" if one["ratio"] is None else f"{one['ratio']:.2f}"
        print(f"{target}: {ratio}; advised {one['advised']}; best {one['best']}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(BenchmarkConfig))
