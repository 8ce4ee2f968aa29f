"""Trajectories of the samplers against diffusers' schedulers, step for step, with one stand-in network."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fdiv_jax.diffusion import NoiseSchedule, sample, sampling_plan

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.interop

SHAPE = (3, 4, 4, 2)
TOLERANCE = 1e-4

SD1 = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "clip_sample": False,
}
CONFIGS = {
    "stable-diffusion-1": SD1 | {"steps_offset": 1},
    "stable-diffusion-2": SD1 | {"steps_offset": 1, "prediction_type": "v_prediction"},
    "zero-snr": SD1
    | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
    "ddpm": {"clip_sample": True, "clip_sample_range": 1.5},
    "cosine": {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample", "clip_sample": False},
    "cosine-v": {
        "beta_schedule": "squaredcos_cap_v2",
        "prediction_type": "v_prediction",
        "clip_sample": False,
    },
    "linspace": SD1 | {"timestep_spacing": "linspace"},
    "trailing": SD1 | {"timestep_spacing": "trailing", "set_alpha_to_one": True},
    "short": SD1 | {"num_train_timesteps": 200, "beta_end": 0.05},
    "trained": {
        "trained_betas": (np.linspace(0.01, 0.3, 60) ** 1.5).tolist(),
        "num_train_timesteps": 60,
        "clip_sample": False,
    },
}
SOLVERS = {
    "plain": {},
    "sigma-min": {"final_sigmas_type": "sigma_min"},
    "first-order": {"solver_order": 1},
    "heun": {"solver_type": "heun", "final_sigmas_type": "sigma_min", "lower_order_final": False},
    "euler-last": {"final_sigmas_type": "sigma_min", "euler_at_final": True},
    "clipped": {"lambda_min_clipped": -2.0},
}


def network(x, t, sin):
    """A smooth function of x and t that keeps trajectories bounded, in whichever library `sin` is from."""
    return 0.9 * sin(1.1 * x + 0.003 * t) + 0.1 * x


def denoise(x, t):
    return network(x, t.astype(x.dtype).reshape(-1, 1, 1, 1), jnp.sin)


def ours(schedule, noise, **options):
    return np.asarray(sample(denoise, schedule, jnp.asarray(noise), trajectory=True, **options))


def theirs(scheduler, noise, steps, **options):
    """Every x in the scale the network reads; the last is the sample itself."""
    scheduler.set_timesteps(steps)
    x = torch.tensor(noise) * scheduler.init_noise_sigma
    visited = []
    for i, t in enumerate(scheduler.timesteps):
        extra = {name: value(i) if callable(value) else value for name, value in options.items()}
        read = scheduler.scale_model_input(x, t)
        visited.append(read.numpy())
        x = scheduler.step(network(read, float(t), torch.sin), t, x, **extra).prev_sample
    return np.stack([*visited, x.numpy()])


def fresh_noise(key, step):
    """What `sample` draws at a step, image by image."""
    keys = [jax.random.fold_in(jax.random.fold_in(key, image), step) for image in range(SHAPE[0])]
    return np.stack([jax.random.normal(k, SHAPE[1:]) for k in keys])


def draw_as_ours(monkeypatch, scheduler, key):
    """The module of one of diffusers' schedulers draws at each step what `sample` draws."""
    steps = itertools.count()
    monkeypatch.setattr(
        f"diffusers.schedulers.{scheduler}.randn_tensor",
        lambda *_, **__: torch.tensor(fresh_noise(key, next(steps))),
    )


def initial_noise(seed=0):
    return np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)


def assert_close(ours, theirs, tolerance=TOLERANCE):
    assert np.isfinite(theirs).all(), "the oracle itself fails here"
    scale = np.maximum(1.0, np.abs(theirs).max(axis=tuple(range(1, theirs.ndim)), keepdims=True))
    assert np.max(np.abs(ours - theirs) / scale) <= tolerance


def euler_tolerance(scheduler):
    """Diffusers' Euler carries y = x_0 + sigma eps in float32: where sigma begins in the thousands, what is
    left of x_0 has the rounding of y, a few parts in 10^7 of sigma."""
    return max(TOLERANCE, 4e-7 * float(scheduler.sigmas.max()))


