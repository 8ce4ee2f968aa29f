"""Rank correlations over pairs of concepts, by hand."""

import numpy as np
import pytest

from analysis.rank_correlations import bootstrap, overall, pair_means, pair_table, separation, within_targets

SHOWN = (("a", "x"), ("a", "y"), ("b", "x"), ("b", "y"))


def test_prompts_that_show_what_was_erased_are_not_damage():
    by_prompt = np.array([[9.0, 9.0, 1.0, 2.0], [9.0, 3.0, 9.0, 4.0]])
    table = pair_table(by_prompt, ("a", "x"), SHOWN)
    assert np.isnan(table[0, 0])
    assert table[0, 1] == 1.0  # x, where it is not of a
    assert table[1, 0] == 3.0  # a, where it is not in x


def test_closeness_is_between_the_prompts_of_both():
    points = np.array([0.0, 1.0, 5.0, 7.0])
    distance = np.abs(points[:, None] - points)
    table = pair_means(distance, ("a", "b"), SHOWN)
    assert table[0, 1] == pytest.approx(np.mean([5, 7, 4, 6]))
    assert table[0, 1] == table[1, 0]


@pytest.mark.slow
def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)
    inside, rows = 0, 12
    everything = rng.standard_normal((2000, 8))
    noisy = everything + rng.standard_normal(everything.shape) + rng.standard_normal((2000, 1))
    truth = overall(everything, noisy)
    for start in range(0, 60 * rows, rows):
        part = slice(start, start + rows)
        found = bootstrap(overall, everything[part], noisy[part], draws=200)
        assert found.low <= found.high
        inside += found.low <= truth <= found.high
    assert 50 <= inside <= 60  # 95 %, less what so few rows cost


def test_within_targets_does_not_see_the_level_of_a_target():
    rng = np.random.default_rng(2)
    damage = rng.random((5, 9))
    np.fill_diagonal(damage, np.nan)
    levels = 10.0 ** rng.permutation(5)[:, None]
    assert within_targets(damage, levels * damage) == pytest.approx(1.0)
    assert overall(damage, levels * damage) < 0.9


def test_separation_counts_the_pairs_that_are_ranked_right():
    rng = np.random.default_rng(3)
    predicted, hurt = rng.integers(6, size=(2, 5, 7)).astype(float)
    hurt = (hurt > 3).astype(float)
    predicted[0, 0] = hurt[1, 2] = np.nan
    yes = [p for p, h in zip(predicted.ravel(), hurt.ravel(), strict=True) if h == 1 and p == p]
    no = [p for p, h in zip(predicted.ravel(), hurt.ravel(), strict=True) if h == 0 and p == p]
    counted = np.mean([(a > b) + 0.5 * (a == b) for a in yes for b in no])
    assert separation(predicted, hurt) == pytest.approx(counted)
    assert np.isnan(separation(predicted, np.zeros_like(hurt)))
