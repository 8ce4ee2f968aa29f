"""The training step: its gradient, what it leaves alone, and the same step on four devices."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fdiv_jax.diffusion import NoiseSchedule
from fdiv_jax.distributed import DataMesh, DataParallel, ShardedMesh, SingleDevice
from fdiv_jax.unlearning import (
    Batch,
    CriticConfig,
    Frozen,
    OptimiserConfig,
    Plan,
    PreservationConfig,
    Prior,
    Weights,
    initial_state,
    make_loss,
    make_optimiser,
    make_reference,
    make_step,
    timesteps_of,
)
from fdiv_jax.unlearning.preservation import without_conflict
from fdiv_jax.unlearning.timesteps import TimestepRange, draw_noise
from fdiv_jax.unlearning.trainable import LowRank
from tests.tiny import SCHEDULER
from tests.unlearning.conftest import relative_error

SCHEDULE = NoiseSchedule.from_config(SCHEDULER)
CRITIC = CriticConfig(warmup=2, hidden_channels=(6,), head_channels=6, learning_rate=1e-3)
KEY = jax.random.key(7)
LOW_RANK = LowRank(("attn2.to_k.kernel", "attn2.to_v.kernel"), 2, 2.0)


def loss_of(name="squared_hellinger", family="closed", critic=CRITIC):
    return make_loss(name, family, schedule=SCHEDULE, latent_shape=(8, 8, 4), critic=critic)


def batch(n=8, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    mask = jnp.asarray(rng.random((n, 8, 8)) < 0.8, jnp.float32)
    return Batch(draw(n, 8, 8, 4), draw(n, 5, 6), draw(n, 5, 6), mask, jnp.arange(n, dtype=jnp.int32))


def plan_of(toy, o=None, optimiser=None, **changes):
    names = ("attn2.to_k.kernel", "attn2.to_v.kernel")
    optimiser = optimiser or OptimiserConfig(eps=1e-4)
    return Plan(toy, Weights(names), o or loss_of(), SCHEDULE, timesteps_of(SCHEDULE), optimiser, **changes)


def one_step(plan, toy, b, rate=0.5, state=None, frozen=None):
    """One jitted step: state before, state after, metrics."""
    frozen = frozen or Frozen(toy.parameters())
    state = state or initial_state(plan, frozen, rate, jax.random.key(1))
    reference = jax.jit(make_reference(plan))(frozen, b, KEY)
    after, metrics = jax.jit(make_step(plan))(state, frozen, b, reference, KEY)
    return state, after, metrics


def run(runner, plan, toy, steps):
    """The states after 0 .. steps steps, and the metrics of each step."""
    frozen = Frozen(toy.parameters())
    plan = dataclasses.replace(plan, network=runner.network(plan.network))
    look = runner.compile(lambda axis: make_reference(plan))
    step = runner.compile(lambda axis: make_step(plan, axis=axis), step=True)
    state = runner.replicate(initial_state(plan, frozen, 1e-2, jax.random.key(1)))
    frozen = runner.replicate(frozen)
    states, rows = [jax.device_get(runner.fetch(state))], []
    for k in range(steps):
        b, key = runner.shard(batch(seed=k)), jax.random.fold_in(KEY, k)
        state, metrics = step(state, frozen, b, look(frozen, b, key), key)
        states.append(jax.device_get(runner.fetch(state)))
        rows.append(runner.metrics(metrics))
    return states, rows


def moved(a, b):
    return any(np.any(x != y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_one_step_of_gradient_descent_by_hand(toy):
    """theta - h (1/2) w_f(m) grad m, with x_t, w_f and grad m written out and m differentiated
    numerically."""
    b, frozen = batch(), Frozen(toy.parameters())
    state, after, metrics = one_step(plan_of(toy, optimiser=OptimiserConfig("sgd")), toy, b)
    before = jax.device_get(state.trained)
    t, noise = draw_noise(KEY, b.position, (8, 8, 4), timesteps_of(SCHEDULE))
    np.testing.assert_array_equal(metrics["timesteps"], t)

    bar = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)[np.asarray(t)]
    bar = bar[:, None, None, None]
    x_t = np.sqrt(bar) * np.asarray(b.latents) + np.sqrt(1 - bar) * np.asarray(noise)

    text, anchor = (np.asarray(x, np.float64) for x in (b.target_text, b.anchor_text))
    fixed = {name: np.asarray(value, np.float64) for name, value in frozen.unet.items()}

    def network(p, text):
        context = np.tanh(text.mean(1) @ p["attn2.to_k.kernel"]) @ p["attn2.to_v.kernel"]
        scale = 1 + np.asarray(t)[:, None, None, None] / 1000
        return scale * np.tanh(x_t @ p["conv.kernel"] + context[:, None, None, :])

    def distance(trained):
        error = np.sum((network({**fixed, **trained}, text) - network(fixed, anchor)) ** 2, -1)
        mask = np.asarray(b.mask)
        return (error * mask).sum((1, 2)) / mask.sum((1, 2))

    m = distance(before)
    np.testing.assert_allclose(metrics["m"], m, rtol=1e-4)
    np.testing.assert_allclose(metrics["loss"], np.mean(2 * (1 - np.exp(-m / 8))), rtol=1e-4)
    weights = np.exp(-m / 8) / 2
    np.testing.assert_allclose(metrics["weight"], weights, rtol=1e-4)
    total = 0.0
    for name, value in before.items():
        gradient = np.zeros_like(value)
        for place in np.ndindex(*value.shape):
            shifted = []
            for sign in (1, -1):
                shift = value.astype(np.float64)
                shift[place] += sign * 1e-5
                shifted.append(distance({**before, name: shift}))
            gradient[place] = np.mean(weights * (shifted[0] - shifted[1]) / 2e-5) / 2
        np.testing.assert_allclose(after.trained[name], value - 0.5 * gradient, atol=2e-6)
        total += np.sum(gradient**2)
    np.testing.assert_allclose(metrics["gradient_norm"], np.sqrt(total), rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "family", "kind", "changes", "parts"),
    [
        ("squared_hellinger", "closed", DataParallel, {}, 1),
        pytest.param("squared_hellinger", "closed", DataMesh, {}, 2, marks=pytest.mark.slow),
        ("squared_hellinger", "closed", ShardedMesh, {"trainable": LOW_RANK}, 2),
        pytest.param("squared_hellinger", "variational", DataParallel, {}, 1, marks=pytest.mark.slow),
        pytest.param("squared_hellinger", "variational", DataMesh, {}, 1, marks=pytest.mark.slow),
        pytest.param("jensen_shannon", "exact", ShardedMesh, {}, 1, marks=pytest.mark.slow),
    ],
)
def test_four_devices_are_one(name, family, kind, changes, parts, toy, monkeypatch):
    """Same global batch, same draws, same result to float32's accuracy: parameters, moments, critic, figures.

    On the way: while the critic warms up, it alone learns.
    """
    assert jax.local_device_count() == 4
    monkeypatch.setattr(ShardedMesh, "SMALL", 8)
    o = loss_of(name, family)
    plan = dataclasses.replace(plan_of(toy, o), **changes)
    four, rows_of_four = run(kind(), dataclasses.replace(plan, accumulation=parts), toy, steps=4)
    one, rows = run(SingleDevice(), plan, toy, steps=4)
    assert relative_error(four[-1].trained, one[-1].trained) < 2e-5
    if family == "variational":
        assert relative_error(four[-1].critic, one[-1].critic) < 2e-4
    for a, b in zip(rows, rows_of_four, strict=True):
        assert set(a) == set(b)
        np.testing.assert_array_equal(a["timesteps"], b["timesteps"])
        assert len(np.unique(b["m"])) == 8  # each device had its own share
        for figure in a:
            np.testing.assert_allclose(a[figure], b[figure], rtol=2e-4, atol=1e-6, err_msg=figure)

    for k, (a, b) in enumerate(itertools.pairwise(one)):
        assert b.step == k + 1
        assert moved(a.critic, b.critic) == (family == "variational")
        assert moved(a.trained, b.trained) == moved(a.optimiser, b.optimiser) == (k >= plan.warmup)
        assert (rows[k]["gradient_norm"] > 0) == (k >= plan.warmup)
    assert plan.warmup == (CRITIC.warmup if family == "variational" else 0)


def test_draws_depend_on_the_position_alone():
    draw = jax.jit(lambda position: draw_noise(KEY, position, (3, 2), TimestepRange(10, 20)))
    t, noise = draw(jnp.arange(1000))
    t_other, noise_other = draw(jnp.arange(1000)[::-1])
    np.testing.assert_array_equal(t, t_other[::-1])
    np.testing.assert_array_equal(noise, noise_other[::-1])
    assert set(np.asarray(t).tolist()) == set(range(10, 21))
    assert abs(float(noise.mean())) < 0.05
    assert float(noise.std()) == pytest.approx(1, abs=0.05)


def test_clipping_scales_the_gradient_down():
    gradient = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}
    for clip, scale in ((None, 1.0), (10.0, 1.0), (0.5, 0.1)):
        optimiser = make_optimiser(OptimiserConfig("sgd", clip_norm=clip), 2.0)
        change, _ = optimiser.update(gradient, optimiser.init(gradient), gradient)
        np.testing.assert_allclose(change["a"], [-6.0 * scale, 0.0], rtol=1e-6)
        np.testing.assert_allclose(change["b"], [[-8.0 * scale]], rtol=1e-6)


def test_adamw_takes_its_settings():
    """The first step is -lr (sign of the gradient + weight decay times the parameter)."""
    parameters = {"a": jnp.array([2.0, -1.0])}
    optimiser = make_optimiser(OptimiserConfig(weight_decay=0.1, eps=1e-12), 0.01)
    change, _ = optimiser.update({"a": jnp.array([5.0, 1e-3])}, optimiser.init(parameters), parameters)
    np.testing.assert_allclose(change["a"], [-0.01 * (1 + 0.2), -0.01 * (1 - 0.1)], rtol=1e-5)


@pytest.mark.parametrize(
    ("timesteps", "message"),
    [
        ((0, 1000), r"\(0, 1000\) must lie within the schedule's \(0, 999\)"),
        ((-1, 5), ">= 0, got -1"),
        ((6, 5), r"first <= last, got \(6, 5\)"),
    ],
)
def test_timesteps_outside_the_schedule_are_refused(timesteps, message):
    with pytest.raises(ValueError, match=message):
        timesteps_of(SCHEDULE, timesteps)


def test_the_importance_window():
    """p(t) proportional to sigmoid(0.05 (t - 200)) - sigmoid(0.05 (t - 400)), by a histogram of draws."""
    window = TimestepRange(0, 999, "importance")
    t = np.asarray(jax.vmap(window.draw)(jax.random.split(KEY, 40_000)))
    grid = np.arange(1000)
    p = 1 / (1 + np.exp(-0.05 * (grid - 200))) - 1 / (1 + np.exp(-0.05 * (grid - 400)))
    cumulative = np.cumsum(p / p.sum())
    seen = np.searchsorted(np.sort(t), grid, side="right") / len(t)
    assert np.max(np.abs(seen - cumulative)) < 0.01
    assert 199 < t.mean() < 401
    narrow = np.asarray(jax.vmap(TimestepRange(250, 260, "importance").draw)(jax.random.split(KEY, 500)))
    assert set(narrow.tolist()) == set(range(250, 261))


@pytest.mark.parametrize(
    ("name", "family"), [("kl", "closed"), pytest.param("kl", "variational", marks=pytest.mark.slow)]
)
def test_a_batch_in_parts_gives_the_same_step(name, family, toy):
    o = loss_of(name, family, CriticConfig(warmup=0, hidden_channels=(6,), head_channels=6))
    options = {
        "optimiser": OptimiserConfig("sgd"),
        "preservation": PreservationConfig(weight=0.3, against="noise"),
    }
    b = with_prior(batch())
    _, whole, figures = one_step(plan_of(toy, o, **options), toy, b)
    _, parts, figures_of_parts = one_step(plan_of(toy, o, accumulation=4, **options), toy, b)
    assert relative_error(parts.trained, whole.trained) < 1e-6
    if family == "variational":
        assert relative_error(parts.critic.weights, whole.critic.weights) < 1e-5
    assert set(figures) == set(figures_of_parts)
    for figure in figures:
        np.testing.assert_allclose(figures_of_parts[figure], figures[figure], rtol=2e-5, err_msg=figure)


def with_prior(b):
    return dataclasses.replace(b, prior=Prior(b.latents[::-1], b.anchor_text[::-1], (), b.mask))


@pytest.mark.slow
def test_the_current_model_at_the_anchor_is_the_frozen_one_before_the_first_step(toy):
    """Concept ablation is the kl member: the first step is the same, the next ones are not."""
    o, optimiser = loss_of("kl"), OptimiserConfig("sgd")
    _, frozen_step, _ = one_step(plan_of(toy, o, optimiser), toy, batch())
    ablation = plan_of(toy, o, optimiser, reference="current")
    _, current_step, _ = one_step(ablation, toy, batch())
    assert relative_error(current_step.trained, frozen_step.trained) < 1e-6
    _, a, _ = one_step(plan_of(toy, o, optimiser), toy, batch(seed=1), state=frozen_step)
    _, b, _ = one_step(ablation, toy, batch(seed=1), state=frozen_step)
    assert relative_error(a.trained, b.trained) > 1e-4


@pytest.mark.slow
def test_negative_guidance_leads_away_from_the_target(toy):
    """The reference is e_a - eta (e_c - e_a), sample by sample."""
    b = dataclasses.replace(batch(), negative=jnp.array([0.0, 1.0, 2.0, 0.5, 0.0, 3.0, 1.0, 1.0]))
    frozen, plan = Frozen(toy.parameters()), plan_of(toy)
    found = make_reference(plan)(frozen, b, KEY)
    t, noise = draw_noise(KEY, b.position, (8, 8, 4), timesteps_of(SCHEDULE))
    x_t = SCHEDULE.add_noise(b.latents, noise, t)
    anchor, away = (toy(frozen.unet, x_t, t, text) for text in (b.anchor_text, b.target_text))
    eta = np.asarray(b.negative)[:, None, None, None]
    np.testing.assert_allclose(found, (1 + eta) * anchor - eta * away, rtol=1e-4, atol=1e-5)
    in_parts = make_reference(plan_of(toy, accumulation=2))(frozen, b, KEY)
    np.testing.assert_allclose(in_parts, found, rtol=1e-5, atol=1e-6)


def test_gradient_surgery_leaves_no_negative_component():
    rng = np.random.default_rng(0)
    gradient = {str(i): jnp.asarray(rng.standard_normal((3, 4)), jnp.float32) for i in range(20)}
    other = {str(i): jnp.asarray(rng.standard_normal((3, 4)), jnp.float32) for i in range(20)}
    clean, conflicts = without_conflict(gradient, other)
    inner = {name: float(np.vdot(gradient[name], other[name])) for name in gradient}
    assert 0 < sum(value < 0 for value in inner.values()) < 20
    assert conflicts == pytest.approx(np.mean([value < 0 for value in inner.values()]))
    for name, value in inner.items():
        left = float(np.vdot(clean[name], other[name]))
        if value < 0:
            assert abs(left) < 1e-5
            along = value / float(np.vdot(other[name], other[name]))
            np.testing.assert_allclose(clean[name], gradient[name] - along * other[name], atol=1e-6)
        else:
            np.testing.assert_array_equal(clean[name], gradient[name])
    nothing = without_conflict(gradient, {name: jnp.zeros_like(value) for name, value in other.items()})[0]
    assert all(np.array_equal(nothing[name], gradient[name]) for name in gradient)
    noise = {name: -1e-6 * value for name, value in gradient.items()}  # rounding has no direction to heed
    assert without_conflict(gradient, noise)[1] == 0


def test_prior_preservation_adds_its_gradient(toy):
    """sgd with lambda: minus the rate times (g + lambda g_prior), g_prior by finite differences."""
    b = with_prior(batch())
    sgd = OptimiserConfig("sgd")
    state, plain, _ = one_step(plan_of(toy, optimiser=sgd), toy, b)
    before = jax.device_get(state.trained)
    term = PreservationConfig(weight=0.7, against="noise", surgery=False)
    _, with_term, metrics = one_step(plan_of(toy, optimiser=sgd, preservation=term), toy, b)
    t, noise = draw_noise(jax.random.fold_in(KEY, 1), b.position, (8, 8, 4), timesteps_of(SCHEDULE))
    x_t = SCHEDULE.add_noise(b.prior.latents, noise, t)
    mask = np.asarray(b.mask)

    def loss(trained):
        output = np.asarray(toy({**toy.parameters(), **trained}, x_t, t, b.prior.text), np.float64)
        error = np.mean((output - np.asarray(noise)) ** 2, -1)
        return np.mean((error * mask).sum((1, 2)) / mask.sum((1, 2)))

    np.testing.assert_allclose(metrics["prior_loss"], loss(before), rtol=1e-4)
    rng = np.random.default_rng(3)
    for name in before:
        direction = rng.standard_normal(before[name].shape)
        h = 1e-2
        slope = (
            loss({**before, name: jnp.asarray(before[name] + h * direction, jnp.float32)})
            - loss({**before, name: jnp.asarray(before[name] - h * direction, jnp.float32)})
        ) / (2 * h)
        moved_by = np.asarray(with_term.trained[name]) - np.asarray(plain.trained[name])
        np.testing.assert_allclose(np.vdot(moved_by, direction), -0.5 * 0.7 * slope, rtol=0.02, atol=1e-5)


@pytest.mark.slow
def test_prior_preservation_against_the_model_has_no_pull_at_the_start(toy):
    term = PreservationConfig(weight=5.0)
    sgd = OptimiserConfig("sgd")
    _, plain, _ = one_step(plan_of(toy, optimiser=sgd), toy, batch())
    _, held, metrics = one_step(plan_of(toy, optimiser=sgd, preservation=term), toy, with_prior(batch()))
    assert metrics["prior_loss"] < 1e-12
    assert metrics["conflicts"] == 0
    assert relative_error(held.trained, plain.trained) < 1e-6


@pytest.mark.parametrize("family", ["closed", pytest.param("variational", marks=pytest.mark.slow)])
def test_a_step_that_is_not_finite_changes_nothing(family, toy):
    o = loss_of("kl", family, CriticConfig(warmup=0, hidden_channels=(6,), head_channels=6))
    plan = plan_of(toy, o, OptimiserConfig(ema=0.9))
    b = batch()
    bad = dataclasses.replace(b, latents=b.latents.at[3, 2, 1, 0].set(jnp.nan))
    state, after, metrics = one_step(plan, toy, bad)
    assert metrics["skipped"]
    assert after.step == 1
    for part in ("trained", "optimiser", "critic", "average"):
        assert not moved(getattr(after, part), getattr(state, part)), part
    _, good, metrics = one_step(plan, toy, b)
    assert not metrics["skipped"]
    assert moved(good.trained, state.trained)


def test_the_moving_average(toy):
    plan = plan_of(toy, optimiser=OptimiserConfig("sgd", ema=0.75))
    state, after, _ = one_step(plan, toy, batch())
    for name, value in after.average.items():
        expected = 0.75 * np.asarray(state.trained[name]) + 0.25 * np.asarray(after.trained[name])
        np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert after.learned is after.average


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]),
        ("linear", [0.25, 0.5, 0.75, 1, 1, 0.75, 0.5, 0.25]),
        ("cosine", [0.25, 0.5, 0.75, 1, 1, 0.853553, 0.5, 0.146447]),
    ],
)
def test_schedules_of_the_learning_rate(schedule, expected):
    """Four steps up, then down to zero after eight in all (the step that would have zero is not made)."""
    optimiser = make_optimiser(OptimiserConfig("sgd", schedule=schedule, warmup_steps=4), 2.0, 8)
    gradient = {"a": jnp.ones(())}
    state, found = optimiser.init(gradient), []
    for _ in expected:
        change, state = optimiser.update(gradient, state, gradient)
        found.append(-float(change["a"]) / 2.0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
