"""What is measured: networks by their published configurations, batches, and the inputs both sides read."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fdiv_jax.files import JsonObject

TOKENS = 77
_SD = {
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
}
_SD14 = {**_SD, "sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
_SD21 = {
    **_SD,
    "sample_size": 64,
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}
_SDXL = {
    "sample_size": 128,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [320, 640, 1280],
    "layers_per_block": 2,
    "cross_attention_dim": 2048,
    "attention_head_dim": [5, 10, 20],
    "transformer_layers_per_block": [1, 2, 10],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
_MEDIUM = {
    "sample_size": 16,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "block_out_channels": [64, 128, 192],
    "layers_per_block": 1,
    "cross_attention_dim": 128,
    "attention_head_dim": 8,
}


@dataclass(frozen=True)
class Case:
    """A network and a batch.

    Attributes:
        config: of the UNet, in the words of its config.json; None: that of the world `fashion`.
        side: of the latents.
        batch: samples in a step.
        steps: timed in one process, after warming up.
    """

    side: int
    batch: int
    steps: int
    config: JsonObject | None = field(default=None, hash=False)


CASES = {
    "fashion": Case(8, 16, 20),
    "medium": Case(16, 16, 8, _MEDIUM),
    "sd14-32": Case(32, 1, 3, _SD14),
    "sd14-64": Case(64, 8, 20, _SD14),
    "sd21-64": Case(64, 8, 20, _SD21),
    "sdxl-128": Case(128, 2, 10, _SDXL),
}
ON_A_CPU = ("fashion", "medium", "sd14-32")
ON_A_GPU = ("sd14-64", "sd21-64", "sdxl-128")


def network_directory(name: str, place: Path) -> Path:
    """A diffusers directory of the case's UNet; its weights are random from seed 0, and written once."""
    case = CASES[name]
    if case.config is None:
        from fdiv_jax.assets import asset_directory

        return asset_directory("fashion") / "unet"
    directory = place / name
    if not (directory / "config.json").is_file():
        import torch
        from diffusers import UNet2DConditionModel

        torch.manual_seed(0)
        UNet2DConditionModel(**case.config).save_pretrained(str(directory))
    return directory


def inputs(name: str, directory: Path) -> dict[str, np.ndarray]:
    """Latents n h w c, text features n l d, and XL's pooled text and sizes, from seed 0."""
    case = CASES[name]
    config = json.loads((directory / "config.json").read_text())
    rng, n = np.random.default_rng(0), case.batch

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    found = {
        "latents": normal(n, case.side, case.side, config["in_channels"]),
        "target": normal(n, TOKENS, config["cross_attention_dim"]),
        "anchor": normal(n, TOKENS, config["cross_attention_dim"]),
    }
    if config.get("addition_embed_type"):
        pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
        found["pooled"] = normal(n, pooled)
        found["sizes"] = np.full((n, 6), 8.0 * case.side, np.float32)
    return found
