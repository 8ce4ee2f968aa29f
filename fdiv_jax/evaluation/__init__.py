"""How much of a concept is gone and what was lost: scores of images, and intervals for them."""

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
from fdiv_jax.evaluation.features import Features, feature_distances
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

__all__ = [
    "Classifier",
    "ClipScorer",
    "ErasureAccuracy",
    "Features",
    "Interval",
    "bootstrap_difference",
    "bootstrap_mean",
    "classify",
    "cmmd",
    "concept_text",
    "erasure_accuracy",
    "feature_change",
    "feature_distances",
    "fid",
    "frechet_distance",
    "harmonic_mean",
    "holm",
    "inception_features",
    "jackknife_statistic",
    "kid",
    "kid_subsets",
    "load_inception",
    "pixel_change",
    "rate_interval",
    "simultaneous_level",
]
