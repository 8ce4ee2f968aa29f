"""Unlearning a concept with any f-divergence.

A trained model at target prompts is drawn to the frozen model at anchor prompts: `unlearn(pipe, config)`.
The parts are of use alone: `resolve_pairs` (prompts), `select` (parameters), `make_objective` (losses),
`make_step` (the pure training step).

Source: Novello, Fontana, Cinque, Gunduz, Tonello, A unified framework for diffusion model unlearning with
f-divergence, arXiv 2509.21167, 2025.
"""

from fdiv_jax.unlearning.cache import ArrayCache, default_cache
from fdiv_jax.unlearning.concepts import PromptPair, resolve_pairs, resolve_retained
from fdiv_jax.unlearning.config import AnchorImagesConfig, CriticConfig, OptimiserConfig, UnlearningConfig
from fdiv_jax.unlearning.critic import CriticGame, CriticState
from fdiv_jax.unlearning.data import AnchorData, anchor_latents, model_digest, prepare_data
from fdiv_jax.unlearning.loop import unlearn
from fdiv_jax.unlearning.objectives import (
    Comparison,
    Objective,
    make_objective,
    objective_of,
    squared_distance,
)
from fdiv_jax.unlearning.parameters import GROUPS, Network, Selection, select, split
from fdiv_jax.unlearning.result import DivergedError, UnlearningResult, check_output
from fdiv_jax.unlearning.step import Batch, Frozen, TrainState, initial_state, make_optimiser, make_step

__all__ = [
    "GROUPS",
    "AnchorData",
    "AnchorImagesConfig",
    "ArrayCache",
    "Batch",
    "Comparison",
    "CriticConfig",
    "CriticGame",
    "CriticState",
    "DivergedError",
    "Frozen",
    "Network",
    "Objective",
    "OptimiserConfig",
    "PromptPair",
    "Selection",
    "TrainState",
    "UnlearningConfig",
    "UnlearningResult",
    "anchor_latents",
    "check_output",
    "default_cache",
    "initial_state",
    "make_objective",
    "make_optimiser",
    "make_step",
    "model_digest",
    "objective_of",
    "prepare_data",
    "resolve_pairs",
    "resolve_retained",
    "select",
    "split",
    "squared_distance",
    "unlearn",
]
