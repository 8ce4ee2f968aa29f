"""The spectrum of the training step on a real network, predicted from one measured (Gram, K)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import jax
import numpy as np
from matplotlib.ticker import LogLocator, NullFormatter

from fdiv_jax.divergences import divergence
from fdiv_jax.files import JsonObject
from fdiv_jax.pipeline import TextToImagePipeline
from fdiv_jax.theory import rate_by_curvature
from fdiv_jax.unlearning import AnchorData, CriticConfig, Frozen

from ..blocks import Blocks, predicted_eigenvalues, relative_errors
from ..files import Row
from ..simulate import plane_rate
from ..spectrum import Point, Ritz, StepGame
from ..style import INK, label, line_style, panel_letters, panels, series_style
from ..toy_games import smooth_divergences
from ..trials import Laboratory, Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..runner import Context

__all__ = ["run"]

Rates = tuple[float, float]
"""Learning rates (a, b) of model and critic."""
BAR = 1e-6
COUNT = 16
"""Eigenvalues compared, those of largest modulus."""
EXTREMES = ("squared_hellinger", "pearson_chi2")
"""f''(1) = 1/2 and 2."""
WINDOWS = {"all": (0, 999), "late": (0, 333), "early": (667, 999)}
"""Windows of timesteps, named by when the sampler is there."""
CRITIC = CriticConfig(hidden_channels=(16, 32, 64), head_channels=64)
"""The training critic, narrower: its latents are 8 x 8."""
NARROW = replace(CRITIC, head_channels=24)
PUSHES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
"""Distances of the parameters at which orbits begin: the first three, and smaller ones until two rates in
succession agree to `SETTLED`. A push that is not small meets kinks of the critic's leaky ReLUs on its way."""
SETTLED = 0.02

CURVATURES = (0.5, 1.0, 2.0)
SPEEDS = {"model at a": 1.0, "model at a / 100": 0.01}
"""Factors of the model's learning rate, see `rates_of`, at which the order of curvatures is asked for."""
METHODS: dict[str, JsonObject] = {
    "plain": {},
    "three critic steps": {"critic_steps": 3},
    "heavy ball 0.5": {"momentum": 0.5},
    "Adam": {"adam": True, "momentum": 0.9, "averaged": True},
}


@dataclass(frozen=True)
class Amount:
    """How much work: samples of a batch, batches, dimensions of the Krylov space, trainable parameters, steps
    of an orbit, windows, other groups, and the layer of a LoRA of rank 1."""

    samples: int = 4
    batches: int = 5
    krylov: int = 48
    group: str = "cross-attn"
    steps: int = 24
    windows: tuple[str, ...] = ("late", "early")
    groups: tuple[tuple[str, str, int | None], ...] = (("all weights", "full", None),)
    dense: str | None = r"up_blocks\.1\.attentions\.1.*attn2\.to_v"


FULL = Amount()
QUICK = Amount(
    group=r"up_blocks\.1\.attentions\.1.*attn2",
    samples=2,
    batches=2,
    steps=8,
    windows=("early",),
    groups=(),
    dense=None,
)


