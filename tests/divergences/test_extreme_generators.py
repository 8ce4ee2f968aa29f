"""Extreme scales and exponents, cusps, far kinks: against integrals, limits and formulas found apart."""

import math
import warnings

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import sympy

from fdiv_jax.divergences import ExpressionError, GeneratorError, InfiniteDivergenceError, divergence

M = sympy.Symbol("m", nonnegative=True)


@pytest.mark.parametrize("a", ["0.99999999999", "1 + 1e-15", "0.9999", "1.0001"])
def test_the_closed_form_beside_kl(a):
    exponent = mpmath.mpf(str(sympy.N(sympy.sympify(a, rational=True), 40)))
    found = sympy.N(divergence(f"alpha({a})").closed_form.subs(M, 3), 40)
    with mpmath.workdps(60):
        c = exponent * (exponent - 1)
        exact = mpmath.expm1(c * 3 / 2) / c
    assert float(found) == pytest.approx(float(exact), rel=1e-6)


def test_a_closed_form_with_an_inexact_cut_is_the_value(x64):
    d = divergence("Max(t*log(t), 2*(t - 1))")
    for m in (0.3, 1.0):
        found = float(sympy.N(d.closed_form.subs(M, sympy.Rational(m)), 30))
        assert found == pytest.approx(float(d.gaussian_divergence(m)), rel=1e-12)


def test_tidying_keeps_the_value():
    from fdiv_jax.divergences._closed_form import closed_form
    from fdiv_jax.divergences._parse import T
    from fdiv_jax.divergences._pieces import Piece

    cut, kl = sympy.exp(sympy.LambertW(-2 * sympy.exp(-2)) + 2), T * sympy.log(T)
    pieces = (
        Piece(sympy.S.Zero, sympy.S.One, kl),
        Piece(sympy.S.One, cut, 2 * T - 2),
        Piece(cut, sympy.oo, kl),
    )
    form, log_cut = closed_form(pieces), float(sympy.log(cut))
    assert form is not None

    def density(l):
        return mpmath.exp(-((l + 0.5) ** 2) / 2) / mpmath.sqrt(2 * mpmath.pi)

    exact = mpmath.quad(
        lambda l: density(l) * max(l * mpmath.exp(l), 2 * mpmath.expm1(l)), [-14, -4, 0, log_cut, 6, 16]
    )
    assert float(sympy.N(form.subs(M, 1), 20)) == pytest.approx(float(exact), rel=1e-10)


@pytest.mark.parametrize(
    ("text", "slopes"),
    [
        ("alpha(0.9999)", (-sympy.oo, 10000)),
        ("alpha(1.0001)", (-10000, sympy.oo)),
        ("t**1.001 - 1", (0, sympy.oo)),
        ("1 - t**0.00001", (-sympy.oo, 0)),
        ("t**1.0000001 - 1", (0, sympy.oo)),
    ],
)
def test_slopes_that_approach_their_ends_slowly(text, slopes):
    assert divergence(text).slopes == slopes


@pytest.mark.slow
def test_an_exponent_close_to_one_has_a_conjugate(x64):
    """f = t^p - 1: t* = (s/p)^(1/(p-1)) and f* = (p - 1) t*^p + 1 for s > 0, and 1 below."""
    d, p = divergence("t**1.001 - 1"), mpmath.mpf("1.001")
    exact = [float((p - 1) * (mpmath.mpf(s) / p) ** (p / (p - 1)) + 1) for s in (0.5, 1.0, 1.02)]
    np.testing.assert_allclose(d.conjugate(np.array([0.5, 1.0, 1.02])), exact, rtol=1e-9)
    np.testing.assert_array_equal(d.conjugate(np.array([-3.0, 0.0])), 1.0)
    assert len(str(divergence("t**1.0000001 - 1").conjugate_expression)) < 1000


def cusp_moments(p, m):
    """(value, weight) of |t - 1|^p by mpmath, with l = +-u^(1/(p - 1)), where the integrands are smooth."""

    def mean(h, power):
        total = mpmath.mpf(0)
        for sign in (1, -1):

            def integrand(u, sign=sign):
                x = u ** (1 / power)
                l = sign * x
                density = mpmath.exp(-((l + m / 2) ** 2) / (2 * m)) / mpmath.sqrt(2 * mpmath.pi * m)
                return h(l) * density * x / (power * u)

            ends = [(k * mpmath.sqrt(m)) ** power for k in (0, 0.25, 0.5, 1, 2, 3, 4, 6, 8, 11, 16)]
            total += mpmath.quad(integrand, ends)
        return float(total)

    with mpmath.workdps(30):
        p, m = mpmath.mpf(p), mpmath.mpf(m)
        value = mean(lambda l: abs(mpmath.expm1(l)) ** p, mpmath.mpf(1))
        weight = mean(lambda l: mpmath.exp(2 * l) * p * (p - 1) * abs(mpmath.expm1(l)) ** (p - 2), p - 1)
    return value, weight


