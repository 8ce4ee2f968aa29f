"""The training step: its gradient, what it leaves alone, and the same step on four devices."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fdiv_jax.diffusion import NoiseSchedule
from fdiv_jax.distributed import DataParallel, SingleDevice
from fdiv_jax.unlearning import (
    Batch,
    CriticConfig,
    Frozen,
    OptimiserConfig,
    initial_state,
    make_objective,
    make_optimiser,
    make_step,
    select,
    split,
)
from fdiv_jax.unlearning.step import draw_noise
from tests.tiny import SCHEDULER
from tests.unlearning.conftest import relative_error

SCHEDULE = NoiseSchedule.from_config(SCHEDULER)
CRITIC = CriticConfig(warmup=2, hidden_channels=(6,), head_channels=6, learning_rate=1e-3)
KEY = jax.random.key(7)


def objective(name="squared_hellinger", family="closed"):
    return make_objective(name, family, schedule=SCHEDULE, latent_shape=(8, 8, 4), critic=CRITIC)


def batch(n=8, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    mask = jnp.asarray(rng.random((n, 8, 8)) < 0.8, jnp.float32)
    return Batch(draw(n, 8, 8, 4), draw(n, 5, 6), draw(n, 5, 6), mask, jnp.arange(n, dtype=jnp.int32))


def problem(toy, o, optimiser):
    parameters = toy.parameters()
    trained, rest = split(parameters, select(parameters, r"attn2\.to_[kv]"))
    frozen = Frozen({name: parameters[name] for name in trained}, rest)
    return initial_state(trained, o, optimiser, jax.random.key(1)), frozen


def run(runner, state, frozen, steps):
    """The states after 0 .. steps steps, and the metrics of each step."""
    state, frozen = runner.place(state), runner.place(frozen)
    states, rows = [jax.device_get(runner.fetch(state))], []
    for k in range(steps):
        state, metrics = runner(state, frozen, batch(seed=k), KEY)
        states.append(jax.device_get(runner.fetch(state)))
        rows.append(runner.metrics(metrics))
    return states, rows


def moved(a, b):
    return any(np.any(x != y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_one_step_of_gradient_descent_by_hand(toy):
    """theta - h (1/2) w_f(m) grad m, with x_t, w_f and grad m written out and m differentiated
    numerically."""
    o, optimiser, b = objective(), make_optimiser(OptimiserConfig("sgd"), 0.5), batch()
    state, frozen = problem(toy, o, optimiser)
    before = jax.device_get(state.trained)
    t, noise = draw_noise(jax.random.fold_in(KEY, 0), b.position, (8, 8, 4), 0, 999)
    after, metrics = jax.jit(make_step(toy, o, optimiser))(state, frozen, b, KEY)
    np.testing.assert_array_equal(metrics["timesteps"], t)

    bar = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)[np.asarray(t)]
    bar = bar[:, None, None, None]
    x_t = np.sqrt(bar) * np.asarray(b.latents) + np.sqrt(1 - bar) * np.asarray(noise)

    text, anchor = (np.asarray(x, np.float64) for x in (b.target_text, b.anchor_text))
    fixed = {
        name: np.asarray(value, np.float64) for name, value in {**frozen.rest, **frozen.original}.items()
    }

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
    ("name", "family"),
    [
        ("squared_hellinger", "closed"),
        ("squared_hellinger", "variational"),
        pytest.param("jensen_shannon", "exact", marks=pytest.mark.slow),
    ],
)
def test_four_devices_are_one(name, family, toy):
    """Same global batch, same draws, same result to float32's accuracy: parameters, moments, critic, figures.

    On the way: while the critic warms up, it alone learns.
    """
    assert jax.local_device_count() == 4
    o, optimiser = objective(name, family), make_optimiser(OptimiserConfig(eps=1e-4), 1e-2)
    state, frozen = problem(toy, o, optimiser)

    def step_for(axis):
        return make_step(toy, o, optimiser, axis=axis)

    four, rows_of_four = run(DataParallel(step_for), state, frozen, steps=4)
    one, rows = run(SingleDevice(step_for), state, frozen, steps=4)  # the last: it gives up its state
    assert relative_error(four[-1].trained, one[-1].trained) < 2e-5
    if family == "variational":
        assert relative_error(four[-1].opponent, one[-1].opponent) < 2e-4
    for a, b in zip(rows, rows_of_four, strict=True):
        assert set(a) == set(b)
        np.testing.assert_array_equal(a["timesteps"], b["timesteps"])
        assert len(np.unique(b["m"])) == 8  # each device had its own share
        for figure in a:
            np.testing.assert_allclose(a[figure], b[figure], rtol=2e-4, atol=1e-6, err_msg=figure)

    for k, (a, b) in enumerate(itertools.pairwise(one)):
        assert b.step == k + 1
        assert moved(a.opponent, b.opponent) == (family == "variational")
        assert moved(a.trained, b.trained) == moved(a.optimiser, b.optimiser) == (k >= o.warmup)
    assert o.warmup == (CRITIC.warmup if family == "variational" else 0)


def test_a_batch_that_the_devices_do_not_divide_is_refused():
    runner = DataParallel(lambda axis: lambda *state: state, jax.local_devices()[:2])
    with pytest.raises(ValueError, match="batch of 7 for 2 devices"):
        runner.share_out(batch(7))


def test_draws_depend_on_the_position_alone():
    draw = jax.jit(lambda position: draw_noise(KEY, position, (3, 2), 10, 20))
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


@pytest.mark.parametrize("timesteps", [(0, 1000), (-1, 5), (6, 5)])
def test_timesteps_outside_the_schedule_are_refused(timesteps, toy):
    with pytest.raises(ValueError, match=r"within the schedule's \(0, 999\)"):
        make_step(toy, objective(), make_optimiser(OptimiserConfig(), 1e-3), timesteps=timesteps)
