"""The digits of f*, its derivatives and f*(g(v)) of the named divergences, against mpmath at the input."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from fdiv_jax.divergences import divergence

_log, _exp, _sqrt, _mpf = mpmath.log, mpmath.exp, mpmath.sqrt, mpmath.mpf
DIGITS = 100  # s t - f(t) cancels by as much as t^2 at the edges


def _alpha(text):
    """f, f', f'' and t*."""
    a = _mpf(text)
    k = a - 1
    return (
        lambda t: (t**a - a * t + a - 1) / (a * k),
        lambda t: (t**k - 1) / k,
        lambda t: t ** (k - 1),
        lambda s: (1 + k * s) ** (1 / k),
    )


# f, f', f'' and t*, which is tested by f'(t*) = s.
FORMULAS = {
    "kl": (lambda t: t * _log(t), lambda t: _log(t) + 1, lambda t: 1 / t, lambda s: _exp(s - 1)),
    "reverse_kl": (lambda t: -_log(t), lambda t: -1 / t, lambda t: t**-2, lambda s: -1 / s),
    "jeffreys": (
        lambda t: (t - 1) * _log(t),
        lambda t: _log(t) + 1 - 1 / t,
        lambda t: 1 / t + t**-2,
        lambda s: 1 / mpmath.lambertw(_exp(1 - s)).real,
    ),
    "squared_hellinger": (
        lambda t: (_sqrt(t) - 1) ** 2,
        lambda t: 1 - 1 / _sqrt(t),
        lambda t: t ** _mpf(-1.5) / 2,
        lambda s: (1 - s) ** -2,
    ),
    "pearson_chi2": (lambda t: (t - 1) ** 2, lambda t: 2 * (t - 1), lambda t: _mpf(2), lambda s: 1 + s / 2),
    "neyman_chi2": (
        lambda t: (1 - t) ** 2 / t,
        lambda t: 1 - t**-2,
        lambda t: 2 * t**-3,
        lambda s: 1 / _sqrt(1 - s),
    ),
    "jensen_shannon": (
        lambda t: t * _log(t) - (t + 1) * _log((t + 1) / 2),
        lambda t: _log(2 * t / (1 + t)),
        lambda t: 1 / (t * (1 + t)),
        lambda s: _exp(s) / (2 - _exp(s)),
    ),
    "gan": (
        lambda t: t * _log(t) - (t + 1) * _log(t + 1) + 2 * _log(2),
        lambda t: _log(t / (1 + t)),
        lambda t: 1 / (t * (1 + t)),
        lambda s: _exp(s) / (1 - _exp(s)),
    ),
    "le_cam": (
        lambda t: (t - 1) ** 2 / (t + 1),
        lambda t: 1 - 4 / (t + 1) ** 2,
        lambda t: 8 / (t + 1) ** 3,
        lambda s: 2 / _sqrt(1 - s) - 1,
    ),
}
ALPHAS = ("-64", "-3", "-1", "-0.5", "0.3", "0.5", "2", "3", "7", "64")
NAMES = [*FORMULAS, *(f"alpha({a})" for a in ALPHAS)]
FAST = ("gan", "jeffreys", "alpha(-3)", "alpha(0.3)")


def cases(names):
    """Names with both precisions; a few of them in the fast tests."""
    return [
        pytest.param(name, dtype, rtol, marks=[pytest.mark.slow] * (not fast), id=f"{name}-{dtype.__name__}")
        for name in names
        for dtype, rtol, fast in (
            (np.float32, 1e-6, name in FAST),
            (np.float64, 1e-13, name == "jensen_shannon"),
        )
    ]


STEPS = (1e-12, 1e-9, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.3)


def formulas(name):
    return _alpha(name[6:-1]) if name.startswith("alpha") else FORMULAS[name]


def slopes_to_try(d, dtype):
    """Beside s0, beside both ends of the slopes, and far out."""
    low, high = (float(x) for x in d.slopes)
    s0 = d.equilibrium[0]
    s = {s0, *(s0 + sign * step for step in STEPS for sign in (-1, 1))}
    s |= {sign * x for x in (1.5, 4.0, 20.0, 60.0, 85.0, 1e3, 1e10) for sign in (-1, 1)}
    s |= {end + sign * step for end in (low, high) for step in STEPS for sign in (-1, 1)}
    s |= {-1e-20} if high == 0 else set()
    s = np.unique(np.array(sorted(s), dtype))
    low, high = (dtype(x) if np.isinf(x) else x for x in (low, high))
    return s[(s > low) & (s < high)]


def exact_conjugate(name, s):
    """f*, f*' and f*'' at a number s."""
    f, first, second, inverse = formulas(name)
    t = inverse(s)
    assert abs(first(t) - s) <= _mpf(10) ** -40 * abs(s)
    return s * t - f(t), t, 1 / second(t)


def in_range(values, dtype):
    """As numbers of float64, those that overflow in the dtype as inf."""
    largest = float(np.finfo(dtype).max)
    return np.array([float(y) if abs(y) <= largest else float(mpmath.sign(y)) * np.inf for y in values])


