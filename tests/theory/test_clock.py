"""The clock of descent against mpmath's exponential integrals, scipy's ODE solver and iterated maps."""

import math

import mpmath
import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp

from fdiv_jax import divergence, theory
from tests.divergences.oracles import quickly

# f (t - 1)^4: E_Q[r^2 f''(r)] = 12 E[r^4 - 2 r^3 + r^2] = 12 (e^{6m} - 2 e^{3m} + e^m)
FLAT = "(t - 1)**4"
WEIGHTS = {
    "kl": lambda m: mpmath.mpf(1),
    "squared_hellinger": lambda m: mpmath.exp(-m / 8) / 2,
    "pearson_chi2": lambda m: 2 * mpmath.exp(m),
    "total_variation": lambda m: mpmath.exp(-m / 8) / mpmath.sqrt(2 * mpmath.pi * m),
    "alpha(3)": lambda m: mpmath.exp(3 * m),
    FLAT: lambda m: 12 * (mpmath.exp(6 * m) - 2 * mpmath.exp(3 * m) + mpmath.exp(m)),
}
TIMES = {
    "kl": lambda a, b: mpmath.log(a / b) / 2,
    "squared_hellinger": lambda a, b: mpmath.ei(a / 8) - mpmath.ei(b / 8),
    "pearson_chi2": lambda a, b: (mpmath.e1(b) - mpmath.e1(a)) / 4,
    "total_variation": lambda a, b: (
        2 * mpmath.pi * (mpmath.erfi(mpmath.sqrt(a / 8)) - mpmath.erfi(mpmath.sqrt(b / 8)))
    ),
}
PAIRS = [(7.0, 0.1), (120.0, 1e-6), (1e-3, 1e-9), (2.0, 1.999), (1e-38, 1e-40), (30.0, 29.9999)]


@pytest.mark.parametrize("name", TIMES)
def test_times_in_closed_form(name):
    for a, b in PAIRS:
        with mpmath.workdps(40):
            exact = float(TIMES[name](mpmath.mpf(a), mpmath.mpf(b))) / 1.7
        assert theory.descent_time(name, a, b, kernel=1.7) == pytest.approx(exact, rel=1e-10, abs=0), (a, b)
    a, b = (np.array(x) for x in zip(*PAIRS[:3], strict=True))
    with mpmath.workdps(40):
        exact = [float(TIMES[name](mpmath.mpf(x), mpmath.mpf(y))) for x, y in PAIRS[:3]]
    np.testing.assert_allclose(theory.descent_time(name, a, b), exact, rtol=1e-10)


def test_a_flat_minimum_is_approached_like_a_power_of_time():
    with mpmath.workdps(40):
        exact = float(mpmath.quad(lambda x: 1 / (2 * WEIGHTS[FLAT](mpmath.exp(x))), [-14, -7, -3, 0.5]))
    assert theory.descent_time(FLAT, math.exp(0.5), math.exp(-14)) == pytest.approx(exact, rel=1e-9)
    # w = 12 m at small m, so T = (1/m1 - 1/m0) / 24: ten times closer takes ten times longer
    assert theory.descent_time(FLAT, 1e-6, 1e-9) == pytest.approx((1e9 - 1e6) / 24, rel=1e-5)
    assert theory.descent_time(FLAT, 1.0, 0.0) == np.inf


def test_an_f_that_is_flat_around_1_takes_for_ever_at_the_end_alone():
    """f'' is a unit mass at 2: w = E_Q[r^2 f''(r)] is 4 times the density of r = exp(N(-m/2, m)) there."""

    def pace(x):
        m = mpmath.exp(x)
        return mpmath.sqrt(m) / (4 * mpmath.npdf((mpmath.log(2) + m / 2) / mpmath.sqrt(m)))

    starts, ends = [4.0, 1.0, 0.1, 1.0, 1e-20, 1e-36, 1e-37], [1.0, 0.1, 0.01, 0.0, 1e-20, 1e-37, 1e-37]
    with mpmath.workdps(30):
        exact = [
            float(mpmath.quad(pace, mpmath.linspace(mpmath.log(b), mpmath.log(a), 4)))
            for a, b in zip(starts[:3], ends[:3], strict=True)
        ]
    exact += [np.inf, 0.0, np.inf, 0.0]
    np.testing.assert_allclose(theory.descent_time("Max(t - 2, 0)", starts, ends), exact, rtol=1e-9)
    alone = [theory.descent_time("Max(t - 2, 0)", *pair) for pair in zip(starts, ends, strict=True)]
    np.testing.assert_allclose(alone, exact, rtol=1e-9)


