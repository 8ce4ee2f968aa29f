"""Protocols: what they pin, their hash, the named ones, and what is refused."""

import dataclasses
import json

import pytest

from fdiv_jax.evaluation import METRICS, NAMED, Protocol, find_protocol, named_protocol
from fdiv_jax.evaluation.protocol import PromptSet, unlike
from fdiv_jax.pipeline import Concept
from fdiv_jax.unlearning import Erasure
from fdiv_jax.worlds.captions import concepts
from tests.evaluation.models import protocol

FASHION = {name: Concept.from_dict(name, entry) for name, entry in concepts().items()}


def test_the_hash_is_of_everything_but_the_name():
    one = protocol()
    assert dataclasses.replace(one, name="another").sha256 == one.sha256
    assert Protocol.from_dict(json.loads(json.dumps(one.to_dict()))) == one
    others = [
        dataclasses.replace(one, **{field: value})
        for field, value in {
            "steps": 3,
            "guidance": 2.5,
            "eta": 0.5,
            "sampler": "euler",
            "size": (16, 16),
            "metrics": one.metrics[:-1],
            "target_seeds": (0, 1),
            "features": "other",
            "classifier": "other",
        }.items()
    ]
    others.append(
        dataclasses.replace(one, sets=(*one.sets[:-1], dataclasses.replace(one.sets[-1], caption="A")))
    )
    assert len({each.sha256 for each in (one, *others)}) == len(others) + 1
    for other in others:
        assert len(unlike(one.to_dict(), other.to_dict())) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampler": "dpm++", "eta": 1.0}, "sampler dpm\\+\\+: .*eta must be 0, got 1.0"),
        ({"sampler": "dimm"}, "did you mean 'ddim'"),
        ({"steps": 1001}, "sampler ddim"),
        ({"steps": 2.5}, "steps must be an integer"),
        ({"guidance": float("nan")}, "guidance must be a finite number"),
        ({"metrics": ("ua", "kids")}, "did you mean 'kid'"),
        ({"metrics": ("clip_score",)}, "metric 'clip_score' needs clip, which the protocol does not name"),
        ({"metrics": ("ua",), "classifier": ""}, "needs classifier"),
        ({"metrics": ("clip_accuracy",), "clip": "x"}, "no set says `against` what"),
        ({"metrics": ()}, "one or more different names"),
        ({"target_seeds": (1, 1)}, "a seed twice"),
        ({"target_seeds": ()}, "target_seeds is empty"),
        ({"target_seeds": (2**32,)}, "< 4294967296"),
        ({"size": (0, 8)}, "size must be an integer >= 1"),
        ({"anchor_seeds": (0,)}, "anchor 'sandal' has 1 image, too few"),
        ({"classifier": "clip"}, "classifier 'clip' without clip"),
    ],
)
@pytest.mark.wrong_types
def test_what_makes_no_sense_is_refused(changes, message):
    with pytest.raises((ValueError, TypeError), match=message):
        protocol(**changes)


def test_a_prompt_cannot_be_erased_and_retained():
    sets = protocol().sets
    both = dataclasses.replace(sets[2], prompts=sets[0].prompts)
    with pytest.raises(ValueError, match="is of a target, and of retained 'shirt'"):
        protocol(sets=(*sets[:2], both))
    with pytest.raises(ValueError, match="no target"):
        protocol(sets=sets[1:])


def test_fashion_keeps_eight_items_and_counts_the_anchor_as_none_of_them():
    found = named_protocol("fashion", FASHION, [Erasure("sneaker", "near")])
    assert [each.concept for each in found.of("target")] == ["sneaker"]
    assert [each.concept for each in found.of("anchor")] == ["sandal"]
    retained = [each.concept for each in found.of("retained")]
    assert retained == [n for n, c in FASHION.items() if c.kind == "item" and n not in ("sneaker", "sandal")]
    assert len(found.target_seeds) * 5 == 100
    assert dict(found.sets[0].shows[1]) == {"item": "sneaker", "style": "sketch"}
    style = named_protocol("fashion", FASHION, [Erasure("sketch", "near")])
    assert {each.kind for each in style.sets} == {"style"}
    assert len(style.of("retained")) == 3
    assert len(style.target_seeds) * 10 == 100


def test_published_numbers_of_images_and_samplers():
    found = named_protocol("ca-2023", {}, [Erasure("van gogh")])
    images = {
        role: len(found.seeds(role)) * len(found.of(role)[0].prompts) for role in ("target", "retained")
    }
    assert images == {"target": 200, "retained": 50}
    assert (found.sampler, found.steps, found.eta, found.guidance) == ("ddim", 50, 1.0, 6.0)
    assert found.target_seeds[0] == 42
    assert found.of("target")[0].caption == "A photo depicts van gogh style"
    assert found.of("target")[0].against == "A photo depicts painting"
    assert "claude monet" in [each.concept for each in found.of("retained")]
    repo = named_protocol("fdmu-repo", {}, [Erasure("van gogh")])
    assert (repo.steps, repo.eta, repo.guidance, repo.target_seeds) == (30, 1.0, 7.5, (0,))
    canvas = named_protocol("unlearncanvas", {}, [Erasure("van gogh")])
    assert len(canvas.of("target")) + len(canvas.of("retained")) == 50
    assert sum(1 for _ in canvas.images()) == 50 * 20 * 5
    assert (canvas.steps, canvas.guidance, canvas.eta) == (100, 9.0, 0.0)
    assert canvas.of("target")[0].prompts[0] == "A Architectures image in Van Gogh style."
    assert dict(canvas.of("target")[0].shows[2]) == {"style": "Van Gogh", "object": "Birds"}
    objects = named_protocol("unlearncanvas", {}, [Erasure("dogs")])
    assert len(objects.of("retained")) == 19


def test_two_targets_are_no_part_of_each_others_retained_prompts():
    found = named_protocol("fashion", FASHION, [Erasure("sneaker", "near"), Erasure("sketch", "near")])
    kept = [prompt for each in found.of("retained") for prompt in each.prompts]
    assert kept
    assert len(kept) == len(set(kept))
    assert not any("sneaker" in prompt or "sketch" in prompt for prompt in kept)


def test_every_named_protocol_names_its_metrics_backbones():
    for name, template in NAMED.items():
        found = named_protocol(name, FASHION if name == "fashion" else {}, [_erasure(name)])
        assert found.name == template.name == name
        assert set(found.metrics) <= set(METRICS)


def _erasure(name):
    return Erasure("sneaker", "near") if name == "fashion" else Erasure("van gogh")


@pytest.mark.parametrize(
    ("name", "erasures", "message"),
    [
        ("fashon", [Erasure("sneaker")], "did you mean 'fashion'"),
        ("fashion", [], "needs a target; name it by --target"),
        ("fashion", [Erasure("snaeker")], "target 'snaeker' is not a concept of this model"),
        ("unlearncanvas", [Erasure("sneaker")], "not a concept of the protocol unlearncanvas"),
    ],
)
def test_a_name_that_is_not_known_is_answered_with_what_is(name, erasures, message):
    with pytest.raises(ValueError, match=message):
        find_protocol(name, FASHION, erasures)


def test_a_set_of_prompts_is_checked():
    for values, message in (
        (("goal", "x", ("a",)), "role must be one of"),
        (("target", "x", ()), "no prompts"),
        (("target", "x", ("a", "a")), "the prompt 'a' twice"),
        (("target", "x", ("a",), "item", (), "t", "t"), "against is the caption"),
    ):
        with pytest.raises(ValueError, match=message):
            PromptSet(*values)
