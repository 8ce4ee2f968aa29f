"""The tab Unlearn without a browser: requests in, what is known of the run out."""

import json
import threading

import numpy as np
import pytest

from fdiv_jax.app import gallery, runs
from fdiv_jax.app.runs import MOST_STEPS, Request, Sight, Studio
from fdiv_jax.checkpoints import load_lora
from fdiv_jax.worlds.erasure_scores import ErasureCounts

pytestmark = pytest.mark.filterwarnings("ignore:.*prompts are cut to")  # of the tiny tokenizer

COUNTS = ErasureCounts(3, 4, 5, 6)
REQUEST = Request("sneaker", "near", "kl", 3)


@pytest.mark.slow
def test_a_run_from_beginning_to_end(tiny, tmp_path):
    sights = list(Studio(tmp_path).run(REQUEST, threading.Event()))
    last = sights[-1]
    assert (last.phase, last.counts, len(last.m)) == ("done", (COUNTS, COUNTS), 3)
    assert [len(sight.m) for sight in sights] == sorted(len(sight.m) for sight in sights)
    assert last.before.shape == last.now.shape == (10, 8, 8, 3)
    assert last.at == 3
    assert not np.array_equal(last.before, last.now)
    names = sorted(path.name for path in last.files)
    assert names == [
        "result.json",
        "sneaker-to-near-diffusers.safetensors",
        "sneaker-to-near-kohya.safetensors",
    ]
    told = json.loads(next(path for path in last.files if path.name == "result.json").read_text())
    assert told["steps"] == 3
    assert told["judged"]["after"]["target_shown"] == 3
    learned = [
        load_lora(path, {"unet": tiny.unet})["unet"] for path in last.files if path.suffix == ".safetensors"
    ]
    for target in learned[0].targets:
        np.testing.assert_array_equal(*(each.pair(target)[0] for each in learned))
        assert np.any(np.asarray(learned[0].pair(target)[1]))
    assert "sneaker" in gallery.show(last)
    assert gallery.show(last).count("<img") == 20


@pytest.mark.slow
def test_a_run_is_stopped_and_the_next_one_begins(tiny, tmp_path):
    studio, first, second = Studio(tmp_path), threading.Event(), threading.Event()
    running = studio.run(Request("sneaker", "near", "kl", MOST_STEPS), first)
    assert next(running).phase == "starting"
    waiting = studio.run(REQUEST, second)
    assert "One run is before yours" in next(waiting).message
    for sight in running:
        if len(sight.m) >= 2:
            first.set()
    assert (sight.phase, sight.message) == ("stopped", "Stopped.")
    assert len(sight.m) < MOST_STEPS
    assert [each.phase for each in waiting][-1] == "done"


@pytest.mark.slow
def test_a_run_that_nobody_looks_at_ends_by_itself(tiny, tmp_path, monkeypatch):
    studio = Studio(tmp_path)
    left = studio.run(Request("sneaker", "near", "kl", MOST_STEPS), threading.Event())
    assert next(left).phase == "starting"
    left.close()  # as a browser that is closed
    assert list(studio.run(Request("sneaker", "near", "kl", 1), threading.Event()))[-1].phase == "done"
    monkeypatch.setattr(runs, "_UNSEEN", 0.2)
    others = set(threading.enumerate())
    forgotten = studio.run(Request("sneaker", "near", "kl", MOST_STEPS), threading.Event())
    next(forgotten)
    (thread,) = (each for each in set(threading.enumerate()) - others if each.name == runs.THREAD)
    thread.join(60)
    assert not thread.is_alive()
    assert list(forgotten)[-1].phase == "stopped"


@pytest.mark.slow
def test_who_is_tired_of_waiting_leaves_the_line(tiny, tmp_path):
    studio, stop = Studio(tmp_path, waiting=2), threading.Event()
    running = studio.run(Request("sneaker", "near", "kl", MOST_STEPS), threading.Event())
    next(running)
    waiting = studio.run(REQUEST, stop)
    next(waiting)
    full = list(studio.run(REQUEST, threading.Event()))
    assert [each.phase for each in full] == ["refused"]
    assert "2 runs are waiting already" in full[0].message
    stop.set()
    assert [each.phase for each in waiting] == ["stopped"]
    again = studio.run(REQUEST, threading.Event())
    assert next(again).phase == "waiting"
    running.close()
    assert list(again)[-1].phase == "done"


@pytest.mark.slow
def test_a_studio_that_closes_ends_its_run_and_begins_no_other(tiny, tmp_path):
    studio, others = Studio(tmp_path), set(threading.enumerate())
    running = studio.run(Request("sneaker", "near", "kl", MOST_STEPS), threading.Event())
    next(running)
    mine = [each for each in set(threading.enumerate()) - others if each.name == runs.THREAD]
    assert len(mine) == 1
    studio.close()
    mine[0].join(60)
    assert not mine[0].is_alive()
    assert list(running)[-1].phase == "stopped"
    assert [each.phase for each in studio.run(REQUEST, threading.Event())] == ["stopped"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"target": "/etc/passwd"}, "target '/etc/passwd', expected one of"),
        ({"anchor": "prompt: rude"}, "anchor 'prompt: rude', expected one of"),
        ({"divergence": "log(t)"}, "not convex"),
        ({"divergence": "t*" * 300 + "t"}, "expected at most"),
        ({"divergence": ""}, "empty"),
        ({"steps": MOST_STEPS + 1}, "expected 1 to"),
        ({"steps": 0}, "expected 1 to"),
        ({"seed": -1}, "seed"),
    ],
)
def test_what_is_not_allowed_is_refused_in_one_line(changes, reason, tmp_path):
    asked = Request(**{"target": "sneaker", "anchor": "near", "divergence": "kl", "steps": 3, **changes})
    (sight,) = Studio(tmp_path).run(asked, threading.Event())
    assert sight.phase == "refused"
    assert reason in sight.message
    assert "\n" not in sight.message
    assert 'role="alert"' in gallery.show(sight)


def test_files_of_old_runs_make_room(tmp_path):
    made = [runs._new_directory(tmp_path) for _ in range(runs._KEPT + 3)]
    assert sum(path.exists() for path in made) == runs._KEPT
    assert made[-1].exists()


def test_the_card_escapes_what_it_shows():
    shown = gallery.show(Sight("refused", "<script>alert(1)</script>"))
    assert "<script" not in shown
