"""TensorFlow Probability's Csiszar functions by their names, and `reversed` and `symmetrise`."""

import pickle

import mpmath
import numpy as np
import pytest
import sympy

import fdiv_jax as fj
from fdiv_jax.divergences import ExpressionError, divergence, unequal_gaussian_divergence

_log = mpmath.log
# From the formulas in the documentation of tfp.vi, self_normalized=False.
CSISZAR = {
    "amari_alpha(0)": lambda u: -_log(u),
    "amari_alpha(1)": lambda u: u * _log(u),
    "amari_alpha(0.3)": lambda u: (u ** mpmath.mpf("0.3") - 1) / (mpmath.mpf("0.3") * mpmath.mpf("-0.7")),
    "arithmetic_geometric": lambda u: (1 + u) * _log((1 + u) / mpmath.sqrt(u)),
    "chi_square": lambda u: u**2 - 1,
    "jensen_shannon": lambda u: u * _log(u) - (1 + u) * _log(1 + u),
    "kl_forward": lambda u: u * _log(u),
    "kl_reverse": lambda u: -_log(u),
    "log1p_abs": lambda u: u ** mpmath.sign(u - 1) - 1,
    "modified_gan": lambda u: _log(1 + u) - _log(u),
    "pearson": lambda u: (u - 1) ** 2,
    "squared_hellinger": lambda u: (mpmath.sqrt(u) - 1) ** 2,
    "t_power(0.25)": lambda u: -(u ** mpmath.mpf("0.25") - 1),
    "t_power(-2)": lambda u: u**-2 - 1,
    "total_variation": lambda u: abs(u - 1) / 2,
    "triangular": lambda u: (u - 1) ** 2 / (1 + u),
    "dual_csiszar_function(kl_reverse)": lambda u: u * _log(u),
    "symmetrized_csiszar_function(kl_forward)": lambda u: (u - 1) * _log(u) / 2,
}


def of_mpmath(generator):
    return sympy.lambdify(list(generator.free_symbols), generator, "mpmath")


def centred(f, t):
    """f less its chord from 1/2 to 2: what is left when a + b (t - 1) is taken off."""
    a, b = mpmath.mpf("0.5"), mpmath.mpf(2)
    return f(t) - f(a) - (f(b) - f(a)) / (b - a) * (t - a)


@pytest.mark.parametrize("name", CSISZAR)
def test_the_names_of_tensorflow_probability(name):
    d = divergence(name)
    with mpmath.workdps(40):
        own = of_mpmath(d.generator)
        for t in map(mpmath.mpf, ("1e-3", "0.3", "0.9", "1.4", "7", "1e3")):
            assert mpmath.almosteq(centred(own, t), centred(CSISZAR[name], t), 1e-30)
        assert abs(own(mpmath.mpf(1))) < 1e-30
    assert pickle.loads(pickle.dumps(d)) == d


def test_jeffreys_is_twice_that_of_tensorflow_probability():
    symmetric = divergence("symmetrized_csiszar_function(kl_reverse)")
    assert sympy.simplify(2 * symmetric.generator - divergence("jeffreys").generator) == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("t_power(1)", "vanishes"),
        ("t_power(0)", "vanishes"),
        ("t_power(t)", "one real number"),
        ("t_power(65)", "-64 <= a <= 64"),
        ("amari_alpha(x)", "amari_alpha takes one real number"),
        ("reversed(hellinger)", "did you mean 'squared_hellinger'"),
        ("symmetrise(t**2)", r"f\(1\) must be 0"),
        ("symmetrise()", "empty"),
    ],
)
def test_refused_names(text, reason):
    with pytest.raises(ValueError, match=reason):
        divergence(text)


@pytest.mark.parametrize("text", ["exp(-t) - exp(-1)", "Max(t - 2, 0)", "alpha(3)", "t**2 - 1"])
def test_reversed_and_symmetrised_generators(text):
    backwards, both = fj.reversed(text), fj.symmetrise(text)
    assert both.is_symmetric
    assert backwards.reversed().is_symmetric == divergence(text).is_symmetric
    with mpmath.workdps(40):
        f = of_mpmath(divergence(text).generator)
        for t in map(mpmath.mpf, ("0.01", "0.4", "1", "2.5", "90")):
            swapped = centred(lambda x: x * f(1 / x), t)
            assert mpmath.almosteq(centred(of_mpmath(backwards.generator), t), swapped, 1e-30, 1e-30)
            mean = (centred(f, t) + swapped) / 2
            assert mpmath.almosteq(centred(of_mpmath(both.generator), t), mean, 1e-30, 1e-30)
    assert fj.symmetrise(both) == both
    assert divergence(f"symmetrise({text})") == both


def test_between_unequal_gaussians_symmetrise_is_the_mean_of_both_directions(x64):
    m, ratio, n = 1.3, 1.7, 3

    def kl(m, ratio):
        return (m + n * (ratio - 1 - np.log(ratio))) / 2

    found = unequal_gaussian_divergence(fj.symmetrise("kl"), m, ratio=ratio, dimensions=n)
    assert float(found) == pytest.approx((kl(m, ratio) + kl(m / ratio, 1 / ratio)) / 2, rel=1e-10)


def test_nesting_is_bounded():
    nested = "symmetrise(" * 30 + "kl" + ")" * 30
    assert divergence(nested) == fj.symmetrise("kl")
    with pytest.raises(ExpressionError):
        divergence("reversed(" * 60 + "kl" + ")" * 60)
