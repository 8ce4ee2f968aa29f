"""Intervals of distances hold the truth as often as they say, where a set is drawn again and again."""

import numpy as np
import pytest

from fdiv_jax.evaluation import kid
from fdiv_jax.evaluation.distance_intervals import distance_interval


def paired_kid(x, y):
    return kid(x, y, paired=True)


def share_that_holds(shift, truth, repeats, rng):
    """Prompts with effects of their own, the same noise in both models, one of which is shifted."""
    held = 0
    for _ in range(repeats):
        concepts = []
        for _ in range(3):
            shared = rng.normal(size=(8, 1, 4)) * 0.5 + rng.normal(size=(8, 3, 4)) * 0.5
            own = [rng.normal(size=(8, 3, 4)) * 0.7 for _ in range(2)]
            concepts.append((shared + own[0] + shift, shared + own[1]))
        held += distance_interval(paired_kid, concepts).holds(truth)
    return held / repeats


def test_equal_distributions_are_at_distance_0_as_often_as_the_level_says():
    assert share_that_holds(0.0, 0.0, 120, np.random.default_rng(0)) >= 0.93


def test_a_shift_is_found_with_the_coverage_of_the_level():
    rng = np.random.default_rng(1)
    x, y = (rng.normal(size=(2000, 4)) * np.sqrt(0.25 + 0.25 + 0.49) + shift for shift in (0.8, 0.0))
    truth = kid(x, y)
    share = share_that_holds(0.8, truth, 120, rng)
    assert 0.90 <= share <= 0.99
    assert share_that_holds(0.8, 0.0, 20, rng) < 0.1


def test_the_mean_is_over_concepts_and_equal_sets_are_at_0():
    rng = np.random.default_rng(2)
    concepts = [(rng.normal(size=(4, 2, 3)), rng.normal(size=(4, 2, 3))) for _ in range(3)]
    found = distance_interval(paired_kid, concepts)
    each = [paired_kid(x.reshape(-1, 3), y.reshape(-1, 3)) for x, y in concepts]
    assert found.value == pytest.approx(np.mean(each))
    same = distance_interval(paired_kid, [(x, x) for x, _ in concepts])
    assert abs(same.value) < 1e-12
    assert same.holds(0.0)


def test_one_prompt_leaves_seeds_out():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(2, 1, 6, 3))
    found = distance_interval(paired_kid, [(x, y)])
    assert found.low < found.value < found.high
    swapped = distance_interval(paired_kid, [(x.transpose(1, 0, 2), y.transpose(1, 0, 2))])
    np.testing.assert_allclose(found, swapped)
    with pytest.raises(ValueError, match="one image has no interval"):
        distance_interval(paired_kid, [(x[:, :1], y[:, :1])])