def test_a_kink_arrives_and_a_smooth_f_never_does():
    exact = float(2 * mpmath.pi * mpmath.erfi(mpmath.sqrt(mpmath.mpf(5) / 8)))
    assert theory.descent_time("total_variation", 5.0, 0.0) == pytest.approx(exact, rel=1e-10)
    assert theory.descent_time("kl", 5.0, 0.0) == np.inf
    assert theory.descent_time("kl", 0.0, 0.0) == 0.0
    assert theory.descent_time("squared_hellinger", 1e5, 1.0) == np.inf  # e^12500


def js_weight(m):
    """E_P[r f''(r)] = E[1 / (1 + e^L)], L ~ N(m/2, m)."""
    root = math.sqrt(m)
    density = lambda z: math.exp(-z * z / 2) / math.sqrt(2 * math.pi) / (1 + math.exp(m / 2 + root * z))  # noqa: E731
    return quad(density, -12, 12, epsabs=0, epsrel=1e-12, points=[-root / 2])[0]


def test_a_time_without_closed_form():
    exact = quad(lambda x: 1 / (2 * js_weight(math.exp(x))), math.log(0.5), math.log(6.0), epsrel=1e-11)[0]
    assert theory.descent_time("jensen_shannon", 6.0, 0.5) == pytest.approx(exact, rel=1e-10)


@pytest.mark.parametrize("name", list(WEIGHTS))
def test_the_flow_is_that_of_the_differential_equation(name):
    # total variation arrives at m = 0 from below 0.002
    start, kernel = np.array([0.01, 0.3, 1.0, 2.5]), np.array([1.0, 0.5, 2.0, 1.0])
    times = np.array([0.0, 0.01, 0.05])
    found = theory.descent_flow(name, start, times, kernel)
    assert found.shape == (3, 4)
    for i, (m0, k) in enumerate(zip(start, kernel, strict=True)):
        solved = solve_ivp(
            lambda t, x, k=k: [-2 * k * float(WEIGHTS[name](mpmath.exp(mpmath.mpf(float(x[0])))))],
            (0, times[-1]), [math.log(m0)], t_eval=times, rtol=1e-10, atol=1e-12, method="LSODA",
        )  # fmt: skip
        np.testing.assert_allclose(found[:, i], np.exp(solved.y[0]), rtol=1e-6)
    again = theory.descent_time(name, start, found[1])
    np.testing.assert_allclose(again, 0.01 * kernel, rtol=1e-9)


@pytest.mark.parametrize(
    "name",
    quickly(
        ["kl", "squared_hellinger", "pearson_chi2", "total_variation"], ["pearson_chi2", "total_variation"]
    ),
)
def test_the_curve_of_a_small_step_is_the_run_itself(name):
    """From a kl run along one mode, the run of every other f: exact as the step goes to zero."""
    h, steps, m0 = 2e-4, 400, 2.0
    reference = theory.descent_orbit("kl", m0, h, 4000)
    found = theory.descent_curve(name, reference)[: steps + 1]
    run = theory.descent_orbit(name, m0, h, steps)
    np.testing.assert_allclose(found, run, rtol=3e-3)
    assert found[-1] < 0.97 * m0


def test_the_curve_normalises_stops_and_smooths():
    reference = 7.0 * np.exp(-0.02 * np.arange(200))
    np.testing.assert_allclose(
        theory.descent_curve("pearson_chi2", reference, normalise_curvature=True),
        theory.descent_curve("0.5*(t - 1)**2", reference),
        rtol=1e-9,
        equal_nan=True,
    )
    assert np.isnan(theory.descent_curve("pearson_chi2", reference)[-1])  # twice as fast as all that is known
    np.testing.assert_allclose(theory.descent_curve("reverse_kl", reference), reference, rtol=1e-12)
    rng = np.random.default_rng(0)
    noisy = reference * np.exp(0.3 * rng.normal(size=200))
    exact = theory.descent_curve("squared_hellinger", reference)
    errors = {
        way: np.median(np.abs(theory.descent_curve("squared_hellinger", noisy, monotone=way) / exact - 1))
        for way in (True, False)
    }
    assert errors[True] < 0.12 < errors[False]


