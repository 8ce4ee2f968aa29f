"""The noise schedule against formulas written out independently, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fdiv_jax.diffusion import NoiseSchedule

SD1 = {
    "_class_name": "PNDMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}
KINDS = ["epsilon", "v_prediction", "sample"]


def schedule(**changes):
    return NoiseSchedule.from_config(SD1 | changes)


def draw(seed, shape=(4, 3, 3, 2)):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_of_the_true_target_recover_the_truth(kind, x64):
    process = schedule(prediction_type=kind)
    x0, noise = draw(0), draw(1)
    t = jnp.array([0, 10, 500, 999])
    x_t = process.add_noise(x0, noise, t)
    target = process.target(x0, noise, t)
    np.testing.assert_allclose(process.predict_x0(x_t, target, t), x0, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(process.predict_epsilon(x_t, target, t), noise, rtol=1e-9, atol=1e-11)


def test_the_process_composes_the_single_steps(x64):
    """Variance after t + 1 steps x <- sqrt(1 - beta) x + sqrt(beta) z, by recursion from x_0 = 0."""
    process = schedule()
    betas = np.asarray(process.betas)
    variance, signal = 0.0, 1.0
    for t, beta in enumerate(betas):
        variance, signal = (1 - beta) * variance + beta, np.sqrt(1 - beta) * signal
        if t in (0, 3, 400, 999):  # 1 - beta is a float32, which loses digits of a small beta
            one, when = jnp.ones((1, 1)), jnp.array([t])
            assert process.add_noise(0 * one, one, when).item() == pytest.approx(variance**0.5, rel=5e-5)
            assert process.add_noise(one, 0 * one, when).item() == pytest.approx(signal, rel=5e-5)


def test_the_reverse_kernel_is_bayes_rule(x64):
    """q(x_{t-1} | x_t, x_0) from the product of the two Gaussians q(x_t | x_{t-1}) and q(x_{t-1} | x_0)."""
    process = schedule()
    abar, t = process.alphas_bar, 321
    alpha, beta, before = abar[t] / abar[t - 1], 1 - abar[t] / abar[t - 1], 1 - abar[t - 1]
    precision = alpha / beta + 1 / before
    assert float(process.reverse_variance(jnp.array(t))) == pytest.approx(1 / precision, rel=1e-9)
    # d mean / d x_0 of the product: sqrt(abar_{t-1}) / before / precision; and m = (d mean)^2 / variance.
    slope = np.sqrt(abar[t - 1]) / before / precision
    assert float(process.kernel_weight(jnp.array(t), of="sample")) == pytest.approx(
        slope**2 * precision, rel=1e-9
    )


@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_the_kernel_weight_of_epsilon_is_the_papers(variance, x64):
    """beta_t^2 / (alpha_t (1 - abar_t) s_t^2): DDPM eq. 12."""
    process = schedule()
    t = jnp.arange(1, 1000)
    abar = process.alphas_bar
    alpha = abar[1:] / abar[:-1]
    expected = (1 - alpha) ** 2 / (alpha * (1 - abar[1:]) * np.asarray(process.reverse_variance(t, variance)))
    np.testing.assert_allclose(process.kernel_weight(t, variance=variance), expected, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_the_kernel_weight_does_not_depend_on_the_prediction_type(kind, x64):
    """Two networks with the same x_0 have the same m, whatever they are trained to predict."""
    process = schedule(prediction_type=kind)
    t = jnp.array([5, 250, 700, 999])
    x_t, noise, other = draw(0), draw(1), draw(2)

    def distance(of):
        return process.kernel_weight(t, of) * jnp.sum(
            (of_type(noise, of) - of_type(other, of)) ** 2, axis=(1, 2, 3)
        )

    def of_type(epsilon, of):
        x0 = schedule().predict_x0(x_t, epsilon, t)
        return {"epsilon": epsilon, "sample": x0, "v_prediction": process.velocity(x0, epsilon, t)}[of]

    np.testing.assert_allclose(distance(kind), distance("epsilon"), rtol=1e-9)
    np.testing.assert_allclose(process.kernel_weight(t, "output"), process.kernel_weight(t, kind))


def test_every_weight_and_variance_is_finite_and_positive():
    process = schedule()
    t = jnp.arange(1000)
    for variance in ("posterior", "beta"):
        for values in (process.kernel_weight(t, variance=variance), process.reverse_variance(t, variance)):
            assert np.isfinite(values).all()
            assert (np.asarray(values) > 0).all()


def test_zero_terminal_snr():
    process = schedule(rescale_betas_zero_snr=True, prediction_type="v_prediction")
    abar = process.alphas_bar
    assert abar[-1] == 0
    assert abar[0] == pytest.approx(schedule().alphas_bar[0], rel=1e-6)
    assert np.isfinite(process.kernel_weight(jnp.arange(1000), "v_prediction")).all()
    with pytest.raises(ValueError, match="zero signal-to-noise"):
        process.kernel_weight(jnp.arange(1000), "epsilon")
    with pytest.raises(ValueError, match="epsilon"):
        schedule(rescale_betas_zero_snr=True)


def test_it_is_a_constant_under_transformations():
    process = schedule()
    assert jax.tree.leaves(process) == []
    assert hash(process) == hash(schedule())
    assert process == schedule()
    assert process != schedule(steps_offset=0)
    x0, noise = draw(0).astype(jnp.float32), draw(1).astype(jnp.float32)
    t = jnp.array([0, 1, 2, 3])
    expected = process.add_noise(x0, noise, t)
    jitted = jax.jit(lambda p, *a: p.add_noise(*a))(process, x0, noise, t)
    mapped = jax.vmap(process.add_noise)(x0, noise, t)
    np.testing.assert_allclose(jitted, expected, rtol=1e-6)
    np.testing.assert_allclose(mapped, expected, rtol=1e-6)
    with pytest.raises(ValueError, match="read-only"):
        process.alphas_bar[0] = 1


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_the_dtype_of_the_data_is_kept(dtype):
    x0 = draw(0).astype(dtype)
    assert schedule().add_noise(x0, x0, jnp.array([1, 2, 3, 4])).dtype == dtype


@pytest.mark.wrong_types
def test_one_timestep_for_all_or_one_for_each():
    process, x0, noise = schedule(), draw(0), draw(1)
    np.testing.assert_array_equal(
        process.add_noise(x0, noise, jnp.array(7)), process.add_noise(x0, noise, jnp.full(4, 7))
    )
    with pytest.raises(ValueError, match="timesteps must have shape"):
        process.add_noise(x0, noise, jnp.arange(3))
    with pytest.raises(TypeError, match="integers"):
        process.add_noise(x0, noise, jnp.ones(4))
    with pytest.raises(ValueError, match="same shape"):
        process.add_noise(x0, noise[:1], jnp.arange(4))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"beta_schedule": "geometric"}, "geometric"),
        ({"prediction_type": "flow_prediction"}, "flow_prediction"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatchEulerDiscreteScheduler"),
        ({"thresholding": True}, "thresholding"),
        ({"variance_type": "learned_range"}, "learned_range"),
        ({"use_flow_sigmas": True}, "use_flow_sigmas"),
    ],
)
def test_what_is_missing_is_named(changes, named):
    with pytest.raises(NotImplementedError, match=named):
        schedule(**changes)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"timestep_spacing": "leading "}, "timestep_spacing"),
        ({"num_train_timesteps": 1}, "num_train_timesteps"),
        ({"num_train_timesteps": 1e3}, "num_train_timesteps"),
        ({"steps_offset": -1}, "steps_offset"),
        ({"trained_betas": [0.1, 0.2], "num_train_timesteps": 3}, "trained_betas"),
        ({"trained_betas": [0.1, 0.0], "num_train_timesteps": 2}, "timestep 1"),
        ({"trained_betas": [0.1, float("nan")], "num_train_timesteps": 2}, "timestep 1"),
        ({"beta_start": -0.1, "beta_schedule": "linear"}, "expected numbers from 0 to 1"),
        ({"clip_sample": True, "clip_sample_range": 0}, "clip_sample_range"),
    ],
)
def test_what_is_wrong_is_named(changes, named):
    with pytest.raises(ValueError, match=named):
        schedule(**changes)


@pytest.mark.wrong_types
def test_a_configuration_is_a_mapping():
    with pytest.raises(TypeError, match="mapping"):
        NoiseSchedule.from_config("scheduler_config.json")  # type: ignore[arg-type]
