"""The first steps of a run at any setting, and the race between settings."""

import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from fdiv_jax.unlearning import Network, OptimiserConfig, prepare, unlearn
from fdiv_jax.unlearning.first_steps import Course, FirstSteps, race, steps_to


def setting(divergence="kl", sigma=1.0, learning_rate=0.1, start=1.0):
    at = np.array([start])
    return Course(divergence, sigma, learning_rate, np.inf, at, at)


def test_steps_are_counted_to_the_goal_between_whole_steps():
    m = 3.0 * 0.5 ** np.arange(9)
    assert steps_to(m, 0.75) == pytest.approx(2.0)
    assert steps_to(m, 1.5 / np.sqrt(2)) == pytest.approx(1.5)
    assert steps_to(m, 3.0) == 0
    assert steps_to(m, 1e-3) == np.inf
    assert steps_to(np.array([2.0, np.nan, np.nan]), 1.0) == np.inf


@pytest.mark.parametrize(
    ("divergence", "sigma"),
    [("squared_hellinger", 0.7), pytest.param("pearson_chi2", 1.6, marks=pytest.mark.slow)],
)
def test_the_steps_are_those_of_a_run(pipe, config, tmp_path, divergence, sigma):
    """What two steps change is what the engine's own run of two steps with these settings changes."""
    wanted = config(
        divergence=divergence, loss="exact", sigma=sigma, steps=2, learning_rate=0.3,
        optimiser=OptimiserConfig(name="sgd"), anchor="near",
    )  # fmt: skip
    run = prepare(pipe, config(anchor="near"))
    first = FirstSteps(run, run.data(tmp_path), ("kl", divergence), lambda trained: np.ones(1))
    course, change = first.run(setting(divergence, sigma, 0.3), 0.1, 2)
    assert course.m.tolist() == [1.0, 1.0, 1.0]
    assert course.steps == np.inf
    made = unlearn(pipe, wanted, cache=tmp_path, progress=False)
    before, after = (Network.parameters(p.unet) for p in (pipe, made.pipeline))
    names = run.selection.names
    expected = ravel_pytree({name: after[name] - before[name] for name in names})[0]
    assert np.abs(expected).max() > 1e-5
    largest = max(np.abs(after[name]).max() for name in names)
    np.testing.assert_allclose(
        change, expected, atol=4 * np.spacing(np.float32(largest))
    )  # rounding of weights


def test_the_standard_error_is_that_of_a_ratio():
    """Against the bootstrap over the samples."""
    rng = np.random.default_rng(0)
    before = rng.lognormal(0, 1, 60)
    now = before * rng.lognormal(-1, 0.4, 60)
    first = FirstSteps.__new__(FirstSteps)
    first._before, first.start = before, float(before.mean())
    drawn = rng.integers(60, size=(20_000, 60))
    ratios = now[drawn].mean(1) / before[drawn].mean(1)
    assert first._standard_error(now) == pytest.approx(before.mean() * ratios.std(), rel=0.1)
    assert first._standard_error(0.3 * before) == pytest.approx(
        0, abs=1e-12
    )  # all alike: only the start varies
    assert first._standard_error(now[:1]) == 0


class Valley:
    """m of two modes under plain descent, for a race: a "divergence" has a factor of its own."""

    start = 1.0

    def __init__(self, factors):
        self.factors, self.asked = factors, []

    def run(self, setting, goal, most):
        self.asked.append((setting.divergence, setting.learning_rate, most))
        k = np.array([1.0, 0.2]) * self.factors[setting.divergence]
        n = np.arange(int(np.ceil(most)) + 1)
        m = 0.5 * ((1 - setting.learning_rate * k[:, None]) ** (2 * n)).sum(0)
        bad = np.flatnonzero((m > 4) | (m <= goal))
        m = m[: bad[0] + 1] if bad.size else m
        steps = steps_to(m, goal)
        made = Course(setting.divergence, setting.sigma, setting.learning_rate, steps, m, m)
        if steps > most:
            made = Course(setting.divergence, setting.sigma, setting.learning_rate, np.inf, m, m)
        return made, np.array([setting.learning_rate], np.float32)


@pytest.mark.parametrize("begin", [0.02, 0.3, 1.5, 6.0])
def test_a_race_finds_the_fastest_step_wherever_it_begins(begin):
    valley, goal = Valley({"kl": 1.0}), 0.05
    tried, change = race(valley, [setting("kl", 1.0, begin)], goal, 60, 30)
    rates = np.geomspace(0.05, 2.5, 2000)
    n = np.arange(61)
    curves = 0.5 * sum((1 - np.outer(rates, [k])) ** (2 * n) for k in (1.0, 0.2))
    best = min(steps_to(curve, goal) for curve in curves)
    assert tried[0].steps <= 1.15 * best
    assert change == pytest.approx(tried[0].learning_rate)
    assert [each.steps for each in tried] == sorted(each.steps for each in tried)


def test_a_race_gives_up_what_is_slower_and_makes_no_more_runs_than_allowed():
    valley = Valley({"kl": 1.0, "le_cam": 0.5})
    lines = [setting("le_cam", 2.0, 0.4), setting("kl", 1.0, 0.2)]
    tried, _ = race(valley, lines, 0.05, 60, 9)
    assert len(tried) == len(valley.asked) == 9
    fastest = np.inf
    for (_, _, most), made in zip(valley.asked, [r for r, _ in _again(valley)], strict=True):
        assert most == min(fastest, 60)
        fastest = min(fastest, made.steps)
    one, _ = race(Valley({"kl": 1.0}), lines[1:], 0.05, 60, 1)
    assert len(one) == 1


def test_another_line_begins_where_m_falls_as_fast_as_in_the_fastest_run_so_far():
    valley = Valley({"kl": 1.0, "pearson_chi2": 0.7})
    tried, _ = race(valley, [setting("kl", 1.0, 0.2), setting("pearson_chi2", 2.0, 1e9)], 0.05, 60, 30)
    asked = [name for name, _, _ in valley.asked]
    first = asked.index("pearson_chi2")
    before = [each for each, _ in _again(valley)[:first]]
    fastest = min(before, key=lambda each: each.steps)
    weight = 2 * np.exp(valley.start / 2.0**2)  # of pearson_chi2; that of kl is 1
    assert valley.asked[first][1] == pytest.approx(fastest.learning_rate * 2.0**2 / weight)
    assert {each.divergence for each in tried} == {"kl", "pearson_chi2"}


def _again(valley):
    asked, other = valley.asked, Valley(valley.factors)
    return [other.run(setting(name, 1.0, rate), 0.05, most) for name, rate, most in asked]


def test_a_race_that_nobody_finishes_prefers_what_came_lowest():
    valley = Valley({"kl": 1.0})
    tried, _ = race(valley, [setting("kl", 1.0, 1e-3)], 1e-9, 4, 12)
    assert all(each.steps == np.inf for each in tried)
    assert tried[0].m[-1] == min(each.m[-1] for each in tried if len(each.m) == 5)
