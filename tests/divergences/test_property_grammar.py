"""Generators drawn from a grammar: f, f*, F, w and their derivatives, in both precisions, against mpmath.

An error is measured in units of eps times a size, which is stated beside each quantity: the value itself,
and what the value is a difference of, since generators with terms of opposite sign cross zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from mpmath import mpf

from fdiv_jax.divergences import Divergence, divergence
from tests.divergences import grammar
from tests.divergences.grammar import DIGITS, Generator, as_mpf, generators
from tests.divergences.oracles import quickly

POINTS = (2.0**-10, 0.0625, 0.375, 0.96875, 1.0625, 2.25, 9.0, 60.0)
SQUARED_DISTANCES = ("0.03125", "0.5", "2.5")
PRECISIONS = (np.float32, np.float64)
# Units of eps, for the orders 0 to 3 of derivative: (float32, float64). Most errors are below ten, of tables
# more. The last order is JAX's derivative of a table or formula of which no digits are promised.
LIMITS = {
    "f": ((100, 100, 100, 300), (500, 500, 500, 5000)),
    "F": ((100, 100, 100, 300), (500, 500, 500, 5000)),
    "f*": ((100, 100, 100, 300), (500, 500, 500, 5000)),
}


def _ladder(function: Callable, count: int) -> list[Callable]:
    functions = [function]
    for _ in range(count - 1):
        functions.append(jax.grad(functions[-1]))
    return functions


def _values(functions: Sequence[Callable], points: Sequence[float], dtype: Any) -> np.ndarray:
    """A row for each point, a column for each function; every function is compiled by itself, as users do."""
    with jax.enable_x64(dtype == np.float64):
        x = jnp.asarray(points, dtype)
        return np.stack([np.asarray(jax.jit(jax.vmap(function))(x)) for function in functions], 1)


Row = tuple[str, int, Any, float, float, Any, Any]  # quantity, order, dtype, point, found, exact, size


def _generator_rows(g: Generator, d: Divergence) -> Iterator[Row]:
    """f and three derivatives; the size is the sum of the terms' absolute values."""
    for dtype in PRECISIONS:
        table = _values(_ladder(d.f, 4), POINTS, dtype)
        for t, values in zip(POINTS, table, strict=True):
            for order, value in enumerate(values):
                yield ("f", order, dtype, t, float(value), *g.derivative(mpf(t), order))


def _gaussian_rows(g: Generator, d: Divergence) -> Iterator[Row]:
    """F and three derivatives, w = 2 F' and two; the size is the sum of the terms' absolute values."""
    points = [float(m) for m in SQUARED_DISTANCES]
    for dtype in PRECISIONS:
        values = _values(_ladder(d.gaussian_divergence, 4), points, dtype)
        weights = _values(_ladder(d.gaussian_weight, 3), points, dtype)
        for i, m in enumerate(SQUARED_DISTANCES):
            for order in range(4):
                exact, size = g.moment(m, order)
                yield "F", order, dtype, points[i], float(values[i, order]), exact, size
                if order:
                    yield "F", order, dtype, points[i], float(weights[i, order - 1]) / 2, exact, size


def _slopes(g: Generator, dtype: Any) -> list[tuple[float, Any, bool]]:
    """(s, t*, whether f has a kink there): s = f'(t) in the precision asked for, t* of the rounded s.

    Where f' hardly rises, rounding s moves t* far away, or s out of the domain of f*: no such point is taken.
    """
    found = []
    for point in map(mpf, POINTS):
        slope, rise = g.derivative(point, 1)[0], point * g.derivative(point, 2)[0]
        s = mpf(float(dtype(float(slope))))
        if abs(s - slope) < rise / 100:
            found.append((float(s), g.maximiser(s, point), False))
    for kink in map(as_mpf, g.kinks()):
        sides = [g.derivative(kink + side * mpf(10) ** -30, 1)[0] for side in (-1, 1)]
        found.append((float(dtype(float(sum(sides) / 2))), kink, True))
    return found


def _conjugate_rows(g: Generator, d: Divergence) -> Iterator[Row]:
    """f*(s) = s t* - f(t*), f*' = t*, f*'' = 1/f''(t*), f*''' = -f'''/f''^3."""
    for dtype in PRECISIONS:
        slopes = _slopes(g, dtype)
        if not slopes:
            continue
        points = [s for s, _, _ in slopes]
        values = _values(_ladder(d.conjugate, 4), points, dtype)
        primes = _values(_ladder(d.conjugate_prime, 3), points, dtype)
        for (s, t, kinked), row, prime in zip(slopes, values, primes, strict=True):
            yield from (
                ("f*", order, dtype, s, float(value), exact, size)
                for column, start in ((row, 0), (prime, 1))
                for order, (value, (exact, size)) in enumerate(
                    zip(column, _conjugate(g, s, t, kinked)[start:], strict=True), start
                )
            )


