"""Concepts erased one after the other: every stage from the last result, and what is left of all of them."""

import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest

from fdiv_jax.checkpoints import model_digest
from fdiv_jax.pipeline import load_pipeline
from fdiv_jax.unlearning import (
    AnchorImagesConfig,
    Erasure,
    Network,
    UnlearningConfig,
    unlearn,
)
from fdiv_jax.unlearning.sequence import unlearn_sequence

CONFIG = UnlearningConfig(
    concepts=(Erasure("sneaker"), Erasure("shirt", anchor="near")),
    steps=6,
    batch_size=4,
    learning_rate=2e-2,
    images=AnchorImagesConfig(number=4, steps=2),
)
STAGES = ["00-frozen", "01-sneaker", "02-shirt"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def quiet(cache):
    return {"progress": False, "cache": cache}


def a_score(pipeline):
    """Figures that hang on the model."""
    values = [np.asarray(v, np.float64) for v in Network.parameters(pipeline.unet).values()]
    return {"sneaker": float(sum(np.sum(v) for v in values)), "sandal": float(np.sum(np.abs(values[0])))}


@pytest.fixture(scope="module")
def made(pipe, cache, tmp_path_factory):
    """A finished sequence: the last model, the matrix, the directory."""
    place = tmp_path_factory.mktemp("sequence") / "out"
    model, matrix = unlearn_sequence(pipe, CONFIG, place, a_score, progress=False, cache=cache)
    return model, matrix, place


def written(place, stage):
    return json.loads((place / stage / "config.json").read_text())


@pytest.mark.slow
def test_every_stage_is_a_run_on_the_result_of_the_one_before(made, pipe, quiet):
    model, _, place = made
    assert sorted(path.name for path in place.iterdir()) == [*STAGES, "retention.csv"]
    first, second = (written(place, stage) for stage in STAGES[1:])
    assert first["model"]["sha256"] == model_digest(pipe.components)
    middle = load_pipeline(place / "01-sneaker" / "pipeline")
    assert second["model"]["sha256"] == model_digest(middle.components)
    assert model_digest(load_pipeline(place / "02-shirt" / "pipeline").components) == model_digest(
        model.components
    )
    assert (first["seed"], second["seed"]) == (0, 1)
    again = unlearn(middle, UnlearningConfig.from_dict(second["config"]), **quiet)
    assert model_digest(again.pipeline.components) == model_digest(model.components)


@pytest.mark.slow
def test_what_was_erased_is_no_longer_retained(made):
    _, _, place = made
    first, second = (written(place, stage)["resolved"]["retained"] for stage in STAGES[1:])
    assert first == ["", "a sandal, photo style", "a shirt, photo style"]
    assert second == ["", "a sandal, photo style"]


@pytest.mark.slow
def test_the_retention_matrix(made, pipe):
    _, matrix, place = made
    assert matrix.erased == ("sneaker", "shirt")
    assert matrix.concepts == ("sneaker", "sandal")
    models = [pipe, *(load_pipeline(place / stage / "pipeline") for stage in STAGES[1:])]
    for row, model, stage in zip(matrix.scores, models, STAGES, strict=True):
        assert dict(zip(matrix.concepts, row, strict=True)) == a_score(model)
        assert json.loads((place / stage / "scores.json").read_text()) == a_score(model)
    assert len({row[0] for row in matrix.scores}) == 3
    with (place / "retention.csv").open() as file:
        lines = list(csv.reader(file))
    assert lines[0] == ["erased", "sneaker", "sandal"]
    assert [line[0] for line in lines[1:]] == ["(frozen)", "sneaker", "shirt"]
    assert [tuple(map(float, line[1:])) for line in lines[1:]] == list(matrix.scores)
    assert (place / "retention.csv").read_text() == matrix.to_csv()


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made[2], tmp_path / "copy")


@pytest.mark.slow
def test_a_sequence_goes_on_where_it_stopped(made, copy, pipe, quiet):
    model, matrix, _ = made
    shutil.rmtree(copy / "02-shirt")
    (copy / "retention.csv").unlink()
    kept = {path: path.stat().st_mtime_ns for path in (copy / "01-sneaker").rglob("*")}
    with pytest.raises(FileExistsError, match="resume goes on with it"):
        unlearn_sequence(pipe, CONFIG, copy, a_score, **quiet)
    scored = []

    def score(pipeline):
        scored.append(model_digest(pipeline.components))
        return a_score(pipeline)

    again, second = unlearn_sequence(pipe, CONFIG, copy, score, resume=True, **quiet)
    assert second == matrix
    assert scored == [model_digest(again.components)] == [model_digest(model.components)]
    assert {path: path.stat().st_mtime_ns for path in (copy / "01-sneaker").rglob("*")} == kept
    assert (copy / "retention.csv").read_text() == matrix.to_csv()


