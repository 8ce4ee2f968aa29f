"""Presets: every method on every concept, and the settings that their authors publish."""

import dataclasses

import pytest

from fdiv_jax.unlearning import Network, UnlearningConfig, resolve_all, select
from fdiv_jax.unlearning.library import known_concepts, library_concepts
from fdiv_jax.unlearning.presets import METHODS, preset, preset_names

LIBRARY = library_concepts()


def test_the_methods_are_those_of_the_literature():
    assert list(METHODS) == [
        "fdmu",
        "fdmu-chi2",
        "fdmu-variational",
        "concept-ablation",
        "esd-x",
        "esd-u",
        "doco",
        "uce",
        "rece",
        "speed",
        "refinement",
        "salun",
        "erasediff",
        "spm",
        "advunlearn",
    ]
    names = preset_names(LIBRARY)
    assert len(set(names)) == len(names) == len(METHODS) * len(LIBRARY)
    assert {"fdmu-van-gogh", "esd-x-grumpy-cat", "concept-ablation-snoopy", "uce-nemo"} <= set(names)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_on_every_concept(method):
    for concept in LIBRARY:
        config = preset(f"{method}-{'-'.join(concept.split())}", LIBRARY)
        assert config.target == concept
        assert config == METHODS[method](concept)
        assert UnlearningConfig.from_dict(config.to_dict()) == config
        assert resolve_all(known_concepts({}), config.erasures)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("fdmu-van-goh", "fdmu-van-gogh"),
        ("esdx-snoopy", "esd-x-snoopy"),
        ("concept-ablaton-nemo", "concept-ablation-nemo"),
    ],
)
def test_an_unknown_preset_names_the_nearest_and_the_methods(name, nearest):
    with pytest.raises(ValueError, match=f"no preset '{name}'") as caught:
        preset(name, LIBRARY)
    assert repr(nearest) in str(caught.value)
    for word in (*METHODS, "van-gogh"):
        assert word in str(caught.value)


def test_a_method_alone_or_a_concept_of_another_model_is_none():
    for name in ("fdmu", "fdmu-", "fdmu-teapot", "van-gogh", ""):
        with pytest.raises(ValueError, match="no preset"):
            preset(name, LIBRARY)
    assert preset("fdmu-teapot", ["teapot"]).target == "teapot"
    assert preset("fdmu-chi2-x", ["chi2-x", "x"]).divergence == "pearson_chi2"  # the longest method's


IMAGES = {"number": 1000, "steps": 25, "guidance": 6.0, "mirror": True, "at": "anchor"}
PUBLISHED = {
    "fdmu": {
        "divergence": "squared_hellinger",
        "loss": "closed",
        "scale": "mean",
        "anchor": "superclass",
        "trainable": "cross-attn",
        "steps": 500,
        "batch_size": 4,
        "accumulation": 2,
        "learning_rate": 7e-5 * 2 * 2,
        "timesteps": "uniform",
        "retained": (),
        "images": IMAGES,
        "optimiser": {"name": "adamw"},
    },
    "fdmu-chi2": {"divergence": "pearson_chi2", "loss": "closed", "steps": 500, "images": IMAGES},
    "fdmu-variational": {
        "divergence": "squared_hellinger",
        "loss": "variational",
        "critic": {
            "warmup": 30,
            "learning_rate": 1e-4,
            "hidden_channels": (64, 128, 256),
            "head_channels": 512,
            "sees": "prediction",
            "spectral_norm": True,
            "generator": "conjugate",
        },
    },
    "concept-ablation": {
        "divergence": "kl",
        "reference": "current",
        "steps": 200,
        "batch_size": 4,
        "learning_rate": 2e-6 * 4,
        "preservation": {"weight": 0.0},
    },
    "esd-x": {
        "anchor": "negative",
        "negative_guidance": 1.0,
        "divergence": "kl",
        "steps": 200,
        "learning_rate": 5e-5,
        "images": {"at": "target", "guidance": 3.0, "sampler": "ddim", "steps": 50},
    },
    "doco": {
        "divergence": "jensen_shannon",
        "loss": "variational",
        "steps": 2000,
        "learning_rate": 6e-6,
        "critic": {"warmup": 1000, "sees": "x0", "generator": "non-saturating"},
        "preservation": {"at": "anchor", "against": "noise", "surgery": True},
    },
    "uce": {"method": "edit", "trainable": "cross-attn"},
    "rece": {
        "method": "edit",
        "edit": {"form": "rece", "preserve": 0.1, "ridge": 0.1, "rounds": 1, "regularisation": 1e-3},
    },
    "speed": {
        "method": "edit",
        "trainable": r"\.attn2\.to_v\.",
        "edit": {"form": "speed", "ridge": 1.0, "threshold": 0.1, "filtered": True, "augment": 10},
    },
    "refinement": {"method": "edit", "edit": {"form": "refinement", "preserve": 0.0, "ridge": 1e3}},
    "salun": {
        "reference": "current",
        "trainable": "full",
        "batch_size": 8,
        "learning_rate": 1e-5,
        "saliency": {"share": 0.5, "guidance": 7.5},
        "preservation": {"weight": 2 * 0.5, "at": "retained", "against": "noise", "surgery": False},
        "images": {"number": 800, "at": "target"},
    },
    "erasediff": {
        "reference": "current",
        "steps": 160,
        "batch_size": 16,
        "learning_rate": 1e-5,
        "preservation": {
            "weight": 2 * 1.0,
            "at": "retained",
            "against": "noise",
            "surgery": False,
            "balance": 0.1,
        },
    },
    "spm": {
        "anchor": "negative",
        "steps": 3000,
        "learning_rate": 1e-4,
        "lora": {"rank": 1, "alpha": 1.0},
        "preservation": {"weight": 2 * 1000.0, "at": "random", "against": "model", "surgery": False},
        "optimiser": {"schedule": "cosine", "warmup_steps": 500},
    },
    "advunlearn": {
        "anchor": "negative",
        "negative_guidance": 1.0,
        "steps": 1000,
        "learning_rate": 1e-5,
        "adversary": {"steps": 30, "at": "token", "after": 200},
        "preservation": {"weight": 2 * 1.0, "at": "retained", "against": "model", "surgery": False},
    },
}


@pytest.mark.parametrize("method", PUBLISHED)
def test_published_settings(method):
    config = dataclasses.asdict(METHODS[method]("van gogh"))
    for name, value in PUBLISHED[method].items():
        if isinstance(value, dict):
            assert {key: config[name][key] for key in value} == value, name
        elif isinstance(value, float):
            assert config[name] == pytest.approx(value, rel=1e-12), name
        else:
            assert config[name] == value, name


def test_esd_x_and_esd_u_share_the_parameters_out(pipe):
    parameters = Network.parameters(pipe.unet)
    x, u = (set(select(parameters, METHODS[name]("van gogh").trainable).names) for name in ("esd-x", "esd-u"))
    assert x == {name for name in parameters if ".attn2." in name}
    assert x | u == set(parameters)
    assert not x & u
    same = dataclasses.replace(METHODS["esd-u"]("nemo"), trainable=METHODS["esd-x"]("nemo").trainable)
    assert same == METHODS["esd-x"]("nemo")
