"""Convolutions on this device: XLA's way beside products of matrices.

    python -m benchmarks.convolutions [--rounds 7]

For each shape the programs run in turn, round by round. "xla" is `jax.lax.conv_general_dilated` as JAX's
defaults compile it, "options" the same with `fdiv_jax.compiling.compiler_options`, and "columns" one
product of the neighbours of each pixel and the kernel, or the derivative of that for the image. Which shapes
take the last, in `fdiv_jax/nn/convolution.py`, follows from these figures.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from fdiv_jax.compiling import compiler_options
from fdiv_jax.files import JsonObject
from fdiv_jax.nn.convolution import by_columns

# samples, side of the map, inputs, outputs
SHAPES = [
    *((1, 8, inputs, 1280) for inputs in (1280, 2560)),
    *((1, 16, inputs, outputs) for inputs, outputs in ((640, 640), (1280, 1280), (1920, 640))),
    *((1, 32, inputs, outputs) for inputs, outputs in ((320, 320), (640, 640), (960, 320))),
    (1, 64, 320, 320),
    *((4, side, width, width) for side, width in ((8, 1280), (16, 640), (32, 320))),
    *((16, side, width, width) for side, width in ((4, 192), (8, 128), (16, 64))),
    *((16, side, width, width) for side, width in ((4, 96), (8, 64))),
    *((samples, side, 128, 128) for samples in (1, 16) for side in (1, 2, 3, 4)),
    *((samples, side, 1280, 1280) for samples in (1, 4) for side in (2, 3, 4)),
]


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Settings of the benchmark."""

    rounds: int = 7
    json: Path = Path("benchmarks/results/convolutions.json")


def measure(samples: int, side: int, inputs: int, outputs: int, rounds: int) -> JsonObject:
    """Milliseconds of the convolution and of its derivatives for the image, medians over rounds."""
    rng = np.random.default_rng(0)

    def array(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    x, kernel = array(samples, side, side, inputs), array(3, 3, inputs, outputs)
    cotangent = array(samples, side, side, outputs)
    padding = ((1, 1), (1, 1))

    def forward(x: jax.Array, kernel: jax.Array, _: jax.Array) -> jax.Array:
        axes = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=axes)

    def columns(x: jax.Array, kernel: jax.Array, _: jax.Array) -> jax.Array:
        return by_columns(x, kernel, padding)

    def transposed(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        return lambda x, kernel, of: jax.vjp(lambda x: function(x, kernel, of), x)[1](of)[0]

    options = compiler_options(jax.default_backend())
    programs = {
        "forward, xla": (forward, None),
        "forward, options": (forward, options),
        "forward, columns": (columns, options),
        "derivative, xla": (transposed(forward), None),
        "derivative, options": (transposed(forward), options),
        "derivative, columns": (transposed(columns), options),
    }
    arguments = (x, kernel, cotangent)
    compiled = {
        name: jax.jit(function).lower(*arguments).compile(compiler_options=chosen)
        for name, (function, chosen) in programs.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in compiled}
    for program in compiled.values():
        jax.block_until_ready(program(*arguments))
    for _ in range(rounds):
        for name, program in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(program(*arguments))
            seconds[name].append(time.perf_counter() - start)
    figures = {name: 1e3 * float(np.median(times)) for name, times in seconds.items()}
    return {"samples": samples, "side": side, "inputs": inputs, "outputs": outputs, "milliseconds": figures}


def main(config: BenchmarkConfig) -> None:
    """Measure all shapes, print a line for each, write the result."""
    rows = []
    for shape in SHAPES:
        row = measure(*shape, config.rounds)
        rows.append(row)
        print(
            shape, "  ".join(f"{name} {value:.1f}" for name, value in row["milliseconds"].items()), flush=True
        )
    device = jax.devices()[0].device_kind
    result = {"device": device, "cores": os.cpu_count(), "jax": jax.__version__, "rows": rows}
    config.json.parent.mkdir(parents=True, exist_ok=True)
    config.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(BenchmarkConfig))
