"""The shipped concepts, and how a concept is found."""

import itertools
import re

import pytest

from fdiv_jax.pipeline import Concept
from fdiv_jax.unlearning.concepts import Erasure, resolve_all, resolve_pairs, resolve_retained
from fdiv_jax.unlearning.library import KnownConcepts, known_concepts, library_concepts
from tests.tiny import CONCEPTS

LIBRARY = library_concepts()
STYLES = [
    "van gogh",
    "claude monet",
    "greg rutkowski",
    "salvador dali",
    "pablo picasso",
    "thomas kinkade",
    "kelly mckernan",
    "tyler edlin",
    "kilian eng",
    "ajin demi human",
]
OBJECTS = [
    "grumpy cat",
    "snoopy",
    "r2d2",
    "nemo",
    "spongebob",
    "pikachu",
    "dog",
    "bus",
    "english springer",
    "golf ball",
    "parachute",
    "church",
]


def has(text, words):
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text, re.IGNORECASE) is not None


def test_the_cases_of_the_literature_are_there():
    assert [name for name, concept in LIBRARY.items() if concept.kind == "style"] == STYLES
    assert [name for name, concept in LIBRARY.items() if concept.kind == "object"] == OBJECTS
    assert {concept.kind for concept in LIBRARY.values()} == {"style", "object"}  # no person


@pytest.mark.parametrize("name", LIBRARY)
def test_prompts(name):
    concept = LIBRARY[name]
    assert concept.name == name
    assert len(set(concept.prompts)) == len(concept.prompts) >= 10
    for prompt in concept.prompts:
        assert has(prompt, concept.phrase)
        assert has(prompt, name)
        assert prompt == " ".join(prompt.split())
        assert not any(has(prompt, other) for other in LIBRARY if other != name)


def test_no_prompt_is_in_two_concepts():
    scenes = [p.replace(c.phrase, "") for c in LIBRARY.values() for p in c.prompts]
    assert len(set(scenes)) == len(scenes)


@pytest.mark.parametrize("anchor", ["superclass", "near"])
@pytest.mark.parametrize("name", LIBRARY)
def test_anchors_are_english_without_the_target(name, anchor):
    concept = LIBRARY[name]
    pairs = resolve_pairs(known_concepts({}), name, anchor)
    assert len(pairs) == len(concept.prompts)
    left = name.split() if concept.kind == "style" else [name]
    for pair in pairs:
        assert not any(has(pair.anchor, word) for word in left)
        assert "  " not in pair.anchor
        assert pair.anchor == pair.anchor.strip()
        assert getattr(concept, anchor) in pair.anchor
        assert not re.search(r"\b(a|an|the) (a|an|the)\b", pair.anchor)
        assert not re.search(r"\ba [aeio]", pair.anchor)
        assert not re.search(r"\ban [^aeio]", pair.anchor)


def test_any_concepts_can_be_erased_together_towards_their_neighbours():
    known = known_concepts({})
    for first, second in itertools.combinations(LIBRARY, 2):
        assert resolve_all(known, [Erasure(first, "near"), Erasure(second, "near")])


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("van gogh", "van gogh"),
        ("Van-Gogh", "van gogh"),
        ("VAN  GOGH", "van gogh"),
        ("van_gogh", "van gogh"),
        ("Vincent van Gogh", "van gogh"),
        ("in the style of Van Gogh", "van gogh"),
        ("monet", "claude monet"),
        ("Salvador Dalí", "salvador dali"),
        ("Dalí", "salvador dali"),
        ("R2-D2", "r2d2"),
        ("r2 d2", "r2d2"),
        ("Ajin", "ajin demi human"),
        ("Ajin Demi-Human", "ajin demi human"),
        ("SpongeBob SquarePants", "spongebob"),
        ("golfball", "golf ball"),
        ("a dog", "dog"),
        ("English Springer Spaniel", "english springer"),
    ],
)
def test_names(word, name):
    known = known_concepts({})
    assert known.find(word) == LIBRARY[name]
    assert resolve_pairs(known, word) == resolve_pairs(known, name)