def _conjugate(g: Generator, s: float, t: Any, kinked: bool) -> list[tuple[Any, Any]]:
    """(value, size) of f* and three derivatives.

    t* is found from f'(t*) = s, where f' is known to eps of the size of its terms: in the sizes `sway` is how
    much further than eps t* moves for it, relatively.
    """
    f, f_size = g.derivative(t, 0)
    if kinked:
        return [(s * t - f, abs(s * t) + f_size), (t, t), (mpf(0), mpf(0)), (mpf(0), mpf(0))]
    _, slope_size = g.derivative(t, 1)
    f2, f3 = g.derivative(t, 2)[0], g.derivative(t, 3)[0]
    sway = 1 + slope_size / (t * f2)
    second, third = 1 / f2, -f3 / f2**3
    bend = sway * t * abs(f3) / f2  # relative change of f'' with t*
    return [
        (s * t - f, abs(s * t) + f_size),
        (t, t * sway),
        (second, second * (1 + bend)),
        (third, (abs(third) + second**2 / t) * (1 + bend + sway)),
    ]


def errors(rows: Iterator[Row]) -> Iterator[tuple[float, Row]]:
    """The error of each row in units of eps times its size."""
    for row in rows:
        *_, dtype, _, found, exact, size = row
        info = np.finfo(dtype)
        if abs(exact) > float(info.max) / 100 or abs(exact) < 100 * float(info.tiny):
            continue
        error = abs(mpf(found) - exact) / (float(info.eps) * size) if np.isfinite(found) else mpf("inf")
        yield float(error), row


def _hold(rows: Iterator[Row], text: str) -> None:
    bad = []
    for error, (quantity, order, dtype, at, found, exact, _) in errors(rows):
        limit = LIMITS[quantity][dtype is np.float64][order]
        if error > limit:
            bad.append(
                f"{quantity}, derivative {order}, {dtype.__name__}, at {at!r}: {found!r}, exact "
                f"{mpmath.nstr(exact, 17)}, {error:.3g} eps > {limit}"
            )
    assert not bad, f"{text}\n" + "\n".join(bad)


def _draws(count: int) -> Callable:
    """So many generators, the same ones on every run; a failing one is reported as it was drawn, since every
    step of a search for a smaller one compiles a dozen programs."""
    choice = settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    return lambda test: choice(given(g=generators)(test))


@pytest.mark.slow
@_draws(2)
def test_a_generator_and_its_derivatives(g):
    with mpmath.workdps(DIGITS):
        _hold(_generator_rows(g, divergence(g.text)), g.text)


@pytest.mark.slow
@_draws(2)
def test_conjugates_and_their_derivatives(g):
    with mpmath.workdps(DIGITS):
        _hold(_conjugate_rows(g, divergence(g.text)), g.text)


@pytest.mark.slow
@_draws(2)
def test_values_and_weights_between_gaussians(g):
    with mpmath.workdps(DIGITS):
        _hold(_gaussian_rows(g, divergence(g.text)), g.text)


@pytest.mark.parametrize("m", quickly(SQUARED_DISTANCES, SQUARED_DISTANCES[:1]))
def test_the_oracle_between_gaussians(m):
    """KL has F = m/2; t^3 - 1 has (e^(3m) - 1); t |1/t - 1| = |t - 1| has 2 (2 Phi(sqrt(m)/2) - 1)."""
    with mpmath.workdps(DIGITS):
        v = mpf(m)
        cases = {
            ("{u}*log({u})", False): lambda x: x / 2,
            ("({u})**3", False): lambda x: mpmath.exp(3 * x) - 1,
            ("abs({u} - 1)", True): lambda x: 2 * mpmath.erf(mpmath.sqrt(x / 8)),
        }
        for (piece, backwards), exact in cases.items():
            term = grammar.Term(piece, grammar.SCALES[1], backwards)
            g = Generator(((grammar.WEIGHTS[1], term),))
            for order in range(4):
                value = mpmath.diff(exact, v, order)
                assert abs(g.moment(m, order)[0] - value) < mpf(10) ** -18 * max(1, abs(value))


@pytest.mark.parametrize("t", [0.25, 2.25])
def test_the_oracle_of_derivatives_and_maximisers(t):
    """f = t log t + 2 (1/t - 1): f' = log t + 1 - 2/t^2; t* of the slope at t is t, from anywhere."""
    with mpmath.workdps(DIGITS):
        kl, inverse = (grammar.Term(name, grammar.SCALES[1], False) for name in ("{u}*log({u})", "1/({u})"))
        g, x = Generator(((grammar.WEIGHTS[1], kl), (grammar.WEIGHTS[2], inverse))), mpf(t)
        exact = [mpmath.log(x) + 1 - 2 / x**2, 1 / x + 4 / x**3, -1 / x**2 - 12 / x**4]
        for order, value in enumerate(exact, 1):
            assert abs(g.derivative(x, order)[0] - value) < mpf(10) ** -30
        assert all(abs(g.maximiser(exact[0], mpf(start)) - x) < mpf(10) ** -30 for start in (t, 0.01, 90))
