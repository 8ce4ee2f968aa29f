"""One divergence, or two, in nine panels: the generator, what it says between Gaussians, and the game."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fdiv_jax.explore.curves import (
    DISTANCES,
    conjugate_curve,
    divergence_curve,
    generator_curves,
    weight_curve,
)
from fdiv_jax.explore.game import DAMPING_RATIOS, no_rate, phases
from fdiv_jax.explore.gaussian import START
from fdiv_jax.pages import plain_figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fdiv_jax.divergences import Divergence

__all__ = ["PANELS", "Colours", "Subject", "draw", "logarithmic", "style", "title"]

_OTHERS = {"kl": "-", "squared_hellinger": "--", "pearson_chi2": ":"}
_RATIOS = (0.03, 60.0)
"""The range of q/k that is drawn."""


@dataclass(frozen=True)
class Colours:
    """The colours of a picture.

    Attributes:
        first: of the divergence itself.
        second: of the one set beside it.
        others: of named divergences, for comparison.
        alarm: of limits and of reasons why there is no curve.
        ink: of text on a coloured ground.
    """

    first: str = "#1f5fa8"
    second: str = "#d98324"
    others: str = "#9aa0a6"
    alarm: str = "#c0392b"
    ink: str = "#ffffff"


@dataclass(frozen=True)
class Subject:
    """What is drawn: a divergence, perhaps one to set beside it, and the colours."""

    d: Divergence
    second: Divergence | None = None
    colours: Colours = Colours()

    def both(self) -> Iterator[tuple[Divergence, str]]:
        """The divergences with their colours, the first one last, so that it lies on top."""
        if self.second is not None:
            yield self.second, self.colours.second
        yield self.d, self.colours.first

    def named(self) -> Iterator[tuple[Divergence, str]]:
        """Named divergences that are neither of the two, with line styles."""
        from fdiv_jax.divergences import divergence

        shown = {each.name for each, _ in self.both()}
        for name, line in _OTHERS.items():
            if name not in shown:
                yield divergence(name), line


def style(**settings: Any) -> Any:
    """Settings of matplotlib under which the panels look as they should."""
    return {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "legend.frameon": False,
        "legend.fontsize": 8,
    } | settings


def draw(d: Divergence, path: Path, second: Divergence | None = None) -> None:
    """Write the picture; the ending of the path chooses the format. second: one to set beside it."""
    from matplotlib.figure import Figure

    with plain_figures(style()):
        figure = Figure(figsize=(12.6, 11.2), layout="constrained")
        for panel, axis in zip(PANELS.values(), figure.subplots(3, 3).flat, strict=True):
            panel(Subject(d, second), axis)
            if axis.get_legend_handles_labels()[0]:  # below the axes, where no curve is
                axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
        lines = "\n".join(title(x) for x in (d, second) if x is not None)
        figure.suptitle(lines, x=0.01, ha="left", fontsize=12, parse_math=False)
        figure.savefig(path, dpi=160)


def title(d: Divergence) -> str:
    """The name, and f''(1) exactly where that is short."""
    exact, value = str(d.curvature), float(d.curvature)
    return f"{_cut(d.name, 70)},   f''(1) = {exact if len(exact) <= 12 else f'{value:.6g}'}"


def _cut(name: str, length: int = 22) -> str:
    return name if len(name) <= length else name[: length - 3] + "..."


def _generator(subject: Subject, axis: Axes) -> None:
    d, colours = subject.d, subject.colours
    t = np.linspace(1e-3, 3.5, 500)
    for each, colour in subject.both():
        axis.plot(t, generator_curves(each, t)[0], color=colour, lw=2, label=_cut(each.name))
    values = generator_curves(d, t)[0]
    middle = values[np.isfinite(values) & (t > 0.05) & (t < 3.2)]
    s0 = d.equilibrium[0]
    top, low = float(middle.max()), min(float(values[np.isfinite(values)].min()), 0.0)
    span = max(top - low, 1e-6)
    axis.plot(t, s0 * (t - 1), color=colours.others, lw=1, ls="--", label=f"slope s0 = {s0:.3g}")
    axis.plot([1], [0], "o", color=colours.first, ms=5)
    for cut, _ in d.kinks:
        axis.axvline(float(cut), color=colours.alarm, lw=0.8, ls=":", label=f"kink at t = {cut}")
    axis.set(title="generator f", xlabel="t = dP/dQ", xlim=(0, 3.5))
    axis.set(ylim=(low - 0.08 * span, top + 0.08 * span))


def _derivatives(subject: Subject, axis: Axes) -> None:
    t = np.linspace(0.02, 3.5, 350)
    middle = (t > 0.3) & (t < 3.2)
    heights = [0.0]
    for each, colour in subject.both():
        _, first, second = generator_curves(each, t)
        axis.plot(t, first, color=colour, lw=2, label=f"f', {_cut(each.name, 16)}")
        axis.plot(t, second, color=colour, lw=1.2, ls="--", label=f"f'', {_cut(each.name, 16)}")
        heights += [x for x in (*first[middle], *second[middle]) if math.isfinite(x)]
    low, high = min(heights), max(*heights, 1e-6)
    pad = 0.08 * (high - low)
    axis.axhline(0, color=subject.colours.others, lw=0.8)
    axis.set(title="derivatives f' and f''", xlabel="t", xlim=(0, 3.5), ylim=(low - pad, high + pad))


def _conjugate(subject: Subject, axis: Axes) -> None:
    d, colours = subject.d, subject.colours
    lowest, highest = (float(x) for x in d.slopes)
    s0 = d.equilibrium[0]
    right = s0 + 2.0 if math.isinf(highest) else highest
    left = max(s0 - 3.0, lowest - 0.5 * max(s0 - lowest, 1.0)) if math.isfinite(lowest) else s0 - 3.0
    for each, colour in subject.both():
        axis.plot(*conjugate_curve(each, left, right), color=colour, lw=2, label=_cut(each.name))
    values = conjugate_curve(d, left, right)[1]
    axis.plot([left, right], [left, right], color=colours.others, lw=1, ls="--", label="s, equal at s0")
    axis.plot([s0], [s0], "o", color=colours.first, ms=5)
    bottom, top = float(values.min(initial=s0)), min(float(values.max(initial=s0)), s0 + 6.0)
    if math.isfinite(highest):
        end = highest + 0.12 * (right - left)
        axis.axvspan(highest, end, color=colours.alarm, alpha=0.12, lw=0, label="infinite")
    if math.isfinite(lowest) and lowest > left:
        axis.axvline(lowest, color=colours.alarm, lw=0.8, ls=":", label="f'(0+): constant below")
    pad = 0.08 * max(top - bottom, 1e-6)
    axis.set(title="conjugate f*", xlabel="s", ylim=(min(bottom, left) - pad, top + pad))


def _curves(
    subject: Subject, axis: Axes, x: np.ndarray, of: Callable[[Divergence], np.ndarray], named: bool = True
) -> list[np.ndarray]:
    """One curve for each divergence; those of the two, or none where quadrature cannot have them."""
    for other, line in subject.named() if named else ():
        axis.plot(x, of(other), color=subject.colours.others, ls=line, lw=1, label=_cut(other.name))
    try:
        found = [(of(each), each.name, colour) for each, colour in subject.both()]
    except NotImplementedError:
        _say(subject, axis, "beyond quadrature")
        return []
    for values, name, colour in found:
        axis.plot(x, values, color=colour, lw=2, label=_cut(name))
    return [values for values, *_ in found]


def _around(axis: Axes, curves: list[np.ndarray], lowest: float = 1e-4) -> None:
    """A logarithmic axis around the curves."""
    values = np.concatenate([*curves, [1.0]])
    values = values[np.isfinite(values) & (values > 0)]
    low, high = max(float(values.min()), lowest), min(float(values.max()), 1e4)
    axis.set_ylim(low / 2, high * 2)
    logarithmic(axis, "y")


def logarithmic(axis: Axes, *directions: Literal["x", "y"]) -> None:
    """Powers of ten in plain figures, without marks between them; where few are in view, multiples too."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    class Locator(LogLocator):
        def tick_values(self, vmin: float, vmax: float) -> Sequence[float]:
            decades = abs(math.log10(vmax / vmin))
            self.set_params(subs=(1, 2, 3, 5, 7) if decades < 1 else (1, 2, 5) if decades < 2 else (1,))
            return super().tick_values(vmin, vmax)

    for direction in directions:
        axis.set(**{f"{direction}scale": "log"})
        own = axis.xaxis if direction == "x" else axis.yaxis
        own.set_major_locator(Locator(numticks=6))
        own.set_minor_locator(NullLocator())
        own.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _weight(subject: Subject, axis: Axes) -> None:
    scaled = all(0 < float(each.curvature) < math.inf for each, _ in subject.both())

    def of(other: Divergence) -> np.ndarray:
        return weight_curve(other) / (float(other.curvature) if scaled else 1.0)

    title = "gradient weight w_f(m) / w_f(0)" if scaled else "gradient weight w_f(m)"
    axis.set(title=title, xlabel="squared distance m")
    logarithmic(axis, "x")
    _around(axis, _curves(subject, axis, DISTANCES, of, named=scaled))


