"""What is left of a concept and of the rest, counted by hand from what a judge is made to see."""

import numpy as np
import pytest

from fdiv_jax.unlearning import Erasure, UnlearningConfig
from fdiv_jax.worlds import erasure_scores as module
from fdiv_jax.worlds.captions import ITEM_NAMES, STYLE_NAMES
from fdiv_jax.worlds.erasure_scores import concept_scores, erasure_scores, targets_of
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
