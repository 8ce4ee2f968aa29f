"""Unlearning a concept with any f-divergence.

A trained model at target prompts is drawn to the frozen model at anchor prompts: `unlearn(pipe, config)`.
The parts are of use alone: `resolve_pairs` (prompts), `select` (parameters), `make_objective` (losses),
`make_step` (the pure training step).

Source: Novello, Fontana, Cinque, Gunduz, Tonello, A unified framework for diffusion model unlearning with
f-divergence, arXiv 2509.21167, 2025.
"""

from fdiv_jax.unlearning.cache import ArrayCache, default_cache
from fdiv_jax.unlearning.concept_file import ConceptFile, read_concept_file
from fdiv_jax.unlearning.concepts import Erasure, PromptPair, resolve_all, resolve_pairs, resolve_retained
from fdiv_jax.unlearning.config import UnlearningConfig
from fdiv_jax.unlearning.config_parts import (
    AnchorImagesConfig,
    CriticConfig,
    EditConfig,
    LoraConfig,
    OptimiserConfig,
    PreservationConfig,
)
from fdiv_jax.unlearning.critic import CriticGame, CriticState
from fdiv_jax.unlearning.data import AnchorData, Batches, anchor_latents, model_digest, prepare_data
from fdiv_jax.unlearning.edit import edit_cross_attention
from fdiv_jax.unlearning.loop import Observer, prepare, unlearn
from fdiv_jax.unlearning.objectives import (
    Comparison,
    Objective,
    make_objective,
    objective_of,
    squared_distance,
)
from fdiv_jax.unlearning.parameters import GROUPS, Network, Selection, select
from fdiv_jax.unlearning.preemption import Preempted
from fdiv_jax.unlearning.presets import preset, preset_names
from fdiv_jax.unlearning.result import DivergedError, UnlearningResult, check_output
from fdiv_jax.unlearning.sequence import RetentionMatrix, unlearn_sequence
from fdiv_jax.unlearning.step import (
    Batch,
    Plan,
    Prior,
    TrainState,
    initial_state,
    make_optimiser,
    make_reference,
    make_step,
)
from fdiv_jax.unlearning.sweep import Cell, cells_of, sweep
from fdiv_jax.unlearning.timesteps import Timesteps, timesteps_of
from fdiv_jax.unlearning.trainable import Frozen, LowRank, TokenEmbeddings, Trainable, Weights, trainable_of

__all__ = [
    "GROUPS",
    "AnchorData",
    "AnchorImagesConfig",
    "ArrayCache",
    "Batch",
    "Batches",
    "Cell",
    "Comparison",
    "ConceptFile",
    "CriticConfig",
    "CriticGame",
    "CriticState",
    "DivergedError",
    "EditConfig",
    "Erasure",
    "Frozen",
    "LoraConfig",
    "LowRank",
    "Network",
    "Objective",
    "Observer",
    "OptimiserConfig",
    "Plan",
    "Preempted",
    "PreservationConfig",
    "Prior",
    "PromptPair",
    "RetentionMatrix",
    "Selection",
    "Timesteps",
    "TokenEmbeddings",
    "TrainState",
    "Trainable",
    "UnlearningConfig",
    "UnlearningResult",
    "Weights",
    "anchor_latents",
    "cells_of",
    "check_output",
    "default_cache",
    "edit_cross_attention",
    "initial_state",
    "make_objective",
    "make_optimiser",
    "make_reference",
    "make_step",
    "model_digest",
    "objective_of",
    "prepare",
    "prepare_data",
    "preset",
    "preset_names",
    "read_concept_file",
    "resolve_all",
    "resolve_pairs",
    "resolve_retained",
    "select",
    "squared_distance",
    "sweep",
    "timesteps_of",
    "trainable_of",
    "unlearn",
    "unlearn_sequence",
]