@dataclass(frozen=True)
class Case:
    """The games of one group of parameters, on all batches and windows."""

    game: StepGame
    frozen: Frozen
    data: AnchorData
    amount: Amount

    def point(self, batch: int = 0, window: str = "all") -> Point:
        """The self-anchored point on one batch; the noise and the critic are the batch's own too."""
        images = self.data.batch(0, batch, self.amount.samples)
        noise, critic = (jax.random.fold_in(jax.random.key(seed), batch) for seed in (11, 12))
        return self.game.point(self.frozen, images, noise, WINDOWS[window], critic)

    def measure(
        self, point: Point, blocks: Blocks, rates: Rates, name: str, activation: bool = True
    ) -> tuple[Row, Ritz]:
        """Predicted and measured eigenvalues of one game."""
        found = self.game.eigenvalues(
            point,
            self.game.speeds(divergence(name), activation, *rates),
            size=self.amount.krylov,
            key=jax.random.key(13),
        )
        predicted = _predicted(blocks, rates, name, activation)
        return {
            "divergence": name,
            "activation": activation,
            "predicted": _parts(predicted[: 2 * COUNT]),
            "measured": _parts(found.values[: 2 * COUNT]),
            "error": float(relative_errors(found.values, predicted, COUNT).max()),
            "residual": float(found.residuals[:COUNT].max()),
        }, found

    def orbit(self, point: Point, blocks: Blocks, rates: Rates, name: str) -> Row:
        """`measure` with T = g(v), and the training step played from small pushes: rates of decay.

        The push is along the pair of eigenvalues that turns fastest; the rate of an orbit is `plane_rate`,
        and the parabola through the smallest three pushes is read at zero.
        """
        row, found = self.measure(point, blocks, rates, name)
        place = int(np.argmax(np.imag(found.values)))
        size = sum(leaf.size for leaf in jax.tree.leaves(point.trained))
        plane = found.plane(place, size)
        unit = np.sqrt(rates[0]) * np.linalg.norm(plane[:size, 0])
        speeds = self.game.speeds(divergence(name), True, *rates)
        measured: list[float] = []
        for push in PUSHES:
            if len(measured) >= 3 and abs(measured[-1] / measured[-2] - 1) < SETTLED:
                break
            path = self.game.orbit(point, speeds, plane, push / unit, steps=self.amount.steps)
            measured.append(plane_rate(path))
        pushes = PUSHES[: len(measured)]
        predicted = _predicted(blocks, rates, name, True)
        nearest = predicted[np.argmin(np.abs(predicted - found.values[place]))]
        rate = float(-np.log(np.abs(1 + nearest)))
        limit = float(np.polyval(np.polyfit(pushes[-3:], measured[-3:], 2), 0.0))
        return row | {"predicted_rate": rate, "rates": measured, "limit": limit}


def rates_of(blocks: Blocks) -> Rates:
    """Learning rates (a, b): the critic's constant direction at half of its stable range for f''(1) = 1/2,
    and the strongest coupled direction critically damped for f''(1) = 1 and T = v."""
    squares, directions = np.linalg.eigh(blocks.coupling_square)
    damping = float(directions[:, -1] @ blocks.gram @ directions[:, -1])
    b = 0.5 / float(np.linalg.eigvalsh(blocks.gram)[-1])
    return b * damping**2 / (4 * float(squares[-1])), b


def _predicted(blocks: Blocks, rates: Rates, name: str, activation: bool) -> np.ndarray:
    a, b = rates
    return predicted_eigenvalues(
        blocks,
        divergence(name),
        activation=activation,
        model_step=a,
        critic_step=b,
    )


def _parts(values: np.ndarray) -> np.ndarray:
    return np.stack([np.real(values), np.imag(values)], axis=1)


@dataclass(frozen=True)
class Bench:
    """What all cases share: the model, its anchor images and the amount of work."""

    pipe: TextToImagePipeline
    data: AnchorData
    amount: Amount

    def case(
        self,
        names: Sequence[str],
        group: str,
        rank: int | None = None,
        critic: CriticConfig = CRITIC,
    ) -> Case:
        """The games of one group of parameters."""
        members = [divergence(name) for name in names]
        game, frozen = StepGame.of(self.pipe, group, members, rank=rank, critic=critic)
        return Case(game, frozen, self.data, self.amount)

    def group(self, group: str, rank: int | None) -> Row:
        """The spectrum of other parameters, kl."""
        case = self.case(["kl"], group, rank, NARROW)
        point = case.point()
        blocks = case.game.blocks(point)
        return case.measure(point, blocks, rates_of(blocks), "kl")[0]

    def dense(self) -> Row:
        """The whole Jacobian of a rank-1 LoRA of one layer, by automatic differentiation, against the
        prediction."""
        name = "squared_hellinger"
        critic = CriticConfig(hidden_channels=(4, 4, 4), head_channels=8)
        case = self.case([name], self.amount.dense or "", 1, critic)
        point = case.point()
        blocks = case.game.blocks(point)
        rates = rates_of(blocks)
        jacobian = case.game.jacobian(point, case.game.speeds(divergence(name), True, *rates))
        errors = relative_errors(np.linalg.eigvals(jacobian), _predicted(blocks, rates, name, True), COUNT)
        return {"parameters": len(jacobian), "error": float(errors.max())}