@pytest.mark.parametrize("steps", [1, 7, 10, 25, 50])
@pytest.mark.parametrize("name", CONFIGS)
def test_ddim(name, steps):
    scheduler = diffusers.DDIMScheduler(**CONFIGS[name])
    schedule = NoiseSchedule.from_config(scheduler.config)
    noise = initial_noise()
    assert_close(ours(schedule, noise, sampler="ddim", steps=steps), theirs(scheduler, noise, steps))


@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("name", ["stable-diffusion-1", "stable-diffusion-2", "ddpm", "linspace"])
def test_ddim_with_noise(name, eta):
    scheduler = diffusers.DDIMScheduler(**CONFIGS[name])
    schedule = NoiseSchedule.from_config(scheduler.config)
    key, noise = jax.random.key(3), initial_noise()

    def fresh(i):
        return torch.tensor(fresh_noise(key, i))

    got = ours(schedule, noise, sampler="ddim", steps=20, eta=eta, key=key)
    assert_close(got, theirs(scheduler, noise, 20, eta=eta, variance_noise=fresh))


@pytest.mark.parametrize("steps", [1, 2, 10, 14, 15, 25, 50])
@pytest.mark.parametrize("name", CONFIGS)
def test_dpm_solver_pp(name, steps):
    scheduler = diffusers.DPMSolverMultistepScheduler(**without(name, "clip_sample", "set_alpha"))
    schedule = NoiseSchedule.from_config(scheduler.config)
    noise = initial_noise()
    assert_close(ours(schedule, noise, sampler="dpmsolver++", steps=steps), theirs(scheduler, noise, steps))


def without(name, *prefixes):
    return {k: v for k, v in CONFIGS[name].items() if not k.startswith(prefixes)}


@pytest.mark.parametrize("steps", [1, 2, 10, 25, 50])
@pytest.mark.parametrize("name", [n for n in CONFIGS if not n.startswith(("cosine", "zero-snr"))])
def test_dpm_solver_pp_karras(name, steps):
    """Not at zero terminal SNR, where two of the rounded timesteps are the same and diffusers loses count."""
    config = without(name, "clip_sample", "set_alpha")
    scheduler = diffusers.DPMSolverMultistepScheduler(**config, use_karras_sigmas=True)
    noise = initial_noise()
    expected = theirs(scheduler, noise, steps)
    schedule = NoiseSchedule.from_config(scheduler.config)
    assert_close(ours(schedule, noise, sampler="dpmsolver++", steps=steps), expected)
    plain = NoiseSchedule.from_config({**scheduler.config, "use_karras_sigmas": False})
    assert_close(ours(plain, noise, sampler="dpmsolver++karras", steps=steps), expected)


def test_karras_timesteps_of_the_cosine_schedule_are_cut_off():
    """Diffusers' float32 puts the first, T - 1, at T - 1 - 4e-8, and cuts that off too."""
    scheduler = diffusers.DPMSolverMultistepScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="sample", use_karras_sigmas=True
    )
    scheduler.set_timesteps(10)
    plan = sampling_plan(NoiseSchedule.from_config(scheduler.config), 10, sampler="dpm++")
    np.testing.assert_array_equal(plan.timesteps[1:], scheduler.timesteps.numpy()[1:])
    assert plan.timesteps[0] == 999


EULERS = {
    "leading": SD1 | {"steps_offset": 1, "timestep_spacing": "leading"},
    "leading-v": SD1 | {"steps_offset": 1, "timestep_spacing": "leading", "prediction_type": "v_prediction"},
    "linspace": SD1,
    "linspace-v": SD1 | {"prediction_type": "v_prediction"},
    "trailing": CONFIGS["trailing"],
    "zero-snr": CONFIGS["zero-snr"],
    "cosine-v": CONFIGS["cosine-v"],
    "sample": SD1 | {"prediction_type": "sample"},
    "sigma-min": SD1 | {"final_sigmas_type": "sigma_min"},
    "karras": SD1 | {"use_karras_sigmas": True},
    "karras-v": SD1
    | {"use_karras_sigmas": True, "timestep_spacing": "leading", "prediction_type": "v_prediction"},
    "karras-range": SD1 | {"use_karras_sigmas": True, "sigma_min": 0.1, "sigma_max": 9.0},
}


