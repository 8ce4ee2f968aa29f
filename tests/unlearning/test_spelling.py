"""Slips of the finger in targets, anchors and retained prompts are asked about, at every entrance."""

import pytest

from fdiv_jax.unlearning import UnlearningConfig, resolve_pairs, resolve_retained
from fdiv_jax.unlearning._spelling import nearly, nearly_shown
from fdiv_jax.unlearning.concept_file import read_concept_file
from fdiv_jax.unlearning.prepare import prepare
from fdiv_jax.unlearning.sweep import cells_of, sweep
from tests.tiny import CONCEPTS

KNOWN = ("superclass", "near", "empty", "negative", "sneaker", "shirt", "van gogh")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("neer", "near"),
        ("naer", "near"),
        ("enar", "near"),
        ("nea", "near"),
        ("nearr", "near"),
        ("Neer", "near"),
        ("emtpy", "empty"),
        ("empt", "empty"),
        ("superclas", "superclass"),
        ("super-classs", "superclass"),
        ("supercalss", "superclass"),
        ("negatve", "negative"),
        ("egative", "negative"),
        ("sneeker", "sneaker"),
        ("a sneeker", "sneaker"),
        ("sneakers", "sneaker"),
        ("skirt", "shirt"),
        ("van goh", "van gogh"),
        ("Van-Goph", "van gogh"),
        ("bear", None),
        ("pear", None),
        ("ear", None),
        ("boot", None),
        ("t-shirt", None),
        ("shoe", None),
        ("monet", None),
        ("near the sea", None),
        ("sneaker", None),
        ("A Sneaker", None),
        ("", None),
        ("ne", None),
        ("x" * 100_000, None),
    ],
)
def test_what_is_nearly_a_word(word, meant):
    assert nearly(word, KNOWN) == meant


def test_words_of_a_prompt():
    assert nearly_shown("two old sneakers, sketch style", ["sneaker"]) == ("sneakers", "sneaker")
    assert nearly_shown("by Van Goh, in oil", ["van gogh"]) == ("Van Goh", "van gogh")
    assert nearly_shown("a t-shirt", ["shirt"]) is None
    assert nearly_shown("a skirt", ["shirt"], known=["skirt"]) is None
    assert nearly_shown("sneekers " * 100_000, ["boot"]) is None


@pytest.mark.parametrize("anchor", ["neer", "Near", "super class", "emty", "negativ", "sandel", "a sandel"])
def test_an_anchor_that_is_nearly_a_word_is_asked_about(anchor):
    with pytest.raises(ValueError, match="did you mean") as refused:
        resolve_pairs(CONCEPTS, "sneaker", anchor)
    assert f"write 'prompt: {anchor}'" in str(refused.value)
    (whole, *_) = resolve_pairs(CONCEPTS, "sneaker", f"prompt: {anchor}")
    assert whole.anchor == anchor
    (phrase, *_) = resolve_pairs(CONCEPTS, "sneaker", f"phrase: {anchor}")
    assert anchor in phrase.anchor
    assert phrase.anchor.endswith(", photo style")


def test_an_anchor_with_a_meaning_or_none_like_it_is_not_asked_about():
    for anchor, expected in {
        "near": "a sandal, photo style",
        "a boot": "a boot, photo style",
        "bear": "a bear, photo style",
        "a bag, photo style": "a bag, photo style",
        "shirt": "a shirt, photo style",
    }.items():
        assert resolve_pairs(CONCEPTS, "sneaker", anchor)[0].anchor == expected


def test_a_target_that_is_nearly_a_concept_is_asked_about():
    prompts = ["a sneeker on a shelf"]
    with pytest.raises(ValueError, match=r"did you mean sneaker\? write 'phrase: sneeker'"):
        resolve_pairs(CONCEPTS, "sneeker", "a boot", prompts)
    (pair,) = resolve_pairs(CONCEPTS, "phrase: sneeker", "a boot", prompts)
    assert pair.anchor == "a boot on a shelf"
    with pytest.raises(ValueError, match="did you mean 'sneaker'"):
        resolve_pairs(CONCEPTS, "sneeker")
    with pytest.raises(ValueError, match="phrase must not be empty"):
        resolve_pairs(CONCEPTS, "phrase: ", "a boot", prompts)
    with pytest.raises(ValueError, match="shows the target 'sneeker'"):
        resolve_retained(CONCEPTS, "phrase: sneeker", ["a red sneeker"])


def test_a_retained_prompt_that_nearly_shows_the_target_is_asked_about():
    for prompt in ("a sneeker, photo style", "two sneakers"):
        with pytest.raises(ValueError, match="is nearly the target 'sneaker'"):
            resolve_retained(CONCEPTS, "sneaker", [prompt])
        assert resolve_retained(CONCEPTS, "sneaker", [f"prompt: {prompt}"]) == (prompt,)
    assert resolve_retained(CONCEPTS, "shirt", ["a sandal", ""]) == ("a sandal", "")
    with pytest.raises(ValueError, match="shows the target"):
        resolve_retained(CONCEPTS, "sneaker", ["prompt: a sneaker"])


def test_every_entrance_asks(pipe, config, tmp_path):
    (tmp_path / "c.yaml").write_text("concepts:\n- target: sneaker\n  anchor: neer\n")
    content = read_concept_file(tmp_path / "c.yaml")
    for asked in (
        config(anchor="neer"),
        UnlearningConfig(concepts=content.erasures, defined=content.concepts, retained=content.retained),
        config(anchor="near", retained=("a sneeker",)),
        config(target="sneeker", anchor="a boot", prompts=("a sneeker",)),
    ):
        with pytest.raises(ValueError, match="is nearly"):
            prepare(pipe, asked)
    cells = cells_of(config(), ["kl"], anchors=["near", "neer"])
    with pytest.raises(ValueError, match="did you mean near"):
        sweep(pipe, cells, tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()
