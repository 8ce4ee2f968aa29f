"""A tiny text-to-image model with random weights: every part of the real thing, drawn in milliseconds."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx

from fdiv_jax.diffusion import NoiseSchedule
from fdiv_jax.nn import (
    AutoencoderKL,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    UNet2DConditionModel,
    UNetConfig,
    VAEConfig,
    abstract_module,
)
from fdiv_jax.pipeline import Concept, TextToImagePipeline

SCHEDULER: dict[str, Any] = {
    "_class_name": "DDIMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}

CONCEPTS = {
    "sneaker": Concept(
        "sneaker",
        "item",
        "a sneaker",
        "a shoe",
        "a sandal",
        ("a sneaker, photo style", "a sneaker, sketch style"),
    ),
    "sandal": Concept("sandal", "item", "a sandal", "a shoe", "a sneaker", ("a sandal, photo style",)),
    "shirt": Concept("shirt", "item", "a shirt", "a top", "a t-shirt", ("a shirt, photo style",)),
    "sketch": Concept(
        "sketch",
        "style",
        ", sketch style",
        "",
        ", photo style",
        ("a sneaker, sketch style", "a sandal, sketch style"),
    ),
}


Family = Literal["sd1", "sd2", "sdxl"]

_UNETS: dict[str, dict[str, Any]] = {
    "sd1": {
        "down_block_types": ("CrossAttnDownBlock2D",),
        "up_block_types": ("CrossAttnUpBlock2D",),
        "block_out_channels": (8,),
        "attention_head_dim": 2,
    },
    "sd2": {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": (8, 16),
        "attention_head_dim": (1, 2),
        "use_linear_projection": True,
        "upcast_attention": True,
    },
    "sdxl": {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (8, 16),
        "attention_head_dim": (1, 2),
        "transformer_layers_per_block": (1, 2),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 6 * 4 + 12,
    },
}
_SCHEDULERS: dict[str, dict[str, Any]] = {
    "sd1": {},
    "sd2": {"prediction_type": "v_prediction"},
    "sdxl": {},
}


def tiny_tokenizer(pad: str = "<|endoftext|>") -> Any:
    """A CLIP tokenizer that knows bytes only; prompts are cut to 24 tokens and filled up with `pad`."""
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {t: i for i, t in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=24, pad_token=pad)


def fill(module: Any, rng: np.random.Generator) -> Any:
    """The module with random parameters, without compiling anything: kernels of variance 1 / inputs."""
    graph, state = nnx.split(module)
    flat = []
    for path, variable in nnx.to_flat_state(state):
        shape = variable.shape
        if path[-1] == "scale":
            values = 1 + 0.1 * rng.standard_normal(shape)
        elif path[-1] == "kernel":
            values = rng.standard_normal(shape) / np.sqrt(np.prod(shape[:-1]))
        else:
            values = 0.1 * rng.standard_normal(shape) if path[-1] == "bias" else rng.standard_normal(shape)
        flat.append((path, type(variable)(jnp.asarray(values, jnp.float32))))
    return nnx.merge(graph, nnx.from_flat_state(flat))


@lru_cache
def _shapes(size: int, latent: int, family: Family, more: tuple[tuple[str, Any], ...]) -> list[Any]:
    """UNet, VAE and text encoders without parameters; `size`: of the vocabulary."""
    text = CLIPTextConfig(
        vocab_size=size,
        hidden_size=8,
        intermediate_size=16,
        projection_dim=8,
        num_hidden_layers=2 if family == "sdxl" else 1,
        num_attention_heads=2,
        max_position_embeddings=24,
        hidden_act="gelu" if family == "sd2" else "quick_gelu",
        pad_token_id=size - 1,
        bos_token_id=size - 2,
        eos_token_id=size - 1,
    )
    second = dataclasses.replace(text, hidden_size=16, projection_dim=12, hidden_act="gelu", eos_token_id=2)
    unet = UNetConfig(
        sample_size=latent,
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=8 + 16 if family == "sdxl" else 8,
        **{**_UNETS[family], **dict(more)},
    )
    vae = VAEConfig(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        sample_size=2 * latent,
        scaling_factor=0.13025 if family == "sdxl" else 0.18215,
    )
    made = [
        abstract_module(lambda rngs: UNet2DConditionModel(unet, rngs=rngs)),
        abstract_module(lambda rngs: AutoencoderKL(vae, rngs=rngs)),
        abstract_module(lambda rngs: CLIPTextModel(text, rngs=rngs)),
    ]
    if family == "sdxl":
        made.append(abstract_module(lambda rngs: CLIPTextModelWithProjection(second, rngs=rngs)))
    return made


def tiny_pipeline(
    seed: int = 0,
    *,
    concepts: bool = True,
    scheduler: dict[str, Any] | None = None,
    latent: int = 8,
    family: Family = "sd1",
    unet: dict[str, Any] | None = None,
) -> TextToImagePipeline:
    """A pipeline of 2 `latent` px images with random weights; as many concepts as the tests need, or none.

    `scheduler` replaces entries of the scheduler's configuration. `family`: "sd1"; "sd2" with OpenCLIP's text
    tower, linear projections and v-prediction; "sdxl" with two text towers, pooled text and sizes.
    `unet` replaces entries of the UNet's configuration.
    """
    tokenizer = tiny_tokenizer()
    config = {**SCHEDULER, **_SCHEDULERS[family], **(scheduler or {})}

    rng = np.random.default_rng(seed)
    models = [
        fill(shape, rng) for shape in _shapes(len(tokenizer), latent, family, tuple((unet or {}).items()))
    ]
    return TextToImagePipeline(
        unet=models[0],
        vae=models[1],
        text_encoder=models[2],
        tokenizer=tokenizer,
        schedule=NoiseSchedule.from_config(config),
        scheduler_config=config,
        concepts=dict(CONCEPTS) if concepts else {},
        name="tiny",
        extras={"force_zeros_for_empty_prompt": True} if family == "sdxl" else {},
        text_encoder_2=models[3] if family == "sdxl" else None,
        tokenizer_2=tiny_tokenizer("!") if family == "sdxl" else None,
    )
