"""The noise process that each of diffusers' scheduler classes implies beyond the entries of its file."""

from fdiv_jax.files import JsonMapping, JsonObject, shown

_LATENT = {"beta_start": 0.00085, "beta_end": 0.012}
_SCALED = {**_LATENT, "beta_schedule": "scaled_linear", "clip_sample": False}
_UNCLIPPED = {"clip_sample": False}

PROCESSES: dict[str, JsonMapping] = {
    "DDIMInverseScheduler": {},
    "DDIMParallelScheduler": {},
    "DDIMScheduler": {},
    "DDPMParallelScheduler": {},
    "DDPMScheduler": {},
    "DEISMultistepScheduler": _UNCLIPPED,
    "DPMSolverMultistepInverseScheduler": _UNCLIPPED,
    "DPMSolverMultistepScheduler": _UNCLIPPED,
    "DPMSolverSDEScheduler": {**_LATENT, **_UNCLIPPED},
    "DPMSolverSinglestepScheduler": _UNCLIPPED,
    "EulerAncestralDiscreteScheduler": _UNCLIPPED,
    "EulerDiscreteScheduler": _UNCLIPPED,
    "HeunDiscreteScheduler": {**_LATENT, **_UNCLIPPED},
    "KDPM2AncestralDiscreteScheduler": {**_LATENT, **_UNCLIPPED},
    "KDPM2DiscreteScheduler": {**_LATENT, **_UNCLIPPED},
    "LCMScheduler": _SCALED,
    "LMSDiscreteScheduler": _UNCLIPPED,
    "PNDMScheduler": {**_UNCLIPPED, "set_alpha_to_one": False},
    "RePaintScheduler": {},
    "SASolverScheduler": _UNCLIPPED,
    "TCDScheduler": _SCALED,
    "UniPCMultistepScheduler": _UNCLIPPED,
}
"""The classes whose process is discrete and variance preserving, each with those of its defaults that
differ from the defaults of `DDIMScheduler`."""

_FLOW = "a flow between noise and data (rectified flow), not a variance-preserving diffusion"
_EDM = "noise levels without a variance-preserving process of discrete timesteps (EDM)"
_VE = "a variance-exploding process"
_OTHERS = {
    "CMStochasticIterativeScheduler": "a consistency model of continuous noise levels",
    "CogVideoXDDIMScheduler": "a process with a shifted signal-to-noise ratio",
    "CogVideoXDPMScheduler": "a process with a shifted signal-to-noise ratio",
    "CosineDPMSolverMultistepScheduler": _EDM,
    "DDPMWuerstchenScheduler": "a process in continuous time",
    "IPNDMScheduler": "a process in continuous time",
    "KarrasVeScheduler": _VE,
    "LTXEulerAncestralRFScheduler": _FLOW,
    "ScoreSdeVeScheduler": _VE,
    "ScoreSdeVpScheduler": "a process in continuous time",
    "SCMScheduler": "a consistency model of a trigonometric flow",
    "UnCLIPScheduler": "a network that predicts its variance too",
    "VQDiffusionScheduler": "a process of discrete tokens",
}


def process_entries(config: JsonMapping) -> JsonObject:
    """The entries of a `scheduler_config.json`, completed by those that its class implies.

    Raises:
        NotImplementedError: a process that is not discrete and variance preserving; says what it is.
    """
    name = config.get("_class_name")
    if name is not None and name not in PROCESSES:
        raise NotImplementedError(
            f"scheduler {shown(name)}{_reason(str(name))}; supported are discrete variance-preserving "
            f"processes: {', '.join(PROCESSES)}"
        )
    for key, what in (("use_flow_sigmas", _FLOW), ("use_dynamic_shifting", _FLOW)):
        if config.get(key):
            raise NotImplementedError(f"{key} = {shown(config[key])} in the scheduler configuration: {what}")
    if config.get("prediction_type") in ("flow_prediction", "flow"):
        raise NotImplementedError(f"prediction_type {config['prediction_type']!r}: {_FLOW}")
    if config.get("thresholding"):
        raise NotImplementedError(
            "thresholding = True in the scheduler configuration: it is for pixels, not for latents"
        )
    if str(config.get("variance_type") or "").startswith("learned"):
        raise NotImplementedError(
            f"variance_type {shown(config['variance_type'])}: the network's output is its mean only"
        )
    if config.get("timestep_type") == "continuous" and config.get("prediction_type") == "v_prediction":
        raise NotImplementedError("timestep_type 'continuous': the network takes log sigma, not a timestep")
    return {**PROCESSES.get(str(name), {}), **config}


def _reason(name: str) -> str:
    if "Flow" in name:
        return f" is of {_FLOW}"
    if name.startswith("EDM"):
        return f" is of {_EDM}"
    return f" is of {_OTHERS[name]}" if name in _OTHERS else ""
