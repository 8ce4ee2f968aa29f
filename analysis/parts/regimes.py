"""The clock of descent against real runs, from the kl run with the same seed alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from fdiv_jax.files import JsonObject
from fdiv_jax.unlearning import OptimiserConfig, UnlearningConfig

from ..clock_figures import clock_figure, contrasts, timestep_figure
from ..clocks import adam_clock, drive, fate, kind_of, predictions
from ..descents import Curves, Descents
from ..files import Row
from ..trials import TARGET, Laboratory

if TYPE_CHECKING:
    from ..runner import Context

__all__ = ["run"]

UNITS = (630.0, 10.0, 1.0, 1 / 16)
"""sigma^2: from where m starts near 0.01 to where it starts near 100."""
KINKED = (630.0, 1.0)
"""Those at which total_variation is run: where it circles about its kink, and where it does not."""
RATES = {"sgd": 0.01, "adamw": 1e-3}
"""Learning rates; that of gradient descent in units of sigma^2, so that kl takes one path for all sigmas."""
METHODS = {"sgd": ("own", "common", "mean", "kl"), "adamw": ("averaged", "kl")}
"""Predictions by optimiser, the one that is judged first; "kl": that nothing differs from the kl run."""
NEAR = 1.1
"""A run is where kl is while their m are within this factor."""


@dataclass(frozen=True)
class Work:
    """How much is done.

    Attributes:
        divergences, seeds: by optimiser; kl besides.
        units: sigma^2, by optimiser.
        steps, longer: of every run, and of the kl runs, which show the path to the others.
        looks: steps after which m is measured.
        batch, images, held_out: samples of a step, images drawn for training, and samples held out.
    """

    divergences: dict[str, tuple[str, ...]]
    seeds: dict[str, tuple[int, ...]]
    units: dict[str, tuple[float, ...]]
    steps: int = 16
    longer: int = 22
    looks: tuple[int, ...] = (0, 1, 2, 4, 6, 8, 10, 13, 16, 19, 22)
    batch: int = 8
    images: int = 60
    held_out: int = 24


FULL = Work(
    {
        "sgd": ("squared_hellinger", "pearson_chi2", "jensen_shannon", "le_cam", "total_variation"),
        "adamw": ("squared_hellinger", "pearson_chi2", "jensen_shannon", "le_cam"),
    },
    {"sgd": (0, 1, 2, 3, 4), "adamw": (0, 1, 2, 3, 4)},
    {"sgd": UNITS, "adamw": (1.0,)},
)
QUICK = Work(
    {"sgd": ("squared_hellinger", "pearson_chi2"), "adamw": ("squared_hellinger",)},
    {"sgd": (0, 1), "adamw": (0, 1)},
    {"sgd": (10.0, 1.0), "adamw": (1.0,)},
    steps=4,
    longer=5,
    looks=(0, 1, 2, 4, 5),
    batch=4,
    images=5,
    held_out=6,
)
_WINDOWS = 4
"""Windows of timesteps."""
_MIDDLE = 1.0
"""The sigma^2 at which the kl runs are made."""


@dataclass(frozen=True)
class Runs:
    """Runs by name of the divergence, at one sigma^2 with one seed, and the kl run on the same batches.

    Attributes:
        unit: the m of the kl run is multiplied by this.
    """

    optimiser: str
    sigma2: float
    seed: int
    kl: Curves
    of: dict[str, Curves]

    @property
    def unit(self) -> float:
        """What the m of the kl run is multiplied by."""
        return _MIDDLE / self.sigma2


def made(descents: Descents, work: Work, optimiser: str, seed: int) -> list[Runs]:
    """The runs of all divergences at every sigma^2; kl is run at the middle one alone."""

    def config(name: str, sigma2: float, steps: int) -> UnlearningConfig:
        return descents.config(
            name,
            sigma2=sigma2,
            rate=RATES[optimiser],
            steps=steps,
            seed=seed,
            target=TARGET,
            optimiser=OptimiserConfig(name=optimiser),  # pyright: ignore[reportArgumentType]
        )

    listed = [
        (sigma2, name)
        for sigma2 in work.units[optimiser]
        for name in work.divergences[optimiser]
        if name != "total_variation" or sigma2 in KINKED
    ]
    configs = [config("kl", _MIDDLE, work.longer), *(config(name, s2, work.steps) for s2, name in listed)]
    kl, *curves = descents.together(configs, work.looks)
    of: dict[float, dict[str, Curves]] = {sigma2: {} for sigma2 in work.units[optimiser]}
    for (sigma2, name), curve in zip(listed, curves, strict=True):
        of[sigma2][name] = curve
    return [Runs(optimiser, sigma2, seed, kl, each) for sigma2, each in of.items()]


def _all_runs(context: Context, descents: Descents, work: Work) -> list[Runs]:
    listed = [(optimiser, seed) for optimiser in work.divergences for seed in work.seeds[optimiser]]
    return [
        runs
        for optimiser, seed in context.progress(listed, "runs of all divergences")
        for runs in made(descents, work, optimiser, seed)
    ]


def _points(runs: Runs) -> list[Row]:
    """Measured and predicted mean m at every look."""
    rows = []
    adam = OptimiserConfig()
    kl = runs.kl.m.mean(1) * runs.unit
    for name, run in runs.of.items():
        steps = [int(step) for step in run.steps]
        if runs.optimiser == "adamw":
            said = {"averaged": adam_clock(name, runs.kl, runs.unit, steps, adam.b1, adam.b2)}
        else:
            said = predictions(name, runs.kl, runs.unit, steps)
        for place, step in enumerate(steps):
            rows.append(
                {
                    "optimiser": runs.optimiser,
                    "sigma2": runs.sigma2,
                    "seed": runs.seed,
                    "divergence": name,
                    "m0": run.m[0].mean(),
                    "step": step,
                    "m": run.m[place].mean(),
                    "kl": kl[place],
                    "ended": run.diverged,
                }
                | {key: values[place] for key, values in said.items()}
            )
    return rows


def _worth(rows: list[Row], method: str) -> JsonObject:
    """How good a prediction is: over all points, and over those at which the run is not where kl is."""
    found = np.array([row[method] / row["m"] - 1 for row in rows])
    errors = np.where(np.isfinite(found), np.abs(found), np.inf)
    apart = np.array([abs(np.log(row["m"] / row["kl"])) > np.log(NEAR) for row in rows])
    result = {"median": _finite(errors), "within 25 %": float(np.mean(errors <= 0.25)), "points": len(rows)}
    if apart.any():
        result |= {
            "median where it differs from kl": _finite(errors[apart]),
            "within 25 % where it differs from kl": float(np.mean(errors[apart] <= 0.25)),
            "points where it differs from kl": int(apart.sum()),
        }
    return result


def _finite(errors: np.ndarray) -> float | None:
    """The median, or None where most points have no prediction."""
    median = float(np.median(errors))
    return median if np.isfinite(median) else None


def _judged(rows: list[Row], optimiser: str) -> list[Row]:
    """The points that count: of smooth divergences, after the start, of runs whose loss stayed finite."""
    return [
        row
        for row in rows
        if row["optimiser"] == optimiser
        and row["step"] > 0
        and not row["ended"]
        and row["divergence"] != "total_variation"
    ]


def _by(rows: list[Row], key: str, method: str) -> JsonObject:
    """The worth of a prediction for every value of a column."""
    values = dict.fromkeys(row[key] for row in rows)
    return {str(value): _worth([row for row in rows if row[key] == value], method) for value in values}


def _fates(found: list[Runs], steps: int) -> list[Row]:
    """What the exact map says of every run of gradient descent, and what it did."""
    return [
        {
            "sigma2": runs.sigma2,
            "seed": runs.seed,
            "divergence": name,
            "predicted": fate(name, runs.kl, runs.unit, steps),
            "measured": kind_of(run),
        }
        for runs in found
        if runs.optimiser == "sgd"
        for name, run in runs.of.items()
    ]


def _timesteps(found: list[Runs], laboratory: Laboratory) -> list[Row]:
    """m and the drive by window of timesteps along the runs from the middle sigma^2; means over seeds."""
    runs = [each for each in found if each.optimiser == "sgd" and each.sigma2 == _MIDDLE]
    names = ["kl", *[name for name in runs[0].of if not any(each.of[name].diverged for each in runs)]]
    t = runs[0].kl.timesteps
    total = laboratory.frozen.schedule.num_train_timesteps
    weights = np.asarray(laboratory.frozen.schedule.kernel_weight(jnp.asarray(t), of="output"), np.float64)
    rows = []
    for name in names:
        chosen = [each.kl if name == "kl" else each.of[name] for each in runs]
        shown = min(len(each.steps) for each in (*chosen, *runs[0].of.values()) if not each.diverged)
        for place in range(shown):
            m = np.stack([each.m[place] for each in chosen])
            start = chosen[0].m[0]
            scheduled = m * weights * start.mean() / (start * weights).mean()
            for first in range(0, total, total // _WINDOWS):
                inside = (first <= t) & (t < first + total // _WINDOWS)
                if not inside.any():
                    continue
                rows.append(
                    {
                        "divergence": name,
                        "step": int(chosen[0].steps[place]),
                        "window": f"{first}–{first + total // _WINDOWS}",
                        "t": float(t[inside].mean()),
                        "m": float(m[:, inside].mean()),
                        "drive": float(np.mean([drive(name, each)[inside].sum() for each in m])),
                        "drive_schedule": float(
                            np.mean([drive(name, each)[inside].sum() for each in scheduled])
                        ),
                    }
                )
    return rows


def run(context: Context) -> JsonObject:
    """Make the runs, predict each from the kl run with its seed, and compare."""
    laboratory, work = Laboratory.open(context), QUICK if context.quick else FULL
    descents = Descents(laboratory, images=work.images, held_out=work.held_out, batch=work.batch)
    found = _all_runs(context, descents, work)
    rows = [row for runs in found for row in _points(runs)]
    judged = {optimiser: _judged(rows, optimiser) for optimiser in work.divergences}
    worth = {
        optimiser: {method: _worth(judged[optimiser], method) for method in METHODS[optimiser]}
        for optimiser in judged
    }
    fates = _fates(found, work.steps)
    sgd, adam = worth["sgd"]["own"], worth["adamw"]["averaged"]
    by_seed = [value["median"] for value in _by(judged["sgd"], "seed", "own").values()]
    apart, differ = _apart(rows, work)
    context.figure(
        "regimes",
        clock_figure(rows, judged, METHODS),
        shows=f"Plain erasure of {laboratory.frozen.name}'s sneaker at equal curvature, m on {work.held_out} "
        f"held-out samples, {len(work.seeds['sgd'])} seeds. (a-d) Gradient descent with a step in units of "
        "sigma^2, so that the kl runs (black, the only ones that are measured beforehand) take one path: "
        "marks are measured (mean of log m over the seeds, bars one standard deviation, ddof 1), lines are "
        "predicted from the kl run of the same seed alone, with a clock for each held-out sample (total "
        "variation has no curvature to divide by). (e) The same under AdamW. (f) All points of (a-d), "
        f"smooth divergences. Median relative error {sgd['median']:.1%}, "
        f"{sgd['within 25 %']:.0%} of the points of smooth divergences within 25 %. (g, h) "
        'Errors of all points; "same as kl" predicts no difference at all. (i-l) Measured m over that of '
        "kl by m0 and step: a cross where log of the ratio is within the standard deviation over the seeds "
        "of log m of kl. reverse_kl and jeffreys are kl, neyman_chi2 is pearson_chi2 and gan is "
        "jensen_shannon by theory, and are not run.",
        rows=[{key: "" if value != value else value for key, value in row.items()} for row in _full(rows)],
    )
    times = _timesteps(found, laboratory)
    context.figure(
        "timestep_drive",
        timestep_figure(times),
        shows="Which timesteps a divergence drives, along the runs of gradient descent from the m0 of "
        f"{_start(times):.2g}. (a) m of the kl run by window of timesteps. (b) The mean timestep, weighted "
        "by each sample's share w_f(m_i) m_i in the speed of the mean m. (c) The same samples with the "
        "weights of "
        "`schedule` (the reverse kernels' own variance), at the same mean m0. Means over the seeds.",
        rows=times,
    )
    right = [row["predicted"] == row["measured"] for row in fates]
    ended = [row for row in fates if row["measured"] != "converges"]
    return {
        "clock_median_relative_error": sgd["median"],
        "clock_median_relative_error_by_seed": by_seed,
        "clock_share_within_25_percent": sgd["within 25 %"],
        "clock_by_prediction": worth["sgd"],
        "clock_by_sigma2": _by(judged["sgd"], "sigma2", "own"),
        "clock_by_divergence": _by(judged["sgd"], "divergence", "own"),
        "clock_divergence_and_stall_predicted": float(np.mean(right)),
        "clock_fates": {
            "runs": len(fates),
            "diverge or stall": len(ended),
            "of those predicted": sum(row["predicted"] == row["measured"] for row in ended),
            "wrong": [row for row in fates if row["predicted"] != row["measured"]],
        },
        "clock_adamw_median_relative_error": adam["median"],
        "clock_adamw_share_within_25_percent": adam["within 25 %"],
        "clock_adamw_by_prediction": worth["adamw"],
        "regimes_share_of_points_that_differ_by_more_than_seeds": apart,
        "regimes_ratio_to_kl_at_the_end": differ,
    }


def _full(rows: list[Row]) -> list[Row]:
    """The rows with the columns of all predictions; nan where a kind of run has none."""
    names = dict.fromkeys(key for row in rows for key in row)
    return [{name: row.get(name, np.nan) for name in names} for row in rows]


def _start(times: list[Row]) -> float:
    return float(np.mean([row["m"] for row in times if row["step"] == 0 and row["divergence"] == "kl"]))


def _apart(rows: list[Row], work: Work) -> tuple[JsonObject, JsonObject]:
    """By divergence and m0: the share of steps at which it differs from kl by more than the seeds do, and the
    ratio to kl at the last step."""
    share: JsonObject = {}
    ratio: JsonObject = {}
    for name in work.divergences["sgd"]:
        found = contrasts(rows, name)
        for sigma2 in work.units["sgd"]:
            own = [contrast for key, contrast in found.items() if key[0] == sigma2]
            if own and np.isfinite(own[-1].log_ratio):
                key = f"{sigma2:g}"
                clear = [abs(each.log_ratio) > each.spread for each in own]
                share.setdefault(name, {})[key] = float(np.mean(clear))
                ratio.setdefault(name, {})[key] = float(np.exp(own[-1].log_ratio))
    return share, ratio
