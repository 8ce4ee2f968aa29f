"""What a LoRA of each rank keeps of an unlearning run on the world `fashion`.

    python -m benchmarks.lora_rank RUN [--ranks 1 4 16] [--images 4]

RUN is a run directory of `fdiv-jax unlearn fashion`. For each rank: the share of the change that is left out
(in the Frobenius norm), the size of the file in float16, and what the judge sees in images of the model with
that LoRA: the target item where it was prompted, and the mean accuracy on the others. The first row is the
model before, the last one the model after.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path

import tyro

import fdiv_jax as fj
from fdiv_jax.checkpoints import load_lora, save_lora
from fdiv_jax.cli.export import extract
from fdiv_jax.nn.lora import merge_lora
from fdiv_jax.unlearning import Network
from fdiv_jax.worlds import load_judge, score_world


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Settings of the benchmark."""

    run: tyro.conf.Positional[Path]
    ranks: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    images: int = 4
    """Images for each of the 50 prompts."""


def main(config: BenchmarkConfig) -> None:
    """Print one row per rank."""
    target = json.loads((config.run / "config.json").read_text())["config"]["target"]
    base, tuned, judge = fj.load_pipeline("fashion"), fj.load_pipeline(config.run / "pipeline"), load_judge()

    def row(label: str, pipe: fj.TextToImagePipeline, left: str = "", size: str = "") -> None:
        scores = score_world(pipe, judge, images_per_prompt=config.images)
        seen, others = scores.rate(target, target), scores.item_accuracy(leave_out=[target])
        print(f"{label:>8} {left:>10} {size:>8} {seen:>14.3f} {others:>14.3f}", flush=True)

    print(f"{'rank':>8} {'left out':>10} {'kB':>8} {target:>14} {'others':>14}")
    row("before", base)
    network, frozen = Network(base.unet), Network.parameters(base.unet)
    for rank in config.ranks:
        found = extract(tuned, base, rank)["unet"]
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "lora.safetensors")
            save_lora(
                path, {"unet": found.lora}, layout="kohya", unet_config=base.unet.config, dtype="float16"
            )
            size, lora = path.stat().st_size, load_lora(path, base.components)["unet"]
        merged = base.replace(unet=network.module(merge_lora(frozen, lora)))
        row(str(rank), merged, f"{100 * found.error:.2g} %", f"{size / 1e3:.0f}")
    row("after", tuned)


if __name__ == "__main__":
    main(tyro.cli(BenchmarkConfig))