@pytest.mark.parametrize("steps", [1, 2, 10, 25, 50])
@pytest.mark.parametrize("name", EULERS)
def test_euler(name, steps):
    config = {k: v for k, v in EULERS[name].items() if not k.startswith(("clip_sample", "set_alpha"))}
    scheduler = diffusers.EulerDiscreteScheduler(**config)
    schedule = NoiseSchedule.from_config(scheduler.config)
    noise = initial_noise()
    expected = theirs(scheduler, noise, steps)
    tolerance = euler_tolerance(scheduler)
    assert_close(ours(schedule, noise, sampler="euler", steps=steps), expected, tolerance)
    visited = sampling_plan(schedule, steps, sampler="euler").timesteps
    np.testing.assert_allclose(visited, scheduler.timesteps.numpy(), rtol=2e-5, atol=2e-3)
    if name.startswith("karras"):
        plain = NoiseSchedule.from_config({**scheduler.config, "use_karras_sigmas": False})
        assert_close(ours(plain, noise, sampler="euler_karras", steps=steps), expected)


@pytest.mark.parametrize("steps", [1, 2, 10, 25, 50])
@pytest.mark.parametrize("name", [n for n in EULERS if not n.startswith(("karras", "sample", "sigma-min"))])
def test_euler_ancestral(name, steps, monkeypatch):
    config = {k: v for k, v in EULERS[name].items() if not k.startswith(("clip_sample", "set_alpha"))}
    scheduler = diffusers.EulerAncestralDiscreteScheduler(**config)
    schedule = NoiseSchedule.from_config(scheduler.config)
    key, noise = jax.random.key(3), initial_noise()
    draw_as_ours(monkeypatch, "scheduling_euler_ancestral_discrete", key)
    got = ours(schedule, noise, sampler="euler_a", steps=steps, key=key)
    assert_close(got, theirs(scheduler, noise, steps), euler_tolerance(scheduler))


@pytest.mark.parametrize("steps", [10, 20])
@pytest.mark.parametrize("name", SOLVERS)
def test_dpm_solver_pp_options(name, steps):
    config = {k: v for k, v in SD1.items() if k not in ("clip_sample", "set_alpha_to_one")}
    scheduler = diffusers.DPMSolverMultistepScheduler(**config, **SOLVERS[name])
    schedule = NoiseSchedule.from_config(scheduler.config)
    noise = initial_noise()
    assert_close(ours(schedule, noise, sampler="dpm++", steps=steps), theirs(scheduler, noise, steps))


def test_a_file_of_one_scheduler_serves_another_sampler():
    """A Stable Diffusion checkpoint ships PNDM's file; diffusers makes either sampler of it."""
    pndm = diffusers.PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    file = json.loads(pndm.to_json_string())
    schedule = NoiseSchedule.from_config(file)
    noise = initial_noise()
    explicit = file | {"clip_sample": False}
    ddim = diffusers.DDIMScheduler.from_config(explicit)
    assert_close(ours(schedule, noise, sampler="ddim", steps=10), theirs(ddim, noise, 10))
    dpm = diffusers.DPMSolverMultistepScheduler.from_config(explicit)
    assert_close(ours(schedule, noise, sampler="dpm++", steps=10), theirs(dpm, noise, 10))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_table_is_theirs_to_float32(name):
    scheduler = diffusers.DDIMScheduler(**CONFIGS[name])
    schedule = NoiseSchedule.from_config(scheduler.config)
    # Betas differ by one unit in the last place where the two linspace functions round differently.
    np.testing.assert_allclose(schedule.alphas_bar, scheduler.alphas_cumprod.numpy(), rtol=2e-5, atol=1e-10)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("steps", [1, 3, 30, 50])
def test_the_timesteps_are_theirs(name, steps):
    ddim = diffusers.DDIMScheduler(**CONFIGS[name])
    ddim.set_timesteps(steps)
    schedule = NoiseSchedule.from_config(ddim.config)
    np.testing.assert_array_equal(sampling_plan(schedule, steps).timesteps, ddim.timesteps.numpy())


