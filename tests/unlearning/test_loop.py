"""Unlearning from beginning to end on a tiny model: what changes, what is written, what stops it."""

import dataclasses
import json
import os
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from fdiv_jax import cli
from fdiv_jax.checkpoints import TrainingCheckpoints
from fdiv_jax.pipeline import load_pipeline
from fdiv_jax.unlearning import (
    AnchorData,
    AnchorImagesConfig,
    DivergedError,
    Network,
    OptimiserConfig,
    Preempted,
    PreservationConfig,
    UnlearningConfig,
    data,
    initial_state,
    prepare,
    unlearn,
)

LEARNING = {"steps": 40, "learning_rate": 2e-2, "batch_size": 8}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def quiet(cache):
    """Options of every run here."""
    return {"progress": False, "cache": cache}


@pytest.fixture(scope="module")
def run(pipe, cache, tmp_path_factory):
    """One finished run and its directory."""
    config = UnlearningConfig(
        "sneaker", anchor="near", images=AnchorImagesConfig(number=4, steps=2), **LEARNING
    )
    output = tmp_path_factory.mktemp("runs") / "new" / "run"
    before = {name: np.array(value) for name, value in Network.parameters(pipe.unet).items()}
    return unlearn(pipe, config, output, progress=False, cache=cache), output, before


def test_only_the_group_changes(run, pipe):
    result, _, before = run
    after = Network.parameters(result.pipeline.unet)
    changed = {name for name, value in after.items() if np.any(np.asarray(value) != before[name])}
    assert changed == {name for name in before if ".attn2.to_k." in name or ".attn2.to_v." in name}
    assert changed == set(result.selection.names)
    for name, value in Network.parameters(pipe.unet).items():  # the model that went in is as it was
        np.testing.assert_array_equal(value, before[name])
    for part in ("vae", "text_encoder", "tokenizer", "schedule"):
        assert getattr(result.pipeline, part) is getattr(pipe, part)


def test_it_learns(run):
    history = run[0].history
    assert set(history) == {"step", "warmup", "loss", "m", "m_max", "weight", "gradient_norm", "skipped"}
    assert all(len(values) == LEARNING["steps"] for values in history.values())
    assert np.mean(history["m"][-8:]) < 0.8 * np.mean(history["m"][:8])
    np.testing.assert_array_equal(history["step"], np.arange(1, LEARNING["steps"] + 1))
    assert np.all(history["m_max"] >= history["m"])
    assert np.all((history["weight"] > 0) & (history["weight"] <= 0.5))


def test_the_same_again_is_the_same_bit_for_bit(run, pipe, quiet):
    result, _, _ = run
    again = unlearn(pipe, result.config, **quiet)
    for name, values in result.history.items():
        np.testing.assert_array_equal(values, again.history[name], err_msg=name)
    first, second = (Network.parameters(r.pipeline.unet) for r in (result, again))
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])
    other = unlearn(pipe, dataclasses.replace(result.config, seed=1), **quiet)
    assert not np.array_equal(other.history["loss"], result.history["loss"])


def test_the_run_directory(run, pipe):
    result, output, _ = run
    assert sorted(path.name for path in output.iterdir()) == [
        "config.json",
        "metrics.jsonl",
        "pipeline",
        "result.json",
    ]
    written = json.loads((output / "config.json").read_text())
    assert UnlearningConfig.from_dict(written["config"]) == result.config
    assert written["seed"] == 0
    assert written["resolved"]["pairs"][0] == {
        "target": "a sneaker, photo style",
        "anchor": "a sandal, photo style",
    }
    assert written["resolved"]["trainable"]["parameters"] == 512
    assert written["resolved"]["divergence"]["curvature"] == "1/2"
    assert {"jax", "flax", "fdiv-jax", "python"} <= set(written["versions"])
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, LEARNING["steps"] + 1))
    np.testing.assert_array_equal([row["loss"] for row in rows], result.history["loss"])
    loaded = load_pipeline(output / "pipeline")
    for name, value in Network.parameters(loaded.unet).items():
        np.testing.assert_array_equal(value, Network.parameters(result.pipeline.unet)[name])
    assert loaded.concepts == pipe.concepts


def poison(monkeypatch, *steps):
    """Let the batches of some steps hold a nan."""
    make = AnchorData.batch

    def poisoned(self, seed, index, *rest):
        batch = make(self, seed, index, *rest)
        if index + 1 not in steps:
            return batch
        return dataclasses.replace(batch, latents=batch.latents.at[2, 1, 1, 0].set(jnp.nan))

    monkeypatch.setattr(AnchorData, "batch", poisoned)


