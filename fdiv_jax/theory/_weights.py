"""log w_f as a function of x = log m, tabulated once: what the theory of descent integrates and iterates.

The weight comes from `gaussian_log_moment`. On panels that are bisected until a
polynomial of degree 15 resolves it, log w is a Chebyshev series; below m = e^-80 it is a straight line in x
(constant for a smooth f, -x/2 at a kink, x where f''(1) = 0).
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.polynomial import chebyshev

from fdiv_jax.divergences import gaussian_log_moment
from fdiv_jax.theory._inputs import Floats

if TYPE_CHECKING:
    from fdiv_jax.divergences import Divergence

LOWEST = -80.0  # log m
FARTHEST = float(np.log(1e8))
_DEGREE = 16
_TOLERANCE = 1e-12
_ANGLES = (np.arange(_DEGREE) + 0.5) * np.pi / _DEGREE
_POINTS = np.cos(_ANGLES)
_TRANSFORM = np.cos(np.outer(np.arange(_DEGREE), _ANGLES)) * 2 / _DEGREE
_TRANSFORM[0] /= 2
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(_DEGREE)


class WeightTable:
    """log w_f(e^x), its slope, and the clock G(x) = integral of dx / (2 w_f(e^x)).

    Under m' = -2 w_f(m) m, which is x' = -2 w_f(e^x), G falls by one in a unit of time.
    """

    def __init__(self, d: Divergence, high: float):
        self.breaks = np.array([LOWEST])
        rows: list[Floats] = []
        pending = list(pairwise(np.append(np.arange(LOWEST, high, 4.0), high)))
        while pending:
            ends = np.array(pending)
            middle, half = ends.mean(1, keepdims=True), np.diff(ends, axis=1) / 2
            values = gaussian_log_moment(d, np.exp(middle + half * _POINTS))
            series = values @ _TRANSFORM.T
            size = np.maximum(1.0, np.abs(values).max(1))
            rough = (np.abs(series[:, -2:]).max(1) > _TOLERANCE * size) & (half[:, 0] > 1e-3)
            pending = []
            for (a, b), row, again in zip(ends.tolist(), series, rough, strict=True):
                if again:
                    pending += [(a, (a + b) / 2), ((a + b) / 2, b)]
                else:
                    self.breaks = np.append(self.breaks, b)
                    rows.append(row)
        order = np.argsort(self.breaks[1:])
        self.breaks = np.append(LOWEST, self.breaks[1:][order])
        series = np.array(rows)[order]
        widths = np.diff(self.breaks)[:, None]
        self._series = series.T
        self._slopes = (chebyshev.chebder(series, axis=1) * 2 / widths).T
        # w ~ m^power at m -> 0; a logarithm, whose slope still changes there, counts as a constant.
        power, before = self._evaluate(self._slopes, np.array([LOWEST, LOWEST / 2])).tolist()
        self.power = power if abs(power) > 1e-6 and abs(before / power - 1) < 0.1 else 0.0

    def _evaluate(self, series: Floats, x: Floats) -> Floats:
        place = np.clip(np.searchsorted(self.breaks, x, side="right") - 1, 0, self.breaks.size - 2)
        low, high = self.breaks[place], self.breaks[place + 1]
        u = np.clip((2 * x - low - high) / (high - low), -1.0, 1.0)
        return np.asarray(chebyshev.chebval(u, series[:, place], tensor=False), np.float64)

    def log_weight(self, x: Floats) -> Floats:
        """log w_f(e^x)."""
        inside = self._evaluate(self._series, np.maximum(x, LOWEST))
        return inside + self.power * np.minimum(x - LOWEST, 0.0) if self.power else inside

    def slope(self, x: Floats) -> Floats:
        """d log w / d log m at m = e^x."""
        return self._evaluate(self._slopes, np.maximum(x, LOWEST))

    def curvature(self, x: Floats) -> Floats:
        """w + 2 m w' at m = e^x: the curvature of D as a function of e, m = e^2."""
        with np.errstate(over="ignore"):
            return np.exp(self.log_weight(x)) * (1 + 2 * self.slope(x))

    def time_below(self, x: Floats) -> Floats:
        """Time from m = e^-80 to e^x below it: finite at x = -inf where w grows like a power of 1/m."""
        deep = np.minimum(x - LOWEST, 0.0)
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            time = -deep if self.power == 0 else np.expm1(-self.power * deep) / self.power
            # Where w is 0 down there, as for an f that is flat around 1, any way but none takes for ever.
            return np.where(deep == 0, 0.0, time / (2 * np.exp(self.log_weight(np.array(LOWEST)))))

    def _pace(self, x: Floats) -> Floats:
        """dG/dx = 1 / (2 w_f(e^x))."""
        with np.errstate(over="ignore"):
            return np.exp(np.clip(-self.log_weight(x), -740.0, 740.0)) / 2

    def clock(self, low: float, high: float) -> Clock:
        """G between `low` and `high`, with its inverse."""
        edges = np.unique(
            np.concatenate([[low, high], self.breaks[(self.breaks > low) & (self.breaks < high)]])
        )
        logs = np.clip(self.log_weight(edges), -740.0, 740.0)
        knots = [edges[:1]]
        for a, b, rise in zip(edges[:-1], edges[1:], np.abs(np.diff(logs)), strict=True):
            knots.append(np.linspace(a, b, 2 + int(rise))[1:])
        return Clock(self._pace, np.concatenate(knots))


