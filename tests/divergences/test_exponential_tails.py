"""Generators with exponential tails: log cosh overflows, and 1 - tanh(t)^2 cancels."""

import functools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from fdiv_jax.divergences import divergence

_log, _exp = mpmath.log, mpmath.exp
# f with f' and f'' written without cancellation.
TAILS = {
    "log(cosh(t - 1))": (
        lambda t: _log(mpmath.cosh(t - 1)),
        lambda t: mpmath.tanh(t - 1),
        lambda t: mpmath.sech(t - 1) ** 2,
    ),
    "log(1 + exp(t - 1)) - log(2)": (
        lambda t: _log(1 + _exp(t - 1)) - _log(2),
        lambda t: 1 / (1 + _exp(1 - t)),
        lambda t: mpmath.sech((t - 1) / 2) ** 2 / 4,
    ),
    "t*log(t) + 0.1*log(cosh(10*(t - 1)))": (
        lambda t: t * _log(t) + _log(mpmath.cosh(10 * (t - 1))) / 10,
        lambda t: _log(t) + 1 + mpmath.tanh(10 * (t - 1)),
        lambda t: 1 / t + 10 * mpmath.sech(10 * (t - 1)) ** 2,
    ),
    "2*log(cosh(t - 1)) + t*log(t)": (
        lambda t: t * _log(t) + 2 * _log(mpmath.cosh(t - 1)),
        lambda t: _log(t) + 1 + 2 * mpmath.tanh(t - 1),
        lambda t: 1 / t + 2 * mpmath.sech(t - 1) ** 2,
    ),
    "tanh(1) - tanh(t)": (
        lambda t: mpmath.tanh(1) - mpmath.tanh(t),
        lambda t: -(mpmath.sech(t) ** 2),
        lambda t: 2 * mpmath.sech(t) ** 2 * mpmath.tanh(t),
    ),
}
PRECISIONS = ((np.float64, 1e-12), (np.float32, 1e-5))


def weight_and_slope(curvature, m):
    """w = E[h(l)] with h = e^{2l} f''(e^l), and w': the derivative of the normal density in m is itself times
    (z^2/m - z - 1)/(2m), z = l + m/2."""
    with mpmath.workdps(25):
        m = mpmath.mpf(m)

        def integrand(l, slope):
            z = l + m / 2
            density = _exp(-z * z / (2 * m)) / mpmath.sqrt(2 * mpmath.pi * m)
            return (
                _exp(2 * l) * curvature(_exp(l)) * density * ((z * z / m - z - 1) / (2 * m) if slope else 1)
            )

        ends = [-m / 2 + k * mpmath.sqrt(m) for k in range(-12, 13, 4)] + [
            mpmath.mpf(x) / 2 for x in range(-4, 7)
        ]
        ends = sorted(x for x in ends if abs(x + m / 2) <= 12 * mpmath.sqrt(m))
        return [
            float(mpmath.quad(functools.partial(integrand, slope=slope), ends)) for slope in (False, True)
        ]


@pytest.mark.slow
@pytest.mark.parametrize("text", list(TAILS)[:2])
def test_derivatives_of_the_weight(text):
    d = divergence(text)
    exact, slope = np.array([weight_and_slope(TAILS[text][2], m) for m in (0.5, 10)]).T

    def at(m):
        second, log_slope = jax.grad(jax.grad(d.gaussian_divergence))(m), jax.grad(d.gaussian_log_weight)(m)
        return d.gaussian_weight(m), 2 * second, log_slope

    for dtype, rtol in ((np.float64, 1e-10), (np.float32, 2e-5)):
        with jax.enable_x64(dtype == np.float64):
            found = jax.jit(jax.vmap(at))(jnp.array([0.5, 10], dtype))
        for values, expected in zip(found, (exact, slope, slope / exact), strict=True):
            np.testing.assert_allclose(values, expected, rtol=rtol)


@pytest.mark.slow
@pytest.mark.parametrize("text", TAILS)
def test_the_generator_and_its_derivatives(text):
    d = divergence(text)
    t = np.array([1e-30, 1e-3, 0.9, 1.01, 1.5, 3.0, 20.0, 100.0, 1e3, 1e30])
    functions = (d.f, jax.grad(d.f), jax.grad(jax.grad(d.f)))
    for dtype, rtol in PRECISIONS:
        with jax.enable_x64(dtype == np.float64):
            points = t.astype(dtype)
            found = jax.jit(jax.vmap(lambda x, functions=functions: [f(x) for f in functions]))(points)
        with mpmath.workdps(60):
            for values, function in zip(found, TAILS[text], strict=True):
                exact = [float(function(mpmath.mpf(float(x)))) for x in points]
                tiny = float(np.finfo(dtype).tiny)
                np.testing.assert_allclose(
                    values, exact, rtol=100 * rtol if dtype == np.float64 else rtol, atol=tiny
                )


@pytest.mark.slow
@pytest.mark.parametrize(("text", "dtype", "rtol"), [(text, *each) for text in TAILS for each in PRECISIONS])
def test_the_conjugate_and_its_derivatives(text, dtype, rtol):
    """At s = f'(t), rounded: t* by bisection of f', f* = s t* - f(t*), f*'' = 1/f''(t*)."""
    d = divergence(text)
    f, first, second = TAILS[text]
    s = [float(first(mpmath.mpf(t))) for t in (1e-3, 0.2, 0.999, 1.001, 2, 5, 20)]
    s += [5.0, 8.0] if text.endswith("t*log(t)") or "0.1" in text else []
    points = np.array(s, dtype)
    points = points[points < float(d.slopes[1])]
    functions = (d.conjugate, jax.grad(d.conjugate), jax.grad(jax.grad(d.conjugate)))
    with jax.enable_x64(dtype == np.float64):
        found = jax.jit(jax.vmap(lambda x: [f(x) for f in functions]))(points)
    with mpmath.workdps(60):
        for i, x in enumerate(map(mpmath.mpf, map(float, points))):
            low, high = mpmath.mpf(10) ** -10, mpmath.mpf(10) ** 10
            for _ in range(240):
                middle = mpmath.sqrt(low * high)
                low, high = (middle, high) if first(middle) < x else (low, middle)
            exact = [float(y) for y in (x * low - f(low), low, 1 / second(low))]
            np.testing.assert_allclose([y[i] for y in found], exact, rtol=20 * rtol, err_msg=f"s = {x}")
