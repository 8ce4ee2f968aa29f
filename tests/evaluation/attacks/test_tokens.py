"""Words that an attack may write."""

import dataclasses

import numpy as np
import pytest

from fdiv_jax import load_pipeline
from fdiv_jax.evaluation.attacks import ConceptImages
from fdiv_jax.evaluation.attacks.case import replaced
from fdiv_jax.evaluation.attacks.prompt_search import _Search
from fdiv_jax.evaluation.attacks.tokens import own_words, reads_back, slots, vocabulary
from tests.evaluation.attacks.cases import tiny_case


@pytest.fixture(scope="module")
def fashion():
    return load_pipeline("fashion")


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_every_word_is_one_token_of_every_encoder_and_no_mark(family):
    pipe = tiny_case(family).pipe
    known = vocabulary(pipe)
    assert {"a", "z", "0"} <= set(known.words)
    for (tokenizer, _), column in zip(pipe.text_towers, known.ids.T, strict=True):
        for word, i in zip(known.words, column, strict=True):
            assert tokenizer([word], add_special_tokens=False)["input_ids"] == [[i]]
            assert tokenizer.decode([int(i)]).strip() == word
        assert not set(column.tolist()) & set(tokenizer.all_special_ids)


def test_a_world_s_words_are_in_its_vocabulary(fashion):
    known = vocabulary(fashion)
    assert {"sneaker", "sandal", "style", "shirt"} <= set(known.words)
    assert [known.words[k] for k in own_words(fashion, "t-shirt")] == ["t", "-", "shirt"]
    assert [known.words[k] for k in own_words(fashion, "ankle boot")] == ["ankle", "boot"]
    assert own_words(tiny_case().pipe, "sneaker") == []  # spelled in parts of words


@pytest.mark.parametrize(
    ("word", "words"), [("sneaker", "sneaker sneaker sneaker"), ("ankle boot", "ankle boot ankle")]
)
def test_a_search_begins_with_the_concept_s_own_words(fashion, word, words):
    prompts = (f"a {word}, photo style",)
    pictures = tiny_case().images.pixels[:1]
    images = ConceptImages(pictures, prompts)
    case = dataclasses.replace(tiny_case(), pipe=fashion, word=word, prompts=prompts, images=images)
    assert _Search.of(case, 3).text == words
    start = _Search.of(tiny_case(), 2).text.split()  # no word of the concept's own
    assert len(start) == 2
    assert start != _Search.of(tiny_case(seed=1), 2).text.split()


def test_words_in_a_row_are_read_back_or_refused(fashion):
    case = dataclasses.replace(tiny_case(), pipe=fashion)
    known = vocabulary(fashion)
    place = {word: k for k, word in enumerate(known.words)}
    assert reads_back(case, known, np.array([place["sneaker"], place["style"], place["sneaker"]]))
    # punctuation runs together with the comma behind it: "%" alone is read as it is, and "%," is not
    assert (
        fashion.tokenizer(["shirt %"], add_special_tokens=False)["input_ids"][0][-1]
        == known.ids[place["%"], 0]
    )
    assert not reads_back(case, known, np.array([place["shirt"], place["%"]]))
    assert reads_back(case, known, np.array([place["%"], place["shirt"]]))
    # "'" and "s" are read as they stand, with a space between them
    assert reads_back(case, known, np.array([place["'"], place["style"]]))


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_places_are_words_that_the_prompts_do_not_have(family):
    case = tiny_case(family)
    places = slots(case, 3)
    for number, (tokenizer, _) in enumerate(case.pipe.text_towers):
        ids = set(places.trainable.ids[number])
        assert len(ids) == 3
        for plain, changed in zip(case.prompts, places.prompts(case), strict=True):
            before, after = tokenizer([plain, changed], add_special_tokens=False)["input_ids"]
            assert not ids & set(before)
            assert [i for i in after if i in ids] == list(places.trainable.ids[number])


def test_too_many_places_are_refused():
    with pytest.raises(ValueError, match=r"has \d+ tokens, the model reads 24"):
        slots(dataclasses.replace(tiny_case(), prompts=("a sneaker on a long long long long road",)), 2)
    with pytest.raises(ValueError, match="places for vectors, but the vocabulary has"):
        slots(tiny_case(), 60)


def test_a_word_is_replaced_wherever_it_stands_alone():
    assert replaced("shirt", "x y", ["a shirt, a t-shirt and a Shirt", "shirts"]) == (
        "a x y, a t-shirt and a x y",
        "shirts",
    )
