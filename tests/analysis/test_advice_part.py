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


def test_the_fastest_run_may_be_the_advised_one():
    setting = ("kl", 1.0, 0.5)
    for advised, swept, ratio in ((2.4, 2.0, 1.2), (1.5, 2.0, 1.0), (np.inf, 2.0, np.inf)):
        rows = [advice._row("bag", "advised", setting, 0.4, advised)]
        rows += [advice._row("bag", "sweep", setting, 0.4, steps) for steps in (np.inf, swept)]
        found = advice._verdict({"predicted_steps": 2.0, "runs": rows})
        assert found["ratio"] == pytest.approx(ratio)
        assert found["fastest"]["steps"] == min(advised, swept)
        assert advice._plain(found)["ratio"] == (None if np.isinf(ratio) else pytest.approx(ratio))
