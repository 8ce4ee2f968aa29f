"""A small training loop that can be stopped and resumed, for the networks of the world."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from rich.progress import BarColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from fdiv_jax.arrays import PyTree
from fdiv_jax.terminal import Console, TextColumn

LossFunction = Callable[[PyTree, PyTree, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]


def train(
    name: str,
    parameters: PyTree,
    loss: LossFunction,
    batch: Callable[[int], PyTree],
    *,
    steps: int,
    learning_rate: float,
    seed: int,
    work: Path,
    weight_decay: float = 1e-2,
    average: float = 0.999,
    save_every: int = 200,
    decay_steps: int | None = None,
) -> PyTree:
    """AdamW with warm-up and cosine decay; returns the exponential moving average of the parameters.

    The batch of step k and its random key depend on (seed, k) alone, so a run that was stopped goes on from
    its last checkpoint in `work / name` as if it had not been. The batch is cut over all local devices: on a
    CPU with two cores, XLA_FLAGS=--xla_force_host_platform_device_count=2 is nearly twice as fast as one.

    Args:
        name: of the stage: its directory and its line on the screen.
        parameters: where to start; a pytree.
        loss: (parameters, batch, key) -> (loss, figures to show).
        batch: step -> a pytree of arrays.
        steps: how many.
        learning_rate: at its highest.
        seed: of the keys.
        work: directory of checkpoints and of `name.jsonl`, one line every 50 steps.
        weight_decay: of AdamW.
        average: decay of the moving average, reached gradually.
        save_every: steps between checkpoints.
        decay_steps: where the cosine would end; by default at `steps`. A later end leaves the last part of
            the annealing to the moving average.
    """
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, min(200, steps // 10 + 1), decay_steps or steps
    )
    optimiser = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.99, weight_decay=weight_decay)
    )

    def update(
        state: dict[str, PyTree], item: PyTree, key: jax.Array
    ) -> tuple[dict[str, PyTree], dict[str, jax.Array]]:
        (value, figures), gradient = jax.value_and_grad(loss, has_aux=True)(state["parameters"], item, key)
        changes, moments = optimiser.update(gradient, state["optimiser"], state["parameters"])
        new = optax.apply_updates(state["parameters"], changes)
        decay = jnp.minimum(average, (1.0 + state["step"]) / (10.0 + state["step"]))
        mean = jax.tree.map(lambda m, p: decay * m + (1.0 - decay) * p, state["average"], new)
        state = {"parameters": new, "optimiser": moments, "average": mean, "step": state["step"] + 1}
        return state, {"loss": value, **figures}

    step_function = jax.jit(update, donate_argnums=0)
    state = {
        "parameters": parameters,
        "optimiser": optimiser.init(parameters),
        "average": jax.tree.map(jnp.copy, parameters),
        "step": jnp.zeros((), jnp.int32),
    }
    mesh = Mesh(np.asarray(jax.local_devices()), ("batch",))
    everywhere, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("batch",)))
    state = jax.device_put(state, everywhere)
    directory = (work / name).absolute()
    options = ocp.CheckpointManagerOptions(max_to_keep=2, save_interval_steps=save_every)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with (
        ocp.CheckpointManager(directory, options=options) as manager,
        Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console()) as progress,
        (work / f"{name}.jsonl").open("a") as log,
    ):
        start = manager.latest_step()
        if start is not None:
            state = manager.restore(start, args=ocp.args.StandardRestore(state))
        task = progress.add_task(name, total=steps, completed=start or 0)
        root = jax.random.key(seed)
        for k in range(start or 0, steps):
            item = jax.device_put(batch(k), split)
            state, figures = step_function(state, item, jax.random.fold_in(root, k))
            if (k + 1) % 50 == 0 or k + 1 == steps:
                shown = {key: float(value) for key, value in figures.items()}
                log.write(json.dumps({"step": k + 1, **shown}) + "\n")
                log.flush()
                text = ", ".join(f"{key} {value:.4g}" for key, value in shown.items())
                progress.update(task, description=f"{name}: {text}")
            progress.update(task, completed=k + 1)
            manager.save(k + 1, args=ocp.args.StandardSave(state), force=k + 1 == steps)
        manager.wait_until_finished()
    return state["average"]
