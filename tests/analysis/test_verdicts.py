"""From numbers of every seed to a verdict: the rule on constructed numbers, and what the intervals cover."""

import math

import numpy as np
import pytest
from scipy import stats

from analysis.claims import CLAIMS, PARTS_OF, ClaimPart
from analysis.equal_erasure import Path, common_level
from analysis.parts import game_verdicts, verdicts
from analysis.runner import Context
from analysis.verdicts import Measurement, combine, decide, interval, judge

UNSURE = "not distinguishable here"
ABOVE, BELOW = ClaimPart("more", "x", "above", 1.0), ClaimPart("less", "x", "below", 1.0)
WITHIN = ClaimPart("same", "x", "within", 1.0)
SOMEWHERE = ClaimPart("some", "x", "above", 1.0, somewhere=True)


@pytest.mark.parametrize(
    ("low", "high", "above", "below", "within"),
    [
        (1.1, 2.0, "holds", "fails", "fails"),
        (0.1, 0.9, "fails", "holds", "holds"),
        (0.5, 1.5, UNSURE, UNSURE, UNSURE),
        (-1.5, 1.5, UNSURE, UNSURE, UNSURE),
        (-2.0, -1.1, "fails", "holds", "fails"),
    ],
)
def test_an_interval_decides_by_its_side_of_the_threshold(low, high, above, below, within):
    assert [decide(part, low, high) for part in (ABOVE, BELOW, WITHIN)] == [above, below, within]


@pytest.mark.parametrize(
    ("parts", "verdict"),
    [
        ({ABOVE: ["holds", UNSURE], BELOW: ["holds"]}, "holds"),
        ({ABOVE: ["holds", "fails"], BELOW: ["holds"]}, "fails"),
        ({ABOVE: ["holds"], BELOW: [UNSURE, UNSURE]}, UNSURE),
        ({ABOVE: ["holds"], BELOW: []}, UNSURE),
        ({ABOVE: [UNSURE], BELOW: ["fails"]}, "fails"),
        ({SOMEWHERE: ["fails", "holds"]}, "holds"),
        ({SOMEWHERE: ["fails", UNSURE]}, UNSURE),
        ({SOMEWHERE: ["fails", "fails"]}, "fails"),
        ({}, UNSURE),
    ],
)
def test_parts_and_settings_combine(parts, verdict):
    assert combine(parts) == verdict


def test_the_interval_is_that_of_the_t_test():
    values = [0.3, -0.1, 0.5, 0.2, 0.9]
    for level in (0.95, 0.9875):
        expected = stats.ttest_1samp(values, 0.0).confidence_interval(level)
        assert interval(values, level) == pytest.approx((np.mean(values), *expected), rel=1e-12)


@pytest.mark.parametrize("values", [[1.0], [1.0, math.nan], [], [1.0, math.inf]])
def test_an_interval_needs_two_finite_values(values):
    with pytest.raises(ValueError, match="two finite values"):
        interval(values)


def test_the_interval_covers_what_it_says_and_a_bootstrap_of_five_does_not():
    data = np.random.default_rng(0).standard_normal((4000, 5))
    half = stats.t.ppf(0.975, 4) * data.std(1, ddof=1) / np.sqrt(5)  # what `interval` gives, see above
    assert np.allclose([interval(row)[2] for row in data[:20]], (data.mean(1) + half)[:20])
    assert np.mean(np.abs(data.mean(1)) < half) == pytest.approx(0.95, abs=0.012)
    few = data[:1500]
    for method in ("percentile", "BCa"):
        found = stats.bootstrap(
            (few,), np.mean, axis=1, n_resamples=400, method=method, rng=np.random.default_rng(1)
        ).confidence_interval
        assert np.mean((found.low < 0) & (found.high > 0)) < 0.88


def measured(claim, values, setting="here", **more):
    return [Measurement(part, setting, tuple(values), **more) for part in PARTS_OF[claim]]


