"""What a configuration asks for and is not built here is refused by its name; what changes nothing passes."""

import pytest

from fdiv_jax.nn import CLIPTextConfig, UNetConfig, VAEConfig

# What diffusers and transformers build from these keys is another network.
OTHERS = {
    UNetConfig: {
        "mid_block_type": ["UNetMidBlock2DSimpleCrossAttn"],
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
        "conv_in_kernel": [1],
        "conv_out_kernel": [5],
        "encoder_hid_dim": [768],
        "encoder_hid_dim_type": ["image_proj"],
        "addition_embed_type": ["text", "image"],
        "attention_type": ["gated"],
        "cross_attention_norm": ["layer_norm"],
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


def test_transformer_layers_are_given_for_every_transformer_of_both_ways():
    nested = {"transformer_layers_per_block": [1, [2, 2], [3, 1], 1]}  # the last level has no transformer
    with pytest.raises(ValueError, match="expected reverse_transformer_layers_per_block for the way up"):
        UNetConfig.from_dict(nested)
    key = "reverse_transformer_layers_per_block"
    config = UNetConfig.from_dict({**nested, key: [7, [1, 2, 3], 2, [0, 1, 1]]})
    assert config.down_depths == [1, (2, 2), (3, 1), 1]
    assert config.up_depths == [7, (1, 2, 3), 2, (0, 1, 1)]
    assert UNetConfig.from_dict({"transformer_layers_per_block": [1, 2, 3, 4]}).up_depths == [4, 3, 2, 1]
    for wrong, message in (
        (
            {**nested, key: [1, [1, 2], 2, 1]},
            r"\(1, 2\) for a CrossAttnUpBlock2D of 3 residual blocks, expected 3",
        ),
        (
            {"transformer_layers_per_block": [[1], 1, 1, 1], key: [1, 1, 1, 1]},
            "of 2 residual blocks, expected 2",
        ),
        ({**nested, key: [1, 1, 1]}, f"{key} has 3 entries"),
        ({**nested, key: 2}, f"{key}=2, expected"),
        ({"transformer_layers_per_block": [[1, -1], 1, 1, 1], key: [1, 1, 1, 1]}, "expected"),
    ):
        with pytest.raises(ValueError, match=message):
            UNetConfig.from_dict(wrong)
