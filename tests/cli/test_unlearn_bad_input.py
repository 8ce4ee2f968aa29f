"""What the user can get wrong: one line that says what came and what was expected, exit code 2."""

import json

import numpy as np
import pytest
from PIL import Image

from fdiv_jax import cli
from fdiv_jax.pipeline import TextToImagePipeline
from tests.tiny import tiny_pipeline

SNEAKER = "--target sneaker "

CASES = {
    "no target": ("", "target must not be empty"),
    "unknown target": ("--target sneeker", "did you mean 'sneaker'"),
    "target and file": ("--target sneaker --concept-file {files}/two.yaml", "beside 2 concepts"),
    "anchor is the target": (SNEAKER + "--anchor sneaker", "is the target itself"),
    "anchor of another kind": (SNEAKER + "--anchor sketch", "one of kind 'item'"),
    "target not in its prompts": (SNEAKER + "--prompts a-boot", "does not occur in the prompt"),
    "retained shows the target": (SNEAKER + "--retained a-sneaker", "retained prompt"),
    "unknown divergence": (SNEAKER + "--divergence helinger", "helinger"),
    "code as divergence": (SNEAKER + "--divergence __import__('os')", "__import__"),
    "concave divergence": (SNEAKER + "--loss exact --divergence log(t)", "convex"),
    "shifted divergence": (SNEAKER + "--loss exact --divergence t**2", "f(1)"),
    "no closed form": (SNEAKER + "--divergence jensen_shannon", "no closed form"),
    "unknown loss": (SNEAKER + "--loss exakt", "exakt"),
    "pattern matches nothing": (SNEAKER + "--trainable attn9", "matches no parameter"),
    "pattern is none": (SNEAKER + "--trainable (", "regular expression"),
    "LoRA of the embedding": (SNEAKER + "--trainable embedding --lora.rank 2", "kernels alone"),
    "rank too great": (SNEAKER + "--lora.rank 4000", "rank 4000"),
    "negative steps": (SNEAKER + "--steps -3", "steps must be an integer >= 1, got -3"),
    "no batch": (SNEAKER + "--batch-size 0", "batch_size must be an integer >= 1"),
    "odd accumulation": (SNEAKER + "--batch-size 8 --accumulation 3", "expected a divisor"),
    "devices do not divide": (SNEAKER + "--devices all --batch-size 6", "6 for 4 devices"),
    "learning rate": (SNEAKER + "--learning-rate nan", "learning_rate must be a finite number"),
    "timesteps beyond": (SNEAKER + "--timestep-range 0 1000", "within the schedule's"),
    "timesteps reversed": (SNEAKER + "--timestep-range 9 3", "first <= last"),
    "unknown sampler": (SNEAKER + "--images.sampler plms", "plms"),
    "critic steps": (SNEAKER + "--loss variational --critic.steps 0", "critic.steps"),
    "edit of other weights": (SNEAKER + "--method edit --trainable full", "method 'edit'"),
    "edit by guidance": (SNEAKER + "--method edit --anchor negative", "anchor 'negative'"),
    "current and guidance": (
        SNEAKER + "--reference current --anchor negative",
        "expected reference 'frozen'",
    ),
    "patience": (SNEAKER + "--optimiser.patience 0", "optimiser.patience"),
    "checkpoints": (SNEAKER + "--checkpoint-every -1", "--checkpoint-every must be at least 0"),
    "seed too great": (SNEAKER + "--seed 4294967296", "seed must be an integer >= 0 and < 4294967296"),
    "images' seed too great": (SNEAKER + "--images.seed 99999999999999999999", "images.seed"),
    "no steps": (SNEAKER + "--steps 0", "steps must be an integer >= 1, got 0"),
    "steps are no number": (SNEAKER + "--steps 3.5", "3.5"),
    "unknown option": (SNEAKER + "--bath-size 3", "batch-size"),
    "infinite divergence": (SNEAKER + "--loss exact --divergence exp(t)-E*t", "infinite"),
    "critic of small latents": (
        SNEAKER + "--loss variational --critic.hidden-channels 8 8 8 8",
        "latents of 8 x 8",
    ),
    "no curvature": (
        SNEAKER + "--divergence total_variation --normalise-curvature",
        "total_variation is infinite",
    ),
    "alpha without rank": (SNEAKER + "--lora.alpha 2", "lora.alpha 2 without lora.rank"),
    "average of all": (SNEAKER + "--optimiser.ema 1", "optimiser.ema"),
    "preserved nowhere": (
        SNEAKER + "--preservation.weight 1 --preservation.at retained --retained",
        "preservation.at 'retained': there are no retained prompts",
    ),
    "nothing retained": (
        "--target boot --anchor hat --preservation.weight 1 --preservation.at retained --prompts a-boot",
        "there are no retained prompts",
    ),
    "one anchor for several": ("--concept-file {files}/two.yaml --anchor near", "beside 2 concepts"),
    "preset and file": ("--preset esd-x-sneaker --concept-file {files}/two.yaml", "both say what"),
    "file's value": ("--concept-file {files}/tag.yaml", "not what its tag says"),
    "no such model": ("NOWHERE", "nowhere"),
    "unconditional model": ("UNCONDITIONAL", "pipeline 'DDPMPipeline'"),
    "unknown preset": ("--preset esd-y-sneaker", "no preset 'esd-y-sneaker'"),
    "concept file missing": ("--concept-file {files}/none.yaml", "none.yaml"),
    "concept file's key": ("--concept-file {files}/key.yaml", "did you mean 'anchor'"),
    "concept file is a list": ("--concept-file {files}/list.yaml", "list.yaml"),
    "anchors that are targets": ("--concept-file {files}/chain.yaml", "sandal"),
    "folder missing": (SNEAKER + "--images.folder {files}/nowhere", "nowhere"),
    "empty folder": (SNEAKER + "--images.folder {files}/empty", "empty"),
    "corrupt image": (SNEAKER + "--images.folder {files}/corrupt", "a.png"),
    "mixed sizes": (SNEAKER + "--images.folder {files}/mixed", "b.png"),
    "caption of no prompt": (SNEAKER + "--images.folder {files}/captions", "a house"),
    "output in use": (SNEAKER + "--output {files}", "exists and is not empty"),
    "nothing to resume": (SNEAKER + "--output {files} --resume", "not the directory of a run"),
    "output is a file": (SNEAKER + "--output {files}/two.yaml", "is a file"),
    "output below a file": (SNEAKER + "--output {files}/two.yaml/below", "is a file"),
    "sequence in a file": (
        "--concept-file {files}/two.yaml --sequential --output {files}/two.yaml",
        "is a file",
    ),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The tiny model as a directory."""
    return str(tiny_pipeline().save(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files and folders of the user's, most of them wrong."""
    place = tmp_path_factory.mktemp("files")
    (place / "two.yaml").write_text("concepts:\n- target: sneaker\n- target: shirt\n")
    (place / "key.yaml").write_text("concepts:\n- target: sneaker\n  ancor: near\n")
    (place / "list.yaml").write_text("- sneaker\n")
    (place / "tag.yaml").write_text("concepts:\n- target: !!bool maybe\n")
    (place / "ddpm").mkdir()
    (place / "ddpm" / "model_index.json").write_text('{"_class_name": "DDPMPipeline"}')
    (place / "chain.yaml").write_text("concepts:\n- {target: sneaker, anchor: near}\n- target: sandal\n")
    picture = Image.fromarray(np.zeros((16, 16, 3), np.uint8))
    for name in ("empty", "corrupt", "mixed", "captions"):
        (place / name).mkdir()
    for name in ("mixed", "captions"):
        picture.save(place / name / "a.png")
    picture.resize((20, 16)).save(place / "mixed" / "b.png")
    (place / "corrupt" / "a.png").write_bytes((place / "mixed" / "a.png").read_bytes()[:40])
    (place / "captions" / "metadata.jsonl").write_text(
        json.dumps({"file_name": "a.png", "text": "a house"}) + "\n"
    )
    return place


def contents(place):
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(place.rglob("*"))}


