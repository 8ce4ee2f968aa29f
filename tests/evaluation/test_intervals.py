"""Intervals: their parts against plain sums, their coverage by simulation, their degenerate cases."""

import math

import numpy as np
import pytest
from scipy import stats

from fdiv_jax.evaluation import (
    Interval,
    bootstrap_difference,
    bootstrap_mean,
    holm,
    jackknife_statistic,
    rate_interval,
    simultaneous_level,
)
from fdiv_jax.evaluation._crossed import moments, table


def test_the_interval_prints_itself():
    found = Interval(0.42, 0.311, 0.53)
    assert (str(found), f"{found:.3f}") == ("0.42 [0.31, 0.53]", "0.420 [0.311, 0.530]")
    assert found.holds(0.5)
    assert not found.holds(0.54)


def test_moments_are_those_of_the_analysis_of_variance():
    values = np.random.default_rng(0).standard_normal((5, 4)) + np.arange(5)[:, None] + 100
    p, s = values.shape
    mean, rows, columns = values.mean(), values.mean(1), values.mean(0)
    of_prompts = s * sum((row - mean) ** 2 for row in rows) / (p - 1)
    of_seeds = p * sum((column - mean) ** 2 for column in columns) / (s - 1)
    rest = sum((values[i, j] - rows[i] - columns[j] + mean) ** 2 for i in range(p) for j in range(s)) / (
        (p - 1) * (s - 1)
    )
    found = moments(values)
    assert found.mean[0] == pytest.approx(mean, rel=1e-12)
    expected = max(of_prompts, of_seeds, of_prompts + of_seeds - rest) / (p * s)
    assert found.variance[0] == pytest.approx(expected, rel=1e-9)
    one = moments(values[:, :1])
    assert one.variance[0] == pytest.approx(values[:, 0].var(ddof=1) / p, rel=1e-9)
    assert moments(values[:1]).variance[0] == pytest.approx(values[0].var(ddof=1) / s, rel=1e-9)


def test_moments_of_draws_are_those_of_the_table_drawn():
    rng = np.random.default_rng(1)
    values = rng.standard_normal((6, 5))
    rows, columns = rng.integers(0, 6, 6), rng.integers(0, 5, 5)
    counted = moments(values, np.bincount(rows, minlength=6)[None], np.bincount(columns, minlength=5)[None])
    copied = moments(values[rows][:, columns])
    for a, b in zip(counted, copied, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)


def test_few_prompts_have_student_intervals():
    values = [1.0, 2.0, 4.0, 1.5]
    low, high = stats.t.interval(0.9, 3, np.mean(values), stats.sem(values))
    found = bootstrap_mean(values, level=0.9)
    assert tuple(found) == pytest.approx((np.mean(values), low, high), rel=1e-6)


def test_missing_images_are_left_out():
    values = np.random.default_rng(2).standard_normal((12, 6))
    holes = values.copy()
    holes[0], holes[:, 1], holes[3, 4] = np.nan, np.nan, np.nan
    assert table(holes).shape == (11, 5)
    found = bootstrap_mean(holes)
    assert found.value == pytest.approx(np.nanmean(holes), rel=1e-9)
    whole = bootstrap_mean(np.delete(np.delete(values, 0, 0), 1, 1))
    assert found.low == pytest.approx(whole.low, abs=0.05)
    paired = bootstrap_difference(holes, values)
    assert tuple(paired) == (0, 0, 0)


@pytest.mark.parametrize("shape", [(20,), (20, 1), (1, 20)])
def test_nothing_seen_is_not_nothing_there(shape):
    found = bootstrap_mean(np.zeros(shape))
    assert (found.value, found.low) == (0, 0)
    assert found.high == pytest.approx(1 - 0.05 ** (1 / 20), rel=1e-6)  # (1 - high)^20 / 2 = 0.025
    full = bootstrap_mean(np.ones(shape))
    assert (full.value, full.low, full.high) == pytest.approx((1, 1 - found.high, 1), rel=1e-6)


def test_equal_rates_of_two_models_have_an_interval_around_0():
    same = bootstrap_difference(np.ones((10, 5)), np.ones((10, 5)))
    assert same.value == 0
    assert same.low == -same.high < -0.02
    one = bootstrap_difference(np.eye(1, 20)[0], np.zeros(20))
    assert one.value == pytest.approx(0.05)
    assert one.low < 0 < one.high < 0.3


