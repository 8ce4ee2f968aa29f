"""The sweep that the advice is measured against: what it tries, and how it is judged."""

import numpy as np
import pytest

from analysis.parts import advice
from fdiv_jax.divergences import divergence


def test_the_sweep_begins_at_the_asked_speeds_and_makes_no_run_twice():
    work = advice.FULL._replace(divergences=("kl", "jeffreys", "pearson_chi2"), steps=(1.0, 2.0))
    found = advice._settings(work, 0.4)
    assert len(found) == 2 + 2 * len(work.sigmas)  # jeffreys is kl, and kl has no sigma
    for name, sigma, rate in found:
        speed = rate * float(divergence(name).gaussian_weight(np.float32(0.4 / sigma**2))) / sigma**2
        assert min(abs(speed - step) for step in work.steps) < 1e-4


@pytest.mark.parametrize(
    ("advised", "predicted", "swept", "ratios"),
    [(2.4, 3.0, 2.0, (1.2, 1.5)), (1.5, 3.0, 2.0, (1.0, 2.0)), (np.inf, 1.0, 2.0, (np.inf, 1.0))],
)
def test_the_fastest_run_may_be_the_advised_one(advised, predicted, swept, ratios):
    setting = ("kl", 1.0, 0.5)
    kinds = (("advised", advised), ("predicted", predicted), ("sweep", np.inf), ("sweep", swept))
    rows = [advice._row("bag", kind, setting, 0.4, steps) for kind, steps in kinds]
    counts = {"predicted_steps": 2.0, "tried_steps": 2.1, "steps_of_the_race": 30, "steps_of_the_sweep": 90}
    found = advice._verdict({**counts, "runs": rows})
    assert (found["ratio"], found["ratio_as_predicted"]) == pytest.approx(ratios)
    assert found["fastest"]["steps"] == min(advised, predicted, swept)
    assert advice._plain(found)["ratio"] == (None if np.isinf(advised) else pytest.approx(ratios[0]))
    assert found["steps_of_the_race"] == 30