def test_steps_that_are_not_finite_are_skipped_and_counted(run, pipe, quiet, monkeypatch):
    poison(monkeypatch, 3, 4, 17, LEARNING["steps"])
    result = unlearn(pipe, run[0].config, **quiet)
    skipped = result.history["skipped"]
    assert (np.flatnonzero(skipped) + 1).tolist() == [3, 4, 17, LEARNING["steps"]]
    assert np.all(np.isfinite(result.history["loss"]) == ~skipped)
    for value in Network.parameters(result.pipeline.unet).values():
        assert np.all(np.isfinite(value))
    np.testing.assert_array_equal(result.history["loss"][:2], run[0].history["loss"][:2])


@pytest.mark.slow
@pytest.mark.parametrize(("patience", "last"), [(1, 2), (3, 12)])
def test_too_many_in_a_row_stop_the_run_and_the_last_good_state_is_kept(
    patience, last, run, pipe, quiet, tmp_path, monkeypatch
):
    good = last - patience
    config = dataclasses.replace(run[0].config, optimiser=OptimiserConfig(patience=patience))
    output = tmp_path / "run"
    with monkeypatch.context() as patch:
        poison(patch, *range(good + 1, last + 1))
        words = rf"step {last}: loss nan, gradient norm nan.*timesteps.*sample 2 .*last good state is kept"
        with pytest.raises(DivergedError, match=words) as caught:
            unlearn(pipe, config, output, **quiet)
    assert caught.value.step == last
    assert len(caught.value.history["loss"]) == last
    assert not (output / "pipeline").exists()
    lines = (output / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == last + 1  # one was under way
    losses = [json.loads(line, parse_constant=pytest.fail)["loss"] for line in lines]  # strict JSON
    assert [loss == "NaN" for loss in losses[:last]] == [False] * good + [True] * patience
    resumed = unlearn(pipe, config, output, resume=True, **quiet)  # the batches are good now
    assert len(resumed.history["loss"]) == LEARNING["steps"]
    assert not resumed.history["skipped"][last + 1 :].any()


@pytest.mark.parametrize(("steps", "bad"), [(1, [1]), (3, [2, 3])])
def test_a_run_that_ends_on_steps_that_are_not_finite_has_no_result(
    steps, bad, run, pipe, quiet, tmp_path, monkeypatch
):
    poison(monkeypatch, *bad)
    with pytest.raises(DivergedError, match=f"step {steps}: loss nan"):
        unlearn(pipe, dataclasses.replace(run[0].config, steps=steps), tmp_path / "run", **quiet)
    assert not (tmp_path / "run" / "pipeline").exists()


class Watcher:
    """Sees everything, as a sheet of samples at every step would."""

    def __init__(self):
        self.rows, self.seen, self.ends = [], [], 0

    def row(self, row):
        self.rows.append(row["step"])

    def due(self, done):
        return True

    def model(self, done, pipeline):
        self.seen.append((done, len(self.rows)))

    def end(self, result):
        self.ends += 1


@pytest.mark.parametrize("watched", ["by nobody", "at every step", "at every checkpoint", "at the end"])
def test_a_run_that_goes_wrong_stops_whoever_watches(watched, run, pipe, quiet, tmp_path, monkeypatch):
    bad = {LEARNING["steps"]} if watched == "at the end" else set(range(3, 9))
    poison(monkeypatch, *bad)
    patience = 1 if watched == "at the end" else 3
    config = dataclasses.replace(run[0].config, optimiser=OptimiserConfig(patience=patience))
    watcher, options = Watcher(), {"checkpoint_every": 0}
    if watched == "at every step":
        options["observers"] = lambda _: [watcher]
    elif watched == "at every checkpoint":
        options["checkpoint_every"] = 1
    with pytest.raises(DivergedError) as caught:
        unlearn(pipe, config, tmp_path / "run", **options, **quiet)
    assert caught.value.step == (LEARNING["steps"] if watched == "at the end" else 5)
    assert not (tmp_path / "run" / "pipeline").exists()
    assert list((tmp_path / "run" / "checkpoints").glob("step-*"))
    assert watcher.ends == 0


def test_observers_see_every_row_and_every_model(run, pipe, quiet, tmp_path):
    watcher = Watcher()
    config = dataclasses.replace(run[0].config, steps=5)
    result = unlearn(pipe, config, tmp_path / "run", observers=lambda path: [watcher], **quiet)
    assert watcher.rows == [1, 2, 3, 4, 5]
    assert watcher.seen == [(done, done) for done in range(6)]
    assert watcher.ends == 1
    np.testing.assert_array_equal(result.history["loss"], run[0].history["loss"][:5])


def test_a_failure_while_writing_leaves_nothing(run, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(type(run[0].pipeline), "save", fail)
    with pytest.raises(OSError, match="no space"):
        run[0].save(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def stopped(pipe, config, output, monkeypatch, step, **options):
    """A run that is asked to end after a step."""
    with monkeypatch.context() as patch:
        make = AnchorData.batch

        def ending(self, seed, index, *rest):
            if index + 1 == step:
                os.kill(os.getpid(), signal.SIGTERM)
            return make(self, seed, index, *rest)

        patch.setattr(AnchorData, "batch", ending)
        with pytest.raises(Preempted):
            unlearn(pipe, config, output, **options)


@pytest.mark.slow
def test_another_learning_rate_is_that_of_the_steps_to_come(pipe, config, quiet, tmp_path, monkeypatch):
    """Plain descent: the change of a step is the rate times the gradient, whose norm is recorded."""
    began = config(optimiser=OptimiserConfig("sgd"), learning_rate=1e-3, steps=12)
    stopped(pipe, began, tmp_path / "run", monkeypatch, 4, **quiet)
    done = len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    before = TrainingCheckpoints(tmp_path / "run" / "checkpoints")
    state = initial_state(prepare(pipe, began).plan, prepare(pipe, began).frozen, 0.0, jax.random.key(0))
    trained = before.restore(jax.device_get(state)).state.trained
    ends = dataclasses.replace(began, learning_rate=0.5, steps=done + 1)
    result = unlearn(pipe, ends, tmp_path / "run", resume=True, allow_changes=True, **quiet)
    moved = np.sqrt(sum(np.sum((result.learned[n] - trained[n]) ** 2, dtype=np.float64) for n in trained))
    np.testing.assert_allclose(moved, 0.5 * result.history["gradient_norm"][done], rtol=1e-3)


@pytest.mark.slow
def test_fewer_steps_than_are_done_are_refused(pipe, config, quiet, tmp_path, monkeypatch):
    stopped(pipe, config(steps=12), tmp_path / "run", monkeypatch, 6, **quiet)
    before = (tmp_path / "run" / "config.json").read_bytes()
    done = len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    with pytest.raises(ValueError, match=f"{done} steps are done, more than the {done - 1} asked for"):
        unlearn(pipe, config(steps=done - 1), tmp_path / "run", resume=True, allow_changes=True, **quiet)
    assert (tmp_path / "run" / "config.json").read_bytes() == before
    for steps in (done, 12):
        copy = shutil.copytree(tmp_path / "run", tmp_path / f"to {steps}")
        result = unlearn(pipe, config(steps=steps), copy, resume=True, allow_changes=steps == done, **quiet)
        assert len(result.history["loss"]) == steps
        assert result.resumed_at == done


@pytest.mark.slow
def test_a_run_asked_to_end_while_images_are_drawn_ends_there(pipe, config, tmp_path, monkeypatch):
    drawn, draw = [], type(pipe).generate

    def drawing(self, prompts, **options):
        if not drawn:  # a second one would end the process
            os.kill(os.getpid(), signal.SIGTERM)
        drawn.append(len(prompts))
        return draw(self, prompts, **options)

    with monkeypatch.context() as patch:
        patch.setattr(data, "_LATENT_PIXELS_A_CALL", 64)  # an image a call
        patch.setattr(type(pipe), "generate", drawing)
        with pytest.raises(Preempted, match="after 1 of 4 anchor images; nothing is kept") as caught:
            unlearn(pipe, config(), tmp_path / "run", progress=False, cache=False)
    assert caught.value.exit_code == 143
    assert drawn == [1]
    assert not (tmp_path / "run" / ".lock").exists()
    result = unlearn(pipe, config(), tmp_path / "run", resume=True, progress=False, cache=False)
    assert len(result.history["loss"]) == 6


@pytest.mark.slow
def test_a_run_is_not_resumed_on_other_images_of_the_users(pipe, config, tmp_path, monkeypatch):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(folder / "a.png")
    own = config(images=AnchorImagesConfig(folder=str(folder)), steps=12)
    quiet = {"progress": False, "cache": False}
    stopped(pipe, own, tmp_path / "run", monkeypatch, 4, **quiet)
    Image.fromarray(np.full((16, 16, 3), 91, np.uint8)).save(folder / "a.png")
    with pytest.raises(ValueError, match=r'was begun otherwise: images: "[0-9a-f]+" -> "[0-9a-f]+"'):
        unlearn(pipe, own, tmp_path / "run", resume=True, **quiet)
    Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(folder / "a.png")
    assert len(unlearn(pipe, own, tmp_path / "run", resume=True, **quiet).history["loss"]) == 12


@pytest.fixture
def nothing_is_drawn(monkeypatch, pipe):
    """A run that draws an image has begun its work."""

    def fail(*_, **__):
        raise AssertionError("work was begun")

    monkeypatch.setattr(type(pipe), "generate", fail)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "boot"}, "not a concept of this model"),
        ({"anchor": "sneaker"}, "is the target itself"),
        ({"prompts": ("a sandal",)}, "does not occur in the prompt"),
        (
            {"prompts": ("a photograph of a very old sneaker",)},
            "'a photograph of a very old sneaker' and the anchor prompt .* are the same 24 tokens",
        ),
        ({"trainable": "attn9"}, "matches no parameter"),
        ({"timestep_range": (0, 1000)}, "within the schedule's"),
        ({"devices": "all", "batch_size": 6}, "batch_size 6 for 4 devices"),
        (
            {
                "target": "boot",
                "prompts": ("a boot",),
                "anchor": "hat",
                "retained": None,
                "preservation": PreservationConfig(weight=1.0, at="retained"),
            },
            "there are no retained prompts",
        ),
    ],
)
def test_refused_before_any_work(changes, message, pipe, config, quiet, tmp_path, nothing_is_drawn):
    with pytest.raises(ValueError, match=message):
        unlearn(pipe, config(**changes), tmp_path / "run", **quiet)
    assert list(tmp_path.iterdir()) == []