def _kept(blocks: Blocks) -> JsonObject:
    return {"gram": blocks.gram, "coupling_square": blocks.coupling_square}


def _draw_plane(axis: Axes, rows: list[Row], name: str) -> None:
    """Measured dots on predicted circles: frequency over damping, 1 - mu = -nu; T = v in grey."""
    colour = line_style(name)["color"]
    for row in rows:
        if row["divergence"] != name:
            continue
        ink = colour if row["activation"] else "#a0a0a0"
        circle = {"marker": "o", "markeredgecolor": ink, "markerfacecolor": "none", "markersize": 6.5}
        for values, look in (
            (row["measured"][:COUNT], {"marker": ".", "color": ink, "markersize": 3.5}),
            (row["predicted"][:COUNT], circle),
        ):
            axis.plot(
                -values[:, 0], 1e3 * values[:, 1], linestyle="none", markeredgewidth=0.7, **look
            )  # fmt: skip
    axis.set(xscale="log", title=label(name))
    axis.xaxis.set_major_locator(LogLocator(numticks=4))
    axis.xaxis.set_minor_formatter(NullFormatter())


def _density(blocks: list[Blocks], edges: np.ndarray) -> np.ndarray:
    """Eigenvalues of K K^T per decade, one row for each batch."""
    width = np.log10(edges[1] / edges[0])
    return np.array(
        [np.histogram(np.linalg.eigvalsh(each.coupling_square), edges)[0] / width for each in blocks]
    )


def _draw_density(axis: Axes, by_window: dict[str, list[Blocks]]) -> None:
    top = max(np.linalg.eigvalsh(each.coupling_square)[-1] for some in by_window.values() for each in some)
    edges = np.geomspace(1e-7 * top, 1.01 * top, 15)
    middles = np.sqrt(edges[1:] * edges[:-1])
    for place, (window, some) in enumerate(by_window.items()):
        found = _density(some, edges)
        spread = found.std(axis=0, ddof=1) if len(found) > 1 else None
        axis.errorbar(
            middles, found.mean(0), spread, **series_style(1 + place), markersize=3, linewidth=1,
            elinewidth=0.7, capsize=1.5, label=window,
        )  # fmt: skip
    axis.set(xscale="log", xlabel="eigenvalue of KKᵀ", ylabel="eigenvalues per decade")
    axis.set_title("spectral density")
    axis.set_ylim(top=1.75 * axis.get_ylim()[1])
    axis.legend(title="timesteps", title_fontsize=7, fontsize=7, loc="upper left", handlelength=1.2, ncols=2)


def _draw_orbits(axis: Axes, rows: list[Row]) -> None:
    for row in rows:
        look = {key: value for key, value in line_style(row["divergence"]).items() if key != "label"}
        errors = np.abs(np.array([*row["rates"], row["limit"]]) / row["predicted_rate"] - 1)
        axis.plot(PUSHES[: len(errors) - 1], errors[:-1], **dict(look, markersize=2.5, linewidth=0.7))
        open_mark = {"markersize": 4, "markerfacecolor": "white", "linestyle": "none"}
        axis.plot(1e-7, errors[-1], **dict(look, **open_mark))
    axis.axhline(0.01, color=INK, linestyle="--", linewidth=0.8)
    axis.set(
        xscale="log", yscale="log", xlabel="push (open: read at zero)", ylabel="relative error of the rate"
    )
    axis.set_title("played orbits")


