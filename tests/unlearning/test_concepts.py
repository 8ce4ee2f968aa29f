"""From a target and an anchor to prompt pairs."""

import pytest

from fdiv_jax.unlearning import PromptPair, resolve_pairs
from tests.tiny import CONCEPTS


def anchors(*args, **options):
    return [pair.anchor for pair in resolve_pairs(CONCEPTS, *args, **options)]


@pytest.mark.parametrize(
    ("target", "anchor", "expected"),
    [
        ("sneaker", "superclass", ["a shoe, photo style", "a shoe, sketch style"]),
        ("sneaker", "near", ["a sandal, photo style", "a sandal, sketch style"]),
        ("sneaker", "empty", ["", ""]),
        ("sneaker", "sandal", ["a sandal, photo style", "a sandal, sketch style"]),
        ("A  Sneaker", "a sandal", ["a sandal, photo style", "a sandal, sketch style"]),
        ("sneaker", "umbrella", ["an umbrella, photo style", "an umbrella, sketch style"]),
        ("sneaker", "the sea", ["the sea, photo style", "the sea, sketch style"]),
        ("sneaker", "a bag, photo style", ["a bag, photo style"] * 2),
        ("sneaker", "prompt: a cat in a hat", ["a cat in a hat"] * 2),
        ("sketch", "superclass", ["a sneaker", "a sandal"]),
        ("sketch", "near", ["a sneaker, photo style", "a sandal, photo style"]),
        ("sketch", "watercolour", ["a sneaker, watercolour style", "a sandal, watercolour style"]),
        ("sketch", ", watercolour style", ["a sneaker, watercolour style", "a sandal, watercolour style"]),
        ("shirt", "near", ["a t-shirt, photo style"]),
    ],
)
def test_anchor_prompts(target, anchor, expected):
    assert anchors(target, anchor) == expected


def test_target_prompts_are_the_concepts_own():
    assert [pair.target for pair in resolve_pairs(CONCEPTS, "sneaker")] == list(CONCEPTS["sneaker"].prompts)


def test_prompts_of_the_users():
    pairs = resolve_pairs(
        CONCEPTS, "sneaker", "superclass", ["A sneaker on grass", "an old sneaker", "an old sneaker"]
    )
    assert pairs == (
        PromptPair("A sneaker on grass", "a shoe on grass"),
        PromptPair("an old sneaker", "an old shoe"),
    )


def test_a_model_without_concepts_needs_prompts_and_a_phrase():
    prompts = ["a harbour, by van Gogh", "van gogh: a tree"]
    pairs = resolve_pairs({}, "van gogh", "a painter", prompts)
    assert [pair.anchor for pair in pairs] == ["a harbour, by a painter", "a painter: a tree"]
    assert [pair.anchor for pair in resolve_pairs({}, "van gogh", "empty", prompts)] == ["", ""]
    for anchor in ("superclass", "near"):
        with pytest.raises(ValueError, match=r"concepts\.json"):
            resolve_pairs({}, "van gogh", anchor, prompts)
    with pytest.raises(ValueError, match=r"without concepts\.json.*give prompts"):
        resolve_pairs({}, "van gogh", "a painter")


@pytest.mark.parametrize(
    ("target", "anchor", "prompts", "message"),
    [
        ("sneeker", "near", (), r"not a concept of this model.*did you mean 'sneaker'"),
        ("sneaker", "sneaker", (), r"anchor 'sneaker' is the target itself"),
        ("sneaker", "a  Sneaker", (), r"is the target itself"),
        ("sneaker", "prompt: a sneaker, photo style", (), r"is the target itself"),
        ("sneaker", "near", ["a sandal"], r"'a sneaker' does not occur in the prompt 'a sandal'"),
        ("shirt", "near", ["a t-shirt"], r"'a shirt' does not occur in the prompt 'a t-shirt'"),
        ("cat", "dog", ["a caterpillar"], r"'cat' does not occur"),
        ("sneaker", "sketch", (), r"kind 'style'.*kind 'item'"),
        ("sketch", "superclass", ["a sketch of a sneaker"], r"expected prompts with ', sketch style'"),
    ],
)
def test_refused(target, anchor, prompts, message):
    with pytest.raises(ValueError, match=message):
        resolve_pairs(CONCEPTS, target, anchor, prompts)
