"""The step's Jacobian on a small network: predicted, by automatic differentiation in full, by Arnoldi."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from analysis.blocks import predicted_eigenvalues, relative_errors
from analysis.simulate import two_poles
from analysis.spectrum import StepGame
from fdiv_jax.diffusion import NoiseSchedule
from fdiv_jax.divergences import divergence
from fdiv_jax.theory import game_jacobian, update_matrix
from fdiv_jax.unlearning import (
    Batch,
    ConvolutionalCritic,
    CriticConfig,
    Frozen,
    LowRank,
    Plan,
    make_loss,
    timesteps_of,
)
from tests.tiny import SCHEDULER, tiny_pipeline
from tests.unlearning.conftest import ToyNetwork

pytestmark = pytest.mark.slow
MEMBERS = [divergence("jensen_shannon")]
STEPS = {"model_step": 0.3, "critic_step": 0.4}


@pytest.fixture(scope="module")
def game():
    """A rank-1 LoRA of one layer against a critic of four features, three samples, and the blocks."""
    toy, schedule = ToyNetwork(), NoiseSchedule.from_config(SCHEDULER)
    critic = CriticConfig(hidden_channels=(2, 3, 3), head_channels=4)
    with jax.enable_x64(True):
        loss = make_loss("kl", "closed", schedule=schedule, latent_shape=(8, 8, 4))
        plan = Plan(toy, LowRank(("conv.kernel",), 1, 1.0), loss, schedule, timesteps_of(schedule))
        player = ConvolutionalCritic((8, 8, 4), critic, schedule)
        game, eager = (StepGame(plan, player, MEMBERS, critic_steps) for critic_steps in (1, 2))
        frozen = Frozen({name: jnp.asarray(value, float) for name, value in toy.parameters().items()})
        rng = np.random.default_rng(0)
        latents, text = (
            jnp.asarray(rng.standard_normal((3, 8, 8, 4))),
            jnp.asarray(rng.standard_normal((3, 5, 6))),
        )
        batch = Batch(latents, text, 0 * text, jnp.ones((3, 8, 8)), jnp.arange(3))
        point = game.point(frozen, batch, jax.random.key(1), (0, 999), jax.random.key(2))
        return game, eager, point, game.blocks(point)


@pytest.mark.parametrize("activation", [False, True])
def test_the_predicted_spectrum_is_the_steps_own(game, activation, x64):
    game, _, point, blocks = game
    d = MEMBERS[0]
    predicted = predicted_eigenvalues(blocks, d, activation=activation, **STEPS)
    speeds = game.speeds(d, activation, **STEPS)
    dense = game.jacobian(point, speeds)
    measured = np.linalg.eigvals(dense)
    assert relative_errors(measured, predicted, 5).max() < 1e-8
    # All else is at rest: the other parameters, of which there are many more, have the factor 1.
    moving = np.sum(np.abs(measured) > 1e-9)
    assert len(dense) > 100 > 2 * len(blocks.gram) >= moving
    # Each step contracts volumes by the critic's damping alone, whatever the coupling.
    damping = STEPS["critic_step"] * (d.activation_slope**2 if activation else 1) / float(d.curvature)
    expected = np.linalg.det(np.eye(len(blocks.gram)) - damping * blocks.gram)
    assert np.linalg.det(np.eye(len(dense)) + dense) == pytest.approx(expected, rel=1e-8)

    # A Krylov space with room for every eigenvalue that is not zero, and for zero.
    found = game.eigenvalues(point, speeds, size=2 * len(blocks.gram) + 1, key=jax.random.key(3))
    leading = measured[np.argsort(-np.abs(measured))]
    assert relative_errors(found.values, leading, 5).max() < 1e-8
    assert found.residuals[:5].max() < 1e-6

    # Played from a small push along the pair that turns fastest, the step has that pair's rate.
    place = int(np.argmax(found.values.imag))
    path = game.orbit(point, speeds, found.plane(place, len(dense)), 1e-6, steps=12)
    nearest = predicted[np.argmin(np.abs(predicted - found.values[place]))]
    assert two_poles(path, 1.0) == pytest.approx(-np.log(np.abs(1 + nearest)), rel=1e-3)


def test_a_critic_that_steps_twice_has_the_predicted_spectrum(game, x64):
    _, eager, point, blocks = game
    predicted = predicted_eigenvalues(blocks, MEMBERS[0], activation=True, critic_steps=2, **STEPS)
    measured = np.linalg.eigvals(eager.jacobian(point, eager.speeds(MEMBERS[0], True, **STEPS)))
    assert relative_errors(measured, predicted, 5).max() < 1e-8
    once = predicted_eigenvalues(blocks, MEMBERS[0], activation=True, **STEPS)
    assert relative_errors(once, predicted, 5).max() > 0.1


def test_both_ways_to_predict_one_critic_step_agree(game):
    _, _, _, blocks = game
    options = {"activation": False, "model_step": 0.3, "critic_step": 0.4}
    roots = predicted_eigenvalues(blocks, MEMBERS[0], **options)
    jacobian = game_jacobian(MEMBERS[0], blocks.gram, blocks.coupling, 0.3, 0.4, False)
    matrix = update_matrix(jacobian, 1.0, "alternating", model_size=len(blocks.gram))
    assert relative_errors(np.linalg.eigvals(matrix) - 1, roots, 5).max() < 1e-9


def test_the_spectrum_needs_float64_and_an_equilibrium(game):
    with pytest.raises(RuntimeError, match="float64"):
        StepGame.of(tiny_pipeline(), "cross-attn", MEMBERS)
    game, _, point, blocks = game
    with jax.enable_x64(True):
        right = game.speeds(MEMBERS[0], True, **STEPS)
        wrong = dataclasses.replace(right, level=right.level + 0.1)
        with pytest.raises(RuntimeError, match="equilibrium"):
            game.eigenvalues(point, wrong, size=2 * len(blocks.gram) + 1, key=jax.random.key(3))