def test_one_clock_for_many_samples():
    """Gradient descent on the mean over orthogonal samples, and one clock of the whole batch."""
    m0 = np.array([0.5, 2.0, 12.0])
    reference = theory.descent_orbit("kl", m0, 1e-3, 1200)
    own = theory.descent_curve("squared_hellinger", reference)
    np.testing.assert_allclose(
        own[800], theory.descent_orbit("squared_hellinger", m0, 1e-3, 800)[-1], rtol=3e-3
    )
    common = theory.descent_curve("squared_hellinger", reference, clock="common")
    ratios = common / common[:, :1]
    np.testing.assert_allclose(ratios, np.broadcast_to(m0 / m0[0], ratios.shape), rtol=1e-9)
    w = np.exp(-m0 / 8) / 2
    speed = (w * m0).sum() / m0.sum()
    np.testing.assert_allclose(common[1], m0 * (1 - 1e-3) ** (2 * speed), rtol=1e-9)
    one = theory.descent_curve("jensen_shannon", reference[:, 1])
    np.testing.assert_allclose(
        theory.descent_curve("jensen_shannon", reference[:, 1:2], clock="common")[:, 0], one, rtol=1e-12
    )


@pytest.mark.slow
def test_who_is_served_first():
    """At equal mean m: the smaller median under hellinger, the smaller maximum under chi2, kl in between.

    jensen_shannon, whose weight falls faster yet, leaves the far samples longer still.
    """
    m0 = np.random.default_rng(1).gamma(2.0, 2.0, size=300)
    names = ["jensen_shannon", "squared_hellinger", "kl", "pearson_chi2"]
    rows = theory.served_first(names, m0, 0.5 * m0.mean())
    assert [row.name for row in rows] == names
    for row in rows:
        assert row.m.mean() == pytest.approx(0.5 * m0.mean(), rel=1e-9)
        np.testing.assert_allclose(row.m, theory.descent_flow(row.name, m0, row.time), rtol=1e-12)
    medians, tails, maxima = (
        [getattr(row, key) for row in rows] for key in ("median", "percentile_90", "maximum")
    )
    assert medians == sorted(medians)
    assert maxima == sorted(maxima, reverse=True)
    assert tails[3] < tails[2] < tails[0]
    assert rows[2].m == pytest.approx(0.5 * m0)  # kl keeps all ratios


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: theory.descent_time("kl", 1.0, 2.0), ValueError, "m1 <= m0"),
        (lambda: theory.descent_time("kl", -1.0, 0.0), ValueError, "m0 >= 0"),
        (lambda: theory.descent_time("kl", 1.0, 0.5, kernel=0.0), ValueError, "kernel"),
        (lambda: theory.descent_time("kl", "a", 0.5), TypeError, "m0"),
        (lambda: theory.descent_flow("kl", [1.0, 2.0], 0.1, [1.0, 2.0, 3.0]), ValueError, "one per sample"),
        (lambda: theory.descent_curve("kl", [1.0]), ValueError, "n_steps"),
        (lambda: theory.descent_curve("total_variation", [1.0, 0.5], True), ValueError, "infinite"),
        (lambda: theory.descent_curve(FLAT, [1.0, 0.5], True), ValueError, r"f''\(1\) = 0"),
        (lambda: theory.descent_curve("kl", [1.0, 0.5], clock="sundial"), ValueError, "sundial"),
        (lambda: theory.served_first(["kl"], [1.0, 2.0], 3.0), ValueError, "mean"),
        (lambda: theory.served_first("kl", [1.0, 2.0], 1.0), TypeError, "sequence"),
    ],
)
def test_wrong_arguments_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_any_generator_has_a_clock():
    assert theory.descent_time(divergence("t*log(t)"), 3.0, 1.0) == pytest.approx(math.log(3) / 2, rel=1e-12)


@pytest.mark.slow
def test_a_weight_that_grows_more_slowly_than_at_a_kink_arrives_too():
    # |t - 1|^(3/2): w ~ m^(-1/4), which arrives at m = 0 as well
    assert theory.descent_time("Abs(t - 1)**1.5", 1e-8, 0.0) < np.inf