def test_constructed_seeds_give_each_verdict():
    small = 0.01 * np.array([1.0, -1.0, 0.5, -0.5, 0.0])
    for shift, verdict in ((-0.5, "holds"), (0.5, "fails"), (0.0, UNSURE)):
        found = judge("C7", measured("C7", shift + small))
        assert found["verdict"] == verdict
        assert found["seeds"] == 5
        assert found["effect"] == pytest.approx(math.exp(shift))  # a ratio
        low, high = found["interval"]
        # Two looks at four measurements: each interval has the level 1 - 0.05 / 8.
        expected = stats.ttest_1samp(shift + small, 0.0).confidence_interval(1 - 0.05 / 8)
        assert (low, high) == pytest.approx(tuple(math.exp(end) for end in expected))
        assert ("would have been seen" in found["evidence"]) == (verdict == UNSURE)
    assert "% from the threshold" in found["evidence"]


def test_the_effect_is_that_of_the_measurement_that_decides():
    (part,) = PARTS_OF["C6"]
    wide, clear = (1.0, 1.4, 0.6, 1.1, 0.9), (9.0, 9.1, 8.9, 9.0, 9.0)
    found = judge("C6", [Measurement(part, "one", clear), Measurement(part, "two", wide)])
    assert (found["verdict"], found["effect"]) == ("holds", pytest.approx(1.0))
    worse = tuple(-value for value in clear)
    found = judge("C6", [Measurement(part, "one", wide), Measurement(part, "two", worse)])
    assert (found["verdict"], found["effect"]) == ("fails", pytest.approx(-9.0))


def test_a_bound_can_fail_and_not_hold():
    (part, _) = PARTS_OF["C5"]
    fast, slow = (-1.0, -1.1, -0.9), (1.0, 1.1, 0.9)
    assert [Measurement(part, "x", values, bound=True).verdict for values in (fast, slow)] == [
        UNSURE,
        "fails",
    ]


def test_what_a_claim_needs():
    with pytest.raises(ValueError, match="measurements of C6"):
        judge("C6", measured("C7", [0.0, 1.0]))
    with pytest.raises(ValueError, match="measurements of C6"):
        judge("C6", [])
    assert set(PARTS_OF) | {"C1", "C9"} == set(CLAIMS)
    names = [(claim, part.name) for claim, parts in PARTS_OF.items() for part in parts]
    assert len(set(names)) == len(names)


class ConstructedBench:
    """Cells of the part `verdicts`: chi2 is twice as slow as kl and disturbs three times as much, hellinger
    does what kl does."""

    def __init__(self, laboratory, work):
        self.noise = np.random.default_rng(0)

    def seen(self, feature=0.1, kid=0.0):
        feature *= 1 + 0.01 * self.noise.standard_normal()
        return {"target": 0.5, "retained": 0.9, "feature": feature, "pixel": 0.1, "kid": kid}

    def games(self, seed):
        m = np.linspace(1.0, 0.5, 4) * (1 + 0.01 * self.noise.standard_normal())
        faster = {"kl": 1, "squared_hellinger": 2, "pearson_chi2": 1, "jensen_shannon": 1}
        return {
            "steps": np.arange(4),
            "m": {name: m**k for name, k in faster.items()},
            "share": 0.25,
            "seen": self.seen(kid=0.002),
            "formula": {"sum": self.seen(kid=0.001), "mean": self.seen(kid=0.001)},
        }

    def formulas(self, setting, seed):
        m = np.array([1.0, 0.5, 0.25])
        norms = {"kl": 1, "squared_hellinger": 1 / 2, "pearson_chi2": 2}
        apart = 0.01 * (1 + 0.1 * self.noise.standard_normal())
        return {
            "m": {"kl": m, "squared_hellinger": m, "pearson_chi2": np.sqrt(m)},
            "arrival": {"kl": 1.0, "squared_hellinger": 1.0, "pearson_chi2": 2.0},
            "seen": {
                "squared_hellinger": [self.seen(), self.seen()],
                "pearson_chi2": [self.seen(), self.seen(0.3)],
            },
            "norms": {name: np.full(3, float(value)) for name, value in norms.items()},
            "apart": {name: np.array([0.0, apart]) for name in norms},
        }

    def anchors(self, seed):
        return {
            "seen": {"superclass": self.seen(), "near": self.seen(), "empty": None if seed else self.seen()}
        }


