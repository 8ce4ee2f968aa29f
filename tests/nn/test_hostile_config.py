"""Silly and hostile configurations: one line that says why, in bounded time, whatever a count is."""

import dataclasses
import json
import resource
import time
import typing

import numpy as np
import pytest

from fdiv_jax.checkpoints.files import errors_from
from fdiv_jax.diffusion import NoiseSchedule
from fdiv_jax.files import read_json
from fdiv_jax.nn import (
    AutoencoderKL,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    UNet2DConditionModel,
    UNetConfig,
    VAEConfig,
)
from fdiv_jax.nn.shapes import abstract_network
from tests.tiny import SCHEDULER

TINY = {
    UNetConfig: {
        "sample_size": 8,
        "block_out_channels": [4, 8],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "layers_per_block": 1,
        "norm_num_groups": 2,
        "cross_attention_dim": 8,
        "attention_head_dim": 2,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 2,
        "projection_class_embeddings_input_dim": 20,
    },
    VAEConfig: {"block_out_channels": [4], "norm_num_groups": 2},
    CLIPTextConfig: {
        "hidden_size": 4,
        "intermediate_size": 8,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "vocab_size": 9,
        "max_position_embeddings": 8,
        "projection_dim": 4,
        "pad_token_id": 1,
        "bos_token_id": 1,
        "eos_token_id": 1,
    },
    CLIPVisionConfig: {"hidden_size": 4, "num_attention_heads": 2, "num_hidden_layers": 1},
}
NETWORKS = {UNetConfig: UNet2DConditionModel, VAEConfig: AutoencoderKL, CLIPTextConfig: CLIPTextModel}
HUGE = [10**9, 10**12, 10**30, 10**400, 2**31, 1e308, [10**9], [[10**9]], [10**9, 10**9]]
SILLY = [
    0,
    -1,
    0.5,
    -2.5,
    "8",
    "",
    None,
    True,
    [],
    [[]],
    {},
    {"a": 1},
    [0],
    [None, 1],
    [1] * 1000,
    "x" * 900_000,
]


def counts(kind):
    """Fields that hold numbers."""
    hints = typing.get_type_hints(kind)
    return [
        field.name
        for field in dataclasses.fields(kind)
        if any(one in str(hints[field.name]) for one in ("int", "float"))
    ]


def complaint(work):
    """What it says, one line; None when it accepts. Nothing else leaves, and soon."""
    started = time.process_time()
    try:
        work()
        text = None
    except (ValueError, NotImplementedError) as error:
        text = str(error)
        assert "\n" not in text
        assert len(text) < 1000
    assert time.process_time() - started < 20
    return text


@pytest.mark.parametrize(
    ("kind", "name"), [pytest.param(k, n, id=f"{k.__name__}-{n}") for k in TINY for n in counts(k)]
)
def test_every_count_with_huge_and_silly_values(kind, name, tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for value in HUGE + SILLY:
        path = tmp_path / "config.json"
        path.write_text(json.dumps({**TINY[kind], name: value}))

        def read(path=path):
            with errors_from(path):
                config = read_json(path)
                kind.from_dict(config)
                if kind in NETWORKS:
                    abstract_network(NETWORKS[kind], config)

        text = complaint(read)
        if text is None:
            assert value not in HUGE or value is None or isinstance(value, float), f"{name}={value!r}"
        else:
            assert str(path) in text
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 1_000_000  # kB


def test_counts_that_are_each_in_range_and_together_are_not():
    deep = {
        **TINY[UNetConfig],
        "block_out_channels": [8] * 16,
        "down_block_types": ["CrossAttnDownBlock2D"] * 16,
        "up_block_types": ["CrossAttnUpBlock2D"] * 16,
        "layers_per_block": 64,
        "transformer_layers_per_block": 64,
    }
    assert "network of" in complaint(lambda: UNetConfig.from_dict(deep))
    assert "block_out_channels" in complaint(
        lambda: VAEConfig.from_dict(
            {
                "block_out_channels": [8] * 60,
                "down_block_types": ["DownEncoderBlock2D"] * 60,
                "up_block_types": ["UpDecoderBlock2D"] * 60,
            }
        )
    )


def test_the_largest_counts_build_abstractly():
    """Shapes of 10^12 numbers are shapes: nothing is allocated, nothing overflows."""
    large = {**TINY[UNetConfig], "block_out_channels": [1 << 16, 1 << 16], "norm_num_groups": 32}
    network = abstract_network(UNet2DConditionModel, large)
    assert network.conv_in.kernel.shape == (3, 3, 4, 1 << 16)
    assert network.down_blocks[0].resnets[0].conv1.kernel.size == 9 * 2**32


NUMBERS = ("beta_start", "beta_end", "clip_sample_range", "sigma_min", "lambda_min_clipped")


@pytest.mark.parametrize(
    "name",
    [
        "num_train_timesteps",
        "beta_start",
        "beta_end",
        "trained_betas",
        "steps_offset",
        "clip_sample_range",
        "sigma_min",
        "lambda_min_clipped",
        "prediction_type",
        "timestep_spacing",
        "beta_schedule",
        "_class_name",
        "variance_type",
    ],
)
def test_schedules(name, tmp_path):
    for value in [*HUGE, *SILLY, float("inf"), float("nan")]:
        path = tmp_path / "scheduler_config.json"
        path.write_text(json.dumps({**SCHEDULER, "clip_sample": True, name: value}))

        def read(path=path):
            with errors_from(path), np.errstate(all="ignore"):
                NoiseSchedule.from_config(read_json(path, finite=False))

        text = complaint(read)
        if name == "num_train_timesteps" or (name in NUMBERS and value != value):
            assert text is not None


@pytest.mark.parametrize(
    "name", ["size", "crop_size", "resample", "rescale_factor", "image_mean", "image_std"]
)
def test_image_processors(name):
    for value in [
        *HUGE,
        *SILLY,
        {"height": 10**9, "width": 1},
        {"shortest_edge": 10**12},
        {"height": "a", "width": []},
    ]:
        complaint(lambda value=value: CLIPImageProcessor.from_dict({name: value}))
    assert complaint(lambda: CLIPImageProcessor.from_dict({"size": 10**9}))