def test_the_number_of_prompts_counts_where_images_of_one_prompt_are_alike():
    alike = np.repeat(np.arange(10) % 2, 20).reshape(10, 20)
    found, independent = bootstrap_mean(alike), rate_interval(100, 200)
    assert found.high - found.low > 4 * (independent.high - independent.low)
    free = bootstrap_mean(np.random.default_rng(0).random((50, 20)) < 0.5)
    assert free.high - free.low < 1.5 * 2 * 1.96 * math.sqrt(0.25 / 1000)


def test_holm():
    assert holm([0.01, 0.04, 0.03, 0.2]) == pytest.approx([0.04, 0.09, 0.09, 0.2])
    assert holm([]) == []
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert simultaneous_level(0.95, 10) == pytest.approx(0.995)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_mean([]), "without a number"),
        (lambda: bootstrap_mean([0.3]), "one number"),
        (lambda: bootstrap_mean(np.zeros((2, 2, 2))), r"\(2, 2, 2\)"),
        (lambda: bootstrap_mean([1.0, np.inf]), "infinite"),
        (lambda: bootstrap_mean([1.0, 2.0], level=95), "level=95"),
        (lambda: bootstrap_mean([1.0, 2.0], resamples=3), "resamples=3"),
        (lambda: bootstrap_mean(["a"]), "numbers"),
        (lambda: bootstrap_difference([1.0, 2.0], [1.0]), "paired"),
        (lambda: rate_interval(3, 2), "3 successes of 2"),
        (lambda: rate_interval(0, 0), "n > 0"),
        (lambda: holm([0.5, 1.5]), "0 to 1"),
        (lambda: simultaneous_level(0.95, 0), "at least 1"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_jackknife_of_a_mean_is_students_interval():
    x, y = np.random.default_rng(0).standard_normal((2, 9))
    found = jackknife_statistic(lambda a, b: float((a - b).mean()), x, y, level=0.9)
    low, high = stats.t.interval(0.9, 8, np.mean(x - y), stats.sem(x - y))
    assert tuple(found) == pytest.approx((np.mean(x - y), low, high), rel=1e-6)
    by_prompt = jackknife_statistic(np.mean, np.repeat(x, 4), groups=np.repeat(np.arange(9), 4), level=0.9)
    expected = stats.t.interval(0.9, 8, np.mean(x), stats.sem(x))
    assert tuple(by_prompt)[1:] == pytest.approx(expected, rel=1e-6)


def test_the_jackknife_of_two_samples_is_welchs_interval():
    x, y = np.random.default_rng(1).standard_normal(9), 3 * np.random.default_rng(2).standard_normal(14)
    found = jackknife_statistic(lambda a, b: a.mean() - b.mean(), x, y, paired=False)
    expected = stats.ttest_ind(x, y, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-6)


def test_many_prompts_are_left_out_several_at_a_time():
    x, calls = np.random.default_rng(3).standard_normal(1000), []

    def mean(a):
        calls.append(len(a))
        return float(a.mean())

    found = jackknife_statistic(mean, x, left_out=20)
    assert sorted(set(calls)) == [950, 1000]
    assert len(calls) == 21
    half = (found.high - found.low) / 2
    assert half == pytest.approx(stats.t.ppf(0.975, 19) * stats.sem(x), rel=0.5)
    assert tuple(jackknife_statistic(lambda a: 1.0, x)) == (1, 1, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": [0, 0, 0]}, "1 prompts"),
        ({"groups": [0, 1]}, r"\(2,\) for 3 rows"),
        ({"left_out": 1}, "in 1 parts"),
        ({"level": 2}, "level=2"),
        ({"paired": False, "groups": [[0, 1, 2]]}, "1 sequences"),
    ],
)
def test_bad_input_of_the_jackknife(options, message):
    with pytest.raises(ValueError, match=message):
        jackknife_statistic(lambda a, b: 0.0, np.zeros(3), np.zeros(3), **options)


def test_bad_samples_of_the_jackknife():
    with pytest.raises(ValueError, match=r"\[3, 2\] rows"):
        jackknife_statistic(lambda a, b: 0.0, np.zeros(3), np.zeros(2))
    with pytest.raises(ValueError, match="at least two rows"):
        jackknife_statistic(lambda a: 0.0, np.zeros(1))
