"""Does it come back? Attacks on an unlearned model, each with a ceiling and a floor.

An attack takes a `Case` (the model, images of the concept, a classifier, a seed) and gives the points of a
curve of success against budget; `attack_models` runs attacks on unlearned models, on the frozen one and on
one that never knew the concept, and judges them by images at fresh noise.
"""

from fdiv_jax.evaluation.attacks.campaign import Campaign, Report, attack_models
from fdiv_jax.evaluation.attacks.case import (
    Attack,
    Case,
    ConceptImages,
    Drawing,
    Probe,
    Recogniser,
    clip_recogniser,
)
from fdiv_jax.evaluation.attacks.compression import Prune, Quantise
from fdiv_jax.evaluation.attacks.curves import Curve, Outcome, Point, outcome
from fdiv_jax.evaluation.attacks.embeddings import ConceptInversion, SoftPrompt
from fdiv_jax.evaluation.attacks.image_inversion import DdimInversion, ImageInversion
from fdiv_jax.evaluation.attacks.prompt_search import BlackBoxSearch, PromptSearch
from fdiv_jax.evaluation.attacks.recovery import Recovery, measure_recovery, predict_recovery
from fdiv_jax.evaluation.attacks.weights import Benign, Relearn

__all__ = [
    "ATTACKS",
    "Attack",
    "Benign",
    "BlackBoxSearch",
    "Campaign",
    "Case",
    "ConceptImages",
    "ConceptInversion",
    "Curve",
    "DdimInversion",
    "Drawing",
    "ImageInversion",
    "Outcome",
    "Point",
    "Probe",
    "PromptSearch",
    "Prune",
    "Quantise",
    "Recogniser",
    "Recovery",
    "Relearn",
    "Report",
    "SoftPrompt",
    "attack_models",
    "clip_recogniser",
    "measure_recovery",
    "outcome",
    "predict_recovery",
]

ATTACKS: dict[str, Attack] = {
    "concept-inversion": ConceptInversion(),
    "soft-prompt": SoftPrompt(),
    "prompt-search": PromptSearch(),
    "black-box-search": BlackBoxSearch(),
    "image-inversion": ImageInversion(),
    "ddim-inversion": DdimInversion(),
    "relearn": Relearn(),
    "benign": Benign(),
    "quantise": Quantise(),
    "prune": Prune(),
}
"""The attacks by name, with their usual settings."""