@pytest.mark.parametrize("case", CASES)
def test_one_line_exit_code_2_and_nothing_written(case, model, files, tmp_path_factory, capsys, monkeypatch):
    words, message = CASES[case]
    here = tmp_path_factory.mktemp("here")
    monkeypatch.chdir(here)
    monkeypatch.setenv("FDIV_JAX_CACHE", str(here / "cache"))

    def no_work(*_, **__):
        raise AssertionError("work was begun")

    monkeypatch.setattr(TextToImagePipeline, "generate", no_work)
    before = contents(files)
    models = {"NOWHERE": str(files / "nowhere"), "UNCONDITIONAL": str(files / "ddpm")}
    name = models.get(words, model)
    rest = SNEAKER.split() if words in models else words.format(files=files).split()
    rest = [word.replace("a-", "a ") if word.startswith("a-") else word for word in rest]
    code = cli.main(["unlearn", name, *rest])
    error = capsys.readouterr().err
    assert code == 2, error
    assert message in error
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) == 1, error
    assert error.strip().startswith("fdiv-jax: ")
    assert list(here.iterdir()) == []
    assert contents(files) == before


def test_a_sweep_refuses_as_well(model, files, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words, message in (
        ("--target sneaker --divergences kl kl --output out", "is there twice"),
        ("--target sneaker --divergences kl exact:helinger --output out", "helinger"),
        ("--target sneaker --divergences closed:le_cam --output out", "no closed form"),
        ("--target sneaker --divergences kl --anchors sneaker --output out", "is the target itself"),
        ("--target sneaker --divergences kl --score-images -1 --output out", "--score-images"),
        ("--target sneaker --divergences kl --output {file}", "is a file"),
        ("--target sneaker --divergences kl --output {file}/below", "is a file"),
        ("--concept-file {file} --divergences kl --anchors near --output out", "beside 2 concepts"),
    ):
        assert cli.main(["sweep", model, *words.format(file=files / "two.yaml").split()]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.strip().splitlines()) == 1, error
        assert list(tmp_path.iterdir()) == []


def test_a_sweep_whose_target_the_judge_does_not_know_is_refused(model, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fdiv_jax.cli.sweep.erasure_score", lambda *_: object())
    words = ["--target", "hat", "--anchor", "boot", "--divergences", "kl", "--output", "out"]
    assert cli.main(["sweep", model, *words, "--prompts", "a hat"]) == 2
    assert "target 'hat' is no item or style of the world fashion" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
