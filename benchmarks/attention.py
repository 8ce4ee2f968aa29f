"""The implementations of attention side by side, at the shapes of Stable Diffusion.

    python -m benchmarks.attention [--rounds 5] [--dtypes bfloat16] [--blocks 128]

For each shape, dtype and pass (forward, or forward and backward) all implementations run in turn, round by
round, so that other load on the machine falls on all of them; "speed" is the median over rounds of the plain
one's time over theirs, "memory" what the compiled program needs beside its inputs and outputs. What "auto" is
follows from these figures, for the backend they were measured on: `LONG` and `BLOCK` in
`fdiv_jax/nn/attention.py`. "library" is the fused kernel where the device has one.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from fdiv_jax.arrays import PyTree
from fdiv_jax.files import JsonObject
from fdiv_jax.nn import dot_product_attention

BATCH = 2
"""An image and its unconditional twin."""
# what it is: queries, keys, heads, width of a head
SHAPES = {
    "SD 1, 64 x 64": (4096, 4096, 8, 40),
    "SD 1, 32 x 32": (1024, 1024, 8, 80),
    "SD 2, 24 x 24": (576, 576, 20, 64),
    "SD 1, 16 x 16": (256, 256, 8, 160),
    "SD 1, 8 x 8": (64, 64, 8, 160),
    "SD 1, 64 x 64 to text": (4096, 77, 8, 40),
    "SD 1, 32 x 32 to text": (1024, 77, 8, 80),
    "SDXL, 32 x 32 to text": (1024, 77, 20, 64),
    "VAE, 64 x 64": (4096, 4096, 1, 512),
}


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Settings of the benchmark."""

    rounds: int = 5
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    blocks: tuple[int, ...] = (64, 128, 256, 512)
    """Keys of a block."""
    output: Path = Path("benchmarks/results/attention.json")


def measure(
    shape: tuple[int, int, int, int], dtype: str, derivative: bool, config: BenchmarkConfig
) -> JsonObject:
    """Seconds, speed over plain and temporary memory of every implementation."""
    queries, keys, heads, width = shape
    rng = np.random.default_rng(0)
    inputs = [
        jnp.asarray(rng.standard_normal((BATCH, length, heads, width)), dtype)
        for length in (queries, keys, keys)
    ]
    runs: dict[str, Callable[..., PyTree]] = {}
    memory = {}
    variants = {"plain": {"implementation": "plain"}, "library": {"implementation": "library"}}
    for block in sorted({min(block, keys) for block in config.blocks}):
        variants[f"blocked, {block}"] = {"implementation": "blocked", "block": block}
    for name, options in variants.items():
        function = functools.partial(dot_product_attention, **options)  # pyright: ignore[reportArgumentType]
        if derivative:
            function = jax.value_and_grad(
                lambda *x, f=function: jnp.square(f(*x).astype(jnp.float32)).sum(), argnums=(0, 1, 2)
            )
        runs[name] = jax.jit(function).lower(*inputs).compile()
        memory[name] = runs[name].memory_analysis().temp_size_in_bytes  # pyright: ignore
        jax.block_until_ready(runs[name](*inputs))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(config.rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run(*inputs))
            times[name].append(time.perf_counter() - start)
    plain = np.asarray(times["plain"])
    return {
        name: {
            "seconds": float(np.median(seconds)),
            "speed_over_plain": float(np.median(plain / np.asarray(seconds))),
            "temporary_bytes": memory[name],
        }
        for name, seconds in times.items()
    }


def main(config: BenchmarkConfig) -> None:
    """Measure, print one line per implementation, write the result."""
    cases: list[JsonObject] = []
    config.output.parent.mkdir(parents=True, exist_ok=True)
    device = {"backend": jax.default_backend(), "jax": jax.__version__, "cores": os.cpu_count()}
    result = {**device, "batch": BATCH, "rounds": config.rounds, "cases": cases}
    for (what, shape), dtype, derivative in itertools.product(SHAPES.items(), config.dtypes, (False, True)):
        found = measure(shape, dtype, derivative, config)
        label = "forward and backward" if derivative else "forward"
        cases.append({"what": what, "shape": shape, "dtype": dtype, "pass": label, "runs": found})
        print(f"{what}: {' x '.join(map(str, shape))}, {dtype}, {label}")
        for name, run in found.items():
            print(
                f"    {name:14s} {run['seconds'] * 1e3:9.1f} ms  {run['speed_over_plain']:5.2f} x plain"
                f"  {run['temporary_bytes'] / 2**20:8.1f} MB",
                flush=True,
            )
        config.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(BenchmarkConfig))
