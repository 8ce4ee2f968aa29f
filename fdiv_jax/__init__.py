"""Diffusion model unlearning with any f-divergence, derived from its generator alone.

A divergence is given by its generator f. Its curvature, loss, gradient weight and convergence rate all follow
from f:

    import fdiv_jax as fj
    d = fj.divergence("squared_hellinger")
    pipe = fj.load_pipeline("fashion")
    result = fj.unlearn(pipe, fj.UnlearningConfig(target="sneaker", anchor="near"))

Names are imported on first use, so that the mathematics can be used without loading Flax.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fdiv_jax import checkpoints, diffusion, divergences, evaluation, nn, theory, unlearning
    from fdiv_jax.divergences import Divergence, catalogue, divergence, reversed, symmetrise
    from fdiv_jax.pipeline import TextToImagePipeline, load_pipeline
    from fdiv_jax.unlearning import (
        UnlearningConfig,
        UnlearningResult,
        preset,
        read_concept_file,
        sweep,
        unlearn,
        unlearn_sequence,
    )
    from fdiv_jax.worlds import evaluate

__version__ = "0.1.0"

# public name -> the module that holds it; a module itself is held by no other.
_HOME = {
    "Divergence": "fdiv_jax.divergences",
    "TextToImagePipeline": "fdiv_jax.pipeline",
    "UnlearningConfig": "fdiv_jax.unlearning",
    "UnlearningResult": "fdiv_jax.unlearning",
    "catalogue": "fdiv_jax.divergences",
    "checkpoints": None,
    "diffusion": None,
    "divergence": "fdiv_jax.divergences",
    "divergences": None,
    "evaluate": "fdiv_jax.worlds",
    "evaluation": None,
    "load_pipeline": "fdiv_jax.pipeline",
    "nn": None,
    "preset": "fdiv_jax.unlearning",
    "read_concept_file": "fdiv_jax.unlearning",
    "reversed": "fdiv_jax.divergences",
    "sweep": "fdiv_jax.unlearning",
    "symmetrise": "fdiv_jax.divergences",
    "theory": None,
    "unlearn": "fdiv_jax.unlearning",
    "unlearn_sequence": "fdiv_jax.unlearning",
    "unlearning": None,
}

__all__ = [
    "Divergence",
    "TextToImagePipeline",
    "UnlearningConfig",
    "UnlearningResult",
    "__version__",
    "catalogue",
    "checkpoints",
    "diffusion",
    "divergence",
    "divergences",
    "evaluate",
    "evaluation",
    "load_pipeline",
    "nn",
    "preset",
    "read_concept_file",
    "reversed",
    "sweep",
    "symmetrise",
    "theory",
    "unlearn",
    "unlearn_sequence",
    "unlearning",
]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(
            f"module 'fdiv_jax' has no attribute {name!r}; public names: {', '.join(__all__)}"
        )
    home = _HOME[name]
    value = (
        importlib.import_module(f"fdiv_jax.{name}")
        if home is None
        else getattr(importlib.import_module(home), name)
    )
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