def test_an_alias_is_a_key_and_a_phrase_is_none():
    known = known_concepts({})
    assert known["Monet"] == LIBRARY["claude monet"]
    assert "in the style of van gogh" not in known
    assert known.find("rembrandt") is None
    assert list(known) == list(LIBRARY)
    assert len(known) == len(LIBRARY)


@pytest.mark.parametrize(
    ("target", "anchor", "prompt", "expected"),
    [
        ("van gogh", "superclass", "a tree by Vincent van Gogh", "a tree in the style of a painting"),
        ("van gogh", "near", "a tree by van gogh", "a tree in the style of paul gauguin"),
        ("van gogh", "near", "a tree in Van Gogh style, 4k", "a tree in the style of paul gauguin, 4k"),
        ("van gogh", "near", "a van gogh portrait", "a paul gauguin portrait"),
        ("van gogh", "superclass", "starry night, van gogh", "starry night, a painting"),
        (
            "van gogh",
            "superclass",
            "by van gogh, a van gogh tree",
            "in the style of a painting, a painting tree",
        ),
        (
            "Dalí",
            "near",
            "a clock by Salvador Dali, a Dalí",
            "a clock in the style of rene magritte, a rene magritte",
        ),
        ("monet", "watercolour", "a pond by Monet", "a pond in the style of watercolour"),
        ("monet", "van gogh", "a pond by Monet", "a pond in the style of van gogh"),
        ("grumpy cat", "superclass", "the grumpy cat", "the cat"),
        ("grumpy cat", "dog", "tardar sauce on a sofa", "a dog on a sofa"),
        ("english springer", "superclass", "An english springer spaniel runs", "a dog runs"),
        ("english springer", "superclass", "a springer spaniel runs", "a dog runs"),
        ("english springer", "near", "two english springer puppies", "two cocker spaniel puppies"),
        ("parachute", "superclass", "a red parachute", "a red aircraft"),
        ("r2-d2", "near", "r2-d2 and R2D2", "bb-8 and bb-8"),
    ],
)
def test_prompts_of_the_users(target, anchor, prompt, expected):
    (pair,) = resolve_pairs(known_concepts({}), target, anchor, [prompt])
    assert (pair.target, pair.anchor) == (prompt, expected)


def test_retained_prompts_are_of_the_kind_and_no_special_case_of_the_target():
    known = known_concepts({})
    kept = resolve_retained(known, "dog")
    assert kept[0] == ""
    assert LIBRARY["bus"].prompts[0] in kept
    assert not set(kept) & set(LIBRARY["dog"].prompts + LIBRARY["van gogh"].prompts)
    assert not set(kept) & set(LIBRARY["english springer"].prompts + LIBRARY["snoopy"].prompts)
    assert set(LIBRARY["dog"].prompts) < set(resolve_retained(known, "english springer"))


def test_a_model_with_concepts_of_its_own_has_those_alone():
    known = known_concepts(CONCEPTS)
    assert dict(known) == CONCEPTS
    assert known.find("van gogh") is None
    assert known.find("T-Shirt") is None
    assert known["Sneaker"] == CONCEPTS["sneaker"]
    with pytest.raises(ValueError, match=r"'van gogh' is not a concept of this model \(known: sneaker"):
        resolve_pairs(known, "van gogh")
    with pytest.raises(ValueError, match=r"'monnet' is not a concept of the library.*did you mean 'monet'"):
        resolve_pairs(known_concepts({}), "monnet")


def test_a_defined_concept_comes_before_that_of_its_name():
    mine = Concept("Van-Gogh", "style", "by Van-Gogh", "by me", "by you", ("a tree by Van-Gogh",))
    known = known_concepts({}, [mine])
    assert known["van gogh"] is mine
    assert len(known) == len(LIBRARY)
    assert [pair.anchor for pair in resolve_pairs(known, "van gogh")] == ["a tree by me"]
    assert known_concepts(CONCEPTS, [mine])["van gogh"] is mine


def test_an_exact_name_comes_before_one_that_is_alike():
    one = Concept("t-shirt", "item", "a t-shirt", "a top", "a shirt", ("a t-shirt",))
    two = Concept("t shirt", "item", "a t shirt", "a top", "a shirt", ("a t shirt",))
    known = KnownConcepts({"t-shirt": one, "t shirt": two})
    assert known["t-shirt"] is one
    assert known["t shirt"] is two
