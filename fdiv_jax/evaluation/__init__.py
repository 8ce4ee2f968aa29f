"""How much of a concept is gone and what was lost: protocols, scores of images, and intervals for them."""

from fdiv_jax.evaluation.accuracy import (
    Classifier,
    ErasureAccuracy,
    classify,
    erasure_accuracy,
    harmonic_mean,
)
from fdiv_jax.evaluation.change import feature_change, pixel_change
from fdiv_jax.evaluation.clip_score import ClipScorer, concept_text
from fdiv_jax.evaluation.distances import cmmd, fid, frechet_distance, kid, kid_subsets
from fdiv_jax.evaluation.evaluate import run_protocol
from fdiv_jax.evaluation.evaluation import Evaluated, Evaluation, UnlikeError, read_evaluation
from fdiv_jax.evaluation.features import Features, feature_distances
from fdiv_jax.evaluation.figures import Figure, figures_of
from fdiv_jax.evaluation.images import ImageStore
from fdiv_jax.evaluation.inception import inception_features, load_inception
from fdiv_jax.evaluation.intervals import (
    Interval,
    bootstrap_difference,
    bootstrap_mean,
    holm,
    jackknife_statistic,
    rate_interval,
    simultaneous_level,
)
from fdiv_jax.evaluation.named import NAMED, named_protocol
from fdiv_jax.evaluation.protocol import METRICS, PromptSet, Protocol
from fdiv_jax.evaluation.protocol_file import find_protocol, read_protocol_file
from fdiv_jax.evaluation.views import Backbones, SetView

__all__ = [
    "METRICS",
    "NAMED",
    "Backbones",
    "Classifier",
    "ClipScorer",
    "ErasureAccuracy",
    "Evaluated",
    "Evaluation",
    "Features",
    "Figure",
    "ImageStore",
    "Interval",
    "PromptSet",
    "Protocol",
    "SetView",
    "UnlikeError",
    "bootstrap_difference",
    "bootstrap_mean",
    "classify",
    "cmmd",
    "concept_text",
    "erasure_accuracy",
    "feature_change",
    "feature_distances",
    "fid",
    "figures_of",
    "find_protocol",
    "frechet_distance",
    "harmonic_mean",
    "holm",
    "inception_features",
    "jackknife_statistic",
    "kid",
    "kid_subsets",
    "load_inception",
    "named_protocol",
    "pixel_change",
    "rate_interval",
    "read_evaluation",
    "read_protocol_file",
    "run_protocol",
    "simultaneous_level",
]
