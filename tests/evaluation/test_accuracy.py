"""UA, IRA, CRA and their harmonic mean, counted by hand."""

import numpy as np
import pytest

from fdiv_jax.evaluation import Interval, classify, erasure_accuracy, harmonic_mean, rate_interval

ITEMS, STYLES = ("shoe", "bag"), ("photo", "sketch")


class Constant:
    """A classifier that sees the same things whatever it is shown."""

    name = "constant"

    def __init__(self, kinds, given):
        self.kinds, self.given = kinds, given

    def __call__(self, images):
        return self.given


def pictures(n):
    return np.zeros((n, 2, 2, 3), np.uint8)


def test_names_and_probabilities_are_classified():
    kinds = {"item": ITEMS, "style": STYLES}
    given = {"item": np.array([[0.9, 0.1], [0.2, 0.8]]), "style": np.array(["sketch", "photo"])}
    found = classify(Constant(kinds, given), pictures(2))
    assert found["item"].tolist() == ["shoe", "bag"]
    assert found["style"].tolist() == ["sketch", "photo"]
    for wrong, message in (
        ({"item": given["item"]}, "says nothing of 'style'"),
        (given | {"style": np.array(["sketch", "oil"])}, "'style'"),
        (given | {"item": np.zeros((2, 3))}, r"\(2, 3\)"),
    ):
        with pytest.raises(ValueError, match=message):
            classify(Constant(kinds, wrong), pictures(2))


def test_accuracies_are_those_counted():
    prompted = {"item": ["shoe", "shoe", "bag", "bag"], "style": ["photo", "sketch", "photo", "sketch"]}
    predicted = {
        "item": np.array([["bag", "shoe"], ["bag", "bag"], ["bag", "bag"], ["shoe", "bag"]]),
        "style": np.array(
            [["photo", "photo"], ["photo", "sketch"], ["photo", "photo"], ["sketch", "sketch"]]
        ),
    }
    found = erasure_accuracy(predicted, prompted, "shoe", "item")
    assert found.unlearning.value == 3 / 4  # one of four images at the shoe's prompts is a shoe
    assert found.in_domain.value == 3 / 4
    assert found.cross_domain.value == 7 / 8  # over all prompts, the target's among them
    assert found.harmonic_mean.value == pytest.approx(3 / (4 / 3 + 4 / 3 + 8 / 7))
    for each in found:
        assert 0 <= each.low < each.value < each.high <= 1
    by_style = erasure_accuracy(predicted, prompted, "sketch", "style")
    assert by_style.unlearning.value == 1 / 4
    assert by_style.cross_domain.value == 4 / 8


def test_prompts_that_name_no_style_do_not_count_for_styles():
    prompted = {"item": ["shoe", "bag"], "style": [None, "photo"]}
    predicted = {"item": np.array([["bag"], ["bag"]]), "style": np.array([["photo"], ["photo"]])}
    assert erasure_accuracy(predicted, prompted, "shoe", "item").cross_domain.value == 1


def test_a_perfect_score_keeps_an_interval():
    rates = [rate_interval(20, 20), rate_interval(50, 50), rate_interval(100, 100)]
    found = harmonic_mean(rates)
    assert (found.value, found.high) == (1, 1)
    assert rates[0].low - 0.02 < found.low < 1
    alone = harmonic_mean([Interval(0.5, 0.4, 0.7)])
    assert tuple(alone) == pytest.approx((0.5, 0.4, 0.7))
    nothing = harmonic_mean([rate_interval(0, 20), rate_interval(0, 20)])
    assert (nothing.value, nothing.low) == (0, 0)
    assert nothing.high > 0.1


@pytest.mark.parametrize(
    ("target", "kind", "change", "message"),
    [
        ("shoe", "colour", {}, "expected one of item, style"),
        ("hat", "item", {}, "no prompt names the target 'hat'"),
        ("shoe", "item", {"item": ["shoe", "shoe"]}, "other than the target"),
        ("shoe", "item", {"style": [None, None]}, "another kind"),
        ("shoe", "item", {"style": ["photo"]}, r"for 1 prompts"),
    ],
)
def test_bad_input(target, kind, change, message):
    prompted = {"item": ["shoe", "bag"], "style": ["photo", "photo"]} | change
    predicted = {"item": np.array([["bag"], ["bag"]]), "style": np.array([["photo"], ["photo"]])}
    with pytest.raises(ValueError, match=message):
        erasure_accuracy(predicted, prompted, target, kind)
