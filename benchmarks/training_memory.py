"""The memory of a training step: model, image size, batch, precision, rematerialisation.

    python -m benchmarks.training_memory                                         # by the compiler for a CPU
    python -m benchmarks.training_memory --topology v5e:1x1 --dtypes bfloat16    # by that for a TPU

Each step is compiled for one device from the published configurations, without weights, and the compiler says
what it takes: weights, optimiser and batch as arguments, and temporaries. Trained are the keys and values of
the cross-attention, by Adam. Rows are kept in benchmarks/results/training_memory.json; what is there is not
compiled again. The table is printed as markdown.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import get_args

os.environ["XLA_FLAGS"] = (  # read when JAX starts: without it a CPU keeps what should be computed again
    f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_enable_concurrency_optimized_scheduler=false"
)

import jax
import tyro

import fdiv_jax as fj
from benchmarks.published import write_directory
from fdiv_jax.compiling import jit
from fdiv_jax.distributed.chips import topology_of
from fdiv_jax.distributed.programs import compiled_figures
from fdiv_jax.files import JsonObject
from fdiv_jax.nn import Remat
from fdiv_jax.nn.memory import shapes_of
from fdiv_jax.unlearning import UnlearningConfig, make_step
from fdiv_jax.unlearning.foresight import Foresight
from fdiv_jax.unlearning.memory import abstract_batch, abstract_state
from fdiv_jax.unlearning.prepare import prepare

KEY = ("compiler", "model", "pixels", "batch", "dtype", "remat")


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """The grid."""

    models: tuple[str, ...] = ("stable-diffusion-1-4",)
    pixels: tuple[int, ...] = (256, 512)
    batches: tuple[int, ...] = (1, 8)
    dtypes: tuple[str, ...] = ("float32",)
    """Of weights and computation; the optimiser is float32."""
    remats: tuple[Remat, ...] = get_args(Remat)
    topology: str = "cpu"
    """cpu, or one TPU chip, such as v5e:1x1."""
    json: Path = Path("benchmarks/results/training_memory.json")


def pipeline(model: str, pixels: int, dtype: str) -> fj.TextToImagePipeline:
    """A published model with images of this size, without weights."""
    with tempfile.TemporaryDirectory() as place:
        directory = write_directory(model, Path(place), pixels)
        return fj.load_pipeline(directory, weights=False, dtype=dtype, param_dtype=dtype)


def figures(topology: str, model: str, pixels: int, batch: int, dtype: str, remat: Remat) -> JsonObject:
    """What the compiler says of a step, in bytes."""
    config = UnlearningConfig(target="Van Gogh", batch_size=batch, remat=remat)
    pipe = pipeline(model, pixels, dtype)
    if topology != "cpu":
        cost = Foresight(pipe, config, topology_of(topology)).cost(batch)
        found = {"arguments": cost.arguments, "temporaries": cost.temporaries, "memory": cost.memory}
        return {**found, "fits": cost.fits}
    prepared = prepare(pipe, config, model="only its shapes matter")
    key = jax.eval_shape(lambda: jax.random.key(0))
    rows = abstract_batch(prepared, batch)
    given = (abstract_state(prepared, key), shapes_of(prepared.frozen), rows, rows.latents, key)
    program = compiled_figures(jit(make_step(prepared.plan), donate_argnums=0).lower(*given))
    return {
        "arguments": program.arguments,
        "temporaries": program.temporaries,
        "memory": program.memory,
        "fits": True,
    }


def markdown(rows: list[JsonObject]) -> str:
    """A line for each step without rematerialisation, which the others stand beside."""
    remats = get_args(Remat)
    lines = [f"| compiler | model | pixels | batch | dtype | arguments | {' | '.join(remats)} |"]
    lines += ["|---" * (6 + len(remats)) + "|"]
    for cell, group in itertools.groupby(rows, lambda row: [row[name] for name in KEY[:-1]]):
        found = {row["remat"]: row for row in group}
        first = next(iter(found.values()))
        shown = [_shown(found.get(remat)) for remat in remats]
        lines.append(
            f"| {' | '.join(map(str, cell))} | {first['arguments'] / 1e9:.2f} | {' | '.join(shown)} |"
        )
    return "\n".join(lines)


def _shown(row: JsonObject | None) -> str:
    if row is None:
        return ""
    return f"{row['temporaries'] / 1e9:.2f}" if row["fits"] else f"no room for {row['memory'] / 1e9:.1f}"


def main(settings: BenchmarkConfig) -> None:
    """Compile what is not there yet, keep each row, print the table."""
    rows: list[JsonObject] = json.loads(settings.json.read_text()) if settings.json.exists() else []
    known = {tuple(row[name] for name in KEY) for row in rows}
    grid = (settings.models, settings.pixels, settings.batches, settings.dtypes, settings.remats)
    for cell in itertools.product(*grid):
        if (settings.topology, *cell) in known:
            continue
        started = time.process_time()
        row = dict(zip(KEY, (settings.topology, *cell), strict=True)) | figures(settings.topology, *cell)
        row |= {"jax": jax.__version__, "compile_cpu_s": round(time.process_time() - started, 1)}
        print(row, file=sys.stderr, flush=True)
        rows.append(row)
        rows.sort(key=lambda row: [row[name] for name in KEY[:-1]] + [get_args(Remat).index(row["remat"])])
        settings.json.parent.mkdir(parents=True, exist_ok=True)
        settings.json.write_text(json.dumps(rows, indent=1) + "\n")
        jax.clear_caches()
    print(markdown(rows))


if __name__ == "__main__":
    main(tyro.cli(BenchmarkConfig))
