"""`fdiv-jax advise MODEL --target ...`: what a run will do, and at which settings, before it is made."""

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import tyro

from fdiv_jax.cli._loading import Loading
from fdiv_jax.cli._tables import print_report, print_table
from fdiv_jax.cli._unlearning_options import configured
from fdiv_jax.files import JsonObject
from fdiv_jax.unlearning import UnlearningConfig

if TYPE_CHECKING:
    from fdiv_jax.terminal import Console
    from fdiv_jax.unlearning.advice import Advice
    from fdiv_jax.unlearning.critic_speed import LeadingMode
    from fdiv_jax.unlearning.first_steps import Course
    from fdiv_jax.unlearning.prepare import Prepared

__all__ = ["HELP", "Command", "default"]

HELP = {
    "what to unlearn": ("target", "anchor", "prompts", "retained", "concept-file"),
    "what to predict": ("goal", "limit", "runs", "divergences", "others", "scale", "trainable", "batch-size"),
    "output": ("json",),
}


_PROMPTS, _MODES, _CONCEPTS, _RUNS = 10, 8, 15, 10
"""Rows of the tables, at most."""


@dataclass(frozen=True)
class Command:
    """Predict a run from the frozen model: m, its kernel, every divergence's course, and what to choose.

    Looks at the Jacobian of the frozen model at a few batches of the run, then tries the first steps of the
    likeliest settings in a race. Nothing is kept of it, and nothing is written.

    Example: fdiv-jax advise fashion --target sneaker --anchor near
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """The model: `fashion` (the embedded world), a diffusers directory, one .safetensors file, or a hub
    id."""
    config: Annotated[UnlearningConfig, tyro.conf.arg(name="")]
    """What to unlearn and how."""
    concept_file: Path | None = None
    """A YAML file of the concepts to unlearn, instead of --target."""
    goal: float = 0.5
    """The share of the first m that is to be left."""
    limit: int = 60
    """The most steps of a run, predicted or tried."""
    runs: int = 28
    """The most runs of the race that decides; 0: none, what is recommended is what is predicted."""
    divergences: tuple[str, ...] = ()
    """Divergences to choose from, names or generators in t; by default six of the catalogue."""
    samples: int = 48
    """Samples at which the model is looked at; as many images are drawn to tell m in the race."""
    others: int = 1
    """Images per prompt of the model's other concepts, for the damage to them; 0: none is predicted."""
    json: bool = False
    """Print JSON instead of tables."""
    cache: Path | None = None
    """Directory where anchor images are kept; by default FDIV_JAX_CACHE or the user's cache directory."""
    loading: Annotated[Loading, tyro.conf.arg(name="")] = field(default_factory=Loading)
    """How to load the model."""

    def run(self) -> None:
        """Load the model, look at it, and print what follows."""
        from fdiv_jax.divergences import divergence
        from fdiv_jax.terminal import Console
        from fdiv_jax.unlearning import prepare
        from fdiv_jax.unlearning.advice import DIVERGENCES, advise, check_goal, damage_to
        from fdiv_jax.unlearning.critic_speed import leading_mode
        from fdiv_jax.unlearning.linearised import check_first_order
        from fdiv_jax.unlearning.memory import check_memory

        check_goal(self.goal, self.limit, self.samples)
        for name in ("others", "runs"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name} must be at least 0, got {getattr(self, name)}")
        for name in self.divergences:
            divergence(name)
        waiting = Console(stderr=True)
        with waiting.waiting(f"loading {self.model}"):
            prepared = prepare(self.loading.load(self.model), self.config)
        check_first_order(prepared)
        check_memory([prepared])
        with waiting.waiting("drawing anchor images") as change:
            data = prepared.data(self.cache)
            change("looking at the frozen model")
            advice = advise(
                prepared,
                data,
                goal=self.goal,
                divergences=self.divergences or DIVERGENCES,
                limit=self.limit,
                samples=self.samples,
                runs=self.runs,
                cache=self.cache,
                tell=change,
            )
            change("looking at the critic")
            try:
                mode = leading_mode(prepared, data.batch(self.config.seed, 0, self.config.batch_size))
            except ValueError as error:
                mode = str(error)
            change("looking at other concepts")
            damage = damage_to(prepared, advice, self.others, self.cache) if self.others else {}
        report = _Report(self, prepared, advice, damage, mode)
        print_report(report, as_json=self.json)