def _value(subject: Subject, axis: Axes) -> None:
    axis.set(title="D_f between Gaussians", xlabel="squared distance m")
    logarithmic(axis, "x")
    curves = _curves(subject, axis, DISTANCES, divergence_curve)
    bound = subject.d.value_at_zero + subject.d.slopes[1]
    if curves and bound.is_finite:
        text = f"bounded by {float(bound):.4g}"
        axis.axhline(float(bound), color=subject.colours.alarm, lw=0.8, ls=":", label=text)
    _around(axis, curves)


def _clock(subject: Subject, axis: Axes) -> None:
    from fdiv_jax.theory import descent_time

    m = np.geomspace(START, START / 1000, 90)

    def times(other: Divergence) -> np.ndarray:
        return np.asarray(descent_time(other, START, m))

    def drawn(x: np.ndarray, of: Divergence, color: str, **line: Any) -> None:
        axis.plot(x, m, color=color, label=_cut(of.name), **line)

    for other, line in subject.named():
        drawn(times(other), other, subject.colours.others, ls=line, lw=1)
    axis.set(title=f"clock of descent from m = {START:g}", xlabel="time, in units of 1/k", ylabel="m")
    logarithmic(axis, "y")
    axis.set_ylim(START / 1200, START * 1.6)
    ends = [math.log(1000) / 2]
    try:
        for each, colour in subject.both():
            x = times(each)
            drawn(x, each, colour, lw=2)
            ends.append(float(x[x < 200].max()))
    except NotImplementedError:
        _say(subject, axis, "beyond quadrature")
    axis.set_xlim(0, 1.05 * max(ends))


