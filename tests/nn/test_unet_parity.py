"""UNet2DConditionModel against diffusers' on random configurations, through files in both directions."""

import numpy as np
import pytest

from fdiv_jax.checkpoints import load_component, save_component
from fdiv_jax.nn import TextConditioning, UNet2DConditionModel
from tests.nn.helpers import (
    TOLERANCE,
    array_image,
    assert_same_tensors,
    call,
    randomised,
    relative_error,
    torch_image,
)

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.interop

CROSS_DOWN, DOWN, CROSS_UP, UP = "CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"

# name -> (configuration, (h, w) of the latents)
CONFIGS = {
    "stable-diffusion-1-in-small": (
        {
            "block_out_channels": (8, 16, 24, 24),
            "layers_per_block": 2,
            "cross_attention_dim": 12,
            "attention_head_dim": 2,
            "norm_num_groups": 4,
        },
        (16, 16),
    ),
    "stable-diffusion-2-in-small": (
        {
            "block_out_channels": (8, 16, 32),
            "layers_per_block": 1,
            "cross_attention_dim": 20,
            "attention_head_dim": (1, 2, 4),
            "norm_num_groups": 8,
            "use_linear_projection": True,
            "upcast_attention": True,
            "down_block_types": (CROSS_DOWN, CROSS_DOWN, DOWN),
            "up_block_types": (UP, CROSS_UP, CROSS_UP),
        },
        (12, 8),
    ),
    "stable-diffusion-xl-in-small": (
        {
            "block_out_channels": (8, 16, 24),
            "layers_per_block": 2,
            "cross_attention_dim": 20,
            "attention_head_dim": (1, 2, 3),
            "transformer_layers_per_block": (1, 2, 3),
            "norm_num_groups": 4,
            "use_linear_projection": True,
            "down_block_types": (DOWN, CROSS_DOWN, CROSS_DOWN),
            "up_block_types": (CROSS_UP, CROSS_UP, UP),
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 6,
            "projection_class_embeddings_input_dim": 6 * 6 + 10,
        },
        (8, 12),
    ),
    "odd-sizes": (
        {
            "block_out_channels": (12, 18),
            "layers_per_block": 1,
            "cross_attention_dim": 7,
            "attention_head_dim": 3,
            "norm_num_groups": 6,
            "down_block_types": (DOWN, CROSS_DOWN),
            "up_block_types": (CROSS_UP, UP),
            "flip_sin_to_cos": False,
            "freq_shift": 1,
            "time_cond_proj_dim": 15,
        },
        (7, 9),
    ),
    "per-block-settings": (
        {
            "in_channels": 5,
            "out_channels": 3,
            "block_out_channels": (16, 8, 24),
            "layers_per_block": (1, 3, 2),
            "cross_attention_dim": (6, 6, 6),
            "attention_head_dim": (4, 2, 3),
            "transformer_layers_per_block": (1, 2, 2),
            "norm_num_groups": 2,
            "norm_eps": 1e-3,
            "act_fn": "gelu",
            "down_block_types": (CROSS_DOWN, DOWN, CROSS_DOWN),
            "up_block_types": (CROSS_UP, UP, CROSS_UP),
        },
        (11, 5),
    ),
    "one-block": (
        {
            "block_out_channels": (8,),
            "layers_per_block": 2,
            "cross_attention_dim": 4,
            "attention_head_dim": 8,
            "norm_num_groups": 1,
            "center_input_sample": True,
            "down_block_types": (CROSS_DOWN,),
            "up_block_types": (UP,),
        },
        (5, 6),
    ),
}


def build(name, directory):
    config, size = CONFIGS[name]
    model = randomised(diffusers.UNet2DConditionModel(**config, sample_size=size[0]), seed=len(name))
    model.save_pretrained(directory)
    return model, size


def inputs(model, size, seed=0):
    random = np.random.default_rng(seed)
    width = model.config.cross_attention_dim
    width = width if isinstance(width, int) else width[0]
    latents = random.standard_normal((2, *size, model.config.in_channels)).astype(np.float32)
    text = random.standard_normal((2, 5, width)).astype(np.float32)
    return latents, np.array([3, 987]), text


SLOW = ("one-block", "stable-diffusion-2-in-small", "stable-diffusion-xl-in-small", "per-block-settings")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CONFIGS]
)
def test_it_is_theirs(name, tmp_path):
    theirs, size = build(name, tmp_path / "theirs")
    loaded = load_component(tmp_path / "theirs", UNet2DConditionModel)
    latents, timesteps, text = inputs(theirs, size)
    given, added = text, None
    if loaded.model.config.pooled_dim:
        random = np.random.default_rng(1)
        pooled = random.standard_normal((2, loaded.model.config.pooled_dim)).astype(np.float32)
        sizes = random.integers(0, 1024, (2, 6)).astype(np.float32)
        given = TextConditioning(text, pooled, sizes)
        added = {"text_embeds": torch.tensor(pooled), "time_ids": torch.tensor(sizes)}
        with pytest.raises(TypeError, match="TextConditioning, got features alone"):
            loaded.model(latents, timesteps, text)
        with pytest.raises(TypeError, match="without time_ids"):
            loaded.model(latents, timesteps, TextConditioning(text, pooled))
    condition = None
    if width := loaded.model.config.time_cond_proj_dim:
        with pytest.raises(TypeError, match=r"takes guidance \(time_cond_proj_dim\), got none"):
            call(loaded.model.__call__, latents, timesteps, text)
        guidance = np.array([1.5, 8.5], np.float32)
        given = TextConditioning(text, guidance=guidance)
        embed = diffusers.LatentConsistencyModelPipeline.get_guidance_scale_embedding
        condition = embed(None, torch.tensor(guidance - 1), embedding_dim=width)
    ours = call(loaded.model.__call__, latents, timesteps, given)
    with torch.no_grad():
        expected = theirs(
            torch_image(latents),
            torch.tensor(timesteps),
            torch.tensor(text),
            added_cond_kwargs=added,
            timestep_cond=condition,
        ).sample
    assert relative_error(ours, array_image(expected)) <= TOLERANCE

    save_component(tmp_path / "ours", loaded.model, stored_dtypes=loaded.stored_dtypes)
    again, report = diffusers.UNet2DConditionModel.from_pretrained(
        tmp_path / "ours", output_loading_info=True, low_cpu_mem_usage=False
    )
    assert not any(report.values()), report
    assert_same_tensors(again.state_dict(), theirs.state_dict())
    for key in CONFIGS[name][0]:
        ours, expected = again.config[key], theirs.config[key]
        assert (tuple(ours) if isinstance(ours, list) else ours) == (
            tuple(expected) if isinstance(expected, list) else expected
        ), key
