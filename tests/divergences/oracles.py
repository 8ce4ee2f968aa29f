"""Independent oracles: adaptive integration by scipy, a supremum by direct search in mpmath."""

import math
from collections.abc import Callable
from itertools import pairwise

import mpmath
import numpy as np
import pytest
from scipy import integrate

_log, _sqrt = mpmath.log, mpmath.sqrt
LISTED: dict[str, Callable] = {
    "kl": lambda t: t * _log(t),
    "reverse_kl": lambda t: -_log(t),
    "jeffreys": lambda t: (t - 1) * _log(t),
    "squared_hellinger": lambda t: (_sqrt(t) - 1) ** 2,
    "pearson_chi2": lambda t: (t - 1) ** 2,
    "neyman_chi2": lambda t: (1 - t) ** 2 / t,
    "jensen_shannon": lambda t: t * _log(t) - (t + 1) * _log((t + 1) / 2),
    "gan": lambda t: t * _log(t) - (t + 1) * _log(t + 1) + 2 * _log(2),
    "le_cam": lambda t: (t - 1) ** 2 / (t + 1),
    "total_variation": lambda t: abs(t - 1) / 2,
    "alpha(3)": lambda t: (t**3 - 3 * t + 2) / 6,
    "alpha(0.5)": lambda t: (_sqrt(t) - t / 2 - 0.5) / mpmath.mpf("-0.25"),
    "alpha(-1)": lambda t: (1 / t + t - 2) / 2,
    "alpha(1.5)": lambda t: (t**1.5 - 1.5 * t + 0.5) / mpmath.mpf("0.75"),
    "alpha(1/3)": lambda t: (mpmath.cbrt(t) - t / 3 - mpmath.mpf(2) / 3) / (-mpmath.mpf(2) / 9),
}
# Generators in no catalogue: Python functions of mpmath numbers, written apart from the package's parser.
UNLISTED: dict[str, Callable] = {
    "t*log(t) + (t - 1)**2": lambda t: t * mpmath.log(t) + (t - 1) ** 2,
    "sqrt(1 + t**2) - sqrt(2)": lambda t: mpmath.sqrt(1 + t * t) - mpmath.sqrt(2),
    "t*atan(t) - pi/4": lambda t: t * mpmath.atan(t) - mpmath.pi / 4,
    "exp(-t) - exp(-1)": lambda t: mpmath.exp(-t) - mpmath.exp(-1),
    "t*log(2*t/(1 + t))": lambda t: t * mpmath.log(2 * t / (1 + t)),
    "t**1.3 - 1 + pi/4 - atan(t)": lambda t: t ** mpmath.mpf("1.3") - 1 + mpmath.pi / 4 - mpmath.atan(t),
    "Max(t - 2, 0)": lambda t: max(t - 2, mpmath.mpf(0)),
    "Max(1 - t, 0)**2 + Abs(t - 3) - 2": lambda t: max(1 - t, mpmath.mpf(0)) ** 2 + abs(t - 3) - 2,
    "t**3 - t + abs(t - 1)": lambda t: t**3 - t + abs(t - 1),
    "Max(1/t, t) - 1": lambda t: max(1 / t, t) - 1,
    "(t - 1)**4": lambda t: (t - 1) ** 4,
}
# log t at the kinks of the above: the integrator is told where they are.
KINKS = {
    "Max(t - 2, 0)": [math.log(2)],
    "Max(1 - t, 0)**2 + Abs(t - 3) - 2": [0.0, math.log(3)],
    "t**3 - t + abs(t - 1)": [0.0],
    "Max(1/t, t) - 1": [0.0],
}


def quickly(texts, kinds):
    """Every generator for `parametrize`; those that are not among `kinds` in the slow tests."""
    return [pytest.param(text, marks=[pytest.mark.slow] * (text not in kinds)) for text in texts]


def supremum(f: Callable, s: float) -> float:
    """sup over t > 0 of s t - f(t), by a grid in log t and golden sections, in 30 digits."""
    with mpmath.workdps(30):
        s = mpmath.mpf(s)

        def objective(x):
            t = mpmath.exp(x)
            return s * t - f(t)

        grid = [mpmath.mpf(x) / 2 for x in range(-120, 121)]
        best = max(range(len(grid)), key=lambda i: objective(grid[i]))
        a, b = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
        golden = (mpmath.sqrt(5) - 1) / 2
        for _ in range(70):
            c, d = b - golden * (b - a), a + golden * (b - a)
            if objective(c) > objective(d):
                b = d
            else:
                a = c
        return float(objective((a + b) / 2))


def mean_under_q(h: Callable[[float], float], m: float, kinks=()) -> float:
    """E[h(e^L)] for L ~ N(-m/2, m), adaptively on pieces of a few standard deviations."""
    root = math.sqrt(m)

    def integrand(l):
        return h(l) * math.exp(-((l + m / 2) ** 2) / (2 * m)) / math.sqrt(2 * math.pi * m)

    centres = [-1.5 * m, -m / 2, m / 2, 1.5 * m, 2.5 * m, 3.5 * m]
    edges = sorted({c + k * root for c in centres for k in range(-12, 13, 3)} | set(kinks))
    edges = [edges[0], *(b for a, b in pairwise(edges) if b - a > 1e-12 * root)]
    total = 0.0
    for a, b in pairwise(edges):
        total += integrate.quad(integrand, a, b, epsabs=0, epsrel=1e-13, limit=200)[0]
    return total


def gaussian_value(f: Callable, m: float, kinks=()) -> float:
    """D_f between Gaussians, from the definition; the tangent at 1 is taken off so that nothing cancels."""
    with mpmath.workdps(40):
        slope = (f(mpmath.mpf(1) + mpmath.mpf(10) ** -15) - f(mpmath.mpf(1) - mpmath.mpf(10) ** -15)) / (
            2 * mpmath.mpf(10) ** -15
        )

        def centred(l):
            t = mpmath.exp(mpmath.mpf(l))
            return float(f(t) - slope * (t - 1))

        return mean_under_q(centred, m, kinks)


def finite_difference(function: Callable, x, h) -> np.ndarray:
    """Central difference of the fourth order, elementwise; one call of the function."""
    x, h = np.asarray(x, float), np.asarray(h, float)
    f = np.asarray(function(np.stack([x + k * h for k in (-2, -1, 1, 2)])))
    return (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * h)