def compare(found, exact, allowed, inputs):
    found, exact = np.asarray(found, float), np.asarray(exact)
    same = found == exact
    with np.errstate(all="ignore"):
        bad = np.isnan(found) | ~(same | (np.abs(found - exact) <= allowed))
    assert not bad.any(), [
        f"at {x!r}: {y!r}, right {z!r}" for x, y, z in zip(inputs[bad], found[bad], exact[bad], strict=True)
    ]


@pytest.mark.parametrize(("name", "dtype", "rtol"), cases(NAMES))
def test_the_conjugate_and_its_derivatives(name, dtype, rtol):
    """f* to `rtol` of the larger of |f*| and |s|, f*' and f*'' to `rtol` of themselves; where they overflow
    they may be anything but nan."""
    d = divergence(name)
    s = slopes_to_try(d, dtype)
    functions = (d.conjugate, jax.grad(d.conjugate), jax.grad(jax.grad(d.conjugate)))
    with jax.enable_x64(dtype == np.float64):
        found = jax.jit(jax.vmap(lambda x: [f(x) for f in functions]))(jnp.asarray(s))
    with mpmath.workdps(DIGITS):
        exact = [exact_conjugate(name, _mpf(float(x))) for x in s]
    value, slope, second = (in_range(column, dtype) for column in zip(*exact, strict=True))
    tiny = float(np.finfo(dtype).tiny)
    compare(found[0], value, rtol * np.maximum(np.abs(value), np.abs(s)), s)
    compare(found[1], slope, rtol * slope + tiny, s)
    compare(found[2], second, rtol * second + tiny, s)


# g, g' and t* = f*'(g(v)), which is tested by f'(t*) = g(v).
ACTIVATIONS = {
    "reverse_kl": (lambda v: -_exp(-v), lambda v: _exp(-v), _exp),
    "squared_hellinger": (lambda v: 1 - _exp(-v), lambda v: _exp(-v), lambda v: _exp(2 * v)),
    "neyman_chi2": (lambda v: 1 - _exp(-v), lambda v: _exp(-v), lambda v: _exp(v / 2)),
    "le_cam": (lambda v: 1 - _exp(-v), lambda v: _exp(-v), lambda v: 2 * _exp(v / 2) - 1),
    "jensen_shannon": (lambda v: _log(2) - _log(1 + _exp(-v)), lambda v: 1 / (1 + _exp(v)), _exp),
    "gan": (lambda v: -_log(1 + _exp(-v)), lambda v: 1 / (1 + _exp(v)), _exp),
}


def _alpha_activation(text):
    scale = 1 / (1 - _mpf(text))
    return lambda v: scale * (1 - _exp(-v / scale)), lambda v: _exp(-v / scale), _exp


def exact_composed(name, v, returned):
    """f*(g(v)) and its derivative, at the g that is returned where that saturates far below the domain."""
    activation = _alpha_activation(name[6:-1]) if name.startswith("alpha") else ACTIVATIONS[name]
    g, rate, maximiser = (function(v) for function in activation)
    if name == "le_cam" and g <= -3:
        return _mpf(-1), _mpf(0)
    if -g > -2 * returned > 1e6:
        return exact_conjugate(name, returned)[0], _mpf(0)
    f, first, *_ = formulas(name)
    assert abs(first(maximiser) - g) <= _mpf(10) ** -40 * abs(g)
    return g * maximiser - f(maximiser), maximiser * rate


V = (0.0, 1e-6, 1e-3, 0.1, 0.3, 0.7, 1.0, 1.4, 3.0, 8.0, 12.0, 21.0, 30.0, 40.0, 90.0, 300.0, 1e3)
ACTIVATED = [*ACTIVATIONS, *(f"alpha({a})" for a in ALPHAS if float(a) < 1)]


@pytest.mark.parametrize(("name", "dtype", "rtol"), cases(ACTIVATED))
def test_the_conjugate_of_the_activation(name, dtype, rtol):
    """f*(g(v)) to `rtol` of the larger of |f*| and |g|, its derivative to `rtol` of itself; and by what a
    unit in the last place of an exponent moves it."""
    d = divergence(name)
    v = np.unique(np.array([sign * x for x in V for sign in (-1, 1)] + [d.equilibrium[1]], dtype))
    with jax.enable_x64(dtype == np.float64):
        function = jax.jit(jax.vmap(jax.value_and_grad(d.conjugate_of_activation)))
        found, slopes = function(jnp.asarray(v))
        g = np.asarray(d.activation(v), float)
    exact = []
    for x, y in zip(v, g, strict=True):
        with mpmath.workdps(1000 if abs(x) > 100 else 250):  # t* may be e^(2 v)
            exact.append(exact_composed(name, _mpf(float(x)), _mpf(float(y))))
    with mpmath.workdps(15):
        exponents = [float(max(abs(_log(abs(y))) if y else 0 for y in pair)) for pair in exact]
    value, slope = (in_range(column, dtype) for column in zip(*exact, strict=True))
    rtol = rtol + np.finfo(dtype).eps * np.array(exponents)
    tiny = float(np.finfo(dtype).tiny)
    compare(found, value, rtol * np.maximum(np.abs(value), np.minimum(np.abs(g), 1)) + tiny, v)
    compare(slopes, slope, rtol * slope + tiny, v)
