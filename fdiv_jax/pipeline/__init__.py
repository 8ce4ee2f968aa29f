"""Text-to-image pipelines: load a diffusers directory, draw prompts, save it again."""

from fdiv_jax.pipeline.cards import model_card
from fdiv_jax.pipeline.concepts import Concept, read_concepts
from fdiv_jax.pipeline.directory import load_pipeline, save_pipeline
from fdiv_jax.pipeline.shared import Base, Shared, base_of
from fdiv_jax.pipeline.text_to_image import TextToImagePipeline, to_uint8
from fdiv_jax.pipeline.uploading import push_to_hub

__all__ = [
    "Base",
    "Concept",
    "Shared",
    "TextToImagePipeline",
    "base_of",
    "load_pipeline",
    "model_card",
    "push_to_hub",
    "read_concepts",
    "save_pipeline",
    "to_uint8",
]
