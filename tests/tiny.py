"""A tiny text-to-image model with random weights: every part of the real thing, drawn in milliseconds."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from fdiv_jax.diffusion import NoiseSchedule
from fdiv_jax.nn import (
    AutoencoderKL,
    CLIPTextConfig,
    CLIPTextModel,
    UNet2DConditionModel,
    UNetConfig,
    VAEConfig,
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


def tiny_tokenizer() -> Any:
    """A CLIP tokenizer that knows bytes only; prompts are cut to 24 tokens."""
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=[], model_max_length=24)


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


def tiny_pipeline(
    seed: int = 0, *, concepts: bool = True, scheduler: dict[str, Any] | None = None, latent: int = 8
) -> TextToImagePipeline:
    """A pipeline of 2 `latent` px images with random weights; as many concepts as the tests need, or none.

    `scheduler` replaces entries of the scheduler's configuration.
    """
    tokenizer = tiny_tokenizer()
    size = len(tokenizer)
    text = CLIPTextConfig(
        vocab_size=size,
        hidden_size=8,
        intermediate_size=16,
        projection_dim=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=24,
        pad_token_id=size - 1,
        bos_token_id=size - 2,
        eos_token_id=size - 1,
    )
    unet = UNetConfig(
        sample_size=latent,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        block_out_channels=(8,),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=2,
    )
    vae = VAEConfig(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        sample_size=2 * latent,
    )
    config = {**SCHEDULER, **(scheduler or {})}

    shapes = nnx.eval_shape(
        lambda: (
            UNet2DConditionModel(unet, rngs=nnx.Rngs(0)),
            AutoencoderKL(vae, rngs=nnx.Rngs(0)),
            CLIPTextModel(text, rngs=nnx.Rngs(0)),
        )
    )
    rng = np.random.default_rng(seed)
    models = [fill(shape, rng) for shape in shapes]
    return TextToImagePipeline(
        unet=models[0],
        vae=models[1],
        text_encoder=models[2],
        tokenizer=tokenizer,
        schedule=NoiseSchedule.from_config(config),
        scheduler_config=config,
        concepts=dict(CONCEPTS) if concepts else {},
        name="tiny",
    )