@pytest.mark.parametrize("total", [1000, 333])
@pytest.mark.parametrize("steps", [14, 20, 48, 61, 224])
@pytest.mark.parametrize(
    ("sampler", "class_name"),
    [
        ("ddim", "DDIMScheduler"),
        ("dpm++", "DPMSolverMultistepScheduler"),
        ("euler", "EulerDiscreteScheduler"),
        ("euler_a", "EulerAncestralDiscreteScheduler"),
    ],
)
def test_trailing_timesteps_round_as_theirs(sampler, class_name, steps, total):
    """Some lie half way between two whole numbers, as 3 times 1000 / 48; of 61 theirs has one too many."""
    config = {"num_train_timesteps": total, "timestep_spacing": "trailing", "beta_schedule": "scaled_linear"}
    theirs = getattr(diffusers, class_name)(**config)
    theirs.set_timesteps(steps)
    plan = sampling_plan(NoiseSchedule.from_config(config), steps, sampler=sampler)
    np.testing.assert_array_equal(plan.timesteps, theirs.timesteps.numpy()[:steps])


@pytest.mark.parametrize("name", ["stable-diffusion-1", "stable-diffusion-2", "cosine"])
def test_noising_and_velocity_are_theirs(name):
    theirs = diffusers.DDPMScheduler(
        **{k: v for k, v in CONFIGS[name].items() if k not in ("set_alpha_to_one", "steps_offset")}
    )
    schedule = NoiseSchedule.from_config(theirs.config)
    x0, noise = initial_noise(1), initial_noise(2)
    t = np.array([0, 500, 999])
    arguments = torch.tensor(x0), torch.tensor(noise), torch.tensor(t)
    ours = schedule.add_noise(jnp.asarray(x0), jnp.asarray(noise), jnp.asarray(t))
    np.testing.assert_allclose(ours, theirs.add_noise(*arguments), atol=1e-6)
    ours = schedule.velocity(jnp.asarray(x0), jnp.asarray(noise), jnp.asarray(t))
    np.testing.assert_allclose(ours, theirs.get_velocity(*arguments), atol=1e-6)


@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_the_reverse_variance_is_theirs(variance):
    theirs = diffusers.DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        variance_type={"posterior": "fixed_small", "beta": "fixed_large"}[variance],
    )
    schedule = NoiseSchedule.from_config(theirs.config)
    t = np.arange(1, 1000)
    expected = [float(theirs._get_variance(int(i))) for i in t]
    np.testing.assert_allclose(schedule.reverse_variance(jnp.asarray(t), variance), expected, rtol=2e-4)


LCMS = {
    "as published": {},
    "clipped": {"clip_sample": True, "clip_sample_range": 0.8},
    "v": {"prediction_type": "v_prediction", "timestep_scaling": 0.01},
    "distilled at others": {"original_inference_steps": 90, "num_train_timesteps": 777},
}


@pytest.mark.parametrize("steps", [1, 4, 7, 50])
@pytest.mark.parametrize("name", LCMS)
def test_lcm(name, steps, monkeypatch):
    scheduler = diffusers.LCMScheduler(**LCMS[name])
    schedule = NoiseSchedule.from_config(json.loads(scheduler.to_json_string()))
    key, noise = jax.random.key(3), initial_noise()
    draw_as_ours(monkeypatch, "scheduling_lcm", key)
    got = ours(schedule, noise, sampler="lcm", steps=steps, key=key)
    assert_close(got, theirs_at_whole_timesteps(scheduler, noise, steps))


def theirs_at_whole_timesteps(scheduler, noise, steps):
    """LCMScheduler looks its timestep up among whole ones."""
    scheduler.set_timesteps(steps)
    visited = [torch.tensor(noise)]
    for t in scheduler.timesteps:
        output = network(visited[-1], float(t), torch.sin)
        visited.append(scheduler.step(output, t, visited[-1]).prev_sample)
    return torch.stack(visited).numpy()


def test_lcm_goes_no_further_than_it_was_distilled():
    schedule = NoiseSchedule.from_config({"_class_name": "LCMScheduler"})
    for steps in (51, 1000):
        with pytest.raises(ValueError, match="50 steps at which the model was distilled"):
            sampling_plan(schedule, steps, sampler="lcm")
    with pytest.raises(ValueError, match=r"eta must be 1, got 0\.5"):
        sampling_plan(schedule, 4, sampler="lcm", eta=0.5)
    with pytest.raises(ValueError, match="original_inference_steps must be a whole number >= 1, got 0"):
        NoiseSchedule.from_config({"_class_name": "LCMScheduler", "original_inference_steps": 0})
