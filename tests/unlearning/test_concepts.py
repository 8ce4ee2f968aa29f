"""From targets and anchors to prompt pairs, and the prompts that stay."""

import pytest

from fdiv_jax.pipeline import Concept
from fdiv_jax.unlearning.concepts import Erasure, PromptPair, resolve_all, resolve_pairs, resolve_retained
from tests.tiny import CONCEPTS


def anchors(*args, **options):
    return [pair.anchor for pair in resolve_pairs(CONCEPTS, *args, **options)]


@pytest.mark.parametrize(
    ("target", "anchor", "expected"),
    [
        ("sneaker", "superclass", ["a shoe, photo style", "a shoe, sketch style"]),
        ("sneaker", "near", ["a sandal, photo style", "a sandal, sketch style"]),
        ("sneaker", "empty", ["", ""]),
        ("sneaker", "negative", ["", ""]),
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
        ("boot", "near", (), r"known: sneaker, sandal, shirt, sketch"),
        ("sketch", "superclass", ["a sketch of a sneaker"], r"expected prompts with ', sketch style'"),
    ],
)
def test_refused(target, anchor, prompts, message):
    with pytest.raises(ValueError, match=message):
        resolve_pairs(CONCEPTS, target, anchor, prompts)


def test_every_occurrence_of_the_target_is_replaced():
    prompts = ["a sneaker on a sneaker, one more sneaker"]
    assert anchors("sneaker", "near", prompts) == ["a sandal on a sandal, one more sandal"]


def everything(*erasures):
    return [
        (pair.target, pair.anchor) for pair in resolve_all(CONCEPTS, [Erasure(*each) for each in erasures])
    ]


def test_several_erasures_are_the_pairs_of_each_in_order():
    together = resolve_all(
        CONCEPTS, [Erasure("shirt", "near"), Erasure("sneaker"), Erasure("cat", "a dog", ["a cat"])]
    )
    assert together == (
        *resolve_pairs(CONCEPTS, "shirt", "near"),
        *resolve_pairs(CONCEPTS, "sneaker"),
        PromptPair("a cat", "a dog"),
    )


def test_a_prompt_that_shows_two_targets_has_both_replaced():
    expected = {
        ("a sneaker, photo style", "a shoe, photo style"),
        ("a sneaker, sketch style", "a shoe"),
        ("a sandal, sketch style", "a sandal"),
    }
    assert set(everything(("sneaker",), ("sketch",))) == expected
    assert set(everything(("sketch",), ("sneaker",))) == expected
    assert len(everything(("sneaker",), ("sketch",))) == 3


def test_a_whole_anchor_takes_the_place_of_whatever_the_prompt_shows():
    pairs = everything(
        ("sneaker", "empty", ["a sneaker, sketch style"]), ("sketch", "near", ["a bag, sketch style"])
    )
    assert pairs == [("a sneaker, sketch style", ""), ("a bag, sketch style", "a bag, photo style")]


@pytest.mark.parametrize(
    ("erasures", "message"),
    [
        ([], "expected at least one target"),
        (
            [("sneaker", "sandal"), ("sandal", "a boot")],
            "anchor 'sandal' of target 'sneaker' shows target 'sandal'",
        ),
        (
            [("sandal", "a boot"), ("sneaker", "near")],
            "anchor 'near' of target 'sneaker' shows target 'sandal'",
        ),
        (
            [("sneaker", "near"), ("sandal", "near")],
            "shows target 'sandal', which is to be unlearned as well",
        ),
        ([("sneaker", "prompt: two Sandals, a sandal"), ("sandal",)], "shows target 'sandal'"),
        ([("sneaker", "a red sandal"), ("sandal",)], "shows target 'sandal'"),
        ([("cat", "a dog", ["a cat"]), ("dog", "empty", ["a dog"])], "shows target 'dog'"),
        ([("sneaker",), ("a Sneaker", "near")], "target 'a Sneaker' comes twice"),
        ([("cat", "empty", ["a cat"]), ("Cat", "empty", ["one cat"])], "target 'Cat' comes twice"),
        (
            [("sneaker",), ("sketch", "empty")],
            "shows target 'sketch' as well, whose anchor 'empty' is a whole",
        ),
        ([("sneaker",), ("boot",)], "'boot' is not a concept"),
        (
            [("sneaker", "empty", ["a sneaker, sketch style"]), ("sketch",)],
            r"'a sneaker, sketch style'.*shows target 'sneaker' as well, whose anchor 'empty'",
        ),
        (
            [
                ("sneaker", "empty", ["a sneaker and a cat"]),
                ("cat", "prompt: a dog", ["a sneaker and a cat"]),
            ],
            r"has two anchor prompts, '' and 'a dog'",
        ),
        (
            [("sneaker", "negative", ["a sneaker and a cat"]), ("cat", "empty", ["a sneaker and a cat"])],
            r"'a sneaker and a cat' is of a target with the anchor 'negative' and of one without",
        ),
    ],
)
def test_refused_together(erasures, message):
    with pytest.raises(ValueError, match=message):
        everything(*erasures)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"target": ""}, ValueError, "target must not be empty"),
        ({"target": " "}, ValueError, "target must not be empty"),
        ({"target": 3}, TypeError, "target must be a string"),
        ({"target": "cat", "anchor": ""}, ValueError, "the empty prompt is anchor 'empty'"),
        ({"target": "cat", "anchor": None}, TypeError, "anchor must be a string"),
        ({"target": "cat", "prompts": "a cat"}, TypeError, "prompts of 'cat' must be a sequence of strings"),
        ({"target": "cat", "prompts": [3]}, TypeError, "prompts of 'cat' must be a sequence of strings"),
        ({"target": "cat", "prompts": ["a cat", ""]}, ValueError, "a prompt of 'cat' must not be empty"),
    ],
)
def test_an_erasure_is_checked(fields, error, message):
    with pytest.raises(error, match=message):
        Erasure(**fields)