def _rate(subject: Subject, axis: Axes) -> None:
    from fdiv_jax import theory

    ratio = np.geomspace(*_RATIOS, 160)

    def of(other: Divergence) -> np.ndarray:
        zeta = theory.damping_ratio(other, damping=ratio, coupling=1.0)
        return theory.mode_rate(2 * zeta, 1.0)

    for other, line in subject.named():
        axis.plot(ratio, of(other), color=subject.colours.others, ls=line, lw=1, label=_cut(other.name))
    for each, colour in subject.both():
        if no_rate(each) is None:
            axis.plot(ratio, of(each), color=colour, lw=2, label=_cut(each.name))
    if _has_rate(subject, axis):
        critical = 2 * float(subject.d.curvature)
        axis.axvline(critical, color=subject.colours.alarm, lw=0.8, ls=":", label="critically damped")
    axis.set(title="rate of the min-max game, T = v", xlabel="damping per coupling q/k")
    logarithmic(axis, "x", "y")
    axis.set_xlim(_RATIOS)


def _spectrum(subject: Subject, axis: Axes) -> None:
    from fdiv_jax import theory

    angle = np.linspace(np.pi / 2, 3 * np.pi / 2, 90)
    axis.plot(np.cos(angle), np.sin(angle), color=subject.colours.others, lw=1)
    axis.axhline(0, color=subject.colours.others, lw=1)
    axis.axvline(0, color=subject.colours.alarm, lw=0.8, ls=":", label="no decay")
    for each, colour in subject.both():
        if no_rate(each) is not None:
            continue
        for i, ratio in enumerate(DAMPING_RATIOS):
            zeta = theory.damping_ratio(each, damping=ratio, coupling=1.0)
            roots = theory.mode_eigenvalues(2 * zeta, 1.0)
            label = _cut(each.name) if i == 0 else None
            axis.plot(roots.real, roots.imag, "o", color=colour, ms=3 + 1.2 * i, alpha=0.8, label=label)
    _has_rate(subject, axis)
    axis.set(title="eigenvalues for q/k = 0.1, 0.3, 1, 3, 10", xlabel="Re, in units of k", ylabel="Im")
    axis.set(xlim=(-3.2, 0.25), ylim=(-1.25, 1.25))