class _Report:
    """What was found, as plain data and as tables."""

    def __init__(
        self,
        command: Command,
        prepared: "Prepared",
        advice: "Advice",
        damage: dict[str, float],
        mode: "LeadingMode | str",
    ) -> None:
        self.command, self.prepared, self.advice, self.damage = command, prepared, advice, damage
        self.reached = math.isfinite(advice.best.steps)
        self.critic = _critic(mode, advice)

    def options(self) -> list[str]:
        """The recommended setting as options of `fdiv-jax unlearn`."""
        best = self.advice.best
        return [
            *("--divergence", best.divergence, "--loss", "exact", "--scale", self.prepared.config.scale),
            *("--sigma", f"{best.sigma:.3g}", "--optimiser.name", "sgd"),
            *("--learning-rate", f"{best.learning_rate:.3g}"),
            *("--steps", str(math.ceil(best.steps) if self.reached else self.command.limit)),
        ]

    def facts(self) -> JsonObject:
        """Everything, ready for JSON."""
        advice = self.advice
        return {
            "m": {
                "start": advice.start,
                "goal": advice.goal,
                "timesteps": [list(window) for window in advice.windows],
                "by_prompt": {
                    prompt: [None if math.isnan(value) else float(value) for value in row]
                    for prompt, row in zip(advice.prompts, advice.m, strict=True)
                },
            },
            "kernel": {"eigenvalues": advice.eigenvalues.tolist(), "shares_of_m": advice.shares.tolist()},
            "predicted": [_plain(each) for each in advice.predicted],
            "tried": [_plain(each) for each in advice.tried],
            "recommended": self.options(),
            "critic": self.critic,
            "damage": self.damage,
        }

    def show(self, console: "Console") -> None:
        """Print the tables and the advice."""
        advice, selection = self.advice, self.prepared.selection
        config = self.prepared.config
        targets = ", ".join(f"{each.target} -> {each.anchor}" for each in config.erasures)
        console.print(f"{targets}; trained: {selection}")
        columns = ("prompt", *(f"t {first}-{last}" for first, last in advice.windows))
        rows = [
            (prompt, *("" if math.isnan(value) else f"{value:.3g}" for value in row))
            for prompt, row in zip(advice.prompts[:_PROMPTS], advice.m, strict=False)
        ]
        title = f"m before the first step, mean {advice.start:.3g} (scale {config.scale}, sigma 1)"
        print_table(console, title, columns, rows)
        if len(advice.prompts) > _PROMPTS:
            console.print(f"and {len(advice.prompts) - _PROMPTS} more prompts")
        self._kernel(console)
        self._curves(console)
        self._race(console)
        if self.damage:
            title = "predicted m at other concepts, where m at the target is at the goal"
            listed = [(name, f"{value:.3g}") for name, value in list(self.damage.items())[:_CONCEPTS]]
            print_table(console, title, ("concept", "m"), listed)
        self._choice(console)

    def _kernel(self, console: "Console") -> None:
        order = np.argsort(-self.advice.shares)[:_MODES]
        rows = [(f"{self.advice.eigenvalues[i]:.3g}", f"{self.advice.shares[i]:.1%}") for i in np.sort(order)]
        print_table(console, "kernel: modes that hold the most of m", ("eigenvalue", "share of m"), rows)
        rest = 1 - float(self.advice.shares.sum())
        console.print(
            f"largest eigenvalue {self.advice.eigenvalues[0]:.3g}: plain descent on kl is stable below the "
            f"learning rate {2 / self.advice.eigenvalues[0]:.3g} sigma^2; {max(rest, 0.0):.1%} of m lies "
            "outside these modes"
        )

    def _curves(self, console: "Console") -> None:
        marks = [n for n in (5, 10, 20, 40) if n <= self.command.limit] or [self.command.limit]
        columns = ("divergence", "steps to goal", "sigma", "learning rate", *(f"m at {n}" for n in marks))
        rows = [
            (
                each.divergence,
                f"{each.steps:.1f}" if math.isfinite(each.steps) else f"over {self.command.limit}",
                f"{each.sigma:.3g}",
                f"{each.learning_rate:.3g}",
                *("diverges" if math.isnan(each.m[n]) else f"{each.m[n]:.3g}" for n in marks),
            )
            for each in self.advice.predicted
        ]
        title = f"predicted, each divergence at its best sigma and step; goal m = {self.advice.goal:.3g}"
        print_table(console, title, columns, rows, first=("steps to goal", "sigma", "learning rate"))

    def _race(self, console: "Console") -> None:
        tried = self.advice.tried
        if not tried:
            return
        columns = ("divergence", "steps to goal", "sigma", "learning rate", "steps made", "m then")
        rows = [
            (
                each.divergence,
                f"{each.steps:.2f}" if math.isfinite(each.steps) else "given up",
                f"{each.sigma:.3g}",
                f"{each.learning_rate:.3g}",
                str(len(each.m) - 1),
                f"{each.m[-1]:.3g}" if math.isfinite(each.m[-1]) else "diverges",
            )
            for each in tried[:_RUNS]
        ]
        first = f"m on other images, {tried[0].m[0]:.3g} at first"
        title = f"tried on the run's first steps, {len(tried)} runs; {first}"
        print_table(console, title, columns, rows, first=("steps to goal", "sigma", "learning rate"))

    def _choice(self, console: "Console") -> None:
        from rich.text import Text

        words = " ".join(shlex.quote(word) for word in self.options())
        console.print(Text("\nRecommended", "bold"))
        console.print(f"  {words}", soft_wrap=True)
        for reason in self._reasons():
            console.print(f"  {reason}")
        console.print(Text("\nCritic, for the variational loss", "bold"))
        console.print(f"  {self.critic['advice']}")

    def _reasons(self) -> list[str]:
        from fdiv_jax import theory

        advice, best = self.advice, self.advice.best
        did = "took" if advice.tried else "is predicted to need"
        if not self.reached:
            missed = "reached" if advice.tried else "is predicted to reach"
            return [
                f"no divergence {missed} m = {advice.goal:.3g} in {self.command.limit} steps: what is left "
                "lies in modes with small eigenvalues. This one comes closest; a larger --goal, --limit or "
                "group of parameters may help."
            ]
        told = [f"{best.divergence} {did} the fewest steps, {best.steps:.2g}."]
        others = [each for each in (advice.tried or advice.predicted)[1:] if each.steps < 1.05 * best.steps]
        near = ", ".join(dict.fromkeys(each.divergence for each in others))
        if near:
            told.append(f"Within 5 % of it: {near}.")
        reach = theory.descent_reach(best.divergence).speed
        largest = float(np.nanmax(advice.m)) / best.sigma**2
        told.append(
            f"sigma: m/sigma^2 begins at {advice.start / best.sigma**2:.2g} (at most {largest:.2g} in a "
            + (f"cell above; the plateau begins at {reach:.3g})." if reach < np.inf else "cell above).")
        )
        stable = best.learning_rate * advice.eigenvalues[0] / best.sigma**2
        told.append(
            f"step: learning rate x largest eigenvalue / sigma^2 is {stable:.2g}, where plain descent on kl "
            "is stable below 2" + ("." if advice.tried else "; a step 10 % larger or smaller costs little.")
        )
        return told