@pytest.fixture
def constructed(tmp_path, monkeypatch):
    """Runs a part on constructed cells: what it returns, and its claims."""
    for part in (verdicts, game_verdicts):
        monkeypatch.setattr(part, "Bench", ConstructedBench)
    monkeypatch.setattr(verdicts.Laboratory, "open", lambda context: None)

    def run(part):
        context = Context(part.__name__, False, tmp_path, tmp_path / part.__name__)
        entries = part.run(context)
        assert context.faults == []
        found = {one.pop("claim"): one for one in context.claims}
        assert all(
            set(one) == {"verdict", "effect", "interval", "seeds", "evidence"} for one in found.values()
        )
        return entries, found

    return run


def test_the_claims_about_formulas_and_anchors_are_decided(constructed):
    entries, found = constructed(verdicts)
    assert {claim: one["verdict"] for claim, one in found.items()} == {
        "C2": "holds",
        "C3": "holds",
        "C4": "holds",
        "C5": "fails",
        "C8": UNSURE,  # the runs towards nothing got as far in one seed only
        "C9": UNSURE,
    }
    assert found["C5"]["effect"] == pytest.approx(2.0)
    assert found["C8"]["interval"] is None
    assert entries["gradient_norm_over_mse_at_equal_curvature"]["authors' scale"]["pearson_chi2"] == 1.0
    assert {name for name, one in found.items() if one["seeds"] == 8} == {"C2", "C3", "C4", "C5"}


def test_the_claims_about_the_game_are_decided(constructed):
    entries, found = constructed(game_verdicts)
    # squared_hellinger is before the others, jensen_shannon is with kl
    assert {claim: one["verdict"] for claim, one in found.items()} == {"C6": "holds", "C7": UNSURE}
    assert found["C6"]["effect"] == pytest.approx(1.0)
    assert entries["game_mean_rank"] == {
        "squared_hellinger": 1.0,
        "kl": 3.0,
        "pearson_chi2": 3.0,
        "jensen_shannon": 3.0,
    }
    assert entries["game_order"][0] == "squared_hellinger"
    assert entries["game_pairs"] == 6
    assert set(entries["game_pairs_told_apart"]) == {
        f"squared_hellinger before {name}" for name in ("kl", "pearson_chi2", "jensen_shannon")
    }
    # m^2 against m: the ratio is the geometric mean of m over the looks, up to the noise of 1 %
    mean, low, high = entries["game_ratio_to_kl"]["squared_hellinger"]
    assert low < mean < high < 1
    assert mean == pytest.approx(np.exp(np.mean(np.log(np.linspace(1.0, 0.5, 4)[1:]))), rel=0.02)
    assert entries["game_ratio_to_kl"]["kl"] == [1.0, 1.0, 1.0]


def test_runs_are_compared_where_all_have_come_down_to():
    paths = [Path(np.arange(3), np.zeros((3, 1)), np.array(m)) for m in ([8.0, 2.0, 4.0], [1.0, 0.9, 0.5])]
    assert common_level(paths, 0.1) == 0.5
    assert common_level(paths[:1], 0.1) == 0.25
    assert common_level(paths[:1], 0.3) == 0.3


def test_a_path_is_followed_to_the_level():
    """m = x^2 along x = 8, 4, 2, 1: log m is straight, so half of it is met after half a step."""
    x = np.array([8.0, 4.0, 2.0, 1.0])
    path = Path(np.array([0, 2, 4, 6]), x[:, None], x**2)
    assert path.arrival(0.5) == pytest.approx(1.0)
    assert path.arrival(1 / 16) == pytest.approx(4.0)
    assert path.arrival(0.001) == math.inf
    assert path.at(0.001, lambda learned: float(learned[0] ** 2)) is None
    for level in (0.5, 0.1, 1 / 16):
        found = path.at(level, lambda learned: float(learned[0] ** 2))
        assert found is not None
        assert found[0] ** 2 / 64 == pytest.approx(level, rel=0.03)
