"""What curves amount to: the floor says how far they count, the ceiling whether they say anything."""

import json
import math

import pytest

from fdiv_jax.evaluation.attacks import Curve, Point, outcome


def curve(model, seed, *rates, attack="search"):
    points = tuple(
        Point(10.0 * (k + 1), tuple(i < round(20 * rate) for i in range(20))) for k, rate in enumerate(rates)
    )
    return Curve(attack, model, seed, "steps", Point(0.0, (False,) * 20), points)


def test_the_last_point_counts_where_the_floor_is_low():
    found = outcome(
        [curve("uce", 0, 0.2, 0.9)], [curve("frozen", 0, 1.0, 1.0)], [curve("floor", 0, 0.0, 0.05)]
    )
    assert (found.counted, found.after.value, found.ceiling.value, found.note) == (20.0, 0.9, 1.0, "")
    assert found.before.value == 0.0
    assert str(found).startswith("search on uce: 0.00 -> 0.90 [")
    assert "(frozen 1.00, floor 0.05)" in str(found)


def test_points_at_which_the_attack_teaches_do_not_count():
    found = outcome(
        [curve("uce", 0, 0.2, 0.9)], [curve("frozen", 0, 1.0, 1.0)], [curve("floor", 0, 0.0, 0.3)]
    )
    assert (found.counted, found.after.value) == (10.0, 0.2)
    assert "the floor is above 5%" in found.note


def test_an_attack_that_finds_the_concept_everywhere_says_nothing():
    found = outcome(
        [curve("uce", 0, 1.0, 1.0)], [curve("frozen", 0, 1.0, 1.0)], [curve("floor", 0, 0.5, 1.0)]
    )
    assert found.counted is None
    assert math.isnan(found.after.value)
    assert "at least 0.50 of the images of the floor" in found.note
    entry = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert entry["after"] is None


def test_an_attack_that_fails_on_the_frozen_model_is_called_too_weak():
    found = outcome([curve("uce", 0, 0.0)], [curve("frozen", 0, 0.8)], [curve("floor", 0, 0.0)])
    assert "succeeds in 0.80: too weak" in found.note


def test_several_searches_give_an_interval_for_new_searches():
    alike = [curve("uce", seed, 0.5) for seed in range(4)]
    apart = [curve("uce", seed, rate) for seed, rate in enumerate((0.0, 1.0, 0.0, 1.0))]
    one, other = outcome(alike, [], []).after, outcome(apart, [], []).after
    assert one.value == other.value == 0.5
    assert other.high - other.low > one.high - one.low


def test_curves_of_several_attacks_are_refused():
    with pytest.raises(ValueError, match="2 kinds of curves"):
        outcome([curve("uce", 0, 0.1), curve("kl", 0, 0.1)], [], [])


def test_a_curve_comes_back_from_its_record():
    was = curve("uce", 3, 0.25, 0.5)
    assert Curve.from_dict(json.loads(json.dumps(was.to_dict()))) == was
