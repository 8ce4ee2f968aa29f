"""The step's Jacobian on a small network: predicted, by automatic differentiation in full, by Arnoldi."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from analysis.simulate import two_poles
from analysis.spectrum import StepGame, predicted_eigenvalues, relative_errors
from fdiv_jax.diffusion import NoiseSchedule
from fdiv_jax.divergences import divergence
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
        game = StepGame(plan, ConvolutionalCritic((8, 8, 4), critic, schedule), MEMBERS)
        frozen = Frozen({name: jnp.asarray(value, float) for name, value in toy.parameters().items()})
        rng = np.random.default_rng(0)
        latents, text = (
            jnp.asarray(rng.standard_normal((3, 8, 8, 4))),
            jnp.asarray(rng.standard_normal((3, 5, 6))),
        )
        batch = Batch(latents, text, 0 * text, jnp.ones((3, 8, 8)), jnp.arange(3))
        point = game.point(frozen, batch, jax.random.key(1), (0, 999), jax.random.key(2))
        return game, point, game.blocks(point)


@pytest.mark.parametrize("activation", [False, True])
def test_the_predicted_spectrum_is_the_steps_own(game, activation, x64):
    game, point, blocks = game
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
    found = game.eigenvalues(point, [speeds], size=2 * len(blocks.gram) + 1, key=jax.random.key(3))[0]
    leading = measured[np.argsort(-np.abs(measured))]
    assert relative_errors(found.values, leading, 5).max() < 1e-8
    assert found.residuals[:5].max() < 1e-6

    # Played from a small push along the pair that turns fastest, the step has that pair's rate.
    place = int(np.argmax(found.values.imag))
    path = game.orbits(point, [speeds], [found.plane(place)], [1e-6], steps=12)[0]
    nearest = predicted[np.argmin(np.abs(predicted - found.values[place]))]
    assert two_poles(path, 1.0) == pytest.approx(-np.log(np.abs(1 + nearest)), rel=1e-3)


def test_the_spectrum_needs_float64_and_an_equilibrium(game):
    with pytest.raises(RuntimeError, match="float64"):
        StepGame.of(tiny_pipeline(), "cross-attn", MEMBERS)
    game, point, blocks = game
    with jax.enable_x64(True):
        right = game.speeds(MEMBERS[0], True, **STEPS)
        wrong = dataclasses.replace(right, level=right.level + 0.1)
        with pytest.raises(RuntimeError, match="equilibrium"):
            game.eigenvalues(point, [wrong], size=2 * len(blocks.gram) + 1, key=jax.random.key(3))
