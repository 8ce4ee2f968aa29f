"""Sweeps: every cell is the run that would be made alone, and the frozen model is asked once for all."""

import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest

from fdiv_jax.pipeline import load_pipeline
from fdiv_jax.unlearning import (
    AnchorData,
    AnchorImagesConfig,
    CriticConfig,
    Erasure,
    Network,
    UnlearningConfig,
    unlearn,
)
from fdiv_jax.unlearning import run as running
from fdiv_jax.unlearning.sweep import cells_of, sweep

BASE = UnlearningConfig(
    "sneaker",
    steps=6,
    batch_size=4,
    learning_rate=2e-2,
    retained=(),
    images=AnchorImagesConfig(number=4, steps=2),
    critic=CriticConfig(warmup=3, hidden_channels=(8,), head_channels=8),
)
SPECS = ["squared_hellinger", "exact:le_cam", "variational:jensen_shannon"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def quiet(cache):
    return {"progress": False, "cache": cache}


def a_score(pipeline, config):
    """Something that hangs on the model and on what was asked."""
    total = sum(float(np.sum(np.abs(v))) for v in Network.parameters(pipeline.unet).values())
    return {"size": total, "letters": len(config.divergence)}


@pytest.fixture(scope="module")
def swept(pipe, cache, tmp_path_factory):
    """A finished sweep of three families of losses: rows, directory, and how often references were made."""
    place = tmp_path_factory.mktemp("sweep") / "out"
    cells = cells_of(BASE, SPECS)
    calls = []
    compiled = running.compiled

    def counted(*what):
        runner, reference, step = compiled(*what)

        def count(frozen, batch, key):
            calls.append(np.asarray(batch.latents).tobytes())
            return reference(frozen, batch, key)

        return runner, count, step

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "compiled", counted)
        rows = sweep(pipe, cells, place, score=a_score, progress=False, cache=cache)
    return rows, place, calls


def test_names_and_order():
    cells = cells_of(BASE, ["kl", "exact:le_cam"], anchors=["near", "empty"], seeds=[0, 7])
    assert [cell.name for cell in cells] == [
        f"{loss}-{anchor}-{seed}"
        for anchor in ("near", "empty")
        for seed in (0, 7)
        for loss in ("closed-kl", "exact-le_cam")
    ]
    assert all(cell.config.steps == BASE.steps for cell in cells)
    assert cells[-1].config == dataclasses.replace(
        BASE, divergence="le_cam", loss="exact", anchor="empty", seed=7
    )


def test_the_same_run_twice_is_refused():
    with pytest.raises(ValueError, match="the run closed-kl-superclass-0 is there twice"):
        cells_of(BASE, ["kl", "closed:kl"])
    with pytest.raises(ValueError, match="twice"):
        cells_of(BASE, ["kl"], seeds=[3, 3])
    with pytest.raises(ValueError, match="a sweep without divergences"):
        cells_of(BASE, [])
    with pytest.raises(ValueError, match="no closed form"):
        cells_of(BASE, ["jensen_shannon"])


def test_names_tell_expressions_apart():
    """ "t*log(t)" and "t-log(t)-1" differ in signs that no directory has; long ones at the end only."""
    base = dataclasses.replace(BASE, loss="exact")
    specs = ["(t-1)**2 + (t-1)", "(t-1)**2 - (t-1)", "t*log(t) - (t+1)*log((t+1)/2) + 1*(t-1)"]
    specs.append(specs[-1].replace("1*(t-1)", "2*(t-1)"))
    cells = cells_of(base, specs)
    assert len({cell.name for cell in cells}) == 4
    assert [cell.config.divergence for cell in cells] == specs
    assert [cell.name for cell in cells_of(base, specs)] == [cell.name for cell in cells]


def test_anchors_of_several_concepts_are_their_own():
    """The anchor in names and table is the concepts'; other anchors for all of them are refused."""
    concepts = (Erasure("sneaker", "near"), Erasure("shirt", "empty"))
    base = dataclasses.replace(BASE, target="", concepts=concepts)
    (cell,) = cells_of(base, ["kl"])
    assert cell.name == "closed-kl-near+empty-0"
    with pytest.raises(ValueError, match="anchor 'near' beside 2 concepts"):
        cells_of(base, ["kl"], anchors=["near"])


@pytest.mark.slow
def test_the_frozen_model_is_asked_once_a_batch(swept):
    _, _, calls = swept
    assert len(calls) == 3 + BASE.steps  # the longest run's: three runs, one question a batch
    assert len(set(calls)) > 1


@pytest.mark.slow
@pytest.mark.parametrize("spec", SPECS)
def test_a_cell_is_the_run_alone(spec, swept, pipe, quiet, tmp_path):
    """Bit for bit: metrics and parameters."""
    _, place, _ = swept
    (cell,) = cells_of(BASE, [spec])
    alone = tmp_path / "alone"
    unlearn(pipe, cell.config, alone, **quiet)
    names = ["config.json", "metrics.jsonl", "pipeline/unet/diffusion_pytorch_model.safetensors"]
    for name in names:
        assert (place / cell.name / name).read_bytes() == (alone / name).read_bytes(), name


