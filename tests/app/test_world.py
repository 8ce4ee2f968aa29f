"""A run with the page's own settings on the real model."""

import threading

import numpy as np
import pytest

from fdiv_jax.app import runs
from fdiv_jax.app.runs import Request, Studio
from fdiv_jax.worlds.erasure_scores import ErasureCounts


@pytest.mark.slow
def test_the_world_forgets_a_sneaker(tmp_path, monkeypatch):
    """m falls to less than half. With the judge, which takes longer: after 60 steps it sees a sneaker in 0
    of 20 images, and in 45 of 45 others what was asked for."""
    counts = ErasureCounts(3, 4, 5, 6)
    monkeypatch.setattr(runs, "_counted", lambda pipeline, target: counts)
    monkeypatch.setattr(runs, "_counts", lambda target: counts)
    monkeypatch.setattr(runs, "_draw", lambda pipe, prompts: np.zeros((len(prompts), 8, 8, 3), np.uint8))
    asked = Request("sneaker", "near", "squared_hellinger", 30)
    last = list(Studio(tmp_path).run(asked, threading.Event()))[-1]
    assert last.phase == "done", last.message
    assert np.mean(last.m[-6:]) < np.mean(last.m[:6]) / 2
