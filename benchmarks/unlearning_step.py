"""One unlearning step of this library beside the same step in PyTorch, on the world `fashion`.

    python -m benchmarks.unlearning_step [--batch-size 16] [--rounds 15]

Both take the frozen UNet's prediction at the anchor prompt, the trained UNet's at the target prompt, the
divergence of the two, the gradient with respect to attn2.to_k and attn2.to_v, and a step of AdamW, all in
float32. PyTorch (diffusers' UNet, eager, as the authors' code runs it) is measured in turn with each loss of
ours, round by round, so that other load on the machine falls on all of them; the ratio is the median over
rounds of PyTorch's time over ours. The losses that PyTorch would need a critic for have an exact form here.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import fdiv_jax as fj
from fdiv_jax.unlearning import (
    Batch,
    UnlearningConfig,
    initial_state,
    make_reference,
    make_step,
    prepare,
)

LOSSES = (
    ("closed", "kl"),
    ("closed", "squared_hellinger"),
    ("exact", "jensen_shannon"),
    ("variational", "jensen_shannon"),
)


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """What the benchmark is told."""

    batch_size: int = 16
    rounds: int = 15
    output: Path = Path("benchmarks/results/unlearning_step.json")


def ours(
    pipe: fj.TextToImagePipeline, data: dict[str, np.ndarray], loss: str, name: str
) -> Callable[[], None]:
    """A function that makes one compiled step and waits for it."""
    config = UnlearningConfig(target="sneaker", divergence=name, loss=loss)  # pyright: ignore[reportArgumentType]
    prepared = prepare(pipe, config)
    plan, frozen = prepared.plan, prepared.frozen
    look, step = jax.jit(make_reference(plan)), jax.jit(make_step(plan), donate_argnums=0)
    n = len(data["latents"])
    batch = Batch(
        *(jnp.asarray(data[key]) for key in ("latents", "target", "anchor")),
        jnp.ones((n, *data["latents"].shape[1:3])),
        jnp.arange(n, dtype=jnp.int32),
    )
    key = jax.random.key(0)
    state: Any = initial_state(plan, frozen, config.learning_rate, key)

    def run() -> None:
        nonlocal state
        state, metrics = step(state, frozen, batch, look(frozen, batch, key), key)
        jax.block_until_ready((state, metrics))

    return run


def theirs(directory: str, pipe: fj.TextToImagePipeline, data: dict[str, np.ndarray]) -> Callable[[], None]:
    """The same step in PyTorch, with closed-form squared Hellinger."""
    import torch
    from diffusers import UNet2DConditionModel

    torch.set_num_threads(os.cpu_count() or 1)
    frozen = UNet2DConditionModel.from_pretrained(directory).eval().requires_grad_(False)
    model = UNet2DConditionModel.from_pretrained(directory).requires_grad_(False)
    trained = [p for name, p in model.named_parameters() if "attn2.to_k" in name or "attn2.to_v" in name]
    for parameter in trained:
        parameter.requires_grad_(True)
    optimiser = torch.optim.AdamW(trained, lr=1e-5)
    latents = torch.tensor(data["latents"].transpose(0, 3, 1, 2).copy())
    target, anchor = torch.tensor(data["target"]), torch.tensor(data["anchor"])
    alphas = torch.tensor(np.cumprod(1 - np.asarray(pipe.schedule.betas)), dtype=torch.float32)

    def run() -> None:
        t = torch.randint(0, len(alphas), (len(latents),))
        noise = torch.randn_like(latents)
        a = alphas[t][:, None, None, None]
        x = a.sqrt() * latents + (1 - a).sqrt() * noise
        with torch.no_grad():
            reference = frozen(x, t, anchor).sample
        prediction = model(x, t, target).sample
        m = ((prediction - reference) ** 2).sum(1).mean((1, 2))
        (2 * (1 - torch.exp(-m / 8))).mean().backward()
        optimiser.step()
        optimiser.zero_grad()

    return run


def main(config: BenchmarkConfig) -> None:
    """Measure, print a line a loss, write the result."""
    pipe = fj.load_pipeline("fashion")
    rng = np.random.default_rng(0)
    n = config.batch_size
    data = {
        "latents": rng.standard_normal((n, *pipe.latent_shape)).astype(np.float32),
        "target": np.asarray(pipe.encode_prompts(["a sneaker, photo style"] * n)),
        "anchor": np.asarray(pipe.encode_prompts(["a shoe, photo style"] * n)),
    }
    from fdiv_jax.assets import asset_directory

    runs = {"pytorch": theirs(str(asset_directory("fashion") / "unet"), pipe, data)}
    runs |= {f"{loss} {name}": ours(pipe, data, loss, name) for loss, name in LOSSES}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
        run()
    for _ in range(config.rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    reference = np.asarray(times["pytorch"])
    result: dict[str, Any] = {"batch_size": n, "rounds": config.rounds, "cores": os.cpu_count(), "steps": {}}
    for name, seconds in times.items():
        ratio = float(np.median(reference / np.asarray(seconds)))
        result["steps"][name] = {"seconds": float(np.median(seconds)), "speed_over_pytorch": ratio}
        print(f"{name:32s} {np.median(seconds) * 1e3:8.1f} ms   {ratio:5.2f} x PyTorch")
    config.output.parent.mkdir(parents=True, exist_ok=True)
    config.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(BenchmarkConfig))
