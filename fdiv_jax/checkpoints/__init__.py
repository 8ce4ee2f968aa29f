"""Models on disk: reads and writes a component's directory in the layout of diffusers and transformers.

A directory holds `config.json` and weights in safetensors. Names and layouts convert by rule
(`state_dict`, `load_state_dict`); pickles are never opened.
"""

from fdiv_jax.checkpoints.atomic import atomic_directory, atomic_file, check_place, clean_leftovers
from fdiv_jax.checkpoints.components import LoadedComponent, load_component, save_component
from fdiv_jax.checkpoints.delta import apply_delta, save_delta
from fdiv_jax.checkpoints.digests import model_digest, module_digest, parameters_digest
from fdiv_jax.checkpoints.lora import load_lora, save_lora
from fdiv_jax.checkpoints.single_file import load_single_file, save_single_file
from fdiv_jax.checkpoints.state_dicts import load_state_dict, state_dict
from fdiv_jax.checkpoints.training import Restored, TrainingCheckpoints

__all__ = [
    "LoadedComponent",
    "Restored",
    "TrainingCheckpoints",
    "apply_delta",
    "atomic_directory",
    "atomic_file",
    "check_place",
    "clean_leftovers",
    "load_component",
    "load_lora",
    "load_single_file",
    "load_state_dict",
    "model_digest",
    "module_digest",
    "parameters_digest",
    "save_component",
    "save_delta",
    "save_lora",
    "save_single_file",
    "state_dict",
]
