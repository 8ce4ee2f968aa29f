"""What a configuration asks for and is not built here is refused by its name; what changes nothing passes."""

import pytest

from fdiv_jax.nn import CLIPTextConfig, UNetConfig, VAEConfig

# What diffusers and transformers build from these keys is another network.
OTHERS = {
    UNetConfig: {
        "mid_block_type": [None, "UNetMidBlock2D", "UNetMidBlock2DSimpleCrossAttn"],
        "only_cross_attention": [True, [True, False, False, False]],
        "dual_cross_attention": [True],
        "resnet_time_scale_shift": ["scale_shift"],
        "class_embed_type": ["timestep", "projection"],
        "num_class_embeds": [1000],
        "class_embeddings_concat": [True],
        "time_embedding_type": ["fourier"],
        "time_embedding_dim": [320],
        "time_embedding_act_fn": ["gelu"],
        "timestep_post_act": ["silu"],
        "time_cond_proj_dim": [256],
        "conv_in_kernel": [1],
        "conv_out_kernel": [5],
        "encoder_hid_dim": [768],
        "encoder_hid_dim_type": ["image_proj"],
        "addition_embed_type": ["text", "image"],
        "attention_type": ["gated"],
        "cross_attention_norm": ["layer_norm"],
        "reverse_transformer_layers_per_block": [[10, 2, 1, 1]],
        "mid_block_scale_factor": [1.41],
        "resnet_out_scale_factor": [0.5],
        "resnet_skip_time_act": [True],
        "num_attention_heads": [8],
        "act_fn": ["snake"],
        "down_block_types": [["SimpleCrossAttnDownBlock2D", "DownBlock2D", "DownBlock2D", "DownBlock2D"]],
        "a_key_of_next_year": [1],
    },
    VAEConfig: {
        "latents_mean": [[0.1, 0.1]],
        "latents_std": [[1.0, 1.0]],
        "down_block_types": [["AttnDownEncoderBlock2D"]],
        "a_key_of_next_year": ["on"],
    },
    CLIPTextConfig: {"hidden_act": ["snake"], "model_type": ["t5"], "a_key_of_next_year": [True]},
}


@pytest.mark.parametrize(
    ("config", "key", "value"),
    [
        (config, key, value)
        for config, keys in OTHERS.items()
        for key, values in keys.items()
        for value in values
    ],
)
def test_another_network_is_refused_by_the_name_of_its_key(config, key, value):
    named = {
        "act_fn": "activation 'snake'",
        "hidden_act": "activation 'snake'",
        "down_block_types": "block type '(SimpleCrossAttnDownBlock2D|AttnDownEncoderBlock2D)'",
    }
    with pytest.raises(NotImplementedError, match=named.get(key, f"{key}=")):
        config.from_dict({key: value})


@pytest.mark.parametrize(
    "neutral",
    [
        {"only_cross_attention": [False, False, False, False]},
        {"mid_block_scale_factor": 1.0, "dropout": 0.0, "resnet_out_scale_factor": 1},
        {"class_embed_type": None, "num_class_embeds": None, "class_embeddings_concat": False},
        {"_name_or_path": "somewhere", "_diffusers_version": "0.6.0", "a_key_of_next_year": None},
        {"addition_embed_type_num_heads": 64, "mid_block_type": "UNetMidBlock2DCrossAttn"},
    ],
)
def test_what_changes_nothing_passes(neutral):
    assert UNetConfig.from_dict(neutral) == UNetConfig()
