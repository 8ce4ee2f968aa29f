"""Predictions from a kl run against descent played step by step."""

import numpy as np
import pytest

from analysis.clock_figures import contrasts
from analysis.clocks import adam_clock, drive, every_step, fate, kind_of, predictions
from analysis.descents import Curves
from analysis.parts.served import at_mean
from fdiv_jax.theory import descent_orbit

STARTS = np.array([0.3, 1.0, 2.5, 6.0, 14.0])
LOOKS = np.array([0, 1, 2, 5, 10, 20, 40])


def _run(m, looks=LOOKS, diverged=False):
    return Curves(looks, np.asarray(m), np.arange(len(STARTS)), diverged)


def _played(name, starts, step, curvature=1.0):
    """Samples that do not touch each other, each along its own mode: gradient descent with an exact map."""
    return _run(descent_orbit(name, starts, step / curvature, int(LOOKS[-1]))[LOOKS])


def test_between_looks_m_is_geometric():
    found = every_step(np.array([0, 2, 3]), np.array([[1.0, 8.0], [4.0, 2.0], [2.0, 1.0]]))
    np.testing.assert_allclose(found, [[1, 8], [2, 4], [4, 2], [2, 1]])


@pytest.mark.parametrize(("name", "curvature"), [("squared_hellinger", 0.5), ("jensen_shannon", 0.5)])
@pytest.mark.parametrize("unit", [0.1, 1.0])
def test_samples_on_their_own_are_predicted_by_their_own_clocks(name, curvature, unit):
    kl = _played("kl", STARTS, 0.02)
    run = _played(name, STARTS * unit, 0.02, curvature)
    found = predictions(name, kl, unit, LOOKS.tolist())
    errors = {key: np.abs(value / run.m.mean(1) - 1).max() for key, value in found.items()}
    assert errors["own"] < 0.01
    assert unit < 1 or errors["own"] < 0.2 * min(errors["mean"], errors["common"])


def test_alike_samples_have_one_clock():
    kl = _played("kl", np.full(5, 3.0), 0.02)
    found = predictions("squared_hellinger", kl, 1.0, LOOKS.tolist())
    for other in ("mean", "common"):
        np.testing.assert_allclose(found[other], found["own"], rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "unit", "curvature", "kind"),
    [
        ("pearson_chi2", 0.1, 2.0, "converges"),
        ("pearson_chi2", 4.0, 2.0, "diverges"),
        ("squared_hellinger", 1.0, 0.5, "converges"),
        ("squared_hellinger", 20.0, 0.5, "stalls"),
    ],
)
def test_fates_are_those_of_the_map(name, unit, curvature, kind):
    starts, step = np.full(5, 4.0), 0.05
    kl = _played("kl", starts, step)
    run = descent_orbit(name, starts * unit, step / curvature, 40)[LOOKS]
    looks = np.isfinite(run).all(1)
    assert fate(name, kl, unit, 40) == kind
    assert kind_of(_run(run[looks], LOOKS[looks], not looks.all())) == kind


def test_what_slows_the_run_of_kl_down_slows_the_others_down():
    """One fast mode and one that hardly moves: what the first step promises is not kept."""
    n = np.arange(41)
    m = 4.0 * (0.35 * 0.5**n + 0.65 * 0.999**n)
    kl = _run(np.repeat(m[:, None], 5, 1)[LOOKS], LOOKS, False)
    assert kind_of(kl) == "stalls"
    assert fate("squared_hellinger", kl, 1.0, 40) == "stalls"


def test_the_drive_is_the_weight_times_m():
    np.testing.assert_allclose(drive("kl", STARTS), STARTS / STARTS.sum(), rtol=1e-12)
    expected = STARTS * np.exp(-STARTS / 8)
    np.testing.assert_allclose(drive("squared_hellinger", STARTS), expected / expected.sum(), rtol=1e-9)


@pytest.mark.parametrize(("name", "power"), [("pearson_chi2", 1.0), ("squared_hellinger", -1 / 8), ("kl", 0)])
def test_a_weight_goes_through_adams_averages(name, power):
    """Adam on one error, where the gradient of kl hardly changes on the way."""
    b1, b2, rate, steps = 0.9, 0.99, 2e-2, 30

    def play(power):
        e, a, v, path = np.sqrt(20.0), 0.0, 0.0, []
        for step in range(1, steps + 2):
            path.append(e * e)
            g = np.exp(power * (e * e - 20.0)) * e
            a, v = b1 * a + (1 - b1) * g, b2 * v + (1 - b2) * g * g
            e -= rate * a / (1 - b1**step) / np.sqrt(v / (1 - b2**step))
        return np.array(path)

    looks = np.arange(steps + 1)
    kl = _run(play(0.0)[:, None], looks)
    found = adam_clock(name, kl, 1.0, looks.tolist(), b1, b2)
    moved = 20.0 - play(power)
    known = np.isfinite(found)
    assert known[: steps // 2].all()
    np.testing.assert_allclose(20.0 - found[known], moved[known], rtol=0.1, atol=1e-9)


def test_runs_are_compared_where_their_mean_is_the_same():
    m = np.array([[8.0, 2.0], [4.0, 1.0], [2.0, 0.5]])
    found = at_mean(_run(m, np.array([0, 3, 6])), 2.0)
    np.testing.assert_allclose(found, [3.2, 0.8])  # both fall alike: 4:1 throughout
    assert at_mean(_run(m, np.array([0, 3, 6])), 1.0) is None
    assert at_mean(_run(m, np.array([0, 3, 6]), diverged=True), 2.0) is None


def test_contrasts_are_over_the_seeds():
    row = {"optimiser": "sgd", "divergence": "le_cam", "sigma2": 1.0, "step": 3, "ended": False}
    rows = [row | {"m": 4.0, "kl": 2.0}, row | {"m": 2.0, "kl": 1.0}, row | {"step": 0, "m": 1, "kl": 1}]
    lost = [row | {"sigma2": 2.0, "m": 3.0, "kl": 1.0, "ended": ended} for ended in (True, False)]
    later = lost[1] | {"step": 6}  # the other run had no more looks
    found, *without = contrasts([*rows, *lost, later], "le_cam").values()
    assert len(without) == 2
    assert all(np.isnan(each.log_ratio) for each in without)
    assert found.log_ratio == pytest.approx(np.log(2))
    assert found.spread == pytest.approx(np.log(2) / np.sqrt(2))
