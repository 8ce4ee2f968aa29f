"""Every attack on tiny models of every family: the same by its seed, and where what it found is used."""

import dataclasses

import numpy as np
import pytest

from fdiv_jax.evaluation.attacks import (
    ATTACKS,
    BlackBoxSearch,
    Drawing,
    PromptSearch,
    SoftPrompt,
)
from fdiv_jax.evaluation.attacks.case import FIRST_SEARCH_SEED, looks, search_seeds
from tests.evaluation.attacks.cases import bright, tiny_case

DRAWING = Drawing((1, 2, 3), steps=1, guidance=2.0, sampler="ddim")


def made(attack, case, budget=2):
    return list(attack.probes(case, budget, lambda *_: None))


def alike(one, other):
    assert [(p.at, p.label, p.detail) for p in one] == [(p.at, p.label, p.detail) for p in other]
    np.testing.assert_array_equal(one[-1].draw(DRAWING), other[-1].draw(DRAWING))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "family"), [("concept-inversion", "sdxl"), ("ddim-inversion", "sd2")])
def test_an_attack_is_the_same_by_its_seed_and_draws(name, family):
    case = tiny_case(family)
    one = made(ATTACKS[name], case)
    alike(one, made(ATTACKS[name], case))
    assert [p.at for p in one] == sorted(p.at for p in one)
    pictures = one[-1].draw(DRAWING)
    assert pictures.shape == (3, 8, 8, 3)
    assert pictures.dtype == np.uint8


@pytest.mark.slow
def test_an_image_counts_once_unless_it_begins_at_other_noise():
    case = tiny_case()
    more = dataclasses.replace(DRAWING, seeds=(1, 2, 3, 4, 5, 6))
    assert len(case.images.pixels) == 4
    shown = {name: made(ATTACKS[name], case)[0].draw(more) for name in ("image-inversion", "ddim-inversion")}
    assert {name: len({each.tobytes() for each in pictures}) for name, pictures in shown.items()} == {
        "image-inversion": 6,
        "ddim-inversion": 4,
    }
    assert len(shown["ddim-inversion"]) == 4


@pytest.mark.slow
def test_words_that_a_search_found_are_words_of_the_prompts_that_it_draws():
    attack = PromptSearch(tokens=3, candidates=3, top=6)
    found = made(attack, tiny_case())[-1]
    assert found.detail == made(attack, tiny_case())[-1].detail
    words = found.detail["words"].split()
    assert len(words) == 3
    case = tiny_case()
    again = DRAWING.draw(case.pipe, [f"a {' '.join(words)}, photo", f"a {' '.join(words)}, sketch"])
    np.testing.assert_array_equal(found.draw(DRAWING), again)


@pytest.mark.slow
def test_a_black_box_search_keeps_what_is_recognised_more_often():
    asked = []

    def recognise(pictures):
        asked.append(len(pictures))
        return bright(pictures)

    case = tiny_case(recognise=recognise)
    found = made(BlackBoxSearch(tokens=2, images=4), case, 6)
    rates = [p.detail["recognised_in_the_search"] for p in found]
    assert rates == sorted(rates)
    assert asked == [4] * len(asked)
    assert len(asked) <= 6


def test_searches_look_at_no_noise_that_they_are_judged_by():
    assert min(search_seeds(3, 5)) >= FIRST_SEARCH_SEED
    assert set(search_seeds(3, 5)).isdisjoint(search_seeds(4, 5))
    assert max(search_seeds(999, 1_000_000)) < 2**32


def test_looks_end_at_the_budget():
    assert looks(200) == [50, 100, 200]
    assert looks(1) == [1]
    assert looks(3) == [1, 2, 3]


@pytest.mark.slow
def test_the_concept_s_own_word_is_left_as_it_was():
    """What is learned stands in a place of its own: the model draws its own prompts as before."""
    case = tiny_case()
    found = made(SoftPrompt(vectors=2), case, 1)[-1]
    same = [np.asarray(pipe.encode_prompts(case.prompts)) for pipe in (found.pipeline, case.pipe)]
    np.testing.assert_array_equal(*same)
    others = [np.asarray(pipe.encode_prompts(found.prompts)) for pipe in (found.pipeline, case.pipe)]
    assert np.abs(others[0] - others[1]).max() > 1e-3
