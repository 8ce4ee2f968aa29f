"""What is left of a concept and of the rest, counted by hand from what a judge is made to see."""

import numpy as np
import pytest

from fdiv_jax.unlearning import Erasure, UnlearningConfig
from fdiv_jax.worlds import erasure_scores as module
from fdiv_jax.worlds.captions import ITEM_NAMES, STYLE_NAMES
from fdiv_jax.worlds.erasure_scores import concept_scores, erasure_counts, erasure_scores, targets_of
from fdiv_jax.worlds.judge import Judgement
from fdiv_jax.worlds.scores import WorldScores

SNEAKER, SANDAL = ITEM_NAMES.index("sneaker"), ITEM_NAMES.index("sandal")


def judge(images):
    """Takes the first pixel's first two channels for the item and the style."""
    items, styles = (np.eye(n)[images[:, 0, 0, c]] for c, n in enumerate((10, 5)))
    return Judgement(items, styles, np.zeros((len(images), 64)))


@pytest.fixture
def drawn(monkeypatch):
    """4 images a prompt, each of what was asked for; to be changed."""
    images = np.zeros((10, 5, 4, 32, 32, 3), np.uint8)
    images[..., 0] = np.arange(10)[:, None, None, None, None]
    images[..., 1] = np.arange(5)[None, :, None, None, None]
    scores = WorldScores(ITEM_NAMES, np.zeros((10, 10)), np.zeros((5, 5)), images)
    monkeypatch.setattr(module, "score_world", lambda *_, **__: scores)
    return images


def test_an_item_that_is_gone_and_one_that_suffers(drawn):
    drawn[SNEAKER, :, :3, :, :, 0] = SANDAL  # 3 of 4 sneakers are sandals
    drawn[SANDAL, 0, :2, :, :, 1] = 3  # 2 of 20 sandals are in another style
    drawn[SANDAL, 1, 0, :, :, 0] = SNEAKER  # 1 of 20 sandals is a sneaker
    found = erasure_scores(None, judge, ["sneaker"])
    assert found.target_accuracy == pytest.approx(1 / 4)
    assert found.retained_items == pytest.approx(1 - 1 / 180)
    assert found.retained_styles == pytest.approx(1 - 2 / 180)
    every = concept_scores(None, judge)
    assert every["sneaker"] == pytest.approx(1 / 4)
    assert every["sandal"] == pytest.approx(19 / 20)
    assert every[STYLE_NAMES[0]] == pytest.approx(38 / 40)
    assert set(every) == {*ITEM_NAMES, *STYLE_NAMES}


def test_a_style_that_is_gone(drawn):
    drawn[:, 2, :, :, :, 1] = 0
    drawn[SANDAL, 2, :, :, :, 0] = SNEAKER  # in the style that is erased: not among the retained items
    found = erasure_scores(None, judge, [STYLE_NAMES[2]])
    assert tuple(found) == (0.0, 1.0, 1.0)


def test_targets_by_any_of_their_names():
    config = UnlearningConfig(concepts=(Erasure("a sneaker"), Erasure("Ankle-Boot"), Erasure("sketch")))
    assert targets_of(config) == ("sneaker", "ankle boot", "sketch")
    with pytest.raises(ValueError, match="target 'hat' is no item or style of the world fashion"):
        targets_of(UnlearningConfig("hat", prompts=("a hat",)))


class Drawing:
    """Draws what its prompts ask for, but for what is changed, in the order of the prompts."""

    def __init__(self, wrong):
        self.wrong, self.prompts = wrong, []

    def __call__(self, prompts, **settings):
        self.prompts = list(prompts)
        images = np.zeros((len(prompts), 32, 32, 3), np.uint8)
        for number, prompt in enumerate(prompts):
            item = next(i for i, name in enumerate(ITEM_NAMES) if f" {name}," in prompt)
            style = next(i for i, name in enumerate(STYLE_NAMES) if f" {name} " in prompt)
            images[number, ..., 0], images[number, ..., 1] = self.wrong(number, item, style)
        return images


def test_counts_of_an_item():
    """Of 20 images of sneakers 17 are sandals, and one of the 45 others is in another style."""

    def seen(number, item, style):
        if item == SNEAKER:
            return (SANDAL if number < 17 else item), style
        return item, (3 if number == 25 else style)

    model = Drawing(seen)
    found = erasure_counts(model, judge, ["sneaker"])
    other = model.prompts[25]
    wrong = int(f" {STYLE_NAMES[3]} " not in other)
    assert found == (3, 20, 45 - wrong, 45)
    assert wrong == 1


def test_counts_of_a_style_and_of_several_targets():
    model = Drawing(lambda _, item, style: (item, 0 if style == 2 else style))
    assert erasure_counts(model, judge, [STYLE_NAMES[2]], target_images=11) == (0, 20, 40, 40)
    right = Drawing(lambda _, item, style: (item, style))
    assert erasure_counts(right, judge, ["sneaker", STYLE_NAMES[2]], target_images=1) == (14, 14, 36, 36)
    with pytest.raises(ValueError, match="target 'hat' is no item or style"):
        erasure_counts(right, judge, ["hat"])
    with pytest.raises(ValueError, match="expected at least 1"):
        erasure_counts(right, judge, ["sneaker"], target_images=0)