def _phases(subject: Subject, axis: Axes) -> None:
    from fdiv_jax.divergences import catalogue

    own = {each.name: colour for each, colour in subject.both() if no_rate(each) is None}
    members = [each for each, _ in subject.both() if each.name in own]
    members += [d for d in catalogue().values() if d.is_smooth and d not in members]
    low, high = (math.log10(x) for x in _RATIOS)
    for row, activation in enumerate((False, True)):
        for i, part in enumerate(phases(members, activation)):
            begin, end = (
                min(max(math.log10(float(part[key])), low), high) if part[key] not in (0, "oo") else edge
                for key, edge in (("from", low), ("to", high))
            )
            winner = next((name for name in own if name in part["fastest"]), part["fastest"][0])
            colour, alpha = (
                own.get(winner, subject.colours.others),
                1.0 if winner in own else 0.35 + 0.3 * (i % 2),
            )
            axis.barh(-row, end - begin, left=begin, height=0.62, color=colour, alpha=alpha, lw=0)
            text = _phase_name(part["fastest"], winner, end - begin)
            inside: Any = {"color": subject.colours.ink} if winner in own else {}
            axis.text((begin + end) / 2, -row, text, ha="center", va="center", fontsize=7.5, **inside)
    if own.get(subject.d.name):
        critical = math.log10(2 * float(subject.d.curvature))
        axis.plot(
            [critical] * 2,
            [-0.42, 0.42],
            color=subject.colours.alarm,
            lw=1,
            ls=":",
            label="critically damped",
        )
    else:
        _has_rate(subject, axis)
    places = [x for x in (-1, 0, 1) if low <= x <= high]
    axis.set_xticks(places, [f"{10.0**x:g}" for x in places])
    axis.set_yticks([0, -1], ["v", "g(v)"])
    axis.set(
        title="fastest of the catalogue",
        xlabel="(q/k) sqrt(b/a)",
        ylabel="T",
        xlim=(low, high),
        ylim=(-1.6, 0.6),
    )


def _phase_name(fastest: list[str], winner: str, width: float) -> str:
    """The winner, and how many tie with it, where there is room."""
    more = f" +{len(fastest) - 1}" if len(fastest) > 1 else ""
    room = int(width * 17)  # letters
    text = _cut(winner, 20) + more
    if len(text) <= room:
        return text
    return f"{winner[: room - 1]}…" if room > 4 else ""


def _has_rate(subject: Subject, axis: Axes) -> bool:
    """Whether the game of this f has a linear rate; says why where it has none."""
    if no_rate(subject.d) is None:
        return True
    curvature = float(subject.d.curvature)
    flat = (
        "f''(1) = 0"
        if curvature == 0
        else "f''(1) is infinite"
        if math.isinf(curvature)
        else "f linear beyond 1"
    )
    _say(subject, axis, f"no linear rate: {flat}")
    return False


def _say(subject: Subject, axis: Axes, reason: str) -> None:
    """Why there is no curve of this f."""
    axis.text(0.5, 0.5, reason, transform=axis.transAxes, ha="center", color=subject.colours.alarm)


PANELS: dict[str, Callable[[Subject, Axes], None]] = {
    "generator": _generator,
    "derivatives": _derivatives,
    "conjugate": _conjugate,
    "value": _value,
    "weight": _weight,
    "clock": _clock,
    "rate": _rate,
    "spectrum": _spectrum,
    "phases": _phases,
}
"""The panels by their names, in three rows of three."""
