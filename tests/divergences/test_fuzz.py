"""Random text leaves `divergence` as a divergence, a ValueError, a TypeError or a NotImplementedError."""

import random
import statistics

import pytest

from tests.divergences import fuzz

# Everything symbolic is worked out for one text of so many: that takes longer than to make the divergence.
WITH_FACTS = 25


@pytest.mark.parametrize("count", [40, pytest.param(400, marks=pytest.mark.slow)])
def test_nothing_but_the_documented_errors(count):
    """`examine` raises whatever else came; the seconds are of the processor, with a wide margin."""
    rng = random.Random(count)
    results = [fuzz.examine(fuzz.text(rng), facts=i % WITH_FACTS == 0) for i in range(count)]
    outcomes = {outcome for outcome, _ in results}
    assert {"accepted", "ExpressionError", "GeneratorError"} <= outcomes
    assert statistics.median(seconds for _, seconds in results) < 2


@pytest.mark.slow
def test_the_fuzzer_writes_what_is_accepted_and_what_is_not():
    rng = random.Random(1)
    texts = [fuzz.convex(rng) for _ in range(12)]
    assert sum(fuzz.examine(text)[0] == "accepted" for text in texts) >= 6
    assert all(fuzz.examine(fuzz.strange(rng))[0] != "accepted" for _ in range(5))
