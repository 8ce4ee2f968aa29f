"""How often intervals of 95 % hold the truth, in simulations of the designs that users have.

Prompts differ (standard deviation of their effects as large as that of one image), seeds a little.
"""

import numpy as np
import pytest
from scipy import stats

from fdiv_jax.evaluation import bootstrap_difference, bootstrap_mean, jackknife_statistic, kid, rate_interval


def share(intervals, truth):
    return np.mean([each.holds(truth) for each in intervals])


@pytest.mark.parametrize("n", [20, 50])
def test_rates_of_independent_images(n):
    """Exact, over every count: nowhere below 92 %, and 95 to 97 % on average."""
    rates = np.linspace(0.001, 0.999, 999)
    found = [rate_interval(x, n) for x in range(n + 1)]
    weights = stats.binom.pmf(np.arange(n + 1)[:, None], n, rates)
    holds = np.array([[each.low <= rate <= each.high for rate in rates] for each in found])
    covered = (weights * holds).sum(0)
    assert covered.min() > 0.92
    assert 0.95 < covered.mean() < 0.97
    assert covered[rates < 0.05].min() > 0.945  # Wilson's falls to 0.84


def scores(rng, prompts, seeds, skewed, effects=(1.0, 0.3)):
    """Tables of mean 0: prompt effects, seed effects, and one image's own deviation of 1."""

    def draw(*shape):
        return rng.exponential(1, shape) - 1 if skewed else rng.standard_normal(shape)

    noise = draw(prompts, seeds)
    return effects[0] * draw(prompts, 1) + (effects[1] if seeds > 1 else 0) * draw(1, seeds) + noise


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompts", "seeds", "skewed", "least"),
    [
        (10, 20, False, 0.93),
        (10, 5, False, 0.93),
        (50, 1, False, 0.93),
        (50, 1, True, 0.92),
        (10, 5, True, 0.91),
    ],
)
def test_means_of_scores(prompts, seeds, skewed, least):
    rng = np.random.default_rng(prompts + seeds)
    found = [bootstrap_mean(scores(rng, prompts, seeds, skewed), resamples=500, seed=k) for k in range(700)]
    assert least < share(found, 0) < 0.975


def chances(rng, prompts, seeds, centre, spread):
    return 1 / (
        1 + np.exp(-(centre + spread * rng.standard_normal((prompts, 1)) + np.zeros((prompts, seeds))))
    )


@pytest.mark.slow
@pytest.mark.parametrize("centre", [-4.0, -1.0, 3.5])
@pytest.mark.parametrize(("prompts", "seeds"), [(10, 20), (50, 1)])
def test_rates_of_prompts_that_differ(prompts, seeds, centre):
    """Rates of 0.03, 0.30 and 0.96, which differ between prompts by a factor of three either way."""
    rng = np.random.default_rng(0)
    truth = chances(rng, 200_000, 1, centre, 1.0).mean()
    draw = lambda: rng.random((prompts, seeds)) < chances(rng, prompts, seeds, centre, 1.0)  # noqa: E731
    assert 0.93 < share([bootstrap_mean(draw()) for _ in range(500)], truth) < 0.99


@pytest.mark.slow
@pytest.mark.parametrize("alike", [0.0, 0.7])
@pytest.mark.parametrize("centre", [-3.0, 0.0])
def test_differences_of_models_that_are_the_same_hold_0(alike, centre):
    """Two models with the same rates at every prompt, whose images agree more than by chance, or not."""
    rng, found = np.random.default_rng(1), []
    for _ in range(300):
        rate, noise = chances(rng, 10, 20, centre, 1.0), rng.random((10, 20))
        other = np.where(rng.random((10, 20)) < alike, noise, rng.random((10, 20)))
        found.append(bootstrap_difference(noise < rate, other < rate))
    assert share(found, 0) > 0.94


@pytest.mark.slow
def test_differences_of_scores_that_are_the_same_hold_0():
    rng = np.random.default_rng(1)
    pairs = [[scores(rng, 10, 20, False, (0, 0)) for _ in range(2)] for _ in range(400)]
    assert 0.93 < share([bootstrap_difference(*pair, resamples=500) for pair in pairs], 0) < 0.98


@pytest.mark.slow
def test_kid():
    """Paired images, ten prompts of five. Where KID is 0 its error is not normal, and more is covered."""
    rng = np.random.default_rng(2)

    def draw(shift, prompts):
        effect = 0.5 * rng.standard_normal((prompts, 1, 8))
        noise = rng.standard_normal((prompts, 5, 8))
        other = 0.7 * noise + 0.71 * rng.standard_normal((prompts, 5, 8)) + shift
        return (effect + noise).reshape(-1, 8), (effect + other).reshape(-1, 8)

    distance = lambda a, b: kid(a, b, paired=True)  # noqa: E731
    groups = np.repeat(np.arange(10), 5)
    for shift, most in ((0.5, 0.975), (0.0, 1.0)):
        truth = np.mean([distance(*draw(shift, 200)) for _ in range(40)])
        found = [jackknife_statistic(distance, *draw(shift, 10), groups=groups) for _ in range(500)]
        assert 0.92 < share(found, truth) <= most