def _draw_errors(axis: Axes, errors: dict[str, list[float]]) -> None:
    look = dict(series_style(1), linestyle="none")
    for place, values in enumerate(errors.values()):
        axis.plot(values, [place] * len(values), **look, markersize=3, alpha=0.6)
    axis.axvline(BAR, color=INK, linestyle="--", linewidth=0.8)
    axis.set_yticks(range(len(errors)), list(errors), fontsize=7)
    axis.invert_yaxis()
    axis.set(xscale="log", xlabel="relative error")
    axis.set_title("every spectrum")


def _draw(
    names: list[str],
    rows: list[Row],
    by_window: dict[str, list[Blocks]],
    orbits: list[Row],
    errors: dict[str, list[float]],
) -> Figure:
    figure, grid = panels(4, 3, width=6.75, height=8.6)
    axes = grid.ravel()
    for axis, name in zip(axes, names, strict=False):
        _draw_plane(axis, rows, name)
    for axis in axes[len(names) : 9]:
        axis.set_visible(False)
    for place in (0, 3, 6):
        axes[place].set_ylabel("10³ Im ν per step")
    for place in (6, 7, 8):
        axes[place].set_xlabel("−Re ν per step")
    _draw_density(axes[9], by_window)
    _draw_orbits(axes[10], orbits)
    _draw_errors(axes[11], errors)
    panel_letters(axes)
    return figure


def run(context: Context) -> JsonObject:
    """All divergences on one batch; the classes of curvature on other batches, windows and groups; orbits."""
    laboratory = Laboratory.open(context)
    amount = QUICK if context.quick else FULL
    bench = Bench(laboratory.frozen, laboratory.data(Trial("kl")), amount)  # images drawn as for training
    with jax.enable_x64(True):
        return _run(context, bench)


def _run(context: Context, bench: Bench) -> JsonObject:
    amount = bench.amount
    names = [d.name for d in smooth_divergences(context.quick)]
    case = bench.case(names, amount.group)
    batches = range(amount.batches)
    places = [(window, batch) for window in ("all", *amount.windows) for batch in batches]
    stored = context.cells(places, "blocks", lambda at: _kept(case.game.blocks(case.point(at[1], at[0]))))
    blocks = {at: Blocks(**each) for at, each in zip(places, stored, strict=True)}

    rates = rates_of(blocks["all", 0])

    def spectrum(job: tuple[tuple[str, int], str, bool]) -> Row:
        (window, batch), name, activation = job
        return case.measure(case.point(batch, window), blocks[window, batch], rates, name, activation)[0]

    jobs = [(("all", 0), name, activation) for name in names for activation in (False, True)]
    rows = context.cells(jobs, "spectra", spectrum)
    elsewhere = [((window, 0), name, True) for window, name in zip(amount.windows, EXTREMES, strict=False)]
    others = context.cells(elsewhere, "spectra by window", spectrum)
    played = [(batch, name) for batch in batches for name in EXTREMES]
    orbits = context.cells(
        played, "orbits", lambda job: case.orbit(case.point(job[0]), blocks["all", job[0]], rates, job[1])
    )
    for (batch, _), row in zip(played, orbits, strict=True):
        row |= {"batch": batch, "orbit_error": abs(row["limit"] / row["predicted_rate"] - 1)}

    errors = {
        f"{len(names)} divergences": [row["error"] for row in rows],
        f"{len(batches)} batches": [row["error"] for row in orbits],
    }
    for ((window, _), _, _), row in zip(elsewhere, others, strict=True):
        errors.setdefault(f"{window} timesteps", []).append(row["error"])
    for (name, *_), row in zip(
        amount.groups, context.cells(amount.groups, "groups", lambda of: bench.group(*of[1:])), strict=True
    ):
        errors[name] = [row["error"]]
    if amount.dense:
        (dense,) = context.cells([amount.dense], "dense", lambda _: bench.dense())
        errors["LoRA of rank 1, dense"] = [dense["error"]]

    by_window = {window: [blocks[window, batch] for batch in batches] for window in ("all", *amount.windows)}
    gram, coupling = blocks["all", 0].ranks
    order, kept = _by_curvature(by_window["all"], rates)
    largest = max(max(some) for some in errors.values())
    orbit_error = max(row["orbit_error"] for row in orbits)
    figure = _draw(names, rows, by_window, orbits, errors)
    context.figure(
        "real_spectrum",
        figure,
        shows=f"(a-i) The {COUNT} eigenvalues ν = μ − 1 of largest modulus of one training step on the UNet, "
        "all its cross-attention parameters and all of the critic's: predicted from one measured Gram and K "
        "(circles) and found by Arnoldi on Jacobian-vector products of the step (dots); T = g(v) in colour, "
        "T = v in grey and covered where g'(v0) = 1. Every panel has the same Gram, K and learning rates, so "
        "divergences with the same f''(1) and g'(v0) have the same spectrum. (j) Eigenvalues of KKᵀ, mean, "
        f"and standard deviation (ddof 1) over {len(batches)} batches. (k) Orbits of the step from small "
        "pushes on each batch, squared Hellinger (diamonds) and Pearson χ² (triangles): their rates are the "
        f"predicted ones to {orbit_error:.1g}, read at zero push. (l) Largest relative error of every "
        f"spectrum, by what it was measured on: {largest:.1g}, which is that of "
        f"Arnoldi in {amount.krylov} dimensions. On {amount.samples} samples Gram has rank {gram} and K "
        f"rank {coupling}: most modes are hardly damped, whatever f.",
        rows=_table(rows),
        numbers={
            "errors": errors,
            "orbits": [
                {key: row[key] for key in ("divergence", "batch", "predicted_rate", "rates", "limit")}
                for row in orbits
            ],
            "rate_by_curvature": order,
            "order_of_plain_steps_kept": kept,
        },
    )
    return {
        "real_spectrum_max_relative_error": largest,
        "real_spectrum_error_by_case": {name: max(some) for name, some in errors.items()},
        "real_spectrum_within_bar": largest <= BAR,
        "real_orbit_rate_max_relative_error": orbit_error,
        "real_spectrum_gram_rank": gram,
        "real_spectrum_coupling_rank": coupling,
        "real_spectrum_rate_by_curvature": order,
        "real_spectrum_order_of_plain_steps_kept": kept,
    }


