"""Advice before training: what it says of m, and whether the run that follows it does what was said."""

import dataclasses

import numpy as np
import pytest

from fdiv_jax.theory import QuadraticDistances, quadratic_descent
from fdiv_jax.unlearning import LinearisedRun, prepare
from fdiv_jax.unlearning.advice import advise, damage_to
from fdiv_jax.unlearning.critic_speed import leading_mode
from fdiv_jax.unlearning.first_steps import steps_to


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where the anchor images of these tests are kept."""
    return tmp_path_factory.mktemp("anchors")


@pytest.mark.slow
def test_the_advice_is_what_was_seen_and_the_best_of_what_was_tried(pipe, config, place):
    run = prepare(pipe, config(anchor="near", retained=None, divergence="jensen_shannon", loss="exact"))
    data = run.data(place)
    few = {"divergences": ("kl", "pearson_chi2"), "limit": 12, "samples": 8, "depth": 3, "cache": place}
    advice = advise(run, data, goal=0.9, runs=5, **few)
    unit = prepare(pipe, dataclasses.replace(run.config, divergence="kl"))
    outputs = LinearisedRun.of(unit, data, 2).outputs()
    pairs = np.concatenate([data.choose(0, number, 4)[0] for number in range(2)])
    ours = pairs < 2
    assert advice.start == pytest.approx(outputs.m[ours].mean(), rel=1e-5)
    assert advice.goal == pytest.approx(0.9 * advice.start)
    assert advice.prompts == tuple(pair.target for pair in run.pairs)
    assert np.nanmax(advice.m) <= outputs.m.max() * (1 + 1e-5)
    assert {each.divergence for each in advice.predicted} == {"kl", "pearson_chi2"}
    for each in advice.predicted:
        assert each.m[0] == pytest.approx(advice.start)
        assert each.steps == steps_to(each.m, advice.goal)
    assert 1 <= len(advice.tried) <= 5
    assert advice.best is advice.tried[0]
    assert advice.best.steps == min(each.steps for each in advice.tried)
    assert all((each.high >= each.m).all() and len(each.m) <= 13 for each in advice.tried)
    untried = advise(run, data, goal=0.9, runs=0, **few)
    assert untried.tried == ()
    assert untried.best is untried.predicted[0]
    assert [each.steps for each in untried.predicted] == [each.steps for each in advice.predicted]
    assert not np.array_equal(untried.change, advice.change)
    assert 0 < advice.shares.sum() <= 1 + 1e-6
    damage = damage_to(run, advice, 1, place)
    assert set(damage) == {"sandal", "shirt", "sketch"}
    assert list(damage.values()) == sorted(damage.values(), reverse=True)
    assert min(damage.values()) >= 0


def test_the_fastest_mode_decides_the_step():
    """On two modes the choice is the step that a search of the exact formula finds, to a step of the grid."""
    from fdiv_jax.unlearning.advice import _predicted

    jacobian = np.zeros((4, 2, 2))
    jacobian[:2, 0, 0], jacobian[2:, 1, 1] = 1.0, 0.3
    error = np.tile([1.0, 1.0], (4, 1))
    error[:2, 1], error[2:, 0] = 0.0, 0.0
    model = QuadraticDistances.of(error, jacobian)
    everyone = np.tile(np.arange(4), (60, 1))
    k = model.spectrum[0]
    found = _predicted("kl", 1.0, model, np.full(4, True), 0.05, float(k[0]), everyone)
    h = np.geomspace(0.05, 1.99, 400) / k[0]
    exact = model(quadratic_descent("kl", model, h, 60)).mean(-1)
    best = min(steps_to(exact[:, i], 0.05) for i in range(h.size))
    assert best <= found.course.steps <= 1.25 * best
    assert model(found.end).mean() <= 0.05


def test_weightings_that_are_alike_are_tried_once():
    """At sigma far above the root of m all weigh the samples alike; near it Pearson's chi2 does not."""
    from fdiv_jax.unlearning.advice import _distinct
    from fdiv_jax.unlearning.first_steps import Course

    at = np.ones(1)
    names = ("kl", "squared_hellinger", "jensen_shannon", "pearson_chi2")
    courses = [Course(name, sigma, 0.1, np.inf, at, at) for sigma in (40.0, 1.0) for name in names]
    m = np.array([0.2, 0.6, 1.5])
    kept = [(each.divergence, each.sigma) for each in _distinct(courses, m, 0.3)]
    assert kept[0] == ("kl", 40.0)
    assert all(sigma == 1.0 for _, sigma in kept[1:])
    assert ("pearson_chi2", 1.0) in kept
    assert ("kl", 1.0) not in kept


