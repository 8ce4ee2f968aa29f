"""Derivatives of f beyond the second, out to the smallest and largest t, against formulas derived by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fdiv_jax.divergences import divergence
from tests.divergences.oracles import quickly

T = np.array([1e-30, 1e-20, 1e-12, 1e-4, 0.4, 1.0, 30.0, 1e6])
# third and fourth derivative; the first two generators are read from tables, the others from formulas
FORMULAS = {
    "le_cam": (lambda t: -24 / (1 + t) ** 4, lambda t: 96 / (1 + t) ** 5),
    "t*atan(t) - pi/4": (
        lambda t: -8 * t / (1 + t**2) ** 3,
        lambda t: -8 * (1 - 5 * t**2) / (1 + t**2) ** 4,
    ),
    "alpha(0.5)": (lambda t: -1.5 * t**-2.5, lambda t: 3.75 * t**-3.5),
    "t*abs(1/t - 1)": (lambda t: 0 * t, lambda t: 0 * t),
}


@pytest.mark.parametrize("dtype", [pytest.param(np.float32, marks=pytest.mark.slow), np.float64])
@pytest.mark.parametrize("text", quickly(FORMULAS, [text for text in FORMULAS if "atan" not in text]))
def test_the_third_and_the_fourth_derivative(text, dtype):
    def derivative(f):
        return lambda t: jax.jvp(f, (t,), (jnp.ones_like(t),))[1]

    third = derivative(derivative(derivative(divergence(text).f)))
    with jax.enable_x64(dtype == np.float64):
        t = T.astype(dtype)
        found = jax.jit(lambda t: (third(t), derivative(third)(t)))(t)
    info = np.finfo(dtype)
    for values, formula in zip(found, FORMULAS[text], strict=True):
        exact = formula(t.astype(np.longdouble))
        inside = (np.abs(exact) < info.max / 100) & ((np.abs(exact) > 100 * info.tiny) | (exact == 0))
        np.testing.assert_allclose(
            np.asarray(values)[inside], exact[inside].astype(float), rtol=2000 * info.eps
        )
        beyond = np.abs(exact) > info.max
        np.testing.assert_array_equal(np.asarray(values)[beyond], np.copysign(np.inf, exact[beyond]))
