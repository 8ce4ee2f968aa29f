"""Samplers against what is known in closed form, and what they refuse."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from fdiv_jax.diffusion import SAMPLERS, NoiseSchedule, sample, sampling_plan

SD1 = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
PROCESS = NoiseSchedule.from_config(SD1)
MEAN, VARIANCE = 1.5, 0.3


def perfect(x, t, kind="epsilon", process=PROCESS):
    """E[target | x_t] when x_0 is N(MEAN, VARIANCE): the network that training would end at."""
    levels = np.sqrt((1 - process.alphas_bar) / process.alphas_bar)
    sigma = jnp.interp(t.astype(x.dtype), np.arange(len(levels)), levels)
    abar = (1 / (1 + sigma**2)).reshape(-1, *[1] * (x.ndim - 1))
    x0 = MEAN + jnp.sqrt(abar) * VARIANCE / (abar * VARIANCE + 1 - abar) * (x - jnp.sqrt(abar) * MEAN)
    epsilon = (x - jnp.sqrt(abar) * x0) / jnp.sqrt(1 - abar)
    return {
        "epsilon": epsilon,
        "sample": x0,
        "v_prediction": jnp.sqrt(abar) * epsilon - jnp.sqrt(1 - abar) * x0,
    }[kind]


def spread(abar):
    """The standard deviation of x_t."""
    return np.sqrt(abar * VARIANCE + 1 - abar)


@pytest.mark.wrong_types
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(
    ("name", "steps", "eta"),
    [
        ("ddim", 250, 0.0),
        pytest.param("ddim", 1000, 1.0, marks=pytest.mark.slow),
        ("dpmsolver++", 50, None),
        pytest.param("euler", 250, None, marks=pytest.mark.slow),
        ("euler_karras", 100, None),
        pytest.param("euler_a", 500, None, marks=pytest.mark.slow),
        pytest.param("euler_a", 250, 0.3, marks=pytest.mark.slow),
    ],
)
def test_a_perfect_network_draws_from_the_data(name, steps, eta, kind):
    process = NoiseSchedule.from_config(SD1 | {"prediction_type": kind})
    plan = sampling_plan(process, steps, sampler=name, eta=eta)
    abar = process.alphas_bar[int(plan.timesteps[0])]  # not quite zero: something of the data is left there
    noise = jax.random.normal(jax.random.key(0), (20_000, 1))
    start = (np.sqrt(abar) * MEAN + spread(abar) * noise) / plan.initial
    drawn = sample(
        lambda x, t: perfect(x, t, kind),
        process,
        start,
        sampler=name,
        steps=steps,
        eta=eta,
        key=jax.random.key(1),
    )
    assert float(drawn.mean()) == pytest.approx(MEAN, abs=0.02)
    assert float(drawn.var()) == pytest.approx(VARIANCE, rel=0.04)


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("euler", 1), ("dpmsolver++", 2)])
def test_the_order_of_convergence(name, order, x64):
    """Halving the step divides the error by 2^order (half way down; the flow of a Gaussian is known)."""
    fine = {"num_train_timesteps": 40_000, "beta_start": 0.00085 / 40, "beta_end": 0.012 / 40}
    process = NoiseSchedule.from_config(SD1 | fine | {"timestep_spacing": "trailing"})
    start = jnp.array([[0.7], [-1.2]])
    errors = []
    for steps in (40, 80, 160):
        a, b = process.alphas_bar[sampling_plan(process, steps, sampler=name).timesteps[[0, steps // 2]]]
        exact = np.sqrt(b) * MEAN + spread(b) / spread(a) * (start - np.sqrt(a) * MEAN)
        network = Partial(partial(perfect, process=process))
        unit = start / sampling_plan(process, steps, sampler=name).initial
        path = sample(network, process, unit, sampler=name, steps=steps, trajectory=True)
        errors.append(float(jnp.abs(path[steps // 2] - exact).max()))
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(orders, order, atol=0.3, err_msg=str(errors))


def test_a_trajectory_begins_with_the_noise_and_ends_with_the_sample():
    noise = jax.random.normal(jax.random.key(0), (2, 3))
    path = sample(perfect, PROCESS, noise, steps=5, trajectory=True)
    assert path.shape == (6, 2, 3)
    np.testing.assert_array_equal(path[0], noise)
    np.testing.assert_allclose(path[-1], sample(perfect, PROCESS, noise, steps=5), rtol=1e-6)


@jax.jit
def scaled(factor, x, t):
    return factor * perfect(x, t)


def test_parameters_in_a_partial_are_not_compiled_in():
    noise = jax.random.normal(jax.random.key(0), (2, 3))
    traces = []

    def network(factor, x, t):
        traces.append(1)
        return factor * perfect(x, t)

    for factor in (1.0, 0.5, 0.25):
        got = sample(Partial(network, jnp.float32(factor)), PROCESS, noise, steps=3)
        expected = sample(lambda x, t, f=factor: f * perfect(x, t), PROCESS, noise, steps=3)
        np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert len(traces) == 1


def test_it_can_be_differentiated():
    noise = jax.random.normal(jax.random.key(0), (2, 3))

    def loss(factor):
        return jnp.sum(sample(Partial(scaled, factor), PROCESS, noise, steps=3) ** 2)

    step = 1e-2
    slope = (loss(1.0 + step) - loss(1.0 - step)) / (2 * step)
    assert float(jax.grad(loss)(1.0)) == pytest.approx(float(slope), rel=1e-2)


def test_half_precision_latents_are_sampled_in_float32():
    noise = jax.random.normal(jax.random.key(0), (4, 8))
    half = sample(perfect, PROCESS, noise.astype(jnp.bfloat16), steps=10)
    assert half.dtype == jnp.bfloat16
    full = sample(perfect, PROCESS, noise.astype(jnp.bfloat16).astype(jnp.float32), steps=10)
    np.testing.assert_allclose(half.astype(jnp.float32), full, rtol=1e-2)


@pytest.mark.parametrize("options", [{"sampler": "ddim", "eta": 1.0}, {"sampler": "euler_a"}])
def test_noise_is_a_function_of_the_key(options):
    noise = jax.random.normal(jax.random.key(0), (4, 8))
    a, b, c = (sample(perfect, PROCESS, noise, steps=4, key=jax.random.key(k), **options) for k in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 0.1


@pytest.mark.parametrize(
    "options", [pytest.param({"sampler": "ddim", "eta": 0.7}, marks=pytest.mark.slow), {"sampler": "euler_a"}]
)
def test_no_image_depends_on_the_others(options):
    noise = jax.random.normal(jax.random.key(0), (4, 8))
    keys = jax.random.split(jax.random.key(1), 4)
    every = sample(perfect, PROCESS, noise, steps=5, key=keys, **options)
    for j in range(4):
        alone = sample(perfect, PROCESS, noise[j : j + 1], steps=5, key=keys[j : j + 1], **options)
        np.testing.assert_allclose(alone[0], every[j], atol=1e-5)
    fewer = sample(perfect, PROCESS, noise[:2], steps=5, key=jax.random.key(7), **options)
    more = sample(perfect, PROCESS, noise, steps=5, key=jax.random.key(7), **options)
    np.testing.assert_allclose(fewer, more[:2], atol=1e-5)
    assert np.abs(more[0] - more[1] - (every[0] - every[1])).max() > 0.01


def test_an_ancestral_sampler_without_noise_is_euler():
    noise = jax.random.normal(jax.random.key(0), (2, 3))
    quiet = sample(perfect, PROCESS, noise, sampler="euler_a", eta=0.0, steps=10)
    np.testing.assert_allclose(quiet, sample(perfect, PROCESS, noise, sampler="euler", steps=10), rtol=1e-6)


@pytest.mark.parametrize("steps", [1, 10])
def test_progress_is_told_after_every_step_by_one_compiled_sampler(steps):
    traces = []

    def network(x, t):
        traces.append(1)
        return perfect(x, t)

    noise = jax.random.normal(jax.random.key(0), (2, 3))
    for _ in range(2):
        told = []
        found = sample(network, PROCESS, noise, steps=steps, progress=told.append)
        assert sorted(told) == list(range(1, steps + 1))
    assert len(traces) == 1
    np.testing.assert_allclose(found, sample(perfect, PROCESS, noise, steps=steps), rtol=1e-5)


def test_every_sampler_has_a_plan_that_visits_its_timesteps_downwards():
    for name in SAMPLERS:
        for steps in (1, 2, 30):
            plan = sampling_plan(PROCESS, steps, sampler=name)
            assert plan.timesteps.shape == plan.keep.shape == (steps,)
            assert np.all(np.diff(plan.timesteps) < 0) or "karras" in name
            assert 0 <= plan.timesteps.min() <= plan.timesteps.max() <= 999
            assert plan.stochastic == (name in ("euler_a", "lcm") and steps > 1)
            assert plan.initial == 1 or (name.startswith("euler") and 0 < plan.initial < 1)
            assert steps == 1 or plan.initial > 0.9


def test_timesteps_are_integers_where_they_can_be():
    kinds = []

    def network(x, t):
        kinds.append(t.dtype)
        return perfect(x, t)

    for steps in (10, 11):  # every 111th of 0 .. 999, and every 99.9th
        sample(network, PROCESS, jnp.zeros((1, 2)), sampler="euler", steps=steps)
    assert kinds == [jnp.int32, jnp.float32]


@pytest.mark.wrong_types
@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"sampler": "ddmi"}, ValueError, "did you mean 'ddim'"),
        ({"sampler": "heun"}, ValueError, "dpmsolver"),
        ({"sampler": None}, TypeError, "sampler None, expected a name or a function"),
        ({"steps": 0}, ValueError, "between 1 and"),
        ({"steps": 1001}, ValueError, "1000"),
        ({"steps": 2.5}, TypeError, "integer"),
        ({"steps": True}, TypeError, "integer"),
        ({"steps": 1000, "sampler": "dpmsolver++"}, ValueError, "fewer steps"),
        ({"eta": -0.1}, ValueError, "eta"),
        ({"eta": 1.5}, ValueError, "eta"),
        ({"eta": float("nan")}, ValueError, "eta"),
        ({"eta": 1.0}, ValueError, "key"),
        ({"eta": 1.0, "sampler": "dpmsolver++"}, ValueError, "eta"),
        ({"eta": 0.5, "sampler": "euler"}, ValueError, "eta"),
        ({"eta": 2.0, "sampler": "euler_a"}, ValueError, "eta"),
        ({"sampler": "euler_a"}, ValueError, "key"),
        ({"sampler": "euler_a", "key": jax.random.split(jax.random.key(0), 3)}, ValueError, r"\(2,\)"),
    ],
)
def test_what_is_wrong_is_named(options, error, named):
    with pytest.raises(error, match=named):
        sample(perfect, PROCESS, jnp.zeros((2, 3)), **options)


@pytest.mark.wrong_types
def test_latents_and_outputs_are_checked():
    with pytest.raises(TypeError, match="floating"):
        sample(perfect, PROCESS, jnp.zeros((2, 3), int))
    with pytest.raises(ValueError, match="batch"):
        sample(perfect, PROCESS, jnp.zeros(()))
    with pytest.raises(ValueError, match="shape"):
        sample(lambda x, t: x[..., :2], PROCESS, jnp.zeros((2, 3)))


def test_an_offset_past_the_end_is_refused():
    process = NoiseSchedule.from_config(SD1 | {"steps_offset": 1})
    with pytest.raises(ValueError, match="steps_offset 1"):
        sampling_plan(process, 1000)


@pytest.mark.parametrize(
    "option",
    [
        {"solver_order": 3},
        {"algorithm_type": "sde-dpmsolver++"},
        {"algorithm_type": "dpmsolver"},
        {"algorithm_type": "deis", "solver_type": "logrho"},
        {"solver_type": "bh1"},
        {"predict_x0": False},
    ],
)
def test_what_a_file_says_of_another_solver_changes_nothing(option):
    process = NoiseSchedule.from_config(SD1 | option)
    assert process == NoiseSchedule.from_config(SD1)


def test_noise_levels_that_are_missing_are_named_by_euler():
    process = NoiseSchedule.from_config(SD1 | {"interpolation_type": "log_linear"})
    sampling_plan(process, 10, sampler="euler_a")
    sampling_plan(process, 10, sampler="dpm++")
    with pytest.raises(NotImplementedError, match="log_linear"):
        sampling_plan(process, 10, sampler="euler")
