"""Random text leaves `divergence` as a divergence, a ValueError, a TypeError or a NotImplementedError."""

import random
import statistics

import pytest

from tests.divergences import fuzz


@pytest.mark.parametrize("count", [8, pytest.param(120, marks=pytest.mark.slow)])
def test_nothing_but_the_documented_errors(count):
    """`examine` raises whatever else came; the seconds are of the processor, with a wide margin."""
    rng = random.Random(count)
    results = [fuzz.examine(fuzz.text(rng)) for _ in range(count)]
    outcomes = {outcome for outcome, _ in results}
    if count > 100:  # of a few texts not every outcome need be among them
        assert {"accepted", "ExpressionError", "GeneratorError"} <= outcomes
    assert statistics.median(seconds for _, seconds in results) < 2


@pytest.mark.slow
def test_the_fuzzer_writes_what_is_accepted_and_what_is_not():
    rng = random.Random(1)
    texts = [fuzz.convex(rng) for _ in range(12)]
    assert sum(fuzz.examine(text)[0] == "accepted" for text in texts) >= 6
    assert all(fuzz.examine(fuzz.strange(rng))[0] != "accepted" for _ in range(5))
