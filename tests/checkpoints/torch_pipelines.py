"""Tiny pipelines of diffusers with random weights, one a family, and our modules of the same weights."""

from fdiv_jax.checkpoints import load_component
from fdiv_jax.nn import AutoencoderKL, CLIPTextModel, CLIPTextModelWithProjection, UNet2DConditionModel
from tests.nn.helpers import randomised
from tests.tiny import SCHEDULER, tiny_tokenizer

CROSS_DOWN, DOWN, CROSS_UP, UP = "CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"

UNETS = {
    "sd1": {
        "block_out_channels": (8, 16),
        "layers_per_block": 2,
        "cross_attention_dim": 12,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
        "sample_size": 8,
        "down_block_types": (CROSS_DOWN, DOWN),
        "up_block_types": (UP, CROSS_UP),
    },
    "sd2": {
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "cross_attention_dim": 12,
        "attention_head_dim": (2, 4),
        "norm_num_groups": 4,
        "sample_size": 8,
        "use_linear_projection": True,
        "down_block_types": (CROSS_DOWN, DOWN),
        "up_block_types": (UP, CROSS_UP),
    },
    "sdxl": {
        "block_out_channels": (8, 16),
        "layers_per_block": 2,
        "cross_attention_dim": 20,
        "attention_head_dim": (2, 4),
        "norm_num_groups": 4,
        "sample_size": 8,
        "use_linear_projection": True,
        "transformer_layers_per_block": (1, 2),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 6 * 4 + 10,
        "down_block_types": (DOWN, CROSS_DOWN),
        "up_block_types": (CROSS_UP, UP),
    },
}
# The published distilled models, in few channels: what they leave out of the family they were distilled from.
XL = UNETS["sdxl"]
DISTILLED = {
    "bk-sdm-base": {**UNETS["sd1"], "layers_per_block": 1},  # small-sd has the same layers
    "bk-sdm-small": {**UNETS["sd1"], "layers_per_block": 1, "mid_block_type": None},
    "bk-sdm-tiny": {  # tiny-sd has the same layers
        **UNETS["sd1"],
        "layers_per_block": 1,
        "mid_block_type": None,
        "down_block_types": (CROSS_DOWN, CROSS_DOWN),
        "up_block_types": (CROSS_UP, CROSS_UP),
    },
    "bk-sdm-v2-small": {**UNETS["sd2"], "mid_block_type": None},
    "ssd-1b": {
        **XL,
        "block_out_channels": (8, 8, 16),
        "attention_head_dim": (2, 2, 4),
        "down_block_types": (DOWN, CROSS_DOWN, CROSS_DOWN),
        "up_block_types": (CROSS_UP, CROSS_UP, UP),
        "mid_block_type": "UNetMidBlock2D",
        "transformer_layers_per_block": [1, [2, 2], [3, 1]],
        "reverse_transformer_layers_per_block": [[1, 0, 3], [2, 1, 1], 1],
    },
    "vega": {
        **XL,
        "mid_block_type": "UNetMidBlock2D",
        "transformer_layers_per_block": [1, [1, 2]],
        "reverse_transformer_layers_per_block": [[2, 2, 2], 1],
    },
    "koala-700m": {
        **XL,
        "layers_per_block": 1,
        "mid_block_type": None,
        "transformer_layers_per_block": [1, 3],
    },
}
BASES = {name: "sdxl" if name in ("ssd-1b", "vega", "koala-700m") else "sd1" for name in DISTILLED} | {
    "bk-sdm-v2-small": "sd2"
}
VAE = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 2,
    "norm_num_groups": 4,
    "sample_size": 16,
}


def text_config(width: int, act: str, layers: int = 2, projection: int = 10):
    """A text tower of transformers that fits the byte tokenizer."""
    from transformers import CLIPTextConfig

    size = len(tiny_tokenizer())
    return CLIPTextConfig(
        vocab_size=size,
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=projection,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=24,
        hidden_act=act,
        pad_token_id=size - 1,
        bos_token_id=size - 2,
        eos_token_id=size - 1,
    )


def torch_pipeline(family: str):
    """A pipeline of diffusers of a family, or of one of the distilled models."""
    import diffusers
    import torch
    import transformers

    torch.set_num_threads(1)  # matrices this small only wait for other threads
    config, family = (UNETS | DISTILLED)[family], BASES.get(family, family)
    parts = {
        "unet": diffusers.UNet2DConditionModel(**config),
        "vae": diffusers.AutoencoderKL(**VAE),
        "text_encoder": transformers.CLIPTextModel(
            text_config(12, "gelu" if family == "sd2" else "quick_gelu")
        ),
    }
    if family == "sdxl":
        parts["text_encoder_2"] = transformers.CLIPTextModelWithProjection(
            text_config(8, "gelu", projection=10)
        )
    parts = {name: randomised(model, seed) for seed, (name, model) in enumerate(parts.items())}
    scheduler = diffusers.DDIMScheduler(**{k: v for k, v in SCHEDULER.items() if k[0] != "_"})
    if family == "sdxl":
        return diffusers.StableDiffusionXLPipeline(
            **parts, tokenizer=tiny_tokenizer(), tokenizer_2=tiny_tokenizer(), scheduler=scheduler
        )
    return diffusers.StableDiffusionPipeline(
        **parts,
        tokenizer=tiny_tokenizer(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def our_modules(pipe, directory):
    """Our modules of the same weights, by component."""
    kinds = {
        "unet": UNet2DConditionModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
    }
    modules = {}
    for name, kind in kinds.items():
        if (model := getattr(pipe, name, None)) is not None:
            model.save_pretrained(directory / name)
            modules[name] = load_component(directory / name, kind).model
    return modules
