"""Unlearning a concept with any f-divergence.

A trained model at target prompts is drawn to the frozen model at anchor prompts: `unlearn(pipe, config)`.
The parts can be used alone: `resolve_pairs` (prompts), `select` (parameters), `make_loss` (losses),
`make_step` (the pure training step).

Source: Novello, Fontana, Cinque, Gunduz, Tonello, A unified framework for diffusion model unlearning with
f-divergence, arXiv 2509.21167, 2025.
"""

from fdiv_jax.files import default_cache
from fdiv_jax.unlearning.batch import Batch, Prior
from fdiv_jax.unlearning.cache import ArrayCache
from fdiv_jax.unlearning.comparison import Comparison, SquaredDistance
from fdiv_jax.unlearning.concept_file import ConceptFile, read_concept_file
from fdiv_jax.unlearning.concepts import Erasure, PromptPair, resolve_all, resolve_pairs, resolve_retained
from fdiv_jax.unlearning.config import UnlearningConfig
from fdiv_jax.unlearning.config_parts import (
    AdversaryConfig,
    AnchorImagesConfig,
    CriticConfig,
    EditConfig,
    LoraConfig,
    OptimiserConfig,
    PreservationConfig,
    SaliencyConfig,
)
from fdiv_jax.unlearning.critic import ConvolutionalCritic, CriticState, ascend
from fdiv_jax.unlearning.data import AnchorData, Batches, anchor_latents, prepare_data
from fdiv_jax.unlearning.edit import edit_cross_attention
from fdiv_jax.unlearning.held_out import HeldOutDistance
from fdiv_jax.unlearning.linearised import LinearisedRun
from fdiv_jax.unlearning.loop import train, unlearn
from fdiv_jax.unlearning.losses import GaussianLoss, Loss, VariationalLoss, make_loss
from fdiv_jax.unlearning.observer import Observer, Watch
from fdiv_jax.unlearning.optimiser import make_optimiser
from fdiv_jax.unlearning.parameters import GROUPS, Network, Selection, select
from fdiv_jax.unlearning.preemption import Preempted
from fdiv_jax.unlearning.prepare import Prepared, loss_of, prepare, share_program
from fdiv_jax.unlearning.presets import preset, preset_names
from fdiv_jax.unlearning.result import DivergedError, UnlearningResult, check_output
from fdiv_jax.unlearning.sequence import RetentionMatrix, unlearn_sequence
from fdiv_jax.unlearning.state import Plan, TrainState, initial_state
from fdiv_jax.unlearning.step import make_reference, make_step
from fdiv_jax.unlearning.sweep import Cell, cells_of, sweep
from fdiv_jax.unlearning.timesteps import TimestepRange, timesteps_of
from fdiv_jax.unlearning.trainable import Frozen, LowRank, TokenEmbeddings, Trainable, Weights, trainable_of

__all__ = [
    "GROUPS",
    "AdversaryConfig",
    "AnchorData",
    "AnchorImagesConfig",
    "ArrayCache",
    "Batch",
    "Batches",
    "Cell",
    "Comparison",
    "ConceptFile",
    "ConvolutionalCritic",
    "CriticConfig",
    "CriticState",
    "DivergedError",
    "EditConfig",
    "Erasure",
    "Frozen",
    "GaussianLoss",
    "HeldOutDistance",
    "LinearisedRun",
    "LoraConfig",
    "Loss",
    "LowRank",
    "Network",
    "Observer",
    "OptimiserConfig",
    "Plan",
    "Preempted",
    "Prepared",
    "PreservationConfig",
    "Prior",
    "PromptPair",
    "RetentionMatrix",
    "SaliencyConfig",
    "Selection",
    "SquaredDistance",
    "TimestepRange",
    "TokenEmbeddings",
    "TrainState",
    "Trainable",
    "UnlearningConfig",
    "UnlearningResult",
    "VariationalLoss",
    "Watch",
    "Weights",
    "anchor_latents",
    "ascend",
    "cells_of",
    "check_output",
    "default_cache",
    "edit_cross_attention",
    "initial_state",
    "loss_of",
    "make_loss",
    "make_optimiser",
    "make_reference",
    "make_step",
    "prepare",
    "prepare_data",
    "preset",
    "preset_names",
    "read_concept_file",
    "resolve_all",
    "resolve_pairs",
    "resolve_retained",
    "select",
    "share_program",
    "sweep",
    "timesteps_of",
    "train",
    "trainable_of",
    "unlearn",
    "unlearn_sequence",
]