def test_an_erasure_is_a_value():
    erasure = Erasure("cat", prompts=["a cat"])
    assert erasure == Erasure("cat", "superclass", ("a cat",))
    assert hash(erasure) == hash(Erasure("cat", "superclass", ("a cat",)))


def test_retained_prompts_of_one_target():
    kept = ("", "a sandal, photo style", "a shirt, photo style")
    assert resolve_retained(CONCEPTS, "sneaker") == kept
    assert resolve_retained(CONCEPTS, ["sneaker"]) == kept
    assert resolve_retained(CONCEPTS, "a  Sneaker") == kept
    assert resolve_retained(CONCEPTS, "cat") == ()
    assert resolve_retained(CONCEPTS, "sneaker", ["a bag", "a bag", ""]) == ("a bag", "")
    assert resolve_retained(CONCEPTS, "sneaker", []) == ()


def test_retained_prompts_show_none_of_several_targets():
    assert resolve_retained(CONCEPTS, ["sneaker", "sandal"]) == ("", "a shirt, photo style")
    assert resolve_retained(CONCEPTS, ["sandal", "sketch"]) == (
        "",
        "a sneaker, photo style",
        "a shirt, photo style",
    )
    assert resolve_retained(CONCEPTS, ["shirt", "cat"], ["a t-shirt", "a dog"]) == ("a t-shirt", "a dog")


def test_a_special_case_of_the_target_is_not_retained():
    shoe = Concept("shoe", "item", "a shoe", "an accessory", "a hat", ("a shoe, photo style",))
    assert resolve_retained({**CONCEPTS, "shoe": shoe}, "shoe") == ("", "a shirt, photo style")


@pytest.mark.parametrize(
    ("targets", "retained", "message"),
    [
        ("sneaker", ["a bag", "an old Sneaker"], "'an old Sneaker' shows the target 'sneaker'"),
        (["sneaker", "cat"], ["a red cat"], "'a red cat' shows the target 'cat'"),
        (["cat", "sketch"], ["a bag, sketch style"], "shows the target 'sketch'"),
    ],
)
def test_retained_prompts_that_show_a_target_are_refused(targets, retained, message):
    with pytest.raises(ValueError, match=message):
        resolve_retained(CONCEPTS, targets, retained)


@pytest.mark.parametrize(
    ("target", "prompt"),
    [
        ("café", "a cafe\u0301 in paris"),
        ("cafe\u0301", "a café in paris"),
        ("cat", "a ｃａｔ"),
        ("cat", "a CA\u200bT"),
        ("van gogh", "by Van\u00a0Gogh"),
        ("猫", "一只猫在沙发上"),
        ("แมว", "รูปแมวสีดำ"),
        ("葛飾北斎", "葛飾　北斎の波"),
        ("ガンダム", "ｶﾞﾝﾀﾞﾑ"),
        ("salvador dali", "by Salvador Dalí"),
    ],
)
def test_a_retained_prompt_shows_the_target_as_the_tokenizer_sees_it(target, prompt):
    with pytest.raises(ValueError, match=f"shows the target '{target}'"):
        resolve_retained({}, target, [prompt])


@pytest.mark.parametrize(
    ("target", "anchor", "prompt", "expected"),
    [
        ("猫", "狗", "一只猫在沙发上", "一只狗在沙发上"),
        ("ネコ", "イヌ", "ﾈｺの絵、ネコ", "イヌの絵、イヌ"),
        ("แมว", "หมา", "รูปแมวสีดำ", "รูปหมาสีดำ"),
        ("café", "a bar", "a cafe\u0301, cafe", "a bar, a bar"),
        ("кот", "пёс", "Кот и котлета", "пёс и котлета"),
    ],
)
def test_replacing_in_other_scripts(target, anchor, prompt, expected):
    assert resolve_pairs({}, target, anchor, [prompt]) == (PromptPair(prompt, expected),)


def test_two_forms_of_one_target_are_one():
    with pytest.raises(ValueError, match="comes twice"):
        everything(("café", "empty", ["a café"]), ("cafe\u0301", "empty", ["one cafe\u0301"]))
    with pytest.raises(ValueError, match="is the target itself"):
        resolve_pairs({}, "猫", "prompt: 黒い 猫", ["黒い猫"])


def test_retained_prompts_are_a_sequence():
    with pytest.raises(TypeError, match="retained must be a sequence of strings"):
        resolve_retained(CONCEPTS, "sneaker", "a bag")
