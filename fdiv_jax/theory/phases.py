"""Which divergence converges fastest in the min-max game: a phase diagram over (q/k, b/a)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from fdiv_jax.theory._inputs import Floats, Linearisation, as_divergence, linearisation, real_array
from fdiv_jax.theory.modes import mode_rate

if TYPE_CHECKING:
    from fdiv_jax.divergences import Divergence

__all__ = ["PhaseBoundary", "PhaseDiagram", "phase_diagram"]

_TIE = 1e-9


@dataclass(frozen=True)
class PhaseBoundary:
    """A line (q/k) sqrt(b/a) = `ratio` of the diagram: `below` is fastest below it, `above` above it.

    `below` and `above` hold the names of all divergences that tie there.
    """

    ratio: float
    below: tuple[str, ...]
    above: tuple[str, ...]


@dataclass(frozen=True)
class PhaseDiagram:
    """The fastest divergence in every cell of a grid over damping per coupling (q/k) and step ratio (b/a).

    Attributes:
      names: the divergences' names, in the order given.
      damping_over_coupling: q/k > 0, (n_x,).
      step_ratio: b/a > 0, (n_y,).
      activation: whether T = g(v).
      rates: (n_divergences, n_y, n_x), in units of k sqrt(a b).
      winner: (n_y, n_x), index of the fastest; among ties the first named.
      ties: (n_divergences, n_y, n_x), whether a divergence is as fast as the winner (to 1e-9).
      groups: names that cannot be told apart anywhere: the same d and the same coupling.
      boundaries: where the winner changes, by increasing ratio; exact, not read off the grid.
      critical_ratio: (n_divergences,), the (q/k) sqrt(b/a) at which each is critically damped, and so at its
        own fastest; infinite where f''(1) is infinite.
    """

    names: tuple[str, ...]
    damping_over_coupling: Floats
    step_ratio: Floats
    activation: bool
    rates: Floats
    winner: np.ndarray
    ties: np.ndarray
    groups: tuple[tuple[str, ...], ...]
    boundaries: tuple[PhaseBoundary, ...]
    critical_ratio: Floats

    @property
    def ratio(self) -> Floats:
        """(q/k) sqrt(b/a) of every cell, (n_y, n_x): the one number that decides."""
        return self.damping_over_coupling[None, :] * np.sqrt(self.step_ratio)[:, None]

    @property
    def boundary_distance(self) -> Floats:
        """Relative change of q/k from each cell to the nearest boundary, (n_y, n_x); infinite without one."""
        if not self.boundaries:
            return np.full(self.winner.shape, np.inf)
        edges = np.array([boundary.ratio for boundary in self.boundaries])
        return np.abs(edges / self.ratio[..., None] - 1).min(-1)


def _rates(lines: Sequence[Linearisation], ratio: Floats) -> Floats:
    """Rates (n_divergences, *ratio.shape), in units of k sqrt(a b)."""
    return np.stack([mode_rate(line.relaxation * ratio, np.full_like(ratio, line.slope)) for line in lines])


def _crossings(one: Linearisation, two: Linearisation) -> list[float]:
    """Every ratio at which the two rates can be equal; some of them belong to the wrong branch."""
    squares = []
    for slow, fast in (
        (one, two),
        (two, one),
    ):  # `slow` over-damped, `fast` under-damped: its rate is d ratio / 2
        bracket = fast.relaxation * (slow.relaxation / 2 - fast.relaxation / 4)
        if bracket > 0:
            squares.append(slow.coupling / bracket)
    if one.relaxation != two.relaxation:  # both over-damped: subtract the two quadratics
        slope = (one.coupling - two.coupling) / (one.relaxation - two.relaxation)
        bracket = one.relaxation * slope - one.coupling
        if bracket > 0:
            squares.append(slope**2 / bracket)
    return [float(np.sqrt(value)) for value in squares]


def _boundaries(lines: Sequence[Linearisation], names: Sequence[str]) -> tuple[PhaseBoundary, ...]:
    candidates = sorted({r for pair in combinations(lines, 2) for r in _crossings(*pair)})
    merged: list[float] = []
    for value in candidates:
        if not merged or value > merged[-1] * (1 + _TIE):
            merged.append(value)
    if not merged:
        return ()
    inner = [np.sqrt(low * high) for low, high in pairwise(merged)]
    rates = _rates(lines, np.array([merged[0] / 2, *inner, merged[-1] * 2]))
    fastest = [
        tuple(name for name, rate in zip(names, column, strict=True) if rate >= column.max() * (1 - _TIE))
        for column in rates.T
    ]
    return tuple(
        PhaseBoundary(ratio, below, above)
        for ratio, below, above in zip(merged, fastest[:-1], fastest[1:], strict=True)
        if below != above
    )


def _axis(name: str, values: ArrayLike) -> Floats:
    axis = np.atleast_1d(real_array(name, values))
    if axis.ndim != 1 or (axis <= 0).any():
        raise ValueError(
            f"expected {name} to be one-dimensional and > 0, got shape {axis.shape}, least {axis.min()}"
        )
    return axis


def phase_diagram(
    divergences: Sequence[Divergence | str],
    damping_over_coupling: ArrayLike,
    step_ratio: ArrayLike,
    activation: bool = False,
) -> PhaseDiagram:
    """The fastest divergence over (q/k, b/a), with exact boundaries and ties.

    With lambda = k sqrt(a b) mu the characteristic equation becomes mu^2 + r d mu + c = 0, r = (q/k)
    sqrt(b/a). The unit k sqrt(a b) is the same for every divergence of a cell, so the winner does not depend
    on what is held fixed (a, a b, ...); rates of *different* cells compare at a fixed k sqrt(a b). The winner
    depends on r alone: boundaries are straight lines of slope -2 in the plane (log q/k, log b/a).

    Two divergences with T = v, d1 > d2, change places at r = 2 / sqrt(d2 (2 d1 - d2)), the first over-damped,
    the second not yet: below it the smaller curvature is faster, above it the larger one. Equal curvature is
    a tie everywhere: squared_hellinger, jensen_shannon and gan for T = v.

    Args:
      divergences: at least one Divergence, name or expression; all names different.
      damping_over_coupling: q/k > 0, (n_x,).
      step_ratio: b/a > 0, (n_y,).
      activation: T = g(v) with each divergence's own activation, instead of T = v.

    Raises:
      TypeError: a string in place of a sequence of divergences.
      ValueError: no divergences, equal names, axes not > 0, or only divergences without damping (a
        kink): all tie at 0.
    """
    if isinstance(divergences, str):
        raise TypeError(f"expected a sequence of divergences, got the string {divergences!r}")
    members = [as_divergence(d) for d in divergences]
    names = tuple(str(getattr(d, "name", f"divergence {i}")) for i, d in enumerate(members))
    if not members or len(set(names)) < len(names):
        raise ValueError(f"expected at least one divergence and no name twice, got {list(names)}")
    lines = [linearisation(d, activation) for d in members]
    if not any(line.relaxation > 0 for line in lines):
        raise ValueError(f"none of {', '.join(names)} is damped, f''(1) is infinite: no fastest one")
    x, y = _axis("damping_over_coupling", damping_over_coupling), _axis("step_ratio", step_ratio)
    rates = _rates(lines, x[None, :] * np.sqrt(y)[:, None])
    ties = rates >= rates.max(0) * (1 - _TIE)
    groups: list[list[int]] = []
    for i, line in enumerate(lines):
        for group in groups:
            if np.allclose(lines[group[0]], line, rtol=_TIE, atol=0):
                group.append(i)
                break
        else:
            groups.append([i])
    return PhaseDiagram(
        names=names,
        damping_over_coupling=x,
        step_ratio=y,
        activation=activation,
        rates=rates,
        winner=ties.argmax(0),
        ties=ties,
        groups=tuple(tuple(names[i] for i in group) for group in groups),
        boundaries=_boundaries(lines, names),
        critical_ratio=np.array([2 * w.slope / w.relaxation if w.relaxation > 0 else np.inf for w in lines]),
    )
