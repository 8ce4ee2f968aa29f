"""Smoothness, finite steps and their fate, against closed forms and the map iterated in 40 digits."""

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fdiv_jax import theory
from tests.theory.test_clock import FLAT, WEIGHTS


@pytest.mark.parametrize("name", ["kl", "squared_hellinger", "pearson_chi2", "total_variation", FLAT])
def test_the_orbit_is_the_map(name):
    h, k = 0.13, 0.7
    found = theory.descent_orbit(name, [0.01, 1.3, 40.0], h, 12, kernel=k)
    with mpmath.workdps(40):
        for column, m0 in zip(found.T, (0.01, 1.3, 40.0), strict=True):
            error = mpmath.sqrt(mpmath.mpf(m0))
            for value in column:
                exact = float(error**2) if abs(error) < 1e4 else math.inf
                if math.isinf(exact):
                    assert math.isinf(value)
                    break
                # one step in a run multiplies the error of the last: near a zero of 1 - h k w by much
                assert value == pytest.approx(exact, rel=1e-6, abs=1e-30)
                error -= mpmath.mpf(h) * k * WEIGHTS[name](error**2) * error if error else 0


def test_smoothness_in_closed_form():
    for m0 in (1e-9, 0.5, 3.0, 50.0):
        assert theory.descent_smoothness("kl", m0) == pytest.approx(1, rel=1e-12)
        # hellinger: e^{-m/8} (1 - m/4) / 2 falls from 1/2
        assert theory.descent_smoothness("squared_hellinger", m0) == pytest.approx(0.5, rel=1e-9)
        chi2 = 2 * math.exp(m0) * (1 + 2 * m0)
        assert theory.descent_smoothness("pearson_chi2", m0) == pytest.approx(chi2, rel=1e-9)
    assert theory.descent_smoothness("total_variation", 1.0) == np.inf
    assert theory.descent_smoothness("pearson_chi2", 1e4) == np.inf

    def inside(m):  # hellinger + (t - 1)^4 / 100: a maximum at neither end
        return 0.5 * math.exp(-m / 8) * (1 - m / 4) + 0.12 * (
            math.exp(6 * m) * (1 + 12 * m) - 2 * math.exp(3 * m) * (1 + 6 * m) + math.exp(m) * (1 + 2 * m)
        )

    grid = np.linspace(1e-9, 0.2, 4001)
    found = theory.descent_smoothness("(sqrt(t) - 1)**2 + (t - 1)**4/100", 0.2)
    assert found == pytest.approx(max(map(inside, grid)), rel=1e-6)


WORDS = ["kl", "reverse_kl", "squared_hellinger", "pearson_chi2", "neyman_chi2", "jeffreys"]


@settings(max_examples=8, deadline=None)
@given(
    powers=st.lists(
        st.sampled_from([-3, -2, -0.75, 0.25, 0.3, 0.5, 0.8, 1.5, 2.5, 4]), min_size=1, max_size=3
    ),
    shares=st.lists(st.floats(0.05, 3.0), min_size=3, max_size=3),
    m0=st.floats(0.01, 12.0),
    reach=st.floats(1e-4, 0.99),
)
def test_no_divergence_beats_kl_at_equal_smoothness(powers, shares, m0, reach):
    """A search for a counterexample among random mixtures of powers: none in time, none in steps."""
    terms = [
        f"{c:.3f}*(t**({a}) - ({a})*t + ({a}) - 1)/(({a})*({a} - 1))"
        for a, c in zip(powers, shares, strict=False)
    ]
    d = " + ".join(terms)
    smoothness = theory.descent_smoothness(d, m0)
    steps = theory.descent_steps(d, m0, reach * m0)
    assert steps >= math.log(1 / reach) / 2 * (1 - 1e-9)
    weights = sum(c * math.exp(a * (a - 1) * m0 / 2) for a, c in zip(powers, shares, strict=False))
    assert weights <= smoothness * (1 + 1e-9)
    for share in (0.3, 0.9):
        step = share / smoothness
        run = theory.descent_orbit(d, m0, step, 20)
        assert (run >= theory.descent_orbit("kl", m0, share, 20) * (1 - 1e-9)).all()


@pytest.mark.parametrize("name", [*WORDS, "jensen_shannon", FLAT])
def test_no_catalogue_entry_beats_kl(name):
    for m0 in (0.1, 7.0):
        assert theory.descent_steps(name, m0, m0 / 100) >= math.log(100) / 2 * (1 - 1e-9)
    assert theory.descent_steps(name, 1.0, 0.1, condition=30.0) == pytest.approx(
        30 * theory.descent_steps(name, 1.0, 0.1)
    )