@pytest.mark.slow
@pytest.mark.parametrize("p", ["1.05", "1.125", "1.2"])
def test_a_cusp_at_one_of_any_order(p, x64):
    d, m = divergence(f"Abs(t - 1)**{p}"), np.array([1e-6, 1.0])
    value, weight = np.array([cusp_moments(p, float(x)) for x in m]).T
    np.testing.assert_allclose(d.gaussian_divergence(m), value, rtol=1e-10)
    np.testing.assert_allclose(d.gaussian_weight(m), weight, rtol=1e-9)
    np.testing.assert_allclose(d.gaussian_weight(m.astype(np.float32)), weight, rtol=5e-5)


def test_symmetry_sees_far_kinks_and_small_scales():
    for text in ("Max(t - 1e6, 0)", "Max(1e-6 - t, 0)", "1e-99*(t - 1)**2"):
        assert not divergence(text).is_symmetric, text
    assert divergence("1e-30*(t - 1)**2/(t + 1)").is_symmetric


def test_a_catalogue_entry_with_a_small_addition_is_not_that_entry():
    # The addition dominates from t = 1e2 on, so f* is not kl's exp(s - 1).
    d = divergence("t*log(t) + 1e-80*(t - 1)**64")
    assert d.conjugate_expression != divergence("kl").conjugate_expression
    assert d.description == ""


