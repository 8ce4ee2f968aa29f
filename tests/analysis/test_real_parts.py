"""The parts on the real model, run on a tiny random one: they share their work and measure what they say."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from analysis import trials, verdict_runs
from analysis.equilibrium import critic_features, find_equilibrium, play, speeds
from analysis.parts import game_verdicts, interference, plateau, regimes, served, verdicts
from analysis.runner import Context
from analysis.simulate import two_poles
from analysis.trials import Budget, Laboratory, Trial
from fdiv_jax.diffusion import NoiseSchedule
from fdiv_jax.divergences import divergence
from fdiv_jax.nn import abstract_module
from fdiv_jax.theory import discrete_rate
from fdiv_jax.unlearning import (
    Batch,
    Frozen,
    Plan,
    Weights,
    make_loss,
    timesteps_of,
    unlearn,
)
from fdiv_jax.unlearning.timesteps import draw_noise
from fdiv_jax.worlds.judge import Judge, JudgeConfig, JudgeNetwork
from tests.tiny import SCHEDULER, fill, tiny_pipeline
from tests.unlearning.conftest import ToyNetwork

# The tiny tokenizer knows letters alone, and cuts "a t-shirt, cyanotype style" off.
pytestmark = pytest.mark.filterwarnings("ignore:.* prompts are cut to 24 tokens")

SMALL = Budget(
    steps=3,
    game_steps=2,
    warmup=1,
    batch=2,
    anchor_images=2,
    held_out=2,
    every=2,
    target_images=1,
    retained_images=1,
    sampler_steps=1,
    formulas=("kl", "squared_hellinger", "pearson_chi2"),
    games=("kl", "squared_hellinger", "jensen_shannon"),
    seeds=(0, 1),
    orbit_samples=4,
    orbit_steps=10,
    orbits=("kl", "squared_hellinger"),
)


@pytest.fixture(scope="module")
def world():
    """A tiny random pipeline of 32 px images and a random judge."""
    network = fill(
        abstract_module(lambda rngs: JudgeNetwork(JudgeConfig(), rngs=rngs)), np.random.default_rng(1)
    )
    return tiny_pipeline(latent=16), Judge(network, report={"item": 0.9, "style": 0.99})


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """Where unfinished work and results of all tests go."""
    return tmp_path_factory.mktemp("real")


@pytest.fixture
def context(world, shelf, monkeypatch):
    """Makes the context of a part."""
    monkeypatch.setattr(trials, "load_world", lambda: world)
    monkeypatch.setattr(trials, "budget", lambda quick: SMALL)
    return lambda part: Context(part, False, shelf / "out", shelf / "work" / "full" / part / "key")


EXPECTED = {
    "real_game": ({"C7"}, {"real_game_final_m", "real_equilibrium_rate_max_relative_error"}),
    "gradients": ({"C3"}, {"gradient_order_holds", "gradient_order_share"}),
    "erasure": ({"C2", "C4", "C5", "C6"}, {"target_accuracy", "retained_accuracy"}),
    "verdicts": ({"C2", "C3", "C4", "C5", "C8", "C9"}, {"verdict_measurements"}),
    "game_verdicts": ({"C6", "C7"}, {"game_verdict_measurements"}),
    "interference": (set(), {"interference_spearman", "interference_spearman_within_target"}),
    "regimes": (set(), {"clock_median_relative_error", "clock_divergence_and_stall_predicted"}),
    "served": (set(), {"served_median_order_share", "served_percentile_order_share"}),
    "plateau": (set(), {"noise_plateau_max_relative_error", "noise_plateau_cases"}),
    "anchors": ({"C8"}, {"anchor_target_accuracy", "frozen_superclass_rate", "item_accuracy_frozen"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("part", EXPECTED)
def test_part_runs(part, context, shelf, monkeypatch):
    here = context(part)
    for long in (interference, plateau, regimes, served):
        monkeypatch.setattr(long, "FULL", long.QUICK)
    for each in (verdicts, game_verdicts):
        monkeypatch.setattr(each, "FULL", verdict_runs.QUICK)
    entries = importlib.import_module(f"analysis.parts.{part}").run(here)
    claims, names = EXPECTED[part]
    assert {claim["claim"] for claim in here.claims} == claims
    assert names <= set(entries)
    for figure in here.figures:
        assert {name.rsplit(".", 1)[1] for name in figure["files"]} >= {"png", "pdf", "csv"}
        assert all((shelf / "out" / name).stat().st_size > 100 for name in figure["files"])


@pytest.mark.slow
def test_runs_and_scores_are_made_once(context, monkeypatch):
    laboratory = Laboratory.open(context("first"))
    before = laboratory.run(Trial("kl"))
    scores = laboratory.scores(before)
    again = Laboratory.open(context("second"))
    monkeypatch.setattr(again, "_train", lambda *_: pytest.fail("trained twice"))
    monkeypatch.setattr(trials, "score_world", lambda *_, **__: pytest.fail("scored twice"))
    after = again.run(Trial("kl"))
    np.testing.assert_array_equal(after.update, before.update)
    np.testing.assert_array_equal(again.scores(after).target.images, scores.target.images)
    assert np.abs(after.update).max() > 0


@pytest.mark.slow
def test_damaged_work_is_done_again(context):
    laboratory = Laboratory.open(context("first"))
    before = laboratory.run(Trial("kl"))
    for path in laboratory.shelf.glob("*.npz"):
        path.write_bytes(path.read_bytes()[:-50])
    np.testing.assert_allclose(laboratory.run(Trial("kl")).m, before.m, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "trial", [Trial("squared_hellinger", seed=1), Trial("jensen_shannon", "variational")]
)
def test_a_trial_is_a_run_of_unlearn(trial, context, world):
    laboratory = Laboratory.open(context("unlearn"))
    ours = laboratory.run(trial)
    theirs = unlearn(world[0], laboratory.config(trial), progress=False, cache=laboratory.shelf / "anchors")
    kept = ~theirs.history["warmup"]
    np.testing.assert_allclose(ours.m, theirs.history["m"][kept], rtol=1e-4)
    np.testing.assert_allclose(ours.gradient_norm, theirs.history["gradient_norm"][kept], rtol=1e-3)


@pytest.mark.slow
def test_rates_near_the_equilibrium_of_a_small_network():
    """K is the dense Jacobian's, and the played game has the predicted rate, in both regimes."""
    toy, rng = ToyNetwork(), np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    schedule, n = NoiseSchedule.from_config(SCHEDULER), 6
    batch = Batch(draw(n, 8, 8, 4), draw(n, 5, 6), draw(n, 5, 6), jnp.ones((n, 8, 8)), jnp.arange(n))
    loss = make_loss("kl", "closed", schedule=schedule, latent_shape=(8, 8, 4))
    plan = Plan(toy, Weights(("conv.kernel",)), loss, schedule, timesteps_of(schedule))
    frozen, key = Frozen(toy.parameters()), jax.random.key(5)

    features = critic_features(4, jax.random.key(0))
    point = find_equilibrium(plan, frozen, batch, key, features, 3)
    np.testing.assert_allclose(point.gram, np.eye(3), atol=1e-4)
    np.testing.assert_allclose(point.directions @ point.directions.T, np.eye(3), atol=1e-4)
    t, noise = draw_noise(key, batch.position, (8, 8, 4), timesteps_of(schedule))
    x_t = schedule.add_noise(batch.latents, noise, t)

    def mean_features(kernel):
        output = toy({**frozen.unet, "conv.kernel": kernel}, x_t, t, batch.target_text)
        return jnp.mean((features(output) - point.centre) @ point.whiten, axis=0)

    dense = np.asarray(jax.jacfwd(mean_features)(frozen.unet["conv.kernel"])).reshape(3, 16)
    np.testing.assert_allclose(
        dense, point.couplings[:, None] * point.directions, atol=2e-4 * point.couplings[0]
    )

    members = [divergence("squared_hellinger"), divergence("jensen_shannon")]
    k = float(point.couplings[0])
    games = [(i, *speeds(k, ratio, 0.15)) for ratio in (0.6, 5.0) for i in range(2)]
    game = play(point, members, games, steps=40, shift=1e-3)
    for number, (i, a, b) in enumerate(games):
        path = game(number) / np.sqrt([a, b])
        expected = discrete_rate(
            members[i],
            [[1.0]],
            [[k]],
            1.0,
            scheme="alternating",
            model_step=a,
            critic_step=b,
            activation=True,
        )
        assert two_poles(path, 1.0) == pytest.approx(expected, rel=0.02)
