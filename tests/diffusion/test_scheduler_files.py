"""Files of every scheduler of diffusers: the process they are of, and our samplers on them."""

import inspect
import json

import numpy as np
import pytest

from fdiv_jax.diffusion import NoiseSchedule, sampling_plan
from fdiv_jax.diffusion._scheduler_classes import PROCESSES
from tests.diffusion.test_diffusers_parity import (
    SD1,
    assert_close,
    euler_tolerance,
    initial_noise,
    ours,
    theirs,
)

pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytestmark = [
    pytest.mark.interop,
    pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning"),  # of some of theirs
]
STEPS = 10

HERE = [name for name in PROCESSES if name != "DPMSolverSDEScheduler"]
"""But for the one that another package is needed for."""
FILES = {
    "unipc": ("UniPCMultistepScheduler", {"solver_order": 3, "solver_type": "bh1", "steps_offset": 1}),
    "unipc-zero-snr": (
        "UniPCMultistepScheduler",
        {
            "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": True,
            "timestep_spacing": "trailing",
        },
    ),
    "lcm": ("LCMScheduler", {}),
    "lcm-v": ("LCMScheduler", {"prediction_type": "v_prediction", "timestep_spacing": "trailing"}),
    "tcd": ("TCDScheduler", {"steps_offset": 1}),
    "deis": ("DEISMultistepScheduler", {}),
    "sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"}),
    "dpm-solver": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
    ),
    "sde-karras": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True, "timestep_spacing": "leading"},
    ),
    "exponential": ("DPMSolverMultistepScheduler", {"use_exponential_sigmas": True}),
    "beta": ("EulerDiscreteScheduler", {"use_beta_sigmas": True}),
    "lu": ("DPMSolverMultistepScheduler", {"use_lu_lambdas": True}),
    "singlestep": ("DPMSolverSinglestepScheduler", {"solver_order": 3, "lower_order_final": True}),
    "heun": ("HeunDiscreteScheduler", {}),
    "sa": ("SASolverScheduler", {}),
}


def file_of(name):
    """What diffusers writes, and the scheduler itself."""
    kind, entries = FILES[name]
    cls = getattr(diffusers, kind)
    known = inspect.signature(cls.__init__).parameters
    scheduler = cls(**{key: value for key, value in {**SD1, **entries}.items() if key in known})
    return json.loads(scheduler.to_json_string()), scheduler


@pytest.mark.parametrize("kind", HERE)
def test_a_file_that_names_its_class_only(kind):
    expected = getattr(diffusers, kind)().alphas_cumprod
    schedule = NoiseSchedule.from_config({"_class_name": kind})
    np.testing.assert_allclose(schedule.alphas_bar, expected.numpy(), rtol=2e-5, atol=1e-10)


@pytest.mark.parametrize("name", FILES)
def test_the_process_is_that_of_the_file(name):
    file, scheduler = file_of(name)
    schedule = NoiseSchedule.from_config(file)
    assert schedule.prediction_type == scheduler.config.prediction_type
    assert schedule.clip_sample_range is None
    expected = scheduler.alphas_cumprod.numpy().copy()
    if file.get("rescale_betas_zero_snr"):  # some schedulers put a tiny number where it is zero
        expected[-1] = 0.0
    np.testing.assert_allclose(schedule.alphas_bar, expected, rtol=2e-5, atol=1e-10)


@pytest.mark.parametrize("name", FILES)
def test_ddim(name):
    file, _ = file_of(name)
    scheduler = diffusers.DDIMScheduler.from_config({**file, "clip_sample": False})
    noise = initial_noise()
    expected = theirs(scheduler, noise, STEPS)
    schedule = NoiseSchedule.from_config(file)
    np.testing.assert_array_equal(sampling_plan(schedule, STEPS).timesteps, scheduler.timesteps.numpy())
    assert_close(ours(schedule, noise, sampler="ddim", steps=STEPS), expected)


@pytest.mark.parametrize("name", FILES)
def test_the_default_sampler_of_unlearning(name):
    """Diffusers' own mapping of solver types; algorithm and order are those that the sampler names."""
    file, _ = file_of(name)
    named = {"algorithm_type": "dpmsolver++", "solver_order": min(file.get("solver_order", 2), 2)}
    scheduler = diffusers.DPMSolverMultistepScheduler.from_config({**file, **named})
    noise = initial_noise()
    expected = theirs(scheduler, noise, STEPS)
    schedule = NoiseSchedule.from_config(file)
    plan = sampling_plan(schedule, STEPS, sampler="dpm++")
    visited = scheduler.timesteps.numpy()
    if name in ("exponential", "beta"):  # theirs are cut off, the first at T - 1 less a rounding error
        np.testing.assert_array_equal(plan.timesteps[1:], visited[1:])
        sigmas = scheduler.sigmas.numpy().astype(np.float64)
        sine = sigmas / np.sqrt(1 + sigmas**2)
        np.testing.assert_allclose(plan.keep, sine[1:] / sine[:-1], rtol=2e-5)
        return
    np.testing.assert_array_equal(plan.timesteps, visited)
    assert_close(ours(schedule, noise, sampler="dpm++", steps=STEPS), expected)


@pytest.mark.parametrize("name", FILES)
def test_euler(name):
    file, _ = file_of(name)
    scheduler = diffusers.EulerDiscreteScheduler.from_config(file)
    noise = initial_noise()
    expected = theirs(scheduler, noise, STEPS)
    got = ours(NoiseSchedule.from_config(file), noise, sampler="euler", steps=STEPS)
    assert_close(got, expected, euler_tolerance(scheduler))


@pytest.mark.parametrize("kind", ["laplace", "sigmoid", "exp"])
def test_rare_beta_schedules(kind):
    other = {"laplace": "DDPMScheduler", "sigmoid": "DDPMScheduler", "exp": "HeunDiscreteScheduler"}[kind]
    scheduler = getattr(diffusers, other)(beta_schedule=kind)
    schedule = NoiseSchedule.from_config(json.loads(scheduler.to_json_string()))
    np.testing.assert_allclose(schedule.alphas_bar, scheduler.alphas_cumprod.numpy(), rtol=2e-4, atol=1e-10)


def test_every_other_scheduler_is_refused_by_its_name():
    from diffusers import schedulers

    names = [n for n in dir(schedulers) if n.endswith("Scheduler") and n not in PROCESSES]
    assert len(names) > 10
    for name in names:
        with pytest.raises(NotImplementedError, match=name):
            NoiseSchedule.from_config({"_class_name": name})


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "is of a flow between noise and data"),
        ({"_class_name": "EDMEulerScheduler"}, r"is of noise levels without .*\(EDM\)"),
        ({"_class_name": "EDMDPMSolverMultistepScheduler"}, r"\(EDM\)"),
        ({"_class_name": "SCMScheduler"}, "trigonometric flow"),
        ({"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True}, "use_flow_sigmas.*a flow"),
        ({"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction"}, "a flow"),
        (
            {
                "_class_name": "EulerDiscreteScheduler",
                "timestep_type": "continuous",
                "prediction_type": "v_prediction",
            },
            "log sigma",
        ),
    ],
)
def test_another_kind_of_process_is_refused_with_the_reason(entries, reason):
    with pytest.raises(NotImplementedError, match=reason):
        NoiseSchedule.from_config(entries)
