"""Text-to-image pipelines: load a diffusers directory, draw prompts, save it again."""

from fdiv_jax.pipeline.concepts import Concept, read_concepts
from fdiv_jax.pipeline.directory import load_pipeline, save_pipeline
from fdiv_jax.pipeline.text_to_image import TextToImagePipeline, to_uint8

__all__ = ["Concept", "TextToImagePipeline", "load_pipeline", "read_concepts", "save_pipeline", "to_uint8"]