@pytest.mark.slow
def test_the_table(swept):
    rows, place, _ = swept
    assert json.loads((place / "table.json").read_text()) == rows
    with (place / "table.csv").open() as file:
        read = list(csv.DictReader(file))
    assert [{name: str(value) for name, value in row.items()} for row in rows] == read
    assert [row["divergence"] for row in rows] == ["squared_hellinger", "le_cam", "jensen_shannon"]
    assert [row["loss"] for row in rows] == ["closed", "exact", "variational"]
    for row in rows:
        directory = place / row["name"]
        last = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()][-10:]
        assert row["final_m"] == pytest.approx(np.mean([each["m"] for each in last]))
        assert row["final_loss"] == pytest.approx(np.mean([each["loss"] for each in last]))
        config = UnlearningConfig.from_dict(json.loads((directory / "config.json").read_text())["config"])
        assert {name: row[name] for name in ("size", "letters")} == a_score(
            load_pipeline(directory / "pipeline"), config
        )
        assert json.loads((directory / "scores.json").read_text())["letters"] == len(row["divergence"])


@pytest.fixture
def copy(swept, tmp_path):
    """A copy of the finished sweep."""
    return shutil.copytree(swept[1], tmp_path / "copy")


def stamps(place):
    return {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_only_what_is_missing_is_made_again(swept, copy, pipe, quiet):
    cells = cells_of(BASE, SPECS)
    gone = copy / cells[0].name
    content = (gone / "metrics.jsonl").read_bytes()
    shutil.rmtree(gone)
    before = stamps(copy)
    with pytest.raises(FileExistsError, match="resume goes on with it"):
        sweep(pipe, cells, copy, **quiet)
    scored = []

    def score(pipeline, config):
        scored.append(config.divergence)
        return a_score(pipeline, config)

    rows = sweep(pipe, cells, copy, score=score, resume=True, **quiet)
    assert rows == swept[0]
    assert scored == ["squared_hellinger"]
    assert (gone / "metrics.jsonl").read_bytes() == content
    after = stamps(copy)
    assert {p for p in before if after.get(p) != before[p]} == {copy / "table.csv", copy / "table.json"}


@pytest.mark.slow
def test_a_finished_cell_of_another_configuration_is_refused(copy, pipe, quiet):
    other = dataclasses.replace(BASE, steps=7)
    before = stamps(copy)
    with pytest.raises(ValueError, match=r"was begun otherwise: steps: 6 -> 7"):
        sweep(pipe, cells_of(other, SPECS), copy, resume=True, **quiet)
    assert stamps(copy) == before


@pytest.mark.parametrize("resume", [False, True])
def test_an_output_that_cannot_be_written_is_refused_before_any_work(resume, pipe, quiet, tmp_path):
    (tmp_path / "file").write_text("precious")
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(NotADirectoryError, match="is a file"):
            sweep(pipe, cells_of(BASE, ["kl"]), output, resume=resume, **{**quiet, "cache": tmp_path / "c"})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_does_not_fit_the_model_is_refused_before_any_work(pipe, quiet, tmp_path):
    with pytest.raises(ValueError, match="not a concept"):
        sweep(pipe, cells_of(dataclasses.replace(BASE, target="boot"), SPECS), tmp_path / "out", **quiet)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_cell_that_diverges_does_not_end_the_others(pipe, quiet, tmp_path, monkeypatch):
    """On the same batches Pearson's loss exp(m) leaves float32, and the squared Hellinger loss does not."""
    make = AnchorData.batch

    def wide(self, *which):
        batch = make(self, *which)
        return dataclasses.replace(batch, target_text=100 * batch.target_text)

    monkeypatch.setattr(AnchorData, "batch", wide)
    base = dataclasses.replace(BASE, scale="sum", optimiser=dataclasses.replace(BASE.optimiser, patience=2))
    cells, place = cells_of(base, ["pearson_chi2", "squared_hellinger"]), tmp_path / "out"
    rows = sweep(pipe, cells, place, score=a_score, **quiet)
    assert "2 steps in a row were not finite, the last one step 2: loss inf" in rows[0]["diverged"]
    assert "size" not in rows[0]
    assert not (place / cells[0].name).exists()
    assert "diverged" not in rows[1]
    assert rows[1]["size"] > 0
    alone = unlearn(pipe, cells[1].config, **quiet)
    assert rows[1]["final_m"] == np.mean(alone.history["m"])
    with (place / "table.csv").open() as file:
        read = list(csv.DictReader(file))
    assert (read[0]["final_m"], read[1]["diverged"]) == ("", "")
    before = stamps(place / cells[1].name)
    assert sweep(pipe, cells, place, score=a_score, resume=True, **quiet) == rows  # it is tried again
    assert stamps(place / cells[1].name) == before