def _by_curvature(blocks: list[Blocks], rates: Rates) -> tuple[JsonObject, dict[str, float]]:
    """Rates for f''(1) = 1/2, 1, 2 with T = v, in the directions that the batch damps: medians over batches;
    and the share of the pairs of curvatures, over batches and speeds, that come in the order of plain steps.
    """
    found = {
        (speed, method, batch): rate_by_curvature(
            CURVATURES, one.damped.gram, one.damped.coupling, 1.0, scheme="alternating",
            model_step=SPEEDS[speed] * rates[0], critic_step=rates[1], **options,
        )
        for speed in SPEEDS
        for method, options in METHODS.items()
        for batch, one in enumerate(blocks)
    }  # fmt: skip
    medians = {
        speed: {
            method: np.median([found[speed, method, batch] for batch in range(len(blocks))], axis=0).tolist()
            for method in METHODS
        }
        for speed in SPEEDS
    }

    orders = {key: np.sign(np.diff(rates)) for key, rates in found.items()}
    kept = {
        method: float(np.mean([orders[s, m, i] == orders[s, "plain", i] for s, m, i in found if m == method]))
        for method in METHODS
    }
    return medians, kept


def _table(rows: list[Row]) -> list[Row]:
    """One row for each eigenvalue: predicted, and the measured one nearest to it."""
    out = []
    for row in rows:
        measured = row["measured"] @ [1, 1j]
        for real, imaginary in row["predicted"][:COUNT]:
            near = measured[np.argmin(np.abs(measured - (real + 1j * imaginary)))]
            out.append(
                {
                    "divergence": row["divergence"],
                    "activation": row["activation"],
                    "predicted_real": real,
                    "predicted_imaginary": imaginary,
                    "measured_real": near.real,
                    "measured_imaginary": near.imag,
                }
            )
    return out