@pytest.mark.parametrize("name", ["kl", "pearson_chi2", "squared_hellinger"])
def test_below_the_step_limit_no_error_grows(name):
    limit = theory.descent_step_limit(name, [0.3, 2.0], m0=3.0)
    m0 = np.linspace(0.01, 3.0, 40)
    below = theory.descent_orbit(name, m0, 0.999 * limit, 1, kernel=2.0)
    assert (below[1] < m0).all()
    if name != "squared_hellinger":
        assert theory.descent_fate(name, 3.0, 0.9 * limit, kernel=2.0).kind == "converges"


def test_fates():
    """At one step, m = 7: the others are comfortable where chi2 diverges; far away hellinger stalls."""
    for name in ("kl", "squared_hellinger", "jensen_shannon"):
        assert theory.descent_fate(name, 7.0, 0.05).kind == "converges"
    chi2 = theory.descent_fate("pearson_chi2", 7.0, 0.05)
    assert chi2.kind == "diverges"
    assert chi2.m == np.inf
    far = theory.descent_fate("squared_hellinger", 80.0, 0.05)
    assert far.kind == "stalls"
    assert far.m > 79
    # a kink: about the equilibrium e jumps by h k / sqrt(2 pi), and never comes closer than half of that
    kink = theory.descent_fate("total_variation", 1.0, 0.5, reduction=1e-5)
    assert kink.kind == "stalls"
    assert kink.m < (0.5 / math.sqrt(2 * math.pi)) ** 2 * 1.01
    # beyond 2 / (k f''(1)) the equilibrium is unstable: kl grows, hellinger circles where w = 2 / (h k)
    assert theory.descent_fate("kl", 1.0, 2.1).kind == "diverges"
    circling = theory.descent_fate("squared_hellinger", 9.0, 6.0)
    assert circling.kind == "stalls"
    assert circling.m == pytest.approx(8 * math.log(1.5), rel=1e-6)  # e^{-m/8} / 2 = 2 / 6
    run = theory.descent_fate("kl", 1.0, 0.1)
    assert run.steps == math.ceil(math.log(1e-3) / (2 * math.log(0.9)))


@settings(max_examples=8, deadline=None)
@given(step=st.floats(0.02, 1.2), m0=st.floats(0.05, 6.0))
def test_chi2_diverges_exactly_beyond_its_step(step, m0):
    """w rises with m, so the first step decides: h w(m0) against 2."""
    product = step * 2 * math.exp(m0)
    if abs(product - 2) > 1e-6 and step < 0.99:
        kind = theory.descent_fate("pearson_chi2", m0, step, steps=2000).kind
        assert kind == ("diverges" if product > 2 else "converges")


def test_reach():
    reach = theory.descent_reach("total_variation")  # e^{-m/8} / sqrt(m): the pull falls from the start
    assert reach.force < 1e-12
    assert reach.speed == pytest.approx(4.0, rel=1e-8)
    assert theory.descent_reach("alpha(0.9)").speed == pytest.approx(1 / 0.045, rel=1e-8)
    assert theory.descent_reach("pearson_chi2").force == np.inf
    grid = np.linspace(0.5, 20, 400)
    steepest = grid[np.argmax(-np.diff(theory.descent_flow("jensen_shannon", grid, [0.0, 1e-6]), axis=0))]
    assert theory.descent_reach("jensen_shannon").speed == pytest.approx(steepest, abs=0.06)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: theory.descent_fate("kl", 1.0, 0.0), ValueError),
        (lambda: theory.descent_fate("kl", 1.0, 0.1, reduction=1.5), ValueError),
        (lambda: theory.descent_orbit("kl", 1.0, 0.1, 0), ValueError),
        (lambda: theory.descent_orbit("kl", 1.0, 0.1, 1.5), TypeError),
        (lambda: theory.descent_smoothness("kl", 0.0), ValueError),
        (lambda: theory.descent_steps("kl", 1.0, 0.1, condition=0.5), ValueError),
        (lambda: theory.descent_step_limit("kl", [0.0], 1.0), ValueError),
    ],
)
def test_wrong_arguments_are_refused(call, error):
    with pytest.raises(error, match="expected"):
        call()
