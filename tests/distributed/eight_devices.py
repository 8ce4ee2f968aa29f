"""Eight virtual devices in a process of their own: `python eight_devices.py` prints JSON.

`losses`: of 20 steps of the toy network, by way and number of devices. `data` and `fsdp`: what the compiler
says of one step of a UNet on eight devices, bytes a device, and the bytes of its collectives by kind.
"""

import dataclasses
import json
import os


def losses():
    """Of every step, by way and number of devices."""
    toy = ToyNetwork()
    plan, found = plan_of(toy), {}
    for count in (1, 2, 4, 8):
        for name in ("pmap", "data", "fsdp"):
            _, rows = run(runner_of(jax.devices()[:count], name), plan, toy, steps=20)
            found[f"{name} {count}"] = [float(row["loss"]) for row in rows]
    return found


def wide():
    """A plan and the frozen weights of a small UNet with wide layers."""
    config = UNetConfig(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        block_out_channels=(64,),
        layers_per_block=1,
        cross_attention_dim=64,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    unet = fill(
        abstract_module(lambda rngs: UNet2DConditionModel(config, rngs=rngs)), np.random.default_rng(0)
    )
    network = Network(unet)
    names = select(network.parameters(unet), "cross-attn").names
    plan = dataclasses.replace(plan_of(network), trainable=Weights(names))
    return plan, Frozen(network.parameters(unet))


def compiled_step(name):
    """What the compiler says of a step on eight devices, five samples each."""
    plan, frozen = wide()
    runner = runner_of(None, name)
    placed = dataclasses.replace(plan, network=runner.network(plan.network))
    state = runner.replicate(initial_state(plan, frozen, 1e-3, jax.random.key(0)))
    text = jnp.ones((40, 5, 64))
    rows = dataclasses.replace(batch(40), target_text=text, anchor_text=text)
    step = runner.compile(lambda axis: make_step(placed, axis=axis), step=True)
    arguments = (state, runner.replicate(frozen), runner.shard(rows), runner.shard(rows.latents))
    found = compiled_figures(step.lower(*arguments, jax.random.key(0)))
    return {
        "arguments": found.arguments,
        "temporaries": found.temporaries,
        "collectives": found.collectives,
        "trained": array_bytes(state.trained),
        "state": array_bytes(state),
        "frozen": array_bytes(frozen),
    }


if __name__ == "__main__":
    os.environ["JAX_PLATFORMS"] = "cpu"
    # XLA otherwise begins whatever can be begun, here every gathering of weights, see `Prepared`.
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_enable_concurrency_optimized_scheduler=false"
    import jax

    jax.config.update("jax_num_cpu_devices", 8)
    import jax.numpy as jnp
    import numpy as np

    from fdiv_jax.distributed import ShardedMesh, runner_of
    from fdiv_jax.distributed.programs import compiled_figures
    from fdiv_jax.nn import UNet2DConditionModel, UNetConfig, abstract_module
    from fdiv_jax.nn.memory import array_bytes
    from fdiv_jax.unlearning import Frozen, Weights, initial_state, make_step
    from fdiv_jax.unlearning.parameters import Network, select
    from tests.tiny import fill
    from tests.unlearning.conftest import ToyNetwork
    from tests.unlearning.test_step import batch, plan_of, run

    told = {"data": compiled_step("data"), "fsdp": compiled_step("fsdp")}
    ShardedMesh.SMALL = 8
    jax.config.update("jax_disable_most_optimizations", True)
    print(json.dumps({**told, "losses": losses()}))