@pytest.mark.slow
@pytest.mark.parametrize("own", [False, True], ids=["drawn", "of a user"])
def test_in_a_race_every_sample_has_noise_of_its_own(own, pipe, config, place, monkeypatch):
    from PIL import Image

    from fdiv_jax.unlearning import AnchorImagesConfig, advice

    made = []

    class Recorded(LinearisedRun):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            made.append(self)

    monkeypatch.setattr(advice, "LinearisedRun", Recorded)
    images = AnchorImagesConfig(number=4, steps=2)
    if own:
        folder = place / "own"
        folder.mkdir()
        for number in range(3):
            pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
        images = dataclasses.replace(images, folder=str(folder))
    run = prepare(pipe, config(anchor="near", images=images, retained=("a shirt, photo style",)))
    data = run.data(place)
    m = advice._held_out(run, data, 8, place)(None)
    (seen,) = made
    pairs, noises, pictures = (6, 2, 3) if own else (8, 1, 8)  # a user's images are there at both prompts
    assert len(m) == pairs
    shown = data.everything(4)[1] if own else np.zeros(8, int)
    targets = np.tile((shown >= 0) & (shown < 2), noises)
    assert targets.sum() == pairs * noises
    assert len(np.unique(seen.outputs().timesteps[targets])) > targets.sum() - 2
    assert len(np.unique(np.asarray(seen.latents)[targets], axis=0)) == pictures
    assert m == pytest.approx(seen.outputs().m[targets].reshape(noises, pairs).mean(0))
    trained = np.isin(np.asarray(seen.latents)[targets][:, 0, 0, 0], data.latents[:, 0, 0, 0])
    assert trained.all() if own else not trained.any()


@pytest.mark.slow
def test_the_leading_mode_is_that_of_the_dense_game(pipe, config, place):
    """q and k against the singular vectors of K by full Jacobians, on a group of a few parameters."""
    import jax
    import jax.numpy as jnp
    from jax.flatten_util import ravel_pytree

    from fdiv_jax.unlearning import Comparison, ConvolutionalCritic, CriticConfig
    from fdiv_jax.unlearning.step import noised, predict

    critic = CriticConfig(hidden_channels=(4,), head_channels=4, spectral_norm=False)
    run = prepare(pipe, config(anchor="near", critic=critic, trainable="attn2.to_v", divergence="kl"))
    batch = run.data(place).batch(0, 0, 4)
    found = leading_mode(run, batch)
    critic_key, model_key, key = jax.random.split(jax.random.key(0), 3)
    player = ConvolutionalCritic(pipe.latent_shape, critic, pipe.schedule)
    state = player.initial(critic_key)
    theta, unravel = ravel_pytree(run.plan.trainable.initial(run.frozen, model_key))
    omega, unravel_critic = ravel_pytree(state.weights)
    t, x_t = noised(run.plan, batch, key)

    def scores(omega, theta):
        output = predict(run.plan, unravel(theta), run.frozen, batch, key)
        same = Comparison(output, output, batch.mask, t, x_t)
        return player.scores(unravel_critic(omega), state.spectral, same)[1].ravel()

    mean_features = jax.grad(lambda omega, theta: scores(omega, theta).mean())
    coupling = np.asarray(jax.jit(jax.jacrev(mean_features, 1))(omega, theta))
    u, s, _ = np.linalg.svd(coupling, full_matrices=False)
    features = np.asarray(jax.jit(jax.jacrev(scores))(omega, theta)) @ u[:, 0]
    assert found.coupling == pytest.approx(s[0], rel=1e-3)
    assert found.damping == pytest.approx(np.var(features), rel=1e-2)
    assert jnp.isfinite(theta).all()


def test_a_goal_out_of_range_is_refused(pipe, config):
    run = prepare(pipe, config())
    for goal in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match="goal"):
            advise(run, None, goal=goal)
    with pytest.raises(ValueError, match="limit"):
        advise(run, None, limit=0)
    with pytest.raises(ValueError, match="no divergences"):
        advise(run, None, divergences=())