class Clock:
    """The integral of `pace` between knots close enough for Gauss's rule, and its inverse.

    It is summed from the end at which the pace is smaller, so that differences keep their digits.
    """

    def __init__(self, pace, knots: Floats):
        self._pace, self.knots = pace, knots
        parts = self._between(knots[:-1], knots[1:])
        with np.errstate(over="ignore"):
            upwards = float(pace(knots[:1])[0]) <= float(pace(knots[-1:])[0])
            sums = np.cumsum(parts) if upwards else -np.cumsum(parts[::-1])[::-1]
        self.values = np.append(0.0, sums) if upwards else np.append(sums, 0.0)

    def _between(self, a: Floats, b: Floats) -> Floats:
        a, b = np.asarray(a)[..., None], np.asarray(b)[..., None]
        with np.errstate(over="ignore"):
            return (
                np.sum(self._pace((a + b) / 2 + (b - a) / 2 * _NODES) * _WEIGHTS, axis=-1)
                * (b - a)[..., 0]
                / 2
            )

    def __call__(self, x: Floats) -> Floats:
        """G(x) for x between the first and the last knot."""
        place = np.clip(np.searchsorted(self.knots, x, side="right") - 1, 0, self.knots.size - 2)
        return self.values[place] + self._between(self.knots[place], np.asarray(x, float))

    def arrival(self, g: Floats) -> Floats:
        """x with G(x) = g; -inf below the first knot."""
        place = np.clip(np.searchsorted(self.values, g, side="right") - 1, 0, self.knots.size - 2)
        low, high = self.knots[place], self.knots[place + 1]
        with np.errstate(invalid="ignore"):
            share = (g - self.values[place]) / (self.values[place + 1] - self.values[place])
            x = low + (high - low) * np.clip(np.nan_to_num(share), 0.0, 1.0)
            for _ in range(8):  # Newton's method: between two knots the pace changes by a factor e at most
                wrong = self.values[place] + self._between(low, x) - g
                x = np.clip(x - np.nan_to_num(wrong / self._pace(x)), low, high)
        return np.where(g < self.values[0], -np.inf, x)


@lru_cache(maxsize=64)
def _table(d: Divergence, high: float) -> WeightTable:
    return WeightTable(d, high)


def weight_table(d: Divergence, m: float) -> WeightTable:
    """The table of d up to m at least."""
    x = np.log(max(m, 1.0))
    return _table(d, float(min(4.0 * np.ceil((x + 1e-9) / 4.0) + 4.0, max(x, FARTHEST))))