@pytest.mark.slow
def test_a_finished_sequence_and_one_with_a_stage_half_done_go_on(made, copy, pipe, quiet):
    """The second stage is of the first one's result, whether that is at hand or read again."""
    model, matrix, _ = made
    again, same = unlearn_sequence(pipe, CONFIG, copy, a_score, resume=True, **quiet)
    assert same == matrix
    assert model_digest(again.components) == model_digest(model.components)
    shutil.rmtree(copy / "02-shirt" / "pipeline")  # as a process leaves it that dies before the end
    (copy / "02-shirt" / "scores.json").unlink()
    again, same = unlearn_sequence(pipe, CONFIG, copy, a_score, resume=True, **quiet)
    assert same == matrix
    assert model_digest(again.components) == model_digest(model.components)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["in memory", "read in bfloat16"])
@pytest.mark.parametrize("lost", ["the second stage", "its result"])
def test_a_sequence_that_goes_on_writes_the_same_files(kind, lost, made, copy, pipe, quiet, tmp_path):
    """Byte for byte, the tokenizer's and the scheduler's among them; but for the times in result.json."""
    whole = made[2]
    if kind != "in memory":
        pipe = load_pipeline(pipe.save(tmp_path / "model"), param_dtype="bfloat16")
        whole, copy = tmp_path / "whole", tmp_path / "killed"
        unlearn_sequence(pipe, CONFIG, whole, a_score, **quiet)
        shutil.copytree(whole, copy)
    shutil.rmtree(copy / "02-shirt" / ("" if lost == "the second stage" else "pipeline"))
    (copy / "retention.csv").unlink()
    unlearn_sequence(pipe, CONFIG, copy, a_score, resume=True, **quiet)
    assert "02-shirt/pipeline/tokenizer/tokenizer_config.json" in files(whole)
    assert files(copy).keys() == files(whole).keys()
    assert [name for name, content in files(whole).items() if files(copy)[name] != content] == []


def files(place):
    found = {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}
    return {name: content for name, content in found.items() if not name.endswith("result.json")}


@pytest.mark.slow
def test_every_stage_is_watched(pipe, quiet, tmp_path):
    config = dataclasses.replace(CONFIG, steps=2)
    seen = []

    class Watcher:
        def __init__(self, path, target):
            self.path, self.target = path, target

        def row(self, row):
            seen.append((self.path.name, self.target, row["step"]))

        def due(self, done):
            return False

        def end(self, result):
            assert result.config.target == self.target

    def its_observers(pipe, stage):
        return lambda path: [Watcher(path, stage.target)]

    unlearn_sequence(pipe, config, tmp_path / "out", None, observers=its_observers, **quiet)
    assert seen == [(f"0{k}-{name}", name, i) for k, name in ((1, "sneaker"), (2, "shirt")) for i in (1, 2)]


@pytest.mark.slow
def test_a_sequence_may_go_on_with_other_settings(copy, pipe, quiet):
    shutil.rmtree(copy / "02-shirt")
    other = dataclasses.replace(CONFIG, steps=7)
    unlearn_sequence(pipe, other, copy, None, resume=True, allow_changes=True, **quiet)
    assert [written(copy, stage)["config"]["steps"] for stage in STAGES[1:]] == [6, 7]


@pytest.mark.slow
def test_a_finished_stage_of_another_configuration_is_refused(copy, pipe, quiet):
    with pytest.raises(ValueError, match="was begun otherwise: steps: 6 -> 7"):
        unlearn_sequence(pipe, dataclasses.replace(CONFIG, steps=7), copy, a_score, resume=True, **quiet)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"concepts": (Erasure("sneaker"), Erasure("boot"))}, "not a concept"),
        ({"retained": ("a shirt",)}, "retained prompt 'a shirt' shows the target 'shirt'"),
        ({"trainable": "attn9"}, "matches no parameter"),
    ],
)
def test_a_later_stage_that_cannot_be_is_refused_before_any_work(changes, message, pipe, quiet, tmp_path):
    config = dataclasses.replace(CONFIG, **changes)
    with pytest.raises(ValueError, match=message):
        unlearn_sequence(pipe, config, tmp_path / "out", a_score, **quiet)
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written_is_refused_before_any_work(pipe, quiet, tmp_path):
    (tmp_path / "file").write_text("precious")

    def score(pipeline):
        raise AssertionError("work was begun")

    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(NotADirectoryError, match="is a file"):
            unlearn_sequence(pipe, CONFIG, output, score, resume=True, **quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
def test_a_sequence_of_edits_and_one_of_concept_ablation(pipe, quiet, tmp_path):
    """Edits retain the prompts of the rest; the current model as reference has no retained share."""
    edits = dataclasses.replace(CONFIG, method="edit")
    _, matrix = unlearn_sequence(pipe, edits, tmp_path / "edits", a_score, **quiet)
    assert len({row[0] for row in matrix.scores}) == 3
    assert written(tmp_path / "edits", "02-shirt")["resolved"]["retained"] == ["", "a sandal, photo style"]
    ablation = dataclasses.replace(CONFIG, reference="current", divergence="kl", steps=2)
    _, matrix = unlearn_sequence(pipe, ablation, tmp_path / "ablation", None, **quiet)
    assert matrix.concepts == ()
    assert (tmp_path / "ablation" / "02-shirt" / "pipeline").is_dir()
