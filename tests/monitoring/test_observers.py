"""Those who watch a run, from its beginning to its end, resumed or not."""

import json

import pytest

from fdiv_jax.monitoring import Report, SampleSheets, TensorBoardEvents, make_observers
from fdiv_jax.pipeline import Concept
from fdiv_jax.unlearning import Erasure, UnlearningConfig, unlearn
from tests.monitoring.conftest import IMAGES

OPTIONS = {"sample_every": 2, "tensorboard": True}


@pytest.fixture(scope="module")
def config():
    """A short run."""
    return UnlearningConfig(
        "sneaker", prompts=("a sneaker",), steps=5, batch_size=2, images=IMAGES, retained=(), seed=1
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def run(pipe, config, cache, tmp_path_factory):
    """The directory of a run that was watched."""
    directory = tmp_path_factory.mktemp("runs") / "run"
    unlearn(
        pipe,
        config,
        directory,
        progress=False,
        cache=cache,
        observers=make_observers(pipe, config, **OPTIONS),
    )
    return directory


def sheets(directory):
    return {path.name: path.read_bytes() for path in (directory / "samples").iterdir()}


def events(directory):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    accumulator = accumulators.EventAccumulator(str(directory / "tensorboard"))
    accumulator.Reload()
    tags = accumulator.Tags()["scalars"]
    return {tag: [(e.step, e.value) for e in accumulator.Scalars(tag)] for tag in tags}


@pytest.mark.slow
def test_a_watched_run(run):
    assert {path.name for path in run.iterdir()} >= {"samples", "tensorboard", "report.html", "pipeline"}
    assert sorted(sheets(run)) == ["fading.png", *(f"step-{step:06d}.png" for step in (0, 2, 4, 5))]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    shown = events(run)
    assert set(shown) == set(rows[0]) - {"step"}
    for tag, values in shown.items():
        assert values == [(row["step"], pytest.approx(float(row[tag]), rel=1e-6)) for row in rows]
    text = (run / "report.html").read_text()
    assert "The concept as it fades" in text
    assert text.count("<svg") == 4


@pytest.mark.slow
def test_a_run_that_dies_and_is_resumed_shows_the_same(run, pipe, config, cache, tmp_path):
    class Death(Exception):
        pass

    class Dying:
        def row(self, row):
            pass

        def due(self, done):
            return True

        def model(self, done, pipeline):
            if done == 4:
                raise Death

    def dying(directory):
        return [*make_observers(pipe, config, **OPTIONS)(directory), Dying()]

    quiet = {"progress": False, "cache": cache, "checkpoint_every": 3}
    with pytest.raises(Death):
        unlearn(pipe, config, tmp_path / "run", observers=dying, **quiet)
    assert not (tmp_path / "run" / "pipeline").exists()
    observers = make_observers(pipe, config, **OPTIONS)
    unlearn(pipe, config, tmp_path / "run", observers=observers, resume=True, **quiet)
    assert sheets(tmp_path / "run") == sheets(run)
    assert events(tmp_path / "run") == events(run)


def test_who_watches(pipe, config, tmp_path):
    kinds = [type(one) for one in make_observers(pipe, config, **OPTIONS)(tmp_path)]
    assert kinds == [TensorBoardEvents, SampleSheets, Report]  # the report last: it shows the sheets
    assert [type(one) for one in make_observers(pipe, config)(tmp_path)] == [Report]
    assert make_observers(pipe, config, report=False)(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_fit_is_told_before_any_work(pipe, config, monkeypatch):
    with pytest.raises(ValueError, match="sample_every must be at least 0, got -1"):
        make_observers(pipe, config, sample_every=-1)
    with pytest.raises(ValueError, match="did you mean 'sneaker'"):
        make_observers(pipe, UnlearningConfig("sneeker"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(NotImplementedError, match="needs the package wandb"):
        make_observers(pipe, config, wandb_project="erasure")


def test_all_of_several_concepts_are_shown(pipe, tmp_path):
    both = UnlearningConfig(concepts=(Erasure("sneaker"), Erasure("shirt")))
    (observer,) = make_observers(pipe, both, sample_every=1, report=False)(tmp_path)
    prompts = observer._prompts
    assert prompts == ["a sneaker, photo style", "a sneaker, sketch style", "a shirt, photo style"]


def test_concepts_that_the_user_defines_are_shown(pipe, tmp_path):
    mine = Concept("my cat", "object", "my cat", "a cat", "a dog", ("my cat on a sofa",))
    config = UnlearningConfig("my cat", anchor="near", defined=(mine,))
    (observer,) = make_observers(pipe, config, sample_every=1, report=False)(tmp_path)
    assert observer._prompts == ["my cat on a sofa"]
