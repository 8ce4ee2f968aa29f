"""Convolutions on this device: XLA's way beside products of matrices.

    python -m benchmarks.convolutions [--rounds 7]

For each shape the programs run in turn, round by round; one that takes seconds runs less often. "xla" is
`jax.lax.conv_general_dilated` as JAX's defaults compile it, "options" the same with
`fdiv_jax.compiling.compiler_options`, "branch" that within `jax.lax.cond`, as a training step with a critic
has it; "columns" one product of the neighbours of each pixel and the kernel, and "ours, branch" what
`fdiv_jax.nn.convolution` makes of it there. "image" and "kernel" are the derivatives for the one and the
other. Which shapes take columns follows from these figures.
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

from fdiv_jax.compiling import compiler_options
from fdiv_jax.files import JsonObject
from fdiv_jax.nn.convolution import by_columns, conv_general_dilated, in_loop

Function = Callable[[jax.Array, jax.Array], jax.Array]

# samples, side of the map, inputs, outputs; side of the kernel and stride where they are not 3 and 1
SHAPES: list[tuple[int, ...]] = [
    *((1, 8, inputs, 1280) for inputs in (1280, 2560)),
    *((1, 16, inputs, outputs) for inputs, outputs in ((640, 640), (1280, 1280), (1920, 640))),
    *((1, 32, inputs, outputs) for inputs, outputs in ((320, 320), (640, 640), (960, 320))),
    (1, 64, 320, 320),
    *((4, side, width, width) for side, width in ((8, 1280), (16, 640), (32, 320))),
    *((16, side, width, width) for side, width in ((4, 192), (8, 128), (16, 64))),
    *((16, side, width, width) for side, width in ((4, 96), (8, 64))),
    *((samples, side, 128, 128) for samples in (1, 16) for side in (1, 2, 3, 4)),
    *((samples, side, 1280, 1280) for samples in (1, 4) for side in (2, 3, 4)),
    *((1, side, width, width, 3, 2) for side, width in ((64, 320), (32, 640), (16, 1280))),
    *((16, side, 64, 64, 3, 2) for side in (8, 16)),
    *(
        (16, side, inputs, outputs, 4, 2)
        for side, inputs, outputs in ((8, 5, 64), (4, 64, 128), (2, 128, 256))
    ),
    *((4, *shape, 4, 2) for shape in ((64, 5, 64), (32, 64, 128))),
]
_LONG = 3.0
"""Seconds after which a program is not run again."""


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Settings of the benchmark."""

    rounds: int = 7
    json: Path = Path("benchmarks/results/convolutions.json")


def measure(
    rounds: int, samples: int, side: int, inputs: int, outputs: int, size: int = 3, stride: int = 1
) -> JsonObject:
    """Milliseconds of the convolution and of its derivatives, medians over rounds."""
    rng = np.random.default_rng(0)

    def array(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    strides, padding, axes = (stride, stride), ((1, 1), (1, 1)), ("NHWC", "HWIO", "NHWC")

    def xla(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=axes)

    def columns(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return by_columns(x, kernel, padding, strides)

    def ours(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return conv_general_dilated(x, kernel, strides, padding, dimension_numbers=axes)

    def image(function: Function) -> Callable[..., jax.Array]:
        return lambda x, kernel, of, _: jax.vjp(lambda x: function(x, kernel), x)[1](of)[0]

    def kernel(function: Function) -> Callable[..., jax.Array]:
        return lambda x, kernel, of, _: jax.vjp(lambda k: function(x, k), kernel)[1](of)[0]

    def branch(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        def nothing(*arguments: jax.Array) -> jax.Array:
            return jnp.zeros_like(jax.eval_shape(function, *arguments))

        @in_loop()
        def either(*arguments: jax.Array) -> jax.Array:
            return jax.lax.cond(arguments[-1], function, nothing, *arguments)

        return either

    options = compiler_options(jax.default_backend())
    programs: dict[str, tuple[Callable[..., jax.Array], Any]] = {
        "forward, xla": (lambda x, kernel, *_: xla(x, kernel), None),
        "forward, options": (lambda x, kernel, *_: xla(x, kernel), options),
        "forward, columns": (lambda x, kernel, *_: columns(x, kernel), options),
    }
    for name, derivative in {"image": image, "kernel": kernel}.items():
        programs[f"{name}, xla"] = (derivative(xla), None)
        programs[f"{name}, options"] = (derivative(xla), options)
        programs[f"{name}, branch"] = (branch(derivative(xla)), options)
        programs[f"{name}, columns"] = (derivative(columns), options)
        programs[f"{name}, ours, branch"] = (branch(derivative(ours)), options)
    x, weights = array(samples, side, side, inputs), array(size, size, inputs, outputs)
    arguments = (x, weights, array(*jax.eval_shape(xla, x, weights).shape), jnp.asarray(True))
    compiled = {
        name: jax.jit(function).lower(*arguments).compile(compiler_options=chosen)
        for name, (function, chosen) in programs.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in compiled}
    for program in compiled.values():
        jax.block_until_ready(program(*arguments))
    for _ in range(rounds):
        for name, program in compiled.items():
            if sum(seconds[name]) < _LONG:
                start = time.perf_counter()
                jax.block_until_ready(program(*arguments))
                seconds[name].append(time.perf_counter() - start)
    figures = {name: 1e3 * float(np.median(times)) for name, times in seconds.items()}
    shape = {"samples": samples, "side": side, "inputs": inputs, "outputs": outputs}
    return {**shape, "kernel": size, "stride": stride, "milliseconds": figures}


def main(config: BenchmarkConfig) -> None:
    """Measure all shapes, print a line for each, write the result."""
    rows = []
    for shape in SHAPES:
        row = measure(config.rounds, *shape)
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
