"""The sample command: a sheet that holds the pipeline's images, and what it refuses before it draws."""

import json

import numpy as np
import pytest
from PIL import Image

from fdiv_jax import cli, load_pipeline
from tests.tiny import tiny_pipeline


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_pipeline().save(tmp_path_factory.mktemp("sample") / "model")


def holds(sheet, picture):
    """Where a picture is in a sheet, enlarged by a whole factor; None where it is not."""
    factor = 128 // picture.shape[0]
    large = picture.repeat(factor, axis=0).repeat(factor, axis=1)
    h, w, _ = large.shape
    for y, x in np.argwhere((sheet[: 1 - h, : 1 - w] == large[0, 0]).all(-1)):
        if np.array_equal(sheet[y : y + h, x : x + w], large):
            return int(y), int(x)
    return None


@pytest.mark.slow
def test_the_sheet_holds_the_images_a_row_a_prompt_and_a_column_a_seed(model, tmp_path, capsys):
    output = tmp_path / "new" / "sheet.png"
    options = {"steps": 2, "guidance": 2.5, "negative_prompt": "a coat", "sampler": "euler_a"}
    arguments = [f"--{key.replace('_', '-')}={value}" for key, value in options.items()]
    prompts = ["a sneaker", "a bag"]
    command = ["sample", str(model), *prompts, "--seeds", "7", "11", "--output", str(output), *arguments]
    assert cli.main(command) == 0
    told = capsys.readouterr()
    assert "sampler steps" in told.err
    assert "2/2" in told.err
    sheet = np.asarray(Image.open(output))
    assert told.out.strip() == f"{output}: 4 images, {sheet.shape[1]} x {sheet.shape[0]} pixels"
    drawn = load_pipeline(model)([prompts[0]] * 2 + [prompts[1]] * 2, seed=[7, 11, 7, 11], **options)
    (a, b), (c, d) = ([holds(sheet, picture) for picture in row] for row in (drawn[:2], drawn[2:]))
    assert a[0] == b[0] < c[0] == d[0]
    assert a[1] == c[1] < b[1] == d[1]
    assert [path.name for path in output.parent.iterdir()] == ["sheet.png"]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("there.png", "there.png is a directory, expected a picture's name"),
        ("file/x.png", "file is a file, expected a directory"),
        ("x.mpg", "must end in a picture format"),  # Pillow knows the ending and writes none
        ("x", "must end in a picture format"),
    ],
)
def test_a_place_that_takes_no_picture_is_refused_before_a_model_is_loaded(place, message, tmp_path, capsys):
    (tmp_path / "there.png").mkdir()
    (tmp_path / "file").write_text("old")
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["sample", "no-such-model", "a shoe", "--output", str(tmp_path / place)]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert error.count("\n") == 0
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--seed", "99999999999999999999"), "seed 99999999999999999999, expected 0 to 4294967295"),
        (("--size", "15", "16"), r"size (15, 16), expected (height, width)"),
        (("--tile", "3"), "tile of 3 px, expected a positive multiple of 8"),
        (("--sampler", "plms"), "sampler must be one of ddim"),
        (("--steps", "1000"), "use fewer steps"),
        (("--eta", "0.5", "--sampler", "dpm++"), "eta must be 0, got 0.5"),
        (("--guidance", "nan"), "guidance nan, expected a finite number"),
    ],
)
def test_mistakes_end_in_one_line_and_no_picture(option, message, model, tmp_path, capsys):
    assert cli.main(["sample", str(model), "a bag", *option, "--output", str(tmp_path / "x.png")]) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_a_damaged_model_ends_in_one_line(model, tmp_path, capsys):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    assert cli.main(["sample", str(tmp_path), "a bag", "--output", str(tmp_path / "x.png")]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith(f"fdiv-jax: {tmp_path}: pipeline 'FluxPipeline'; supported: StableDiffusion")
