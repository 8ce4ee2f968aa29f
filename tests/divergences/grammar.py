"""A grammar of convex generators, written twice: as text for the package, as mpmath functions for the oracle.

A generator is a sum of one to three terms a (p(t) - p(1)), with p(t) = piece(c t) or, the perspective, t
piece(c/t). Whatever follows from f is computed here from the mpmath functions alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import mpmath
from hypothesis import strategies as st
from mpmath import cosh, exp, log, mpf, sqrt

DIGITS = 40
PIECES: dict[str, Callable[[Any], Any]] = {
    "{u}*log({u})": lambda u: u * log(u),
    "-log({u})": lambda u: -log(u),
    "({u} - 1)**2": lambda u: (u - 1) ** 2,
    "(sqrt({u}) - 1)**2": lambda u: (sqrt(u) - 1) ** 2,
    "1/({u})": lambda u: 1 / u,
    "({u})**3": lambda u: u**3,
    "({u})**(3/2)": lambda u: u * sqrt(u),
    "({u})**(4/3)": lambda u: u * mpmath.cbrt(u),
    "({u})**(-1/3)": lambda u: 1 / mpmath.cbrt(u),
    "({u})**(-2)": lambda u: 1 / u**2,
    "-sqrt({u})": lambda u: -sqrt(u),
    "-({u})**(2/3)": lambda u: -(mpmath.cbrt(u) ** 2),
    "exp(-{u})": lambda u: exp(-u),
    "log(1 + exp({u} - 1))": lambda u: log(1 + exp(u - 1)),
    "log(cosh({u} - 1))": lambda u: log(cosh(u - 1)),
    "-log(1 - exp(-{u}))": lambda u: -log(1 - exp(-u)),
    "1/(exp({u}) - 1)": lambda u: 1 / (exp(u) - 1),
    "-log(tanh({u}))": lambda u: -log(mpmath.tanh(u)),
    "-tanh({u})": lambda u: -mpmath.tanh(u),
    "{u}*atan({u})": lambda u: u * mpmath.atan(u),
    "-atan({u})": lambda u: -mpmath.atan(u),
    "erfc({u})": mpmath.erfc,
    "sqrt(1 + ({u} - 1)**2)": lambda u: sqrt(1 + (u - 1) ** 2),
    "({u})*log({u}) - (1 + {u})*log((1 + {u})/2)": lambda u: u * log(u) - (1 + u) * log((1 + u) / 2),
    "({u} - 1)**2/({u} + 1)": lambda u: (u - 1) ** 2 / (u + 1),
    "{u}*log(2*{u}/(1 + {u}))": lambda u: u * log(2 * u / (1 + u)),
    "-{u}/(1 + {u})": lambda u: -u / (1 + u),
    "abs({u} - 1)": lambda u: abs(u - 1),
    "max({u} - 1, 0)": lambda u: max(u - 1, mpf(0)),
}
KINKED = ("abs({u} - 1)", "max({u} - 1, 0)")
SCALES = (Fraction(1, 2), Fraction(1), Fraction(2), Fraction(3))
WEIGHTS = (Fraction(1, 3), Fraction(1), Fraction(2), Fraction(7))
# Every kink is at one of these.
_KINKS = sorted({x for c in SCALES for x in (c, 1 / c)})


def as_mpf(x: Fraction) -> Any:
    return mpf(x.numerator) / x.denominator


@dataclass(frozen=True)
class Term:
    """p(t) = piece(c t), or t piece(c/t)."""

    piece: str
    scale: Fraction
    reversed: bool

    @property
    def text(self) -> str:
        if self.reversed:
            return f"t*({self.piece.format(u=f'({self.scale}/t)')})"
        return self.piece.format(u="t" if self.scale == 1 else f"({self.scale}*t)")

    @property
    def text_at_one(self) -> str:
        return self.piece.format(u=f"({self.scale})")

    @property
    def kink(self) -> Fraction | None:
        if self.piece not in KINKED:
            return None
        return self.scale if self.reversed else 1 / self.scale

    def __call__(self, t: Any) -> Any:
        """p(t) - p(1)"""
        function, c = PIECES[self.piece], as_mpf(self.scale)
        return (t * function(c / t) if self.reversed else function(c * t)) - function(c)


@dataclass(frozen=True)
class Generator:
    """The sum of a (p(t) - p(1))."""

    terms: tuple[tuple[Fraction, Term], ...]

    @property
    def text(self) -> str:
        return " + ".join(f"{a}*({term.text} - ({term.text_at_one}))" for a, term in self.terms)

    def kinks(self) -> list[Fraction]:
        return sorted({term.kink for _, term in self.terms if term.kink is not None})

    def derivative(self, t: Any, order: int) -> tuple[Any, Any]:
        """(f^(k)(t), the sum of the terms' absolute values)"""
        values = [as_mpf(a) * _derivative(term, t, order) for a, term in self.terms]
        return mpmath.fsum(values), mpmath.fsum(values, absolute=True)

    def moment(self, m: str, order: int) -> tuple[Any, Any]:
        """d^k F/dm^k, F = E[f(e^L)] with L ~ N(-m/2, m), and the sum of the terms' absolute values."""
        values, slopes = ([as_mpf(a) * _moments(term, m)[k] for a, term in self.terms] for k in (order, 1))
        # The quadrature here leaves 1e-20 of F' where a derivative vanishes, as those of KL do.
        floor = mpf(10) ** -6 * mpmath.fsum(slopes, absolute=True) if order > 1 else 0
        return mpmath.fsum(values), mpmath.fsum(values, absolute=True) + floor

    def maximiser(self, s: Any, t: Any) -> Any:
        """t* with f'(t*) = s, by bracketing from t and bisecting, then Newton's steps."""

        def excess(x: Any) -> Any:
            return self.derivative(x, 1)[0] - s

        low, high = t * (1 - mpf(10) ** -3), t * (1 + mpf(10) ** -3)
        while excess(low) > 0:
            low = low - 2 * (t - low) if low > t / 2 else low / 2
        while excess(high) < 0:
            high = high + (high - t) if high < 2 * t else high * 2
        x = t if low < t < high else (low + high) / 2
        for _ in range(200):
            gap = excess(x)
            low, high = (low, x) if gap > 0 else (x, high)
            step = x - gap / self.derivative(x, 2)[0]
            step = step if low < step < high else (low + high) / 2
            if abs(step - x) < mpf(10) ** (5 - DIGITS) * x:
                return step
            x = step
        raise ArithmeticError(f"no maximiser found for s = {s}")


@lru_cache(maxsize=100_000)
def _derivative(term: Term, t: Any, order: int) -> Any:
    return mpmath.diff(term, t, order) if order else term(t)


@lru_cache
def _legendre_nodes(count: int = 20) -> list[tuple[Any, Any]]:
    """Nodes and weights on [-1, 1], by Newton's steps on the recurrence."""
    found = []
    for i in range(count):
        x = mpmath.cos(mpmath.pi * (i + mpf(3) / 4) / (count + mpf(1) / 2))
        for _ in range(8):
            a, b = mpf(1), x
            for n in range(2, count + 1):
                a, b = b, ((2 * n - 1) * x * b - (n - 1) * a) / n
            slope = count * (x * b - a) / (x * x - 1)
            x -= b / slope
        found.append((x, 2 / ((1 - x * x) * slope**2)))
    return found


@lru_cache
def _grid(m: str) -> list[tuple[Any, list[Any]]]:
    """Nodes e^l with the weights of d^k/dm^k E[.] for k = 0..3: Gauss-Legendre panels cut at every kink.

    The normal density rho solves the heat equation d rho/dm = (rho'' + rho')/2, so its derivatives in m are
    Hermite polynomials in z = l + m/2 times itself.
    """
    v = mpf(m)
    root = sqrt(v)
    low, high = -v / 2 - 4 * v - 11 * root, -v / 2 + 5 * v + 11 * root
    width = min(root, mpf("0.35"))
    inner = [log(as_mpf(x)) for x in _KINKS]
    cuts = sorted({low, high, *(x for x in inner if low < x < high)})
    nodes = []
    for a, b in itertools.pairwise(cuts):
        count = int(mpmath.ceil((b - a) / width))
        for i in range(count):
            start, half = a + (b - a) * i / count, (b - a) / count / 2
            for x, weight in _legendre_nodes():
                l = start + half * (1 + x)
                nodes.append((exp(l), [weight * half * y for y in _densities(l + v / 2, v)]))
    return nodes


def _densities(z: Any, m: Any) -> list[Any]:
    """d^k/dm^k of exp(-z^2/(2m))/sqrt(2 pi m) at z = l + m/2, l fixed, for k = 0..3."""
    root = sqrt(m)
    hermite = [mpf(1), z / root]
    for n in range(1, 6):
        hermite.append(z / root * hermite[n] - n * hermite[n - 1])
    density = exp(-z * z / (2 * m)) / sqrt(2 * mpmath.pi * m)
    slopes = [density * (-1) ** n * hermite[n] / root**n for n in range(7)]  # d^n rho/dl^n
    return [
        sum(mpmath.binomial(k, j) * slopes[2 * j + (k - j)] for j in range(k + 1)) / 2**k for k in range(4)
    ]


@lru_cache(maxsize=100_000)
def _moments(term: Term, m: str) -> list[Any]:
    nodes = _grid(m)
    values = [term(t) for t, _ in nodes]
    return [mpmath.fsum(y * w[k] for y, (_, w) in zip(values, nodes, strict=True)) for k in range(4)]


terms = st.builds(Term, st.sampled_from(list(PIECES)), st.sampled_from(SCALES), st.booleans())
generators = st.builds(
    lambda weights, chosen: Generator(tuple(zip(weights, chosen, strict=False))),
    st.lists(st.sampled_from(WEIGHTS), min_size=3, max_size=3),
    st.lists(terms, min_size=1, max_size=3, unique=True),
)
