"""The instruments of the analysis: do the fits, the games and the comparison of spectra tell the truth?"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from analysis.compare import spectrum_error
from analysis.parts import phases, rates, spectra, steps
from analysis.simulate import descend, double_root, flow, one_pole, plane_rate, poles, two_poles
from analysis.toy_games import (
    catalogue_entries,
    hermite,
    line_game,
    smooth_divergences,
    wave_blocks,
    wave_game,
)
from fdiv_jax import divergence, theory

TAU = 0.3
TIME = TAU * np.arange(80)


def samples(*columns):
    return np.stack(columns, axis=1)


def test_two_poles_read_an_oscillation_and_two_decays():
    circling = samples(
        np.exp(-0.2 * TIME) * np.cos(1.3 * TIME), np.exp(-0.2 * TIME) * np.sin(1.3 * TIME + 0.4)
    )
    assert two_poles(circling, TAU) == pytest.approx(0.2, rel=1e-9)
    creeping = samples(
        np.exp(-0.2 * TIME) + np.exp(-1.7 * TIME), 0.3 * np.exp(-0.2 * TIME) - np.exp(-1.7 * TIME)
    )
    assert two_poles(creeping, TAU) == pytest.approx(0.2, rel=1e-8)
    growing = samples(np.exp(0.1 * TIME) * np.cos(TIME), np.exp(0.1 * TIME) * np.sin(TIME))
    assert two_poles(growing, TAU) == pytest.approx(-0.1, rel=1e-9)


def test_a_slow_turn_is_read_in_its_plane():
    """4e-4 and 0.05 rad per sample, disturbed by 1e-6."""
    turn = np.exp(-4e-4) * np.array([[np.cos(0.05), 2 * np.sin(0.05)], [-np.sin(0.05) / 2, np.cos(0.05)]])
    path = np.array([np.linalg.matrix_power(turn, k) @ [1.0, 0.3] for k in range(25)])
    assert plane_rate(path) == pytest.approx(4e-4, rel=1e-9)
    noise = 1e-6 * np.random.default_rng(0).standard_normal((20, *path.shape))
    in_plane, second_difference = (
        np.std([rate(path + some) for some in noise])
        for rate in (plane_rate, lambda path: two_poles(path, 1.0))
    )
    assert in_plane < 1e-3 * 4e-4 < 4e-3 * 4e-4 < second_difference


def test_the_double_root_needs_its_own_form():
    """At critical damping (1 + 2 t) e^(-t): the Jordan form finds 1, a plain line does not."""
    path = samples((1 + 2 * TIME) * np.exp(-TIME), (0.5 - TIME) * np.exp(-TIME))[:40]
    assert double_root(path, TAU) == pytest.approx(1.0, rel=1e-9)
    assert abs(one_pole(path, TAU) - 1.0) > 0.05
    rng = np.random.default_rng(0)
    noisy = path * (1 + 1e-6 * rng.normal(size=path.shape))
    assert double_root(noisy, TAU) == pytest.approx(1.0, rel=1e-3)


def test_four_poles_and_one():
    mixed = samples(
        np.exp(-0.1 * TIME) * np.cos(TIME) + np.exp(-0.3 * TIME), np.exp(-0.5 * TIME) + np.exp(-0.3 * TIME)
    )
    assert poles(mixed, TAU, 4) == pytest.approx(0.1, rel=1e-6)
    assert one_pole(np.exp(-0.7 * TIME)[:, None], TAU) == pytest.approx(0.7, rel=1e-12)


@pytest.mark.parametrize("path", [np.ones((2, 2)), np.full((9, 2), np.nan), np.zeros((9, 2))])
def test_a_path_without_information_is_refused(path):
    with pytest.raises(ValueError, match=r"samples|zero"):
        two_poles(path, TAU)


def test_spectra_are_compared_as_sets():
    predicted = np.array([-1 + 2j, -1 - 2j, -3.0])
    assert spectrum_error(predicted, predicted[[2, 0, 1]]) == 0.0
    assert spectrum_error(predicted, predicted * (1 + 1e-6)) == pytest.approx(1e-6, rel=1e-3)
    assert spectrum_error(predicted, np.array([-1 + 2j, -1 - 2j, -3.3])) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="one size"):
        spectrum_error(predicted, predicted[:2])
    with pytest.raises(ValueError, match="finite"):
        spectrum_error(predicted, np.array([np.nan, 1, 1]))


def test_a_double_root_is_judged_by_what_the_matrix_determines():
    """Rounding of 1e-16 moves a double root by 1e-8; a wrong matrix still shows."""
    exact = np.array([-1.0, -1.0])
    rounded = np.linalg.eigvals(np.array([[0.0, 1.0], [-1.0 + 2e-16, -2.0]]))
    assert np.abs(rounded + 1).max() > 1e-9
    assert spectrum_error(exact, rounded) < 1e-14
    wrong = np.linalg.eigvals(np.array([[0.0, 1.0], [-1.0, -2.0 - 1e-5]]))
    assert spectrum_error(exact, wrong) > 4e-6


def test_gram_and_coupling_of_the_waves_are_the_moments(x64):
    """Closed form against a much finer quadrature, and K against finite differences of it."""
    gram, k = wave_blocks(0.9)
    game = wave_game(divergence("kl"), 0.9, activation=False, count=80)

    def mean(theta):
        return np.asarray(game.weights @ game.features(game.place(jnp.asarray(theta), game.nodes)))

    phi = np.asarray(game.features(game.place(jnp.zeros(3), game.nodes)))
    np.testing.assert_allclose(gram, phi.T @ (np.asarray(game.weights)[:, None] * phi), atol=1e-13)
    step = 1e-5
    found = [(mean(step * e) - mean(-step * e)) / (2 * step) for e in np.eye(3)]
    np.testing.assert_allclose(k, np.array(found).T, atol=1e-9)
    assert np.abs(gram @ k @ k.T - k @ k.T @ gram).max() > 0.05  # the blocks do not commute


def test_hermite_integrates_polynomials():
    nodes, weights = hermite(6, 2)
    assert weights.sum() == pytest.approx(1.0)
    assert (weights * nodes[:, 0] ** 4 * nodes[:, 1] ** 2).sum() == pytest.approx(3.0)


@pytest.mark.parametrize("activation", [False, True])
def test_the_flow_is_that_of_scipy(x64, activation):
    """From one standard deviation away, where the game is not linear at all."""
    game = line_game(divergence("kl"), 1.2, activation=activation, model_step=0.7, critic_step=1.4, count=20)
    start = game.equilibrium.at[0].add(1.0)
    field = jax.jit(game.field)
    exact = solve_ivp(
        lambda _, z: np.asarray(field(jnp.asarray(z))), (0, 4), np.asarray(start), rtol=1e-9, atol=1e-11
    )
    found = flow(game.field, start, 0.02, 200, 100)
    assert found.shape == (3, 3)
    np.testing.assert_allclose(found[-1], exact.y[:, -1], atol=1e-6)


@pytest.mark.parametrize(("scheme", "critic_steps"), [(s[1], s[2]) for s in steps._SCHEMES])
def test_steps_near_the_equilibrium_are_the_update_matrix(x64, scheme, critic_steps):
    d = divergence("jensen_shannon")
    game = line_game(d, 0.8, activation=True, count=12)
    j = theory.game_jacobian(d, np.diag([0.64, 1.0]), [[1.0], [0.0]], activation=True)
    matrix = theory.update_matrix(j, 0.2, scheme, model_size=1, critic_steps=critic_steps)
    small = 1e-6 * np.array([1.0, -0.5, 0.3])
    found = np.asarray(
        descend(game, game.equilibrium + small, 0.2, 7, scheme, critic_steps) - game.equilibrium
    )
    if scheme == "optimistic":
        expected = (np.linalg.matrix_power(matrix, 7) @ np.concatenate([small, small]))[:3]
    else:
        expected = np.linalg.matrix_power(matrix, 7) @ small
    np.testing.assert_allclose(found[-1], expected, atol=1e-11)


def test_the_divergences_of_the_parts():
    names = [d.name for d in catalogue_entries()]
    assert {"kl", "squared_hellinger", "jensen_shannon", "total_variation"} <= set(names)
    smooth = [d.name for d in smooth_divergences(False, (0.3,))]
    assert "total_variation" not in smooth
    assert {float(d.curvature) for d in smooth_divergences(True)} == {0.5, 1.0, 2.0}


@pytest.mark.slow
def test_the_bars_hold_for_one_divergence(x64):
    """Each measuring part at its smallest: the bars of the analysis hold, and its own check can fail."""
    d = divergence("squared_hellinger")
    assert max(row["error"] for row in spectra._measure(d, False, True)) <= spectra.BAR
    rows = rates._measure(d, True, True)
    assert {row["form"] for row in rows} == {"two poles", "double root"}
    assert max(row["relative_error"] for row in rows) < 1e-3
    grid = np.geomspace(0.3, 6, 3)
    found = np.stack([phases._simulate(divergence(n), False, grid, grid) for n in ("kl", "pearson_chi2")])
    diagram = theory.phase_diagram(["kl", "pearson_chi2"], grid, grid)
    np.testing.assert_allclose(found, diagram.rates, rtol=1e-3)
    assert phases._agreement(diagram, found)["agreement"] == 1.0
    assert phases._agreement(diagram, found[::-1])["agreement"] < 1.0  # the check can fail