def test_an_output_in_use_is_refused_before_any_work(pipe, config, quiet, tmp_path, nothing_is_drawn):
    (tmp_path / "something").write_text("precious")
    with pytest.raises(FileExistsError, match="exists and is not empty"):
        unlearn(pipe, config(), tmp_path, **quiet)
    with pytest.raises(NotADirectoryError, match="is a file"):
        unlearn(pipe, config(), tmp_path / "something", **quiet)
    with pytest.raises(NotADirectoryError, match="is a file"):
        unlearn(pipe, config(), tmp_path / "something" / "below", **quiet)
    assert (tmp_path / "something").read_text() == "precious"


def test_a_configuration_is_asked_for(pipe):
    with pytest.raises(TypeError, match="must be an UnlearningConfig, got dict"):
        unlearn(pipe, {"target": "sneaker"})


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["pmap", "fsdp"])
def test_the_real_network_on_four_devices(parallel, run, pipe, quiet):
    one, _, _ = run
    four = unlearn(pipe, dataclasses.replace(one.config, parallel=parallel), **quiet)
    assert len(four.devices) == 4
    for name in ("loss", "m", "gradient_norm"):
        np.testing.assert_allclose(four.history[name], one.history[name], rtol=2e-3, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kl", "jensen_shannon"])
def test_the_variational_game_on_the_real_network(name, pipe, config, quiet):
    result = unlearn(pipe, config(divergence=name, loss="variational"), **quiet)
    history = result.history
    np.testing.assert_array_equal(history["warmup"], [True] * 30 + [False] * 6)
    assert np.all(np.isfinite(history["critic_value"]))
    assert history["critic_value"][29] > history["critic_value"][0]


@pytest.fixture(scope="module")
def model(pipe, tmp_path_factory):
    """The tiny model as a directory."""
    return str(pipe.save(tmp_path_factory.mktemp("model") / "tiny"))


ARGUMENTS = (
    "--target sneaker --anchor near --steps 40 --learning-rate 0.02 --batch-size 8 "
    "--images.number 4 --images.steps 2"
)


@pytest.mark.slow
def test_the_command_line_does_the_same(model, run, cache, tmp_path, capsys):
    output = tmp_path / "run"
    words = [model, *ARGUMENTS.split(), "--cache", str(cache), "--sample-every", "20"]
    assert cli.main(["unlearn", *words, "--output", str(output)]) == 0
    out, err = capsys.readouterr()
    assert out.strip() == str(output)
    assert "512 parameters" in err
    assert "'a sneaker, photo style' -> 'a sandal, photo style'" in err
    assert (output / "metrics.jsonl").read_text() == (run[1] / "metrics.jsonl").read_text()
    names = {path.name for path in output.iterdir() if not path.name.startswith(".")}
    assert names == {
        "config.json",
        "metrics.jsonl",
        "pipeline",
        "report.html",
        "result.json",
        "samples",
        "tensorboard",
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--target sneeker", "did you mean 'sneaker'"),
        ("--target sneaker --steps -1", "steps must be an integer >= 1, got -1"),
        ("--target sneaker --divergence jensen_shannon", "no closed form"),
        ("--target sneaker --anchor sneaker", "is the target itself"),
        ("--target sneaker --trainable nothing", "matches no parameter"),
        ("--target sneaker --sample-every -1", "--sample-every must be at least 0"),
        ("--target sneaker --output {used}", "exists and is not empty"),
    ],
)
def test_the_command_line_refuses_in_one_line(words, message, model, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").write_text("")
    assert cli.main(["unlearn", model, *words.format(used="used").split()]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("fdiv-jax: ")
    assert message in error
    assert [path.name for path in tmp_path.iterdir()] == ["used"]
