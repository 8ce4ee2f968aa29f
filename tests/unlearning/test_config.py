"""The configuration: round trip, and what is refused."""

import dataclasses
import json

import pytest

from fdiv_jax.divergences import divergence
from fdiv_jax.unlearning import (
    AnchorImagesConfig,
    CriticConfig,
    Erasure,
    OptimiserConfig,
    UnlearningConfig,
)


def test_json_round_trip():
    config = UnlearningConfig(
        target="sneaker",
        anchor="near",
        divergence="t*log(t)",
        loss="exact",
        prompts=("a sneaker",),
        timestep_range=(10, 500),
        optimiser=OptimiserConfig("sgd", clip_norm=1.0),
        critic=CriticConfig(hidden_channels=(8, 16)),
        images=AnchorImagesConfig(number=7),
    )
    assert UnlearningConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_frozen_and_hashable():
    config = UnlearningConfig("sneaker")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.steps = 3
    assert hash(config) == hash(UnlearningConfig("sneaker"))
    assert UnlearningConfig("sneaker", divergence=divergence("kl")) == UnlearningConfig(
        "sneaker", divergence="kl"
    )


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"target": ""}, ValueError, "target must not be empty"),
        ({"target": 3}, TypeError, "target must be a string, got int 3"),
        ({"anchor": " "}, ValueError, "'empty'"),
        ({"divergence": "hellinger"}, ValueError, "hellinger"),
        ({"divergence": "__import__('os')"}, ValueError, "__import__"),
        ({"divergence": "jensen_shannon"}, ValueError, "no closed form.*'exact'"),
        (
            {"loss": "exakt"},
            ValueError,
            "one of closed, exact, variational, got 'exakt'; did you mean 'exact'",
        ),
        ({"scale": "median"}, ValueError, "mean, sum, schedule"),
        ({"devices": "two"}, ValueError, "single, all"),
        ({"parallel": "model"}, ValueError, "parallel must be one of pmap, data, fsdp, got 'model'"),
        ({"normalise_curvature": 1}, TypeError, "True or False"),
        (
            {"normalise_curvature": True, "divergence": "total_variation"},
            ValueError,
            "curvature.*total_variation is infinite",
        ),
        ({"trainable": ""}, ValueError, "trainable must not be empty"),
        ({"prompts": "a sneaker"}, TypeError, "sequence of strings, got 'a sneaker'"),
        ({"prompts": (1,)}, TypeError, "sequence of strings"),
        ({"steps": 0}, ValueError, "steps must be an integer >= 1, got 0"),
        ({"steps": 1.5}, TypeError, "steps must be an integer"),
        ({"steps": True}, TypeError, "steps must be an integer"),
        ({"batch_size": -4}, ValueError, "batch_size must be an integer >= 1, got -4"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate must be a finite number > 0, got 0.0"),
        ({"learning_rate": float("nan")}, ValueError, "finite number > 0, got nan"),
        ({"learning_rate": "1e-3"}, TypeError, "learning_rate must be a number"),
        ({"seed": -1}, ValueError, "seed must be an integer >= 0"),
        ({"seed": 2**32}, ValueError, "seed must be an integer >= 0 and < 4294967296, got 4294967296"),
        (
            {"target": "", "concepts": (Erasure("sneaker"), Erasure("shirt")), "anchor": "near"},
            ValueError,
            "anchor 'near' beside 2 concepts, each of which has its own",
        ),
        ({"timestep_range": (5,)}, TypeError, "pair"),
        ({"timestep_range": (9, 5)}, ValueError, "first <= last"),
        ({"defined": (1,)}, TypeError, "defined must be a sequence of concepts, got 1 in it"),
        (
            {"images": 200},
            TypeError,
            "images must be of type AnchorImagesConfig, got 200",
        ),
    ],
)
def test_refused(changes, error, message):
    with pytest.raises(error, match=message):
        UnlearningConfig(**{"target": "sneaker", **changes})


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (OptimiserConfig, {"name": "adam"}, "optimiser.name must be one of adamw, sgd, got 'adam'"),
        (OptimiserConfig, {"b1": 1.0}, "optimiser.b1 must be a finite number >= 0 and < 1"),
        (OptimiserConfig, {"eps": 0}, "optimiser.eps"),
        (OptimiserConfig, {"weight_decay": -1.0}, "optimiser.weight_decay"),
        (OptimiserConfig, {"clip_norm": 0.0}, "optimiser.clip_norm"),
        (CriticConfig, {"warmup": -1}, "critic.warmup"),
        (CriticConfig, {"steps": 0}, "critic.steps"),
        (CriticConfig, {"learning_rate": float("inf")}, "critic.learning_rate"),
        (CriticConfig, {"hidden_channels": ()}, "critic.hidden_channels"),
        (AnchorImagesConfig, {"number": 0}, "images.number"),
        (AnchorImagesConfig, {"sampler": "dimm"}, "ddim.*got 'dimm'"),
        (AnchorImagesConfig, {"guidance": -1.0}, "images.guidance"),
        (AnchorImagesConfig, {"seed": 10**20}, "images.seed must be an integer >= 0 and < 4294967296"),
    ],
)
def test_parts_refuse(kind, changes, message):
    with pytest.raises((ValueError, TypeError), match=message):
        kind(**changes)


def test_unknown_keys_are_refused_with_the_nearest():
    with pytest.raises(ValueError, match="no key 'learning_rat'; did you mean 'learning_rate'"):
        UnlearningConfig.from_dict({"target": "sneaker", "learning_rat": 1e-3})
    with pytest.raises(ValueError, match="critic has no key 'step'; did you mean 'steps'"):
        UnlearningConfig.from_dict({"target": "sneaker", "critic": {"step": 1}})
    with pytest.raises(TypeError, match="must be a mapping"):
        UnlearningConfig.from_dict(["target"])