def _plain(course: "Course") -> JsonObject:
    """A course, ready for JSON."""
    return {
        "divergence": course.divergence,
        "sigma": course.sigma,
        "learning_rate": course.learning_rate,
        "steps": course.steps if math.isfinite(course.steps) else None,
        "m": [float(value) if math.isfinite(value) else None for value in course.m],
    }


def _critic(mode: "LeadingMode | str", advice: "Advice") -> JsonObject:
    """The critic's speed at which the leading mode of the game is critically damped."""
    from fdiv_jax import theory

    if isinstance(mode, str):
        return {"advice": mode}
    found: dict[str, float] = {}
    for each in advice.predicted:
        try:
            zeta = theory.damping_ratio(
                each.divergence, damping=mode.damping, coupling=mode.coupling, activation=True
            )
        except ValueError:  # no curvature, no linear rate
            continue
        if zeta > 0:  # a kink leaves the critic undamped at any speed
            found[each.divergence] = 1 / zeta**2
    facts: JsonObject = {"damping": mode.damping, "coupling": mode.coupling, "speed_ratio": found}
    if not found:
        return {**facts, "advice": "none of the divergences has a linear rate against a critic"}
    name = min(found, key=lambda each: abs(math.log(found[each])))
    kind = "circles (under-damped)" if found[name] > 1 else "creeps (over-damped)"
    listed = ", ".join(f"{each} {value:.2g}" for each, value in found.items())
    return {
        **facts,
        "advice": f"leading mode, with a new critic: q = {mode.damping:.2g}, k = {mode.coupling:.2g}. "
        f"Speed of the critic over that of the model (plain steps) at critical damping: {listed}. At "
        f"equal speeds {name} is nearest to it and {kind}.",
    }


def default(arguments: Sequence[str]) -> Command | None:
    """What options start from when a concept file is named."""
    config = configured(arguments)
    return None if config is None else Command(tyro.MISSING, config)