@pytest.mark.parametrize("scale", ["1e-60", "1e90"])
def test_a_scale_that_float32_cannot_hold(scale):
    d, m = divergence(f"{scale}*(t - 1)**2"), np.array([0, 1e-20, 1, 180, 1e8], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value, weight = np.asarray(d.gaussian_divergence(m)), np.asarray(d.gaussian_weight(m))
    top = mpmath.mpf(float(np.finfo(np.float32).max))
    exact = [float(min(mpmath.mpf(scale) * mpmath.expm1(mpmath.mpf(float(x))), top)) for x in m]
    np.testing.assert_allclose(value, exact, rtol=3e-5, atol=1e-38)
    exact = [float(min(2 * mpmath.mpf(scale) * mpmath.exp(mpmath.mpf(float(x))), top)) for x in m]
    np.testing.assert_allclose(weight, exact, rtol=3e-5, atol=1e-38)


def test_quadrature_of_a_scale_that_float32_cannot_hold():
    """1e60 le_cam at m = 1e-40 is 1e60 m / 2: the table itself is beyond float32, the value is not."""
    d = divergence("1e60*(t - 1)**2/(t + 1)")
    assert float(d.gaussian_divergence(jnp.float32(1e-30))) == pytest.approx(5e29, rel=2e-5)


@pytest.mark.slow
def test_the_log_weight_of_a_flat_minimum():
    """w = 12 m + O(m^2) for (t - 1)^4."""
    d = divergence("(t - 1)**4")
    m = np.array([0.0, 1e-35, 1e-20], np.float32)
    with np.errstate(divide="ignore"):
        expected = np.log(12 * m.astype(float))
    np.testing.assert_allclose(d.gaussian_log_weight(m), expected, rtol=1e-5)
    assert np.all(np.isfinite(jax.vmap(jax.grad(d.gaussian_log_weight))(m)))


def test_a_bounded_generator_that_falls_steeply_is_not_infinite():
    d = divergence("exp(-10000*t) - exp(-10000)")
    assert d.slopes == (-10000, 0)
    for text in ("exp(1e-6*t) - exp(1e-6)", "exp(0.1/t) - exp(0.1)", "exp(exp(t)) - exp(E)"):
        with pytest.raises(InfiniteDivergenceError):
            divergence(text)


@pytest.mark.parametrize(
    "text",
    [
        "Max(" + ",".join(f"t**{i}" for i in range(1, 60)) + ") - 1",
        "Max(" * 8 + "t, 1), 2), 3), 4), 5), 6), 7), 8, 9)",
        "+".join(f"Abs(Max(t, {i}) - Min(t, {i + 1}))" for i in range(1, 7)),
    ],
)
def test_many_comparisons_are_refused(text):
    with pytest.raises(ExpressionError, match=r"Max and Min have more than 16 arguments"):
        divergence(text)


def test_a_switch_of_tiny_values_is_seen():
    """Products of neighbouring values would underflow, and the kink at 1 with them."""
    d = divergence("Abs(1e-95*t*1e-95*(t - 1))*1e95/t*1e95 + t*log(t)")
    assert [cut for cut, _ in d.kinks] == [1]
    assert math.isinf(d.curvature)


@pytest.mark.parametrize(
    ("hidden", "plain"),
    [
        ("t*log(t) + sqrt(t**2 - 2*t + 1)", "t*log(t) + Abs(t - 1)"),
        ("t*log(t) + sqrt(t**2 - 4*t + 4) - 1", "t*log(t) + Abs(t - 2) - 1"),
        ("(t**2 - 2*t + 1)**0.75", "Abs(t - 1)**1.5"),
        ("t*log(t) + sqrt(t - 2*sqrt(t) + 1)", "t*log(t) + Abs(sqrt(t) - 1)"),
        ("t*log(t) + sqrt((t**2 - 2*t + 1)/(t + 1)**2)", "t*log(t) + Abs(t - 1)/(t + 1)"),
    ],
)
def test_a_kink_in_a_root_is_seen(hidden, plain):
    a, b = divergence(hidden), divergence(plain)
    assert (a.kinks, a.curvature, a.equilibrium_slope) == (b.kinks, b.curvature, b.equilibrium_slope)
    assert [float(a.f(t)) for t in (0.3, 1.5, 4.0)] == pytest.approx([float(b.f(t)) for t in (0.3, 1.5, 4.0)])


def test_a_kink_that_no_factor_shows_is_refused():
    with pytest.raises(GeneratorError, match=r"kink at t = 1\.0 that is hidden in a root: write it by Abs"):
        divergence("5*t*log(t) + sqrt(1 - 1/cosh(t - 1)**2)")  # |tanh(t - 1)|
    assert divergence("log(cosh(20000*(t - 1)))").is_smooth  # steep, and no kink


@pytest.mark.slow
def test_two_kinks_close_together(x64):
    """f = max(0, 1000 (t - 1)(t - 1.005)), its value by mpmath between the kinks."""
    d = divergence("Max(0, 1000*(t - 1)*(t - 1.005))")
    assert d.kinks == ((1, 5), (sympy.Rational(201, 200), 5))
    assert float(d.f(1.0025)) == 0
    assert float(d.conjugate(-0.495)) == pytest.approx(-0.495)
    m = mpmath.mpf("1e-6")

    def integrand(l):
        t = mpmath.exp(l)
        density = mpmath.exp(-((l + m / 2) ** 2) / (2 * m)) / mpmath.sqrt(2 * mpmath.pi * m)
        return max(mpmath.mpf(0), 1000 * (t - 1) * (t - mpmath.mpf("1.005"))) * density

    exact = mpmath.quad(integrand, [-0.012, -0.004, -0.001, 0, mpmath.log(mpmath.mpf("1.005")), 0.012])
    assert float(d.gaussian_divergence(1e-6)) == pytest.approx(float(exact), rel=1e-9)
    narrow = divergence("Max(t*log(t), 1.004*(t - 1))")
    assert math.isinf(narrow.curvature)
    assert [float(cut) for cut, _ in narrow.kinks] == pytest.approx([1, 1.0080213618], rel=1e-9)


@pytest.mark.parametrize("text", ["1e-3*Max(t - 1e12, 0)", "t*log(t) + Max(1e-12 - t, 0)"])
def test_a_kink_too_far_away_is_refused(text):
    with pytest.raises(ExpressionError, match=r"changes its sign, at a t (below|above) .* between e"):
        divergence(text)


@pytest.mark.parametrize(
    ("text", "t_of_s"),
    [
        # f' = 2 log(t)/t on t < 1;  f' = log t + 1 - 1/t on t < 1
        ("Min(log(t), 0)**2", lambda t: 2 * mpmath.log(t) / t),
        pytest.param("Abs(log(t)) + t*log(t)", lambda t: mpmath.log(t) + 1 - 1 / t, marks=pytest.mark.slow),
    ],
)
def test_an_inverse_on_the_other_branch_of_lambert_w(text, t_of_s, x64):
    d, s = divergence(text), -0.5
    t = mpmath.findroot(lambda t: t_of_s(t) - s, 0.8)
    f = mpmath.log(t) ** 2 if "Min" in text else -mpmath.log(t) + t * mpmath.log(t)
    assert float(d.conjugate_prime(s)) == pytest.approx(float(t), rel=1e-9)
    assert float(d.conjugate(s)) == pytest.approx(float(s * t - f), rel=1e-9)


def test_the_conjugate_at_the_last_slope_after_an_inexact_kink(x64):
    d = divergence("Max(log(t)**2, 2*t/E - 1)")
    assert float(d.conjugate(float(d.slopes[1]))) == pytest.approx(1.0)


@pytest.mark.slow
def test_a_generator_that_leaves_float64_is_known_below(x64):
    """t^40 on a table: its logarithms at the end are beyond float64, which is no error below."""
    d = divergence("1e6*sqrt(1 + t**2) + 0.3/sinh(t) + 1e-5*(e + t)**40 + 1e-6*(sqrt(t) - 1)**2"
                   " - 1e6*sqrt(2) - 0.3/sinh(1) - 1e-5*(e + 1)**40")  # fmt: skip
    with mpmath.workdps(40):

        def f(t):
            small = mpmath.mpf("1e-6") * (mpmath.sqrt(t) - 1) ** 2 + mpmath.mpf("0.3") / mpmath.sinh(t)
            return small + 10**6 * mpmath.sqrt(1 + t**2) + mpmath.mpf("1e-5") * (mpmath.e + t) ** 40

        for t in (0.5, 1.7, 5.0, 1e3):
            assert float(d.f(t)) == pytest.approx(float(f(mpmath.mpf(t)) - f(mpmath.mpf(1))), rel=1e-12)
    assert float(d.f(1e9)) == math.inf
