"""The step of this library, timed in the process that calls it."""

from __future__ import annotations

import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from benchmarks.step_time.cases import CASES, inputs, network_directory
from benchmarks.step_time.clock import timed
from fdiv_jax.checkpoints import load_component
from fdiv_jax.compiling import jit
from fdiv_jax.diffusion import NoiseSchedule
from fdiv_jax.files import JsonObject
from fdiv_jax.nn import Text, TextConditioning, UNet2DConditionModel
from fdiv_jax.unlearning import (
    Batch,
    Frozen,
    Network,
    Plan,
    TrainState,
    Weights,
    initial_state,
    make_loss,
    make_reference,
    make_step,
    select,
    timesteps_of,
)
from fdiv_jax.unlearning.losses import LossFamily

SWEPT = (
    "kl",
    "squared_hellinger",
    "pearson_chi2",
    "jensen_shannon",
    "le_cam",
    "jeffreys",
    "neyman_chi2",
    "alpha(0.3)",
)
DIVERGENCE = {"closed": "squared_hellinger", "exact": "jensen_shannon", "variational": "squared_hellinger"}


def run(name: str, loss: str, dtype: str, place: Path, sweep: int = 1) -> JsonObject:
    """Seconds of a step, its compile time, FLOPs and memory.

    With `sweep` above 1 one frozen pass serves that many divergences, and the seconds are of all of them.
    """
    case = CASES[name]
    directory = network_directory(name, place)
    unet = load_component(directory, UNet2DConditionModel, dtype=jnp.dtype(dtype)).model
    network, parameters = Network(unet), Network.parameters(unet)
    schedule = NoiseSchedule(tuple(map(float, np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)))
    trainable = Weights(select(parameters, "cross-attn").names)
    data = inputs(name, directory)
    shape = data["latents"].shape[1:]
    n = case.batch

    def text(features: str) -> Text:
        hidden = jnp.asarray(data[features])
        if "pooled" not in data:
            return hidden
        return TextConditioning(hidden, jnp.asarray(data["pooled"]), jnp.asarray(data["sizes"]))

    batch = Batch(
        jnp.asarray(data["latents"]), text("target"), text("anchor"), jnp.ones((n, *shape[:2])), jnp.arange(n)
    )
    frozen, key = Frozen(parameters), jax.random.key(0)
    members = [DIVERGENCE[loss]] if sweep == 1 else [SWEPT[i % len(SWEPT)] for i in range(sweep)]
    family: LossFamily = loss if sweep == 1 else "exact"
    plans = [
        Plan(
            network,
            trainable,
            make_loss(each, family, schedule=schedule, latent_shape=shape),
            schedule,
            timesteps_of(schedule),
        )
        for each in members
    ]
    states = [initial_state(plan, frozen, 1e-5, key) for plan in plans]

    def whole(
        states: list[TrainState], frozen: Frozen, batch: Batch, key: jax.Array
    ) -> tuple[list[TrainState], list[jax.Array]]:
        reference = make_reference(plans[0])(frozen, batch, key)
        done = [
            make_step(plan)(state, frozen, batch, reference, key)
            for plan, state in zip(plans, states, strict=True)
        ]
        return [state for state, _ in done], [metrics["loss"] for _, metrics in done]

    start = time.perf_counter()
    step = jit(whole, donate_argnums=0).lower(states, frozen, batch, key).compile()
    compiling = time.perf_counter() - start
    cost, memory = step.cost_analysis() or {}, step.memory_analysis()

    def one() -> None:
        nonlocal states
        states, losses = step(states, frozen, batch, key)
        jax.block_until_ready((states, losses))

    device = jax.devices()[0]
    seconds = timed(one, case.steps)
    statistics = device.memory_stats() or {}
    return {
        "seconds": seconds,
        "compile_s": compiling,
        "flops": float(cost.get("flops", 0.0)),
        "temporary_bytes": int(getattr(memory, "temp_size_in_bytes", 0)),
        "device_peak_bytes": statistics.get("peak_bytes_in_use"),
        "device": device.device_kind if device.platform != "cpu" else "cpu",
        "peak_flops": _measured_peak(jnp.dtype(dtype)),
    }


def _measured_peak(dtype: DTypeLike) -> float:
    """Floating-point operations per second of a large product of matrices: what this device really gives."""
    side = 2048 if jax.default_backend() == "cpu" else 8192
    matrix = jnp.ones((side, side), dtype)
    product = jax.jit(lambda a: a @ a)
    seconds = timed(lambda: jax.block_until_ready(product(matrix)), 5)
    return 2.0 * side**3 / min(seconds)
