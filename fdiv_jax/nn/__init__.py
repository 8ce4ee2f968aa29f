"""Flax modules: the networks of Stable Diffusion, CLIP, FID's Inception, and the critic of the losses.

Attribute names follow the state dicts of diffusers and transformers one to one, so that conversion
(`fdiv_jax.checkpoints`) is a rule and not a table. Images and latents are n h w c.
"""

from fdiv_jax.nn.attention import dot_product_attention, with_attention
from fdiv_jax.nn.clip_images import CLIPImageProcessor
from fdiv_jax.nn.clip_text import (
    CLIPTextConfig,
    CLIPTextFeatures,
    CLIPTextModel,
    CLIPTextModelWithProjection,
)
from fdiv_jax.nn.clip_vision import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionFeatures,
    CLIPVisionModelWithProjection,
)
from fdiv_jax.nn.conditioning import Text, TextConditioning, sized_text, with_features
from fdiv_jax.nn.critic import Critic, SpectralVector
from fdiv_jax.nn.inception import InceptionV3
from fdiv_jax.nn.lora import extract_lora, init_lora, merge_lora
from fdiv_jax.nn.named import named_parameters
from fdiv_jax.nn.remat import Remat, with_remat
from fdiv_jax.nn.shapes import abstract_module, abstract_network
from fdiv_jax.nn.unet import UNet2DConditionModel, UNetConfig
from fdiv_jax.nn.vae import AutoencoderKL, VAEConfig

__all__ = [
    "AutoencoderKL",
    "CLIPConfig",
    "CLIPImageProcessor",
    "CLIPModel",
    "CLIPTextConfig",
    "CLIPTextFeatures",
    "CLIPTextModel",
    "CLIPTextModelWithProjection",
    "CLIPVisionConfig",
    "CLIPVisionFeatures",
    "CLIPVisionModelWithProjection",
    "Critic",
    "InceptionV3",
    "Remat",
    "SpectralVector",
    "Text",
    "TextConditioning",
    "UNet2DConditionModel",
    "UNetConfig",
    "VAEConfig",
    "abstract_module",
    "abstract_network",
    "dot_product_attention",
    "extract_lora",
    "init_lora",
    "merge_lora",
    "named_parameters",
    "sized_text",
    "with_attention",
    "with_features",
    "with_remat",
]
