"""The phase diagram against brute force over its cells, and the paper's statement with its reversal."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fdiv_jax import catalogue, divergence, theory

NAMES = ("kl", "squared_hellinger", "pearson_chi2", "jensen_shannon")
GRID = np.geomspace(0.05, 20, 31)


class Curve:
    """A generator of which only the curvature and the activation's slope are known."""

    def __init__(self, name, curvature, slope=1.0):
        self.name, self.curvature, self.activation_slope = name, curvature, slope


@pytest.mark.parametrize("activation", [False, True])
@pytest.mark.parametrize("fixed", ["a", "ab", "b"])
def test_winners_equal_brute_force_whatever_is_held_fixed(activation, fixed):
    diagram = theory.phase_diagram(NAMES, GRID, GRID, activation)
    for j in range(0, 31, 6):
        for i in range(0, 31, 6):
            ratio = GRID[j]
            a = {"a": 1.0, "ab": ratio**-0.5, "b": 1 / ratio}[fixed]
            b = a * ratio
            k = 0.7
            rates = [
                theory.game_rate(
                    name, damping=GRID[i] * k, coupling=k, model_step=a, critic_step=b, activation=activation
                )
                for name in NAMES
            ]
            np.testing.assert_allclose(diagram.rates[:, j, i] * k * np.sqrt(a * b), rates, rtol=1e-11)
            tied = [n for n, r in zip(NAMES, rates, strict=True) if r > max(rates) * (1 - 1e-9)]
            assert [n for n, t in zip(NAMES, diagram.ties[:, j, i], strict=True) if t] == tied
            assert NAMES[diagram.winner[j, i]] == tied[0]


def test_the_boundaries_of_the_catalogue():
    """r = 2 / sqrt(d2 (2 d1 - d2)): 2/sqrt(3) between curvatures 1/2 and 1, 4/sqrt(3) between 1 and 2."""
    smooth = [entry for entry in (divergence(getattr(e, "name", e)) for e in catalogue()) if entry.is_smooth]
    diagram = theory.phase_diagram(smooth, GRID, GRID)
    np.testing.assert_allclose(
        [b.ratio for b in diagram.boundaries], [2 / np.sqrt(3), 4 / np.sqrt(3)], rtol=1e-14
    )
    assert set(diagram.boundaries[0].below) == {"squared_hellinger", "jensen_shannon", "gan"}
    assert set(diagram.boundaries[1].above) == {"pearson_chi2", "neyman_chi2", "jeffreys"}
    groups = {frozenset(group) for group in diagram.groups}
    assert frozenset({"squared_hellinger", "jensen_shannon", "gan"}) in groups
    assert frozenset({"kl", "reverse_kl", "le_cam"}) in groups


def test_the_activation_takes_the_tie_apart():
    direct = theory.phase_diagram(NAMES, [0.1], [1.0])
    activated = theory.phase_diagram(NAMES, [0.1], [1.0], activation=True)
    assert direct.ties[:, 0, 0].tolist() == [False, True, False, True]
    assert activated.ties[:, 0, 0].tolist() == [False, True, False, False]


@settings(max_examples=60, deadline=None)
@given(
    curvatures=st.lists(st.floats(0.05, 10), min_size=2, max_size=5, unique=True),
    slopes=st.lists(st.sampled_from([1.0, 0.5, 0.3, 2.0]), min_size=5, max_size=5),
    activation=st.booleans(),
)
def test_the_winner_changes_at_the_boundaries_and_nowhere_else(curvatures, slopes, activation):
    members = [Curve(f"f{i}", c, s) for i, (c, s) in enumerate(zip(curvatures, slopes, strict=False))]
    x = np.geomspace(1e-2, 1e3, 1501)
    diagram = theory.phase_diagram(members, x, [1.0], activation)  # type: ignore[arg-type]
    ratios = [b.ratio for b in diagram.boundaries]
    assert ratios == sorted(ratios)
    regions = np.searchsorted(ratios, x)
    fronts = [diagram.boundaries[0].below, *(b.above for b in diagram.boundaries)] if ratios else None
    away = diagram.boundary_distance[0] > 1e-6
    for i in np.flatnonzero(away):
        tied = {n for n, t in zip(diagram.names, diagram.ties[:, 0, i], strict=True) if t}
        if fronts is None:
            assert tied == {n for n, t in zip(diagram.names, diagram.ties[:, 0, 0], strict=True) if t}
        else:
            assert tied == set(fronts[regions[i]])


def test_each_is_fastest_at_its_critical_ratio():
    diagram = theory.phase_diagram(NAMES, GRID, [1.0])
    for name, ratio in zip(NAMES, diagram.critical_ratio, strict=True):
        rates = [theory.game_rate(name, damping=ratio * f, coupling=1.0) for f in (0.9, 1.0, 1.1)]
        assert rates[1] == max(rates)
        assert rates[1] == pytest.approx(1.0)


def test_distance_to_the_boundary_is_relative_in_damping():
    edge = 2 / np.sqrt(3)
    diagram = theory.phase_diagram(NAMES, [edge * 0.98, edge / 1.02], [1.0])
    np.testing.assert_allclose(diagram.boundary_distance[0], [1 / 0.98 - 1, 0.02], rtol=1e-9)
    assert np.isinf(theory.phase_diagram(["kl"], [1.0], [1.0]).boundary_distance).all()


def test_a_kink_never_wins():
    diagram = theory.phase_diagram(["total_variation", "kl"], GRID, GRID)
    assert (diagram.rates[0] == 0).all()
    assert (diagram.winner == 1).all()
    assert np.isinf(diagram.critical_ratio[0])
    with pytest.raises(ValueError, match="no fastest"):
        theory.phase_diagram(["total_variation"], [1.0], [1.0])


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (([], [1.0], [1.0]), ValueError),
        ((["kl", "kl"], [1.0], [1.0]), ValueError),
        (("kl", [1.0], [1.0]), TypeError),
        ((["kl"], [0.0], [1.0]), ValueError),
        ((["kl"], [1.0], [-1.0]), ValueError),
        ((["kl"], [[1.0]], [1.0]), ValueError),
        (([1.0], [1.0], [1.0]), TypeError),
    ],
)
def test_wrong_diagrams_are_refused(arguments, error):
    with pytest.raises(error, match="expected"):
        theory.phase_diagram(*arguments)
